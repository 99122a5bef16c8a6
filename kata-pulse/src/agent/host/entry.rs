//! What is remembered of one sandbox until its final account.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Job;
use super::kernel::Watched;
use crate::account::{Contribution, CostBook, Death, EndEvidence, Stage, Startup, TrafficBook, Workload, judge};
use crate::collect::host::{HostBook, HostReading, Tiers};
use crate::collect::kernel::Slot;
use crate::discover::{boot_now, to_boot};
use crate::model::{EndPage, HostStats, KernelReading, RoleReading};
use crate::sandbox::{
    ContainerId, DiscoveryEvent, ExitStatus, HostRole, Process, ProcessExit, ProcessFound, ProcessRole, Sandbox,
    SandboxId, SandboxState, Source, SourceState, Vmm,
};
use crate::store::{Ended, Reading, index};

/// How long the container runtime's word for a sandbox's beginning is waited for.
const PATIENCE_FOR_BEGINNING: Duration = Duration::from_secs(30);

/// The kubelet stops a pod in the seconds after its last container; one that starts them again waits ten or more.
const EMPTY_BEFORE_END_SECONDS: f64 = 10.0;

/// A guest may boot for so long, and a shim that has no socket by then will not make one.
const PATIENCE_FOR_DOORS: Duration = Duration::from_secs(120);

/// A runtime writes its state and its shim's socket one after the other.
const PATIENCE_FOR_EVIDENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Entry {
    /// Tells lives of one id apart.
    pub inode: u64,
    /// It was there before the agent.
    existed: bool,
    since: Instant,
    /// `None` while it is lent.
    book: Option<HostBook>,
    /// What happened while it was.
    waiting: Vec<(Process, ProcessExit)>,
    due: Instant,
    turn: u64,
    /// Its containers' numbers are new: what the host has now is what they are compared with.
    is_compared: bool,
    sandbox: Option<Arc<Sandbox>>,
    had_process: bool,
    had_containers: bool,
    /// Since when none of its containers runs any more, in seconds since boot.
    emptied: Option<f64>,
    is_removed: bool,
    evidence: EndEvidence,
    began: Option<f64>,
    peak_bytes: f64,
    stored: Reading,
    cost: CostBook,
    traffic: TrafficBook,
    contribution: Contribution,
    startup: Startup,
    /// Its processes in the kernel's books, once anything counts there.
    watched: Option<Watched>,
    /// As read last.
    counted: KernelReading,
}

impl Entry {
    pub fn new(inode: u64, existed: bool, book: HostBook, watched: Option<Watched>) -> Self {
        let now = Instant::now();
        Self {
            inode,
            existed,
            since: now,
            book: Some(book),
            waiting: Vec::new(),
            due: now,
            turn: 0,
            is_compared: false,
            sandbox: None,
            had_process: false,
            had_containers: false,
            emptied: None,
            is_removed: false,
            evidence: EndEvidence::default(),
            began: None,
            peak_bytes: 0.0,
            stored: Reading::default(),
            cost: CostBook::default(),
            traffic: TrafficBook::default(),
            contribution: Contribution { started: if existed { 0.0 } else { 1.0 }, ..Contribution::default() },
            startup: Startup::default(),
            watched,
            counted: KernelReading::default(),
        }
    }

    /// Whether it was there before the agent.
    pub fn existed(&mut self, existed: bool) {
        self.existed = existed;
        self.contribution.started = if existed { 0.0 } else { 1.0 };
    }

    /// Whatever evidence of it there is has been seen: who gives its numbers may be decided.
    pub fn is_settled(&self) -> bool {
        self.since.elapsed() >= PATIENCE_FOR_EVIDENCE
    }

