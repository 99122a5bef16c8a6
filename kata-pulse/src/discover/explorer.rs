//! Turns hints into facts: looks at what a hint names, and tells what changed.
//!
//! Holds which sandboxes and processes are known. Every method looks at the host itself before it believes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{debug, info};

use super::census::{Census, Judgement};
use super::ebpf::{self, KernelEvent, Program};
use super::inotify::Watcher;
use super::process::{self, ProcessFacts};
use super::scan::ScanReport;
use super::{DiscoveryCounters, clock, directory, pidfd, shim_version, state_files};
use crate::config::HostPaths;
use crate::sandbox::{
    Appeared, Change, DirectoryFacts, DiscoveryEvent, EventSource, ExitStatus, Pid, Process, ProcessRole, SandboxId,
};

/// A creation older than this was missed by everyone and is no measure of how fast we see.
const STALE: Duration = Duration::from_secs(300);

/// A pidfd waits so long for the event that has the exit code.
const EXIT_GRACE: Duration = Duration::from_millis(200);
/// The kernel tells start times to user space in hundredths of a second.
const NS_PER_TICK: u64 = 10_000_000;

#[derive(Debug)]
struct Known {
    base: usize,
    appeared: Appeared,
    facts: DirectoryFacts,
}

#[derive(Debug)]
pub struct Explorer {
    host: HostPaths,
    known: BTreeMap<SandboxId, Known>,
    census: Census,
    counters: DiscoveryCounters,
    ended: mpsc::Sender<pidfd::Ended>,
    pidfds_work: bool,
    /// Ends of processes are told by the kernel's programs too, with their exit code.
    exits_are_told: bool,
    /// Processes that joined since the last call of [`Explorer::take_joined`].
    joined: Vec<Pid>,
    events: Vec<DiscoveryEvent>,
    /// A sandbox without a process appeared since the last look at `/proc`.
    wants_processes: bool,
}

impl Explorer {
    pub fn new(
        host: HostPaths,
        counters: DiscoveryCounters,
        ended: mpsc::Sender<pidfd::Ended>,
        exits_are_told: bool,
    ) -> Self {
        let census = Census::new(process::read_host_mount_namespace(&host));
        let pidfds_work = process::has_our_pids(&host);
        if !pidfds_work {
            info!(procfs = %host.procfs.display(), "pids of another namespace: ends are told by eBPF and scans alone");
        }
        Self {
            host,
            known: BTreeMap::new(),
            census,
            counters,
            ended,
            pidfds_work,
            exits_are_told,
            joined: Vec::new(),
            events: Vec::new(),
            wants_processes: false,
        }
    }

    pub fn counters(&self) -> &DiscoveryCounters {
        &self.counters
    }

    /// Some sandbox has no shim or no VMM yet, so that looking again soon is worth it.
    pub fn wants_processes(&self) -> bool {
        self.wants_processes
    }

    /// Everything that happened since the last call; keeps the watches of `watcher` in step.
    pub fn take_events(&mut self, watcher: Option<&mut Watcher>) -> Vec<DiscoveryEvent> {
        if let Some(watcher) = watcher {
            self.keep_watches(watcher);
        }
        std::mem::take(&mut self.events)
    }

    /// Processes whose end is worth being told.
    pub fn take_joined(&mut self) -> Vec<Pid> {
        std::mem::take(&mut self.joined)
    }

    /// An event of the kernel's programs: a hint like all others.
    pub fn kernel_said(&mut self, event: &KernelEvent) {
        let at_boot = Some(Duration::from_nanos(event.boot_ns()));
        match event {
            // Told by the inode of its base: nobody but the host can have made it. A path's text proves nothing.
            KernelEvent::DirectoryMade(made) => {
                self.made(made.base_index as usize, &made.name, EventSource::Ebpf, at_boot, !made.by_path);
            }
            KernelEvent::DirectoryRemoved(removed) => {
                self.removed(removed.base_index as usize, &removed.name, EventSource::Ebpf, at_boot);
            }
            KernelEvent::Exec { process, program: Program::Other, .. } => {
                self.end_process(Pid(process.pid), None, None, EventSource::Ebpf, at_boot);
            }
            KernelEvent::Exec { process, .. } | KernelEvent::Fork { process, may_be_thread: false } => {
                self.look_at_process(Pid(process.pid), EventSource::Ebpf, at_boot);
            }
            // A process that is one is found by its exec, or by the scan.
            KernelEvent::Fork { .. } => {}
            KernelEvent::Exit { process, status } => {
                let start_ticks = (process.start_boot_ns > 0).then_some(process.start_boot_ns / NS_PER_TICK);
                let status = status.map(|status| match status {
                    ebpf::ExitStatus::Code(code) => ExitStatus::Code(code),
                    ebpf::ExitStatus::Signal(signal) => ExitStatus::Signal(signal),
                });
                self.end_process(Pid(process.pid), start_ticks, status, EventSource::Ebpf, at_boot);
            }
        }
    }

