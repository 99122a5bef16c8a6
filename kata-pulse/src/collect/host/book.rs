//! What is remembered of one sandbox: its processes, also those that ended, so that no counter falls. Pure.

use super::counters::{IoCounts, RoleCounters, add, seconds};
use super::network::NetworkBook;
use super::process_book::{Gauges, ProcessBook, Share};
use crate::model::{CgroupReading, Counted, HostReading, MemoryNow, RoleReading, ThreadReading};
use crate::sandbox::{ExitAccount, HostRole, Pid, Process};

/// Processes that ended and are still known one by one; of earlier ones only the sum is.
const MAX_ENDED: usize = 64;

/// One sandbox's. Make it with [`super::HostReader::book`], which knows since when use is counted.
#[derive(Debug, Default)]
pub struct HostBook {
    agent_start_ticks: u64,
    pub(super) processes: Vec<ProcessBook>,
    pub(super) cgroups: Vec<CgroupReading>,
    pub(super) network: NetworkBook,
    folded: Folded,
    /// Highest resident memory of each role's processes together.
    peaks: [Option<u64>; HostRole::ALL.len()],
}

/// What processes used that ended long ago.
#[derive(Debug, Default)]
struct Folded {
    roles: [Option<RoleCounters>; HostRole::ALL.len()],
    counted: (u64, u64, u64),
    /// Start of the latest of them: an account of an older process has been taken already.
    until_ticks: Option<u64>,
}

impl HostBook {
    pub(super) fn new(agent_start_ticks: u64) -> Self {
        Self { agent_start_ticks, ..Self::default() }
    }

    /// A process has ended: what the kernel says it had used replaces what was read last, where it is more.
    pub fn ended(&mut self, process: &Process, account: Option<&ExitAccount>) {
        let known = self.processes.iter().any(|book| is_of(book, process));
        let is_folded = self.folded.until_ticks.is_some_and(|until| process.start_ticks <= until);
        if !known && (is_folded || account.is_none()) {
            return;
        }
        let role = HostRole::from(process.role);
        let book = self.process(role, process.pid.0, process.start_ticks);
        let is_told = book.is_ended;
        book.end(account);
        let (shown, parent) = (book.shown_io(), account.and_then(|account| account.parent).or(book.parent));
        // One that was found gone before its own end was told still has an account to come, with this one's I/O in it.
        let parent = self.processes.iter_mut().rfind(|book| Some(book.pid) == parent && !book.is_ended);
        if let Some(parent) = parent.filter(|_| !is_told) {
            parent.reap(shown);
        }
        if let Some(account) = account {
            let others: u64 = self.running(role).filter_map(|book| book.gauges.peak_rss_bytes).sum();
            self.raise_peak(role, Some(others.saturating_add(account.peak_rss_bytes as u64)));
        }
        self.fold();
    }

    /// What is known now: of what has ended, as it was last.
    pub fn reading(&self) -> HostReading {
        let run_delay = self.role_counters(HostRole::Vcpu).and_then(|counters| counters.run_delay_ns);
        let vmm = || self.processes.iter().filter(|book| book.is_running);
        HostReading {
            roles: HostRole::ALL.into_iter().filter_map(|role| self.role(role)).collect(),
            counted: self.counted(),
            vcpus: sum(vmm().map(vcpus)).map(|count| count as f64),
            memory_nominal_bytes: sum(vmm().map(|book| book.gauges.memory_nominal_bytes)).map(|bytes| bytes as f64),
            vcpu_run_delay_seconds: run_delay.map(seconds),
            threads: self.threads(),
            cgroups: self.cgroups.clone(),
            network: self.network.reading(),
        }
    }

    /// Threads that run the guest, by process.
    pub fn vcpu_threads(&self) -> Vec<(Pid, u32)> {
        let running = self.processes.iter().filter(|book| book.is_running);
        let vcpus = running.flat_map(|book| {
            let of = Pid(book.pid);
            let vcpus = book.threads.iter().filter(|(_, thread)| thread.share == Share::Vcpu);
            vcpus.map(move |(tid, _)| (of, *tid))
        });
        vcpus.collect()
    }

