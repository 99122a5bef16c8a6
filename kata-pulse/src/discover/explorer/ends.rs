//! Ends of processes, held back until all is known of them and of their sandbox.
//!
//! In: an end, from whoever noticed first, and what others tell of it later. Out: each end once, whole or when waiting
//! for more is over. A process may be told and gone before its sandbox's directory is noticed: its end waits for that.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Sight;
use super::looks::Hint;
use crate::discover::ebpf;
use crate::sandbox::{
    CpuTimes, EventSource, ExitAccount, ExitStatus, IoTotals, Pid, Process, ProcessExit, ProcessFound, SandboxId,
};

/// What a scan sees, the kernel's programs have told already: that may still have to be read.
const SCAN_GRACE: Duration = Duration::from_millis(200);
/// From the end of a process until its parent waited for it and the kernel let go of it.
const RELEASE_GRACE: Duration = Duration::from_millis(500);
/// How long the directory of a sandbox may be late.
const DIRECTORY_GRACE: Duration = Duration::from_secs(10);
/// Processes that are remembered as ended: a look at one may take until after its end was told.
const MAX_TOLD: usize = 1024;
/// Ends held at once; beyond them the oldest are not waited for.
const MAX_HELD: usize = 4096;

/// An end, and whose.
#[derive(Debug)]
pub struct Held {
    pub sandbox: SandboxId,
    pub found: ProcessFound,
    pub exit: ProcessExit,
    pub hint: Hint,
    /// Its beginning was told, so its end must be.
    pub is_started: bool,
    due: Instant,
}

#[derive(Debug)]
pub struct Ends {
    sight: Sight,
    /// In the order of their ends.
    held: Vec<Held>,
    /// The last that died, the oldest first.
    told: VecDeque<(Pid, u64)>,
}

impl Ends {
    pub fn new(sight: Sight) -> Self {
        Self { sight, held: Vec::new(), told: VecDeque::new() }
    }

    /// Whether it is over with this process. One that went on as another program may yet come back.
    pub fn was_told(&self, pid: Pid, start_ticks: u64) -> bool {
        self.told.contains(&(pid, start_ticks))
    }

    /// An end of which more may be told.
    pub fn hold(&mut self, sandbox: SandboxId, found: ProcessFound, exit: ProcessExit, hint: Hint, is_started: bool) {
        let due = Instant::now() + self.grace(&exit, hint);
        self.push(Held { sandbox, found, exit, hint, is_started, due });
    }

    /// An end of which nobody will tell more: the process goes on as another program, or another one has its pid.
    pub fn settle(&mut self, sandbox: SandboxId, found: ProcessFound, hint: Hint, is_started: bool) {
        let (exit, due) = (ProcessExit::default(), Instant::now());
        self.push(Held { sandbox, found, exit, hint, is_started, due });
    }

    fn push(&mut self, held: Held) {
        self.held.push(held);
    }

    /// Something more about the end of a process, if it is held. `start_ticks`: `None` where it is not known.
    pub fn tell(&mut self, pid: Pid, start_ticks: Option<u64>, exit: ProcessExit, hint: Hint) {
        let is_it =
            |process: Process| process.pid == pid && start_ticks.is_none_or(|start| start == process.start_ticks);
        let Some(at) = self.held.iter().rposition(|held| is_it(held.found.process)) else { return };
        let (learned, when) = {
            let held = &mut self.held[at];
            held.exit.learn(exit);
            if hint.at_boot.is_some() && held.hint.at_boot.is_none() {
                held.hint = hint;
            }
            (held.exit, held.hint)
        };
        self.held[at].due = self.held[at].due.min(Instant::now() + self.grace(&learned, when));
    }

    /// How long it is worth waiting for more.
    fn grace(&self, exit: &ProcessExit, hint: Hint) -> Duration {
        match hint.source {
            EventSource::Ebpf if self.sight.releases && !exit.account_is_final => RELEASE_GRACE,
            EventSource::Scan if self.sight.exits => SCAN_GRACE,
            // On a busy machine the kernel's record, which has the signal, may be read later than the end is noticed.
            EventSource::Pidfd if self.sight.exits && exit.status.is_none() => SCAN_GRACE,
            _ => Duration::ZERO,
        }
    }

    /// The sandbox was noticed: those of its processes that ended already, to be told as started now.
    pub fn started(&mut self, sandbox: &SandboxId) -> Vec<ProcessFound> {
        let late = self.held.iter_mut().filter(|held| !held.is_started && held.sandbox == *sandbox);
        late.map(|held| {
            held.is_started = true;
            held.found.clone()
        })
        .collect()
    }

    /// Those that are waited for no longer.
    pub fn take_due(&mut self) -> Vec<Held> {
        let now = Instant::now();
        let mut beyond = self.held.len().saturating_sub(MAX_HELD);
        let is_due = |held: &Held| {
            let is_beyond = beyond > 0;
            beyond = beyond.saturating_sub(1);
            is_beyond || held.when() <= now
        };
        let (due, held): (Vec<Held>, Vec<Held>) = std::mem::take(&mut self.held).into_iter().partition(is_due);
        self.held = held;
        let died =
            due.iter().filter(|held| held.is_started && (held.exit.status.is_some() || held.exit.account.is_some()));
        self.told.extend(died.map(|held| (held.found.process.pid, held.found.process.start_ticks)));
        self.told.drain(..self.told.len().saturating_sub(MAX_TOLD));
        due
    }