    fn keep_watches(&mut self, watcher: &mut Watcher) {
        for at in 0..self.events.len() {
            match &self.events[at].change {
                Change::Appeared(appeared) => {
                    let (id, directory) = (appeared.id.clone(), appeared.directory.clone());
                    watcher.forget_sandbox(&id);
                    watcher.watch_sandbox(&id, &directory);
                    // What came before the watch.
                    self.files_changed(&id);
                }
                Change::Removed(id) if !self.known.contains_key(id) => watcher.forget_sandbox(id),
                _ => {}
            }
        }
    }

    pub fn directory_made(&mut self, base: usize, name: &[u8]) {
        self.made(base, name, EventSource::Inotify, None, true);
    }

    /// `certain`: it was there, even if it is not any more.
    fn made(&mut self, base: usize, name: &[u8], source: EventSource, at_boot: Option<Duration>, certain: bool) {
        let Some(directory) = self.host.bases.get(base) else { return };
        let Some(id) = directory::sandbox_name(directory, name) else { return };
        match directory::look(directory, id.clone()) {
            Some((appeared, created)) => {
                let at_boot = at_boot.or_else(|| created.and_then(clock::to_boot)).filter(is_recent);
                self.appear(base, appeared, source, at_boot);
            }
            // Made and removed before we looked: it was there all the same.
            None if !self.known.contains_key(&id) && !certain => self.counters.count_foreign(1),
            None if !self.known.contains_key(&id) => {
                let appeared = Appeared {
                    directory: HostPaths::sandbox_directory(directory, &id),
                    inode: 0,
                    runtime: directory.runtime,
                    created_unix_ms: None,
                    id: id.clone(),
                };
                self.appear(base, appeared, source, at_boot);
                self.disappear(&id, source, at_boot);
            }
            None => self.disappear(&id, source, at_boot),
        }
    }

    pub fn directory_removed(&mut self, base: usize, name: &[u8]) {
        self.removed(base, name, EventSource::Inotify, None);
    }

    fn removed(&mut self, base: usize, name: &[u8], source: EventSource, at_boot: Option<Duration>) {
        let Some(directory) = self.host.bases.get(base) else { return };
        let Some(id) = directory::sandbox_name(directory, name) else { return };
        if self.known.get(&id).is_none_or(|known| known.base != base) {
            return;
        }
        // The last change of the base is this removal or a later one.
        let changed = || std::fs::metadata(&directory.path).ok()?.modified().ok();
        let at_boot = at_boot.or_else(|| changed().and_then(clock::to_boot)).filter(is_recent);
        match directory::look(directory, id.clone()) {
            None => self.disappear(&id, source, at_boot),
            // Made anew meanwhile.
            Some((appeared, _)) => self.appear(base, appeared, source, None),
        }
    }

    fn appear(&mut self, base: usize, appeared: Appeared, source: EventSource, at_boot: Option<Duration>) {
        let id = appeared.id.clone();
        match self.known.get(&id) {
            Some(known) if known.base == base && known.appeared.inode == appeared.inode => return,
            // The same id below another base that is still there: the first stays.
            Some(known) if known.base != base && known.appeared.directory.is_dir() => return,
            Some(_) => self.disappear(&id, source, None),
            None => {}
        }
        self.push(source, at_boot, Change::Appeared(appeared.clone()));
        self.known.insert(id.clone(), Known { base, appeared, facts: DirectoryFacts::default() });
        self.files_changed(&id);
        let members: Vec<_> = self.census.members(&id).cloned().collect();
        for found in members {
            self.push(source, None, Change::ProcessStarted(id.clone(), found));
        }
        self.wants_processes |= self.lacks_processes(&id);
    }

    fn disappear(&mut self, id: &SandboxId, source: EventSource, at_boot: Option<Duration>) {
        if self.known.remove(id).is_some() {
            self.census.state_tells(id, None);
            self.push(source, at_boot, Change::Removed(id.clone()));
        }
    }

    /// Reads the sandbox's files anew.
    pub fn files_changed(&mut self, id: &SandboxId) {
        let Some(known) = self.known.get(id) else { return };
        let facts = state_files::read_directory(&known.appeared.directory, id, known.appeared.runtime);
        self.take_files(id, facts);
    }

    fn take_files(&mut self, id: &SandboxId, facts: DirectoryFacts) {
        let Some(known) = self.known.get_mut(id).filter(|known| known.facts != facts) else { return };
        known.facts = facts.clone();
        self.census.state_tells(id, Some(&facts));
        let pids = [facts.vmm_pid, facts.virtiofsd_pid];
        self.push(EventSource::Scan, None, Change::Files(id.clone(), facts));
        for pid in pids.into_iter().flatten() {
            self.look_at_process(Pid(pid), EventSource::Scan, None);
        }
    }