    /// The process's own page, a new one if need be.
    pub(super) fn process(&mut self, role: HostRole, pid: u32, start_ticks: u64) -> &mut ProcessBook {
        let known = self.processes.iter().position(|book| (book.pid, book.start_ticks) == (pid, start_ticks));
        let at = known.unwrap_or_else(|| {
            self.processes.push(ProcessBook::new(role, pid, start_ticks, self.agent_start_ticks));
            self.processes.len() - 1
        });
        &mut self.processes[at]
    }

    /// One was found gone, or is no longer listed, and its end was not told yet.
    pub(super) fn has_untold_end(&self) -> bool {
        self.processes.iter().any(|book| !book.is_running && !book.is_ended && book.role != HostRole::Vhost)
    }

    /// After a reading: processes that `is_still` denies are the sandbox's no more.
    pub(super) fn settle(&mut self, is_still: impl Fn(&ProcessBook) -> bool) {
        for book in self.processes.iter_mut().filter(|book| book.is_running && !is_still(book)) {
            book.set_aside();
        }
        for role in HostRole::ALL {
            let peak = sum(self.running(role).map(|book| book.gauges.peak_rss_bytes));
            self.raise_peak(role, peak);
        }
        self.fold();
    }

    pub(super) fn running(&self, role: HostRole) -> impl Iterator<Item = &ProcessBook> {
        self.processes.iter().filter(move |book| book.is_running && book.role == role)
    }

    fn raise_peak(&mut self, role: HostRole, peak: Option<u64>) {
        let known = &mut self.peaks[role as usize];
        *known = (*known).max(peak);
    }

    /// Keeps the number of ended processes small: what the oldest used is added up.
    fn fold(&mut self) {
        self.processes.retain(|book| book.is_running || book.was_read());
        while self.processes.iter().filter(|book| !book.is_running).count() > MAX_ENDED {
            let Some(oldest) = self.processes.iter().position(|book| !book.is_running) else { return };
            let book = self.processes.remove(oldest);
            for (role, counters) in book.counters() {
                self.folded.roles[role as usize].get_or_insert_default().add(&counters);
            }
            let (sum, more) = (self.folded.counted, book.counted());
            self.folded.counted = plus(sum, more);
            self.folded.until_ticks = self.folded.until_ticks.max(Some(book.start_ticks));
        }
    }

    fn counted(&self) -> Counted {
        let sum = self.processes.iter().map(ProcessBook::counted).fold(self.folded.counted, plus);
        Counted { cpu_seconds: seconds(sum.0), read_bytes: sum.1 as f64, written_bytes: sum.2 as f64 }
    }

    fn role_counters(&self, role: HostRole) -> Option<RoleCounters> {
        let mut counters = self.folded.roles[role as usize];
        for (_, more) in self.processes.iter().flat_map(ProcessBook::counters).filter(|(of, _)| *of == role) {
            counters.get_or_insert_default().add(&more);
        }
        counters
    }

    fn role(&self, role: HostRole) -> Option<RoleReading> {
        let counters = self.role_counters(role)?;
        let gauge = |of: fn(&ProcessBook) -> Option<u64>| sum(self.running(role).map(of)).map(|value| value as f64);
        let count = |value: Option<u64>| value.map(|value| value as f64);
        let fullest = self.fullest(role);
        Some(RoleReading {
            role,
            cpu: counters.cpu.map(|cpu| cpu.times()),
            voluntary_switches: count(counters.voluntary_switches),
            involuntary_switches: count(counters.involuntary_switches),
            minor_faults: count(counters.minor_faults),
            major_faults: count(counters.major_faults),
            io: counters.io.map(IoCounts::totals),
            io_blocked_seconds: counters.io_blocked_ns.map(seconds),
            peak_rss_bytes: count(self.peaks[role as usize]),
            memory: MemoryNow {
                rss_bytes: gauge(|book| book.gauges.rss_bytes),
                pss_bytes: gauge(|book| book.gauges.pss_bytes),
                held_bytes: gauge(|book| book.gauges.held_bytes()),
                private_bytes: gauge(|book| book.gauges.private_bytes),
                swap_bytes: gauge(|book| book.gauges.swap_bytes),
                page_tables_bytes: gauge(|book| book.gauges.page_tables_bytes),
            },
            threads: count(self.thread_count(role)),
            open_fds: count(fullest.and_then(|gauges| gauges.open_fds)),
            max_fds: count(fullest.and_then(|gauges| gauges.max_fds)),
        })
    }