    /// When there is something to take.
    pub fn next_due(&self) -> Option<Instant> {
        self.held.iter().map(Held::when).min()
    }
}

impl Held {
    fn when(&self) -> Instant {
        if self.is_started { self.due } else { self.due + DIRECTORY_GRACE }
    }
}

/// What the kernel's programs told, in our words.
pub fn exit_of(status: Option<ebpf::ExitStatus>, account: Option<ebpf::Account>, parent: Option<u32>) -> ProcessExit {
    ProcessExit {
        status: status.map(|status| match status {
            ebpf::ExitStatus::Code(code) => ExitStatus::Code(code),
            ebpf::ExitStatus::Signal(signal) => ExitStatus::Signal(signal),
        }),
        account: account.map(|account| account_of(&account, parent)),
        account_is_final: account.is_some_and(|account| account.is_final),
    }
}

fn account_of(account: &ebpf::Account, parent: Option<u32>) -> ExitAccount {
    let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
    ExitAccount {
        cpu: CpuTimes {
            user: seconds(account.user_ns),
            system: seconds(account.system_ns),
            guest: seconds(account.guest_ns),
        },
        minor_faults: account.minor_faults as f64,
        major_faults: account.major_faults as f64,
        voluntary_switches: account.voluntary_switches as f64,
        involuntary_switches: account.involuntary_switches as f64,
        io: account.io.map(|io| IoTotals {
            read_calls: io.read_calls as f64,
            write_calls: io.write_calls as f64,
            read_bytes: io.read_bytes as f64,
            written_bytes: io.written_bytes as f64,
        }),
        peak_rss_bytes: account.peak_rss as f64 * rustix::param::page_size() as f64,
        parent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::ProcessRole;

    #[tokio::test(start_paused = true)]
    async fn beyond_a_number_the_oldest_are_not_waited_for() {
        let mut ends = Ends::new(Sight { exits: true, releases: true, directories_by_inode: false });
        let hint = Hint { source: EventSource::Ebpf, at_boot: None };
        let sandbox = SandboxId::parse("aa").unwrap();
        for pid in 0..MAX_HELD as u32 + 2 {
            let process = Process { role: ProcessRole::Vmm, pid: Pid(pid), start_ticks: 1 };
            let found = ProcessFound { process, vmm: None, runtime: None, version: None };
            ends.hold(sandbox.clone(), found, ProcessExit::default(), hint, true);
        }
        let pids = |held: Vec<Held>| held.iter().map(|held| held.found.process.pid.0).collect::<Vec<_>>();
        assert_eq!(pids(ends.take_due()), [0, 1]);
        assert!(ends.take_due().is_empty());
        tokio::time::advance(RELEASE_GRACE).await;
        assert_eq!(ends.take_due().len(), MAX_HELD);
    }

    #[tokio::test(start_paused = true)]
    async fn who_died_is_remembered_and_who_went_on_is_not() {
        let mut ends = Ends::new(Sight { exits: true, releases: false, directories_by_inode: false });
        let hint = Hint { source: EventSource::Ebpf, at_boot: None };
        let sandbox = SandboxId::parse("aa").unwrap();
        let found = |pid| {
            let process = Process { role: ProcessRole::Vmm, pid: Pid(pid), start_ticks: 1 };
            ProcessFound { process, vmm: None, runtime: None, version: None }
        };
        let died = ProcessExit { status: Some(ExitStatus::Code(0)), ..ProcessExit::default() };
        ends.hold(sandbox.clone(), found(7), died, hint, true);
        ends.settle(sandbox.clone(), found(8), hint, true);
        assert!(!ends.was_told(Pid(7), 1), "it is held yet");
        assert_eq!(ends.take_due().len(), 2);
        assert!(ends.was_told(Pid(7), 1) && !ends.was_told(Pid(7), 2) && !ends.was_told(Pid(8), 1));
        (0..MAX_TOLD as u32).for_each(|pid| ends.hold(sandbox.clone(), found(100 + pid), died, hint, true));
        ends.take_due();
        assert!(!ends.was_told(Pid(7), 1) && ends.told.len() == MAX_TOLD);
    }

    #[test]
    fn numbers_become_seconds_and_bytes() {
        let io = Some(ebpf::AccountIo { read_calls: 1, write_calls: 2, read_bytes: 3, written_bytes: 4 });
        let account =
            ebpf::Account { user_ns: 1_500_000_000, guest_ns: 500_000_000, peak_rss: 2, io, ..Default::default() };
        let exit = exit_of(Some(ebpf::ExitStatus::Signal(9)), Some(account), Some(7));
        let told = exit.account.unwrap();
        assert_eq!((exit.status, told.cpu.user, told.cpu.guest), (Some(ExitStatus::Signal(9)), 1.5, 0.5));
        assert_eq!(told.cpu.total(), 2.0);
        assert_eq!(told.peak_rss_bytes, 2.0 * rustix::param::page_size() as f64);
        assert_eq!(told.io.unwrap().written_bytes, 4.0);
        assert_eq!(exit_of(None, None, None), ProcessExit::default());
    }
}