    /// As the registry has it now.
    pub fn know(&mut self, sandbox: &Arc<Sandbox>) {
        if sandbox.directory_inode != self.inode {
            return;
        }
        if self.sandbox.as_ref().is_some_and(|known| Arc::ptr_eq(known, sandbox)) {
            return;
        }
        self.had_containers |= !sandbox.containers.is_empty();
        let is_empty = self.had_containers && sandbox.containers.is_empty();
        self.emptied = is_empty.then(|| self.emptied.unwrap_or_else(|| boot_now().as_secs_f64()));
        if sandbox.state == SandboxState::Running {
            self.startup.reach(Stage::Guest, boot_now().as_secs_f64());
        }
        let first = sandbox.containers.iter().filter_map(|container| container.started_unix_ns).min();
        if let Some(at) = first.and_then(unix_ns_to_boot) {
            self.startup.reach(Stage::FirstContainer, at);
        }
        if let Some(identity) = &sandbox.identity {
            let overhead = identity.overhead;
            let cores = overhead.cpu_millicores.map(|millicores| millicores as f64 / 1000.0);
            self.cost.declare(overhead.memory_bytes.map(|bytes| bytes as f64), cores);
        }
        if let Some(watched) = &mut self.watched {
            sandbox.processes.iter().for_each(|process| watched.process_started(process));
        }
        self.sandbox = Some(sandbox.clone());
    }

    /// From now on the kernel counts.
    pub fn watch(&mut self, mut watched: Watched) {
        let processes = self.sandbox.iter().flat_map(|sandbox| &sandbox.processes);
        processes.for_each(|process| watched.process_started(process));
        self.watched = Some(watched);
    }

    pub fn evidence_of_removal(&mut self) {
        self.is_removed = true;
    }

    pub fn process_started(&mut self, found: &ProcessFound, event: &DiscoveryEvent) {
        self.had_process = true;
        self.due = Instant::now();
        self.evidence.lives(found.process.pid);
        if let Some(watched) = &mut self.watched {
            watched.process_started(&found.process);
        }
        // The kernel's own time of the exec, else of the fork.
        let at = event.at_boot.map_or_else(|| ticks_to_seconds(found.process.start_ticks), |at| at.as_secs_f64());
        self.began = Some(self.began.map_or(at, |began| began.min(at)));
        match found.process.role {
            ProcessRole::Shim => self.startup.reach(Stage::ShimExec, at),
            ProcessRole::Vmm => self.startup.reach(Stage::VmmExec, at),
            ProcessRole::Virtiofsd => {}
        }
    }

    pub fn process_ended(
        &mut self,
        process: &Process,
        exit: &ProcessExit,
        event: &DiscoveryEvent,
        is_hung: impl Fn(&Sandbox) -> bool,
        tells_at_once: bool,
    ) {
        self.due = Instant::now();
        let at = event.at_boot.unwrap_or_else(boot_now).as_secs_f64();
        if self.evidence.deaths.is_empty() {
            self.evidence.told_to_stop = self.is_told_to_stop(at);
            self.evidence.guest_hung = self.sandbox.as_deref().is_some_and(is_hung);
            let has_name = self.sandbox.as_ref().is_some_and(|sandbox| sandbox.identity.is_some());
            self.evidence.is_heard = tells_at_once && has_name;
            self.evidence.was_busy = self.sandbox.as_ref().is_some_and(|sandbox| !sandbox.containers.is_empty());
        }
        if let Some(watched) = &mut self.watched {
            watched.process_ended(process);
        }
        self.evidence.died(Death { pid: process.pid, role: process.role, status: exit.status, at, by_oom: false });
        if let Some(account) = &exit.account {
            self.peak_bytes = self.peak_bytes.max(account.peak_rss_bytes);
        }
        match &mut self.book {
            Some(book) => book.ended(process, exit.account.as_ref()),
            None => self.waiting.push((*process, *exit)),
        }
    }

    /// Before the first death. A pod whose containers end is stopped at once, or its containers are started again later.
    fn is_told_to_stop(&self, death: f64) -> bool {
        let Some(sandbox) = &self.sandbox else { return self.is_removed };
        let is_unready = sandbox.identity.as_ref().is_some_and(|identity| !identity.ready);
        let is_empty = self.emptied.is_some_and(|emptied| (0.0..EMPTY_BEFORE_END_SECONDS).contains(&(death - emptied)));
        self.is_removed || sandbox.is_stopped || is_unready || is_empty
    }

    /// Numbers of its containers came.
    pub fn compare(&mut self) {
        self.is_compared = true;
    }