    /// The process of the role that has come closest to its limit of open files.
    fn fullest(&self, role: HostRole) -> Option<&Gauges> {
        let share =
            |gauges: &Gauges| gauges.open_fds.zip(gauges.max_fds).map(|(open, max)| open as f64 / max.max(1) as f64);
        let all = self.running(role).map(|book| &book.gauges);
        all.max_by(|one, other| share(one).unwrap_or(-1.0).total_cmp(&share(other).unwrap_or(-1.0)))
    }

    fn thread_count(&self, role: HostRole) -> Option<u64> {
        let share = |share: Share| sum(self.processes.iter().map(|book| book.threads_of(share)));
        let own = |book: &ProcessBook| {
            let others = [Share::Vcpu, Share::Vhost].map(|share| book.threads_of(share).unwrap_or(0));
            book.gauges.threads.map(|all| all.saturating_sub(others[0] + others[1]))
        };
        let processes = || sum(self.running(role).map(own));
        match role {
            HostRole::Vcpu => share(Share::Vcpu),
            HostRole::Vhost => sum([share(Share::Vhost).filter(|&count| count > 0), processes()].into_iter()),
            HostRole::Vmm | HostRole::Virtiofsd | HostRole::Shim => processes(),
        }
    }

    fn threads(&self) -> Vec<ThreadReading> {
        let running = self.processes.iter().filter(|book| book.is_running);
        let mut threads: Vec<_> = running
            .flat_map(|book| book.threads.iter().map(move |(&tid, thread)| (book, tid, thread)))
            .filter(|(_, _, thread)| !thread.name.is_empty())
            .filter_map(|(book, tid, thread)| {
                let role = match thread.share {
                    Share::Main => book.role,
                    Share::Vcpu => HostRole::Vcpu,
                    Share::Vhost => HostRole::Vhost,
                };
                let cpu = thread.last.cpu?.times();
                let run_delay_seconds = thread.last.run_delay_ns.map(seconds);
                Some(ThreadReading { role, tid, name: thread.name.clone(), cpu, run_delay_seconds })
            })
            .collect();
        threads.sort_by_key(|thread| thread.tid);
        threads
    }
}

fn is_of(book: &ProcessBook, process: &Process) -> bool {
    (book.pid, book.start_ticks) == (process.pid.0, process.start_ticks)
}

fn plus(sum: (u64, u64, u64), more: (u64, u64, u64)) -> (u64, u64, u64) {
    (sum.0.saturating_add(more.0), sum.1.saturating_add(more.1), sum.2.saturating_add(more.2))
}

/// Descriptors tell; where they cannot be looked at, the threads that run the guest.
fn vcpus(book: &ProcessBook) -> Option<u64> {
    book.gauges.vcpu_fds.or_else(|| book.threads_of(Share::Vcpu)).filter(|&count| count > 0)
}