    pub fn base_changed(&mut self, base: usize) {
        let Ok(found) = directory::read_base(&self.host.bases[base]) else { return };
        let there: Vec<SandboxId> = found.iter().map(|appeared| appeared.id.clone()).collect();
        for appeared in found {
            self.appear(base, appeared, EventSource::Inotify, None);
        }
        let gone: Vec<SandboxId> = self
            .known
            .iter()
            .filter(|(id, known)| known.base == base && !there.contains(id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.disappear(&id, EventSource::Inotify, None);
        }
    }

    pub fn scanned(&mut self, report: ScanReport, first: bool) {
        self.wants_processes = false;
        for (base, appeared, facts) in report.sandboxes {
            let id = appeared.id.clone();
            if self.known.get(&id).is_none_or(|known| known.appeared.inode != appeared.inode)
                && let Some((appeared, created)) = directory::look(&self.host.bases[base], id.clone())
            {
                let at_boot = created.filter(|_| !first).and_then(clock::to_boot).filter(is_recent);
                self.appear(base, appeared, EventSource::Scan, at_boot);
            }
            self.take_files(&id, facts);
        }
        self.drop_absent(&report.unreadable_bases);
        self.take_processes(report.processes, report.procfs_is_readable);
        let ids: Vec<SandboxId> = self.known.keys().cloned().collect();
        self.wants_processes = ids.iter().any(|id| self.lacks_processes(id));
    }

    fn drop_absent(&mut self, unreadable: &[usize]) {
        let gone: Vec<SandboxId> = self
            .known
            .iter()
            .filter(|(id, known)| {
                !unreadable.contains(&known.base)
                    && directory::look(&self.host.bases[known.base], (*id).clone()).is_none()
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.disappear(&id, EventSource::Scan, None);
        }
    }

    fn take_processes(&mut self, processes: Vec<ProcessFacts>, procfs_is_readable: bool) {
        for judgement in self.census.judge_all(processes) {
            self.take_judgement(judgement, EventSource::Scan, None);
        }
        if !procfs_is_readable {
            return;
        }
        let ended: Vec<Process> = self.census.all().filter(|one| !self.is_alive(*one)).collect();
        for process in ended {
            self.end_process(process.pid, Some(process.start_ticks), None, EventSource::Scan, None);
        }
    }

    /// An error other than "gone" is no proof of an end.
    fn is_alive(&self, process: Process) -> bool {
        process::is_running(&self.host, process.pid, process.start_ticks).unwrap_or(true)
    }

    fn look_at_process(&mut self, pid: Pid, source: EventSource, at_boot: Option<Duration>) {
        match process::read_facts(&self.host, pid) {
            Ok(Some(facts)) => {
                let judgement = self.census.judge(&facts);
                self.take_judgement(judgement, source, at_boot);
            }
            Ok(None) => {}
            Err(error) => debug!(%pid, error = &error as &dyn std::error::Error, "process could not be looked at"),
        }
    }

    fn take_judgement(&mut self, judgement: Judgement, source: EventSource, at_boot: Option<Duration>) {
        match judgement {
            Judgement::Joined(id, mut found) => {
                self.joined.push(found.process.pid);
                self.watch_end(found.process);
                if found.process.role == ProcessRole::Shim {
                    found.version = shim_version::release::read(&self.host, found.process.pid);
                    self.census.set_version(found.process.pid, found.version);
                }
                if self.known.contains_key(&id) {
                    self.push(source, at_boot, Change::ProcessStarted(id, found));
                }
            }
            Judgement::Foreign => self.counters.count_foreign(1),
            Judgement::Known | Judgement::Stranger => {}
        }
    }

    fn watch_end(&mut self, process: Process) {
        if !self.pidfds_work {
            return;
        }
        let grace = if self.exits_are_told { EXIT_GRACE } else { Duration::ZERO };
        if let Err(error) = pidfd::watch(&self.host, process.pid, process.start_ticks, grace, self.ended.clone()) {
            debug!(error = &error as &dyn std::error::Error, "pidfds cannot be used, ends are seen by scans");
            self.pidfds_work = error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error());
        }
    }

    pub fn process_ended(&mut self, pid: Pid, start_ticks: u64) {
        // A hint like all others: the descriptor may have been another process's.
        if !process::is_running(&self.host, pid, start_ticks).unwrap_or(true) {
            self.end_process(pid, Some(start_ticks), None, EventSource::Pidfd, None);
        }
    }

    fn end_process(
        &mut self,
        pid: Pid,
        start_ticks: Option<u64>,
        status: Option<ExitStatus>,
        source: EventSource,
        at_boot: Option<Duration>,
    ) {
        // Also after the directory went: runtime-rs removes it before its processes end.
        if let Some((id, process)) = self.census.end(pid, start_ticks) {
            self.push(source, at_boot, Change::ProcessEnded(id, process, status));
        }
    }

    fn lacks_processes(&self, id: &SandboxId) -> bool {
        let Some(known) = self.known.get(id) else { return false };
        let without_vmm = known.facts.vmm.is_some_and(|vmm| !vmm.has_process());
        !self.census.has(id, ProcessRole::Shim) || !(without_vmm || self.census.has(id, ProcessRole::Vmm))
    }

    fn push(&mut self, source: EventSource, at_boot: Option<Duration>, change: Change) {
        self.events.push(DiscoveryEvent { source, at_boot, change });
    }
}

fn is_recent(at_boot: &Duration) -> bool {
    clock::boot_now().saturating_sub(*at_boot) < STALE
}
