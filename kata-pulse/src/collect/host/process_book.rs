//! What is remembered of one process: its counters, which never fall, and its gauges. Pure.
//!
//! The process's own numbers are the truth; threads only divide them. Threads that run the guest and those that move
//! packets have their share, and what they leave is the process's. A thread that ends leaves its share behind.

use std::collections::HashMap;
use std::time::Instant;

use super::counters::{CpuNs, IoCounts, RoleCounters, Whole, add};
use crate::sandbox::{ExitAccount, HostRole};

/// Whose a thread's use is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Share {
    /// The process's own role.
    #[default]
    Main,
    Vcpu,
    Vhost,
}

/// A thread's counters as read last; `None` is what was not read yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ThreadCounters {
    pub cpu: Option<CpuNs>,
    pub minor_faults: Option<u64>,
    pub major_faults: Option<u64>,
    pub io_blocked_ns: Option<u64>,
    pub run_delay_ns: Option<u64>,
    /// Voluntary, involuntary.
    pub switches: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct Thread {
    /// `None` where only its `status` is read: then a count that fell tells another thread.
    pub start_ticks: Option<u64>,
    pub share: Share,
    /// Runs the VMM inside a shim, in the pod's network.
    pub is_vmm_master: bool,
    /// Only where detail is wanted.
    pub name: String,
    pub last: ThreadCounters,
    turn: u64,
}

/// As read last, of a process that runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gauges {
    pub rss_bytes: Option<u64>,
    pub peak_rss_bytes: Option<u64>,
    pub pss_bytes: Option<u64>,
    /// `rss_bytes` when `pss_bytes` was read.
    pub rss_at_pss_bytes: Option<u64>,
    pub private_bytes: Option<u64>,
    pub swap_bytes: Option<u64>,
    pub page_tables_bytes: Option<u64>,
    pub threads: Option<u64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
    /// Descriptors of virtual CPUs.
    pub vcpu_fds: Option<u64>,
    pub memory_nominal_bytes: Option<u64>,
    /// Its tap is the guest's NIC itself, not the other end of a wire to it.
    pub has_macvtap: bool,
}

impl Gauges {
    pub(super) fn held_bytes(&self) -> Option<u64> {
        let (pss, now, then) = (self.pss_bytes?, self.rss_bytes?, self.rss_at_pss_bytes?);
        Some(pss.saturating_add(now).saturating_sub(then))
    }
}

#[derive(Debug)]
pub(super) struct ProcessBook {
    pub role: HostRole,
    pub pid: u32,
    pub start_ticks: u64,
    pub is_running: bool,
    /// Its end was told.
    pub is_ended: bool,
    pub gauges: Gauges,
    pub threads: HashMap<u32, Thread>,
    /// No sooner are its pages counted again.
    pub memory_after: Option<Instant>,
    /// Its arguments are read once.
    pub arguments_read: bool,
    /// Who waits for it when it ends; as read last.
    pub parent: Option<u32>,
    /// What the kernel added to its I/O when it waited for processes of the sandbox.
    reaped: IoCounts,
    whole: Option<Whole>,
    baseline: Baseline,
    shares: [RoleCounters; 3],
    main_cpu: CpuNs,
    main_faults: (u64, u64),
    turn: u64,
    is_split: bool,
}

/// What it had used before the agent began; `None`: to be told by the first reading.
#[derive(Clone, Copy, Debug)]
struct Baseline {
    cpu_ns: Option<u64>,
    io: Option<IoCounts>,
}

impl ProcessBook {
    pub(super) fn new(role: HostRole, pid: u32, start_ticks: u64, agent_start_ticks: u64) -> Self {
        let is_newer = start_ticks >= agent_start_ticks;
        let baseline = Baseline { cpu_ns: is_newer.then_some(0), io: is_newer.then(IoCounts::default) };
        Self {
            role,
            pid,
            start_ticks,
            is_running: true,
            is_ended: false,
            gauges: Gauges::default(),
            threads: HashMap::new(),
            memory_after: None,
            arguments_read: false,
            parent: None,
            reaped: IoCounts::default(),
            whole: None,
            baseline,
            shares: [RoleCounters::default(); 3],
            main_cpu: CpuNs::default(),
            main_faults: (0, 0),
            turn: 0,
            is_split: false,
        }
    }

    /// Pid and start: tells it from any other.
    pub(super) fn key(&self) -> (u32, u64) {
        (self.pid, self.start_ticks)
    }