/// `None` of nothing that is known.
fn sum(values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let mut total = None;
    for value in values {
        add(&mut total, value, u64::saturating_add);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::super::counters::{CpuNs, Whole};
    use super::super::process_book::ThreadCounters;
    use super::*;
    use crate::sandbox::{CpuTimes, IoTotals, Pid, ProcessRole};
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;
    const AGENT: u64 = 1000;

    fn process(pid: u32, start_ticks: u64) -> Process {
        Process { role: ProcessRole::Vmm, pid: Pid(pid), start_ticks }
    }

    fn whole(user: u64, system: u64, guest: u64) -> Whole {
        let cpu = CpuNs { user: user * SECOND, system: system * SECOND, guest: guest * SECOND };
        Whole { cpu, ..Whole::default() }
    }

    /// A reading of a VMM and of threads with so many seconds of user time.
    fn read(book: &mut HostBook, pid: u32, start: u64, whole: &Whole, threads: &[(u32, Share, u64)]) {
        let process = book.process(HostRole::Vmm, pid, start);
        process.begin_threads(true);
        for &(tid, share, user) in threads {
            process.meet(tid, Some(u64::from(tid)));
            let cpu = Some(CpuNs { user: user * SECOND, system: 0, guest: 0 });
            process.credit(tid, share, &ThreadCounters { cpu, ..ThreadCounters::default() });
        }
        process.end_threads();
        process.advance(whole.cpu.total(), whole);
        process.is_running = true;
    }

    fn cpu(book: &HostBook, role: HostRole) -> (f64, f64, f64) {
        let roles = book.reading().roles;
        let cpu = roles.iter().find(|reading| reading.role == role).and_then(|reading| reading.cpu).unwrap_or_default();
        (cpu.user, cpu.system, cpu.guest)
    }

    #[test]
    fn threads_divide_what_the_process_used() {
        let mut book = HostBook::new(AGENT);
        read(&mut book, 7, 2000, &whole(10, 4, 20), &[(1, Share::Main, 2), (2, Share::Vcpu, 3), (3, Share::Vhost, 1)]);
        assert_eq!(cpu(&book, HostRole::Vcpu), (3.0, 0.0, 20.0));
        assert_eq!(cpu(&book, HostRole::Vhost), (1.0, 0.0, 0.0));
        assert_eq!(cpu(&book, HostRole::Vmm), (6.0, 4.0, 0.0));
        assert_eq!(book.reading().counted.cpu_seconds, 34.0);
    }

    #[test]
    fn a_thread_that_ended_leaves_its_share_and_a_new_one_under_its_number_begins_at_nothing() {
        let mut book = HostBook::new(AGENT);
        read(&mut book, 7, 2000, &whole(10, 0, 0), &[(1, Share::Main, 2), (2, Share::Vcpu, 3)]);
        read(&mut book, 7, 2000, &whole(11, 0, 0), &[(1, Share::Main, 2)]);
        assert_eq!(cpu(&book, HostRole::Vcpu).0, 3.0);
        read(&mut book, 7, 2000, &whole(13, 0, 0), &[(1, Share::Main, 2), (2, Share::Vcpu, 1)]);
        assert_eq!((cpu(&book, HostRole::Vcpu).0, cpu(&book, HostRole::Vmm).0), (4.0, 9.0));
    }

    /// What it used until then stays with the VMM: nothing is there twice.
    #[test]
    fn a_thread_that_turns_out_to_run_the_guest_is_that_from_then_on() {
        let mut book = HostBook::new(AGENT);
        read(&mut book, 7, 2000, &whole(10, 0, 0), &[(1, Share::Main, 5)]);
        read(&mut book, 7, 2000, &whole(12, 0, 0), &[(1, Share::Vcpu, 6)]);
        read(&mut book, 7, 2000, &whole(16, 0, 0), &[(1, Share::Vcpu, 9)]);
        assert_eq!((cpu(&book, HostRole::Vcpu).0, cpu(&book, HostRole::Vmm).0), (3.0, 13.0));
    }

    #[test]
    fn what_was_used_before_the_agent_began_is_shown_and_not_counted() {
        let mut book = HostBook::new(AGENT);
        read(&mut book, 7, AGENT - 1, &whole(100, 0, 0), &[]);
        read(&mut book, 7, AGENT - 1, &whole(103, 0, 0), &[]);
        read(&mut book, 8, AGENT, &whole(5, 0, 0), &[]);
        assert_eq!(cpu(&book, HostRole::Vmm).0, 108.0);
        assert_eq!(book.reading().counted.cpu_seconds, 8.0);
        let account = ExitAccount { cpu: CpuTimes { user: 50.0, ..CpuTimes::default() }, ..ExitAccount::default() };
        book.ended(&process(9, AGENT - 1), Some(&account));
        assert_eq!(book.reading().counted.cpu_seconds, 8.0, "nobody knows how much of it was before");
        book.ended(&process(10, AGENT + 1), Some(&account));
        assert_eq!(book.reading().counted.cpu_seconds, 58.0);
    }

    /// The kernel adds a reaped child's I/O to its parent's.
    #[test]
    fn what_a_child_wrote_is_counted_once_also_where_its_parent_was_found_gone_first() {
        for is_gone in [false, true] {
            let mut book = HostBook::new(AGENT);
            read(&mut book, 7, 2000, &whole(1, 0, 0), &[]);
            let shim = Process { role: ProcessRole::Shim, pid: Pid(6), start_ticks: 1900 };
            let own = book.process(HostRole::Shim, 6, 1900);
            own.advance(
                0,
                &Whole { io: Some(IoCounts { written_bytes: 30, ..IoCounts::default() }), ..whole(0, 0, 0) },
            );
            own.is_running = true;
            if is_gone {
                own.stop();
            }
            let wrote = |bytes, parent| {
                let io = IoTotals { written_bytes: bytes, ..IoTotals::default() };
                ExitAccount { io: Some(io), parent, ..ExitAccount::default() }
            };
            book.ended(&process(7, 2000), Some(&wrote(100.0, Some(6))));
            book.ended(&shim, Some(&wrote(130.0, None)));
            assert_eq!(book.reading().counted.written_bytes, 130.0, "found gone first: {is_gone}");
        }
    }

    #[test]
    fn an_account_has_what_no_reading_saw_and_lowers_nothing() {
        let mut book = HostBook::new(AGENT);
        read(&mut book, 7, 2000, &whole(10, 4, 20), &[(2, Share::Vcpu, 3)]);
        let account = ExitAccount {
            cpu: CpuTimes { user: 11.0, system: 3.5, guest: 25.0 },
            voluntary_switches: 9.0,
            peak_rss_bytes: 4096.0,
            ..ExitAccount::default()
        };
        book.ended(&process(7, 2000), Some(&account));
        assert_eq!(cpu(&book, HostRole::Vcpu), (3.0, 0.0, 25.0));
        let (user, system, _) = cpu(&book, HostRole::Vmm);
        assert_eq!((user + system, system), (11.5, 4.0), "39.5 s in all, of which none was taken back");
        let reading = book.reading();
        let vmm = reading.roles.iter().find(|reading| reading.role == HostRole::Vmm).unwrap();
        assert_eq!((vmm.voluntary_switches, vmm.peak_rss_bytes), (Some(9.0), Some(4096.0)));
        assert_eq!((vmm.threads, vmm.memory.rss_bytes), (None, None), "it runs no more");
        book.ended(&process(7, 2000), Some(&account));
        assert_eq!(book.reading(), reading, "told twice");
    }

    #[test]
    fn many_processes_that_ended_are_one_sum() {
        let mut book = HostBook::new(AGENT);
        let account = ExitAccount { cpu: CpuTimes { user: 1.0, ..CpuTimes::default() }, ..ExitAccount::default() };
        for number in 0..200 {
            book.ended(&process(number, 2000 + u64::from(number)), Some(&account));
        }
        assert_eq!(book.processes.len(), MAX_ENDED);
        assert_eq!((cpu(&book, HostRole::Vmm).0, book.reading().counted.cpu_seconds), (200.0, 200.0));
        book.ended(&process(0, 2000), Some(&account));
        assert_eq!(book.reading().counted.cpu_seconds, 200.0, "it is in the sum already");
    }

    proptest! {
        /// Threads and processes come and go in any way: no counter falls, and the roles have what the processes used.
        #[test]
        fn counters_never_fall(turns in prop::collection::vec(
            (1..4_u32, 0..50_u64, prop::collection::vec((1..6_u32, any::<bool>(), 0..9_u64), 0..5), any::<bool>()), 1..40,
        )) {
            let mut book = HostBook::new(AGENT);
            let mut used = [0_u64; 4];
            let mut before = [(0.0, 0.0, 0.0); HostRole::ALL.len()];
            let mut counted = 0.0;
            for (pid, more, threads, ends) in turns {
                used[pid as usize] += more;
                let threads: Vec<_> = threads
                    .iter()
                    .map(|&(tid, vcpu, user)| (tid, if vcpu { Share::Vcpu } else { Share::Main }, user))
                    .collect();
                read(&mut book, pid, 2000, &whole(used[pid as usize], 0, 0), &threads);
                if ends {
                    book.ended(&process(pid, 2000), None);
                }
                let mut now = [(0.0, 0.0, 0.0); HostRole::ALL.len()];
                for role in HostRole::ALL {
                    let (was, is) = (before[role as usize], cpu(&book, role));
                    prop_assert!(is.0 >= was.0 && is.1 >= was.1 && is.2 >= was.2);
                    now[role as usize] = is;
                }
                before = now;
                let reading = book.reading().counted.cpu_seconds;
                prop_assert!(reading >= counted);
                counted = reading;
            }
            prop_assert_eq!(counted, used.iter().sum::<u64>() as f64);
        }
    }
}