    /// Nobody could ask its guest for all the time that it has run: it has no socket, or what answers there is not Kata's
    /// page, as of releases that cannot tell of remote guests.
    pub fn has_no_door(&self) -> bool {
        let Some(sandbox) = self.sandbox.as_ref().filter(|_| self.since.elapsed() >= PATIENCE_FOR_DOORS) else {
            return false;
        };
        let is_remote = sandbox.vmm == Some(Vmm::Remote);
        let says_nothing = self.stored.sources[index(Source::Shim)].state == Some(SourceState::BadPage);
        !sandbox.has_socket || (is_remote && says_nothing)
    }

    /// The book, when the sandbox's turn has come.
    pub fn lend(&mut self, id: &SandboxId, now: Instant, interval: Duration) -> Option<Job> {
        let sandbox = self.sandbox.clone().filter(|_| self.due <= now || self.is_compared)?;
        let book = self.book.take()?;
        self.is_compared = false;
        if self.due > now {
            return Some(Job { sandbox, book, tiers: Tiers::OFTEN, wants_socket: false });
        }
        let tiers = if self.turn == 0 { Tiers::ALL } else { Tiers::of_turn(id, self.turn) };
        self.turn += 1;
        self.due = now + spread(id, self.turn, interval);
        let wants_socket = sandbox.has_socket && self.startup.is_missing(Stage::Socket) && !self.existed;
        Some(Job { sandbox, book, tiers, wants_socket })
    }

    pub fn give_back(&mut self, mut book: HostBook, socket_at: Option<f64>) {
        if let Some(watched) = &mut self.watched {
            watched.vcpus(&book.vcpu_threads());
        }
        for (process, exit) in self.waiting.drain(..) {
            book.ended(&process, exit.account.as_ref());
        }
        self.book = Some(book);
        if let Some(at) = socket_at {
            self.startup.reach(Stage::Socket, at);
        }
    }

    /// What the kernel counted.
    pub fn take_kernel(&mut self, all: &mut BTreeMap<Slot, KernelReading>) {
        if let Some(reading) = self.watched.as_ref().and_then(|watched| all.remove(&watched.slot())) {
            self.counted = reading;
        }
    }

    /// The thread that had the book is gone, and the book with it.
    pub fn replace_lost(&mut self, book: HostBook) {
        self.book.get_or_insert(book);
    }

    pub fn may_be_closed(&self) -> bool {
        self.book.is_some()
    }

    /// Makes the sandbox's numbers of what host, guest and runtime said.
    pub fn update(&mut self, at: f64, reading: HostReading, stored: Reading) -> HostStats {
        let running = self.sandbox.iter().flat_map(|sandbox| &sandbox.containers).map(|container| &container.id);
        let workload = workload(&stored, running);
        let cost = self.cost.update(at, &reading, workload.as_ref(), stored.guest.as_deref());
        let traffic = self.traffic.update(&reading.network, !self.existed);
        self.contribute(&reading, cost.memory_byte_seconds, traffic);
        self.stored = stored;
        HostStats { reading, kernel: self.counted.clone(), cost }
    }

    fn contribute(&mut self, reading: &HostReading, byte_seconds: Option<f64>, traffic: Option<[f64; 2]>) {
        let has = |read: fn(&RoleReading) -> bool| reading.roles.iter().any(read);
        let (cpu, io) = (has(|role| role.cpu.is_some()), has(|role| role.io.is_some()));
        let counted = reading.counted;
        self.contribution = Contribution {
            cpu_seconds: cpu.then_some(counted.cpu_seconds),
            read_bytes: io.then_some(counted.read_bytes),
            written_bytes: io.then_some(counted.written_bytes),
            memory_byte_seconds: byte_seconds,
            received_bytes: traffic.map(|[received, _]| received),
            transmitted_bytes: traffic.map(|[_, transmitted]| transmitted),
            started: self.contribution.started,
        };
    }

    pub fn contribution(&self) -> Contribution {
        self.contribution
    }

    /// `None` while it may yet become known.
    pub fn namespace(&self) -> Option<String> {
        let named = self.sandbox.as_ref()?.identity.as_ref().map(|identity| identity.namespace.clone());
        let is_without = self.stored.sources[index(Source::Cri)].state == Some(SourceState::Unsupported);
        named.or_else(|| is_without.then(String::new))
    }

    pub fn kinds(&self) -> (&'static str, &'static str) {
        let sandbox = self.sandbox.as_ref();
        let runtime = sandbox.and_then(|sandbox| sandbox.runtime).map_or("", |runtime| runtime.as_str());
        (runtime, sandbox.and_then(|sandbox| sandbox.vmm).map_or("", |vmm| vmm.as_str()))
    }