    pub(super) fn was_read(&self) -> bool {
        self.whole.is_some()
    }

    /// A look at the threads begins. `split`: they divide the process's use from now on.
    pub(super) fn begin_threads(&mut self, split: bool) {
        self.turn += 1;
        // What it used until now is in its own role already.
        if split && !self.is_split && self.was_read() {
            self.threads.values_mut().for_each(|thread| thread.last.cpu = thread.last.cpu.or(Some(CpuNs::default())));
        }
        self.is_split |= split;
    }

    /// Threads that were not met since the look began have ended.
    pub(super) fn end_threads(&mut self) {
        let turn = self.turn;
        self.threads.retain(|_, thread| thread.turn == turn);
    }

    /// A thread is there; another one than before under that number starts from nothing.
    pub(super) fn meet(&mut self, tid: u32, start_ticks: Option<u64>) -> &mut Thread {
        let thread = self.threads.entry(tid).or_default();
        let is_other = matches!((thread.start_ticks, start_ticks), (Some(old), Some(new)) if old != new);
        if is_other {
            *thread = Thread::default();
        }
        thread.start_ticks = start_ticks.or(thread.start_ticks);
        thread.turn = self.turn;
        thread
    }

    /// Credits what a thread has used since it was read last to the share it has; `share` is what it is from now on.
    /// One that runs the guest does so for good.
    pub(super) fn credit(&mut self, tid: u32, share: Share, now: &ThreadCounters) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        let is_new = thread.last.cpu.is_none() && now.cpu.is_some();
        if is_new {
            thread.share = share;
        }
        credit(&mut self.shares[thread.share as usize], &mut thread.last, now);
        if share != Share::Main {
            thread.share = share;
        }
    }

    /// Takes what the process's own files say, after the threads', so that they never have more than it.
    /// `total_ns` is user and system time as the kernel tells them.
    pub(super) fn advance(&mut self, total_ns: u64, newer: &Whole) {
        let newer = Whole { io: newer.io.map(|io| io.minus(self.reaped)), ..*newer };
        let whole = self.whole.get_or_insert_default();
        whole.advance(total_ns, &newer);
        let whole = *whole;
        self.baseline.cpu_ns.get_or_insert(whole.cpu.total());
        self.baseline.io = self.baseline.io.or(whole.io);
        let [_, vcpu, vhost] = &self.shares;
        let taken = vcpu.cpu.unwrap_or_default().plus(vhost.cpu.unwrap_or_default());
        let left = CpuNs { guest: 0, ..whole.cpu.minus(taken) };
        self.main_cpu.advance((whole.cpu.total() - whole.cpu.guest).saturating_sub(taken.total()), left);
        let faults = |whole: u64, taken: fn(&RoleCounters) -> Option<u64>| {
            whole.saturating_sub(taken(vcpu).unwrap_or(0)).saturating_sub(taken(vhost).unwrap_or(0))
        };
        self.main_faults.0 = self.main_faults.0.max(faults(whole.minor_faults, |share| share.minor_faults));
        self.main_faults.1 = self.main_faults.1.max(faults(whole.major_faults, |share| share.major_faults));
    }

    /// The kernel's own account at the end, which has what no reading saw.
    pub(super) fn end(&mut self, account: Option<&ExitAccount>) {
        self.stop();
        self.is_ended = true;
        let Some(account) = account else { return };
        let whole = Whole::of_account(account);
        self.advance(whole.cpu.total(), &whole);
        let ended = (account.voluntary_switches as u64, account.involuntary_switches as u64);
        let known = |count: fn(&RoleCounters) -> Option<u64>| self.shares.iter().filter_map(count).sum::<u64>();
        let unseen = (
            ended.0.saturating_sub(known(|share| share.voluntary_switches)),
            ended.1.saturating_sub(known(|share| share.involuntary_switches)),
        );
        let main = &mut self.shares[Share::Main as usize];
        add(&mut main.voluntary_switches, Some(unseen.0), u64::saturating_add);
        add(&mut main.involuntary_switches, Some(unseen.1), u64::saturating_add);
    }

    /// A process that it waits for has ended: from now on the kernel shows that one's I/O as its own.
    pub(super) fn reap(&mut self, child: IoCounts) {
        self.reaped = self.reaped.plus(child);
    }

    /// What the kernel shows as its I/O.
    pub(super) fn shown_io(&self) -> IoCounts {
        self.whole.and_then(|whole| whole.io).unwrap_or_default().plus(self.reaped)
    }

    /// It runs no more: its counters stay.
    pub(super) fn stop(&mut self) {
        self.set_aside();
        self.threads = HashMap::new();
    }

    /// It is not the sandbox's for now. Its threads stay known: should it come back, none is counted twice.
    pub(super) fn set_aside(&mut self) {
        self.is_running = false;
        self.gauges = Gauges::default();
        self.memory_after = None;
        self.arguments_read = false;
    }

    /// CPU, bytes read and written that are counted: not what it had used before the agent began.
    pub(super) fn counted(&self) -> (u64, u64, u64) {
        let Some(whole) = self.whole else { return (0, 0, 0) };
        let before = self.baseline.io.unwrap_or_default();
        let io = whole.io.unwrap_or(before);
        (
            whole.cpu.total().saturating_sub(self.baseline.cpu_ns.unwrap_or(0)),
            io.read_bytes.saturating_sub(before.read_bytes),
            io.written_bytes.saturating_sub(before.written_bytes),
        )
    }

    /// Its counters by role; a role that it never had is not there.
    pub(super) fn counters(&self) -> impl Iterator<Item = (HostRole, RoleCounters)> {
        let whole = self.whole.as_ref();
        let [main, vcpu, vhost] = self.shares;
        let main = whole.map(|whole| RoleCounters {
            cpu: Some(self.main_cpu),
            minor_faults: Some(self.main_faults.0),
            major_faults: Some(self.main_faults.1),
            io: whole.io,
            run_delay_ns: None,
            ..main
        });
        let guest = whole.map_or(0, |whole| whole.cpu.guest);
        let vcpu = (vcpu.cpu.is_some() || guest > 0)
            .then(|| RoleCounters { cpu: Some(CpuNs { guest, ..vcpu.cpu.unwrap_or_default() }), ..vcpu });
        let vhost = vhost.cpu.is_some().then_some(vhost);
        [(self.role, main), (HostRole::Vcpu, vcpu), (HostRole::Vhost, vhost)]
            .into_iter()
            .filter_map(|(role, counters)| Some((role, counters?)))
    }

    /// Threads that run and have this share; `None` where they are not looked at.
    pub(super) fn threads_of(&self, share: Share) -> Option<u64> {
        let count = || self.threads.values().filter(|thread| thread.share == share).count() as u64;
        (self.is_running && self.is_split).then(count)
    }

    pub(super) fn vmm_master(&self) -> Option<u32> {
        self.threads.iter().find(|(_, thread)| thread.is_vmm_master).map(|(&tid, _)| tid)
    }
}

/// Adds the growth since `last`, which becomes `now`. A count that fell is another thread's, who began at nothing.
fn credit(share: &mut RoleCounters, last: &mut ThreadCounters, now: &ThreadCounters) {
    let sum = u64::saturating_add;
    if let Some(cpu) = now.cpu {
        let mut newer = last.cpu.unwrap_or_default();
        newer.advance_to(cpu);
        // The guest's time is counted with the process, of whichever thread it is.
        let grown = CpuNs { guest: 0, ..newer.minus(last.cpu.unwrap_or_default()) };
        add(&mut share.cpu, Some(grown), CpuNs::plus);
        last.cpu = Some(newer);
    }
    let count = |sum_of: &mut Option<u64>, last: &mut Option<u64>, now: Option<u64>| {
        let Some(now) = now else { return };
        let grown = last.and_then(|last| now.checked_sub(last)).unwrap_or(now);
        add(sum_of, Some(grown), sum);
        *last = Some(now);
    };
    count(&mut share.minor_faults, &mut last.minor_faults, now.minor_faults);
    count(&mut share.major_faults, &mut last.major_faults, now.major_faults);
    count(&mut share.io_blocked_ns, &mut last.io_blocked_ns, now.io_blocked_ns);
    count(&mut share.run_delay_ns, &mut last.run_delay_ns, now.run_delay_ns);
    let (mut voluntary, mut involuntary) = (last.switches.map(|last| last.0), last.switches.map(|last| last.1));
    count(&mut share.voluntary_switches, &mut voluntary, now.switches.map(|now| now.0));
    count(&mut share.involuntary_switches, &mut involuntary, now.switches.map(|now| now.1));
    last.switches = now.switches.or(last.switches);
}