    /// Stages of its start that are news.
    pub fn stages(&mut self) -> Vec<(Stage, Duration)> {
        if self.existed {
            return Vec::new();
        }
        let identity = self.sandbox.as_ref().and_then(|sandbox| sandbox.identity.as_ref());
        let zero = match identity.and_then(|identity| identity.created_unix_ns).and_then(unix_ns_to_boot) {
            Some(zero) => zero,
            None if self.since.elapsed() < PATIENCE_FOR_BEGINNING => return Vec::new(),
            None => match self.startup.at(Stage::ShimExec) {
                Some(zero) => zero,
                None => return Vec::new(),
            },
        };
        let news = self.startup.tell(zero);
        news.into_iter().map(|(stage, seconds)| (stage, Duration::from_secs_f64(seconds))).collect()
    }

    /// The last words. `None`: it never had a process.
    pub fn close(&mut self) -> Option<Ended> {
        let kernel = self.watched.take().map(Watched::free).unwrap_or_default();
        let sandbox = self.sandbox.take().filter(|_| self.had_process)?;
        let book = self.book.take()?;
        let reading = book.reading();
        let now = boot_now().as_secs_f64();
        let peak = Some(self.peak_bytes).filter(|&peak| peak > 0.0);
        let cost = self.cost.close(now, self.began.filter(|_| !self.existed), peak);
        let traffic = self.contribution.received_bytes.zip(self.contribution.transmitted_bytes).map(<[f64; 2]>::from);
        self.contribute(&reading, cost.memory_byte_seconds, traffic);
        for (role, _) in kernel.oom_kills.iter().filter(|(_, kills)| *kills > 0) {
            // The kernel names a thread.
            let of = if *role == HostRole::Vcpu { HostRole::Vmm } else { *role };
            let victims = self.evidence.deaths.iter_mut().filter(|death| HostRole::from(death.role) == of);
            victims.for_each(|death| death.by_oom = true);
        }
        let verdict = judge(&self.evidence);
        let (signal, exit_code) = match verdict.status {
            Some(ExitStatus::Signal(signal)) => (signal.to_string(), String::new()),
            Some(ExitStatus::Code(code)) => (String::new(), code.to_string()),
            None => Default::default(),
        };
        let mut last = std::mem::take(&mut self.stored);
        last.host = Some(Arc::new(HostStats { reading, kernel, cost }));
        Some(Ended { sandbox, reading: last, end: EndPage { cause: verdict.cause, signal, exit_code } })
    }
}

/// Of the containers that the runtime told of last.
fn workload<'a>(stored: &Reading, mut running: impl Iterator<Item = &'a ContainerId>) -> Option<Workload> {
    let newest = stored.containers.values().map(|container| container.at).max()?;
    let at = to_boot(newest)?.as_secs_f64();
    let cpu = |stats: &crate::model::Stats| stats.cpu.usage_seconds;
    let cpu_seconds = stored.containers.iter().filter_map(|(id, said)| Some((id.clone(), cpu(&said.stats)?)));
    let memory = stored.containers.values().map(|said| said.stats.memory.working_set_bytes).sum();
    let tells = |id: &ContainerId| stored.containers.get(id).is_some_and(|said| cpu(&said.stats).is_some());
    let is_whole = running.all(tells);
    Some(Workload { at, cpu_seconds: cpu_seconds.collect(), is_whole, memory_bytes: memory })
}

/// The first turns of sandboxes that were found together are apart from each other; later ones keep the distance.
fn spread(id: &SandboxId, turn: u64, interval: Duration) -> Duration {
    if turn > 1 {
        return interval;
    }
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    interval.mul_f64((hasher.finish() % 1000) as f64 / 1000.0)
}

fn ticks_to_seconds(ticks: u64) -> f64 {
    ticks as f64 / procfs::ticks_per_second() as f64
}

fn unix_ns_to_boot(ns: i64) -> Option<f64> {
    let at: SystemTime = UNIX_EPOCH + Duration::from_nanos(u64::try_from(ns).ok()?);
    to_boot(at).map(|at| at.as_secs_f64())
}
