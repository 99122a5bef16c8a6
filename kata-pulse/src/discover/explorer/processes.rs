//! The explorer's part that is about processes: hints and scans → judgements → events.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use tracing::debug;

use super::ends::exit_of;
use super::looks::{Ended, Hint, Looked, Subject};
use super::{EXIT_GRACE, Explorer, NS_PER_TICK};
use crate::discover::census::Judgement;
use crate::discover::ebpf;
use crate::discover::hypervisor::{self, ClaimedId};
use crate::discover::membership;
use crate::discover::process::{self, Outline, ProcessFacts};
use crate::discover::scan::ScanReport;
use crate::discover::shim_version;
use crate::sandbox::{Change, EventSource, Pid, Process, ProcessExit, ProcessFound, ProcessRole, SandboxId};
use ebpf::{KernelEvent, Origin, Program};

impl Explorer {
    pub(super) fn kernel_said_of_process(&mut self, event: &KernelEvent, at_boot: Option<Duration>) {
        let hint = Hint { source: EventSource::Ebpf, at_boot };
        match event {
            KernelEvent::Exec { process, program: Program::Other, .. } => {
                self.become_stranger(Pid(process.pid), hint);
            }
            KernelEvent::Exec { process, file, argv, .. } => {
                self.looks.lives_on(Pid(process.pid));
                if self.is_refused_unseen(process, file, argv) {
                    self.refuse(Pid(process.pid), process.start_boot_ns / NS_PER_TICK);
                } else {
                    self.look_at_process(Pid(process.pid), hint, Some(told_facts(process, file, argv)));
                }
            }
            KernelEvent::Fork { process, may_be_thread: false } => self.look_at_process(Pid(process.pid), hint, None),
            KernelEvent::Exit { process, status, account } => {
                self.end_process(
                    Pid(process.pid),
                    start_ticks(process),
                    exit_of(*status, *account, Some(process.parent).filter(|&parent| parent > 0)),
                    hint,
                );
            }
            // When it was released is not when it ended.
            KernelEvent::Released { process, status, account } => {
                let hint = Hint { at_boot: None, ..hint };
                self.end_process(Pid(process.pid), start_ticks(process), exit_of(*status, *account, None), hint);
            }
            // A process that is one is found by its exec, or by the scan.
            KernelEvent::Fork { .. } | KernelEvent::DirectoryMade(_) | KernelEvent::DirectoryRemoved(_) => {}
        }
    }

    /// Whether the event alone shows that nothing can prove this process, so that `/proc` need not be asked: another
    /// mount namespace than the host's, no kin, named by no state file, and no cgroup known for the id it claims.
    fn is_refused_unseen(&self, process: &ebpf::Process, file: &[u8], argv: &[Vec<u8>]) -> bool {
        let proven = self.census.proven();
        let is_ours = |pid| proven.processes.contains_key(&Pid(pid)) || self.looks.is_under_way(Pid(pid));
        if process.origin != Origin::Foreign || process.parent == 0 || is_ours(process.parent) || is_ours(process.pid) {
            return false;
        }
        let claim = hypervisor::classify(Path::new(OsStr::from_bytes(file)), argv);
        let has_cgroup = match claim.and_then(|claim| claim.sandbox) {
            Some(ClaimedId::Whole(id)) => proven.cgroups.contains_key(&id),
            Some(ClaimedId::Prefix(_)) => false,
            // The arguments may have been cut before the id.
            None => !proven.cgroups.is_empty(),
        };
        !has_cgroup && !proven.named_in_state.contains_key(&process.pid)
    }

    /// `told`: what the kernel's programs said of it.
    pub(super) fn look_at_process(&mut self, pid: Pid, hint: Hint, told: Option<ProcessFacts>) {
        match (process::read_outline(&self.host, pid), told) {
            (Ok(Some(outline)), told) => self.look(Subject { hint, outline, told, is_gone: false }, None),
            (Ok(None), _) => {}
            // It lived shorter than it took to tell.
            (Err(error), Some(told)) if error.is_gone() => {
                self.look(Subject { hint, outline: told.outline.clone(), told: Some(told), is_gone: true }, None);
            }
            (Err(error), _) => debug!(%pid, error = &error as &dyn std::error::Error, "process could not be looked at"),
        }
    }

    pub(super) fn look_at_named(&mut self) {
        let hint = Hint { source: EventSource::Scan, at_boot: None };
        for (sandbox, pid) in std::mem::take(&mut self.named) {
            let known = self.census.proven().processes.get(&pid);
            // One that is another's so far may be a machine of the VM factory that was taken.
            if known.is_none_or(|known| known.sandbox != sandbox) {
                self.look_at_process(pid, hint, None);
            }
        }
    }

    fn look(&mut self, subject: Subject, ended: Option<Ended>) {
        let outline = &subject.outline;
        let could_belong = membership::could_belong(outline, self.census.proven());
        if !could_belong && !self.looks.is_under_way(outline.parent) {
            self.refuse(outline.pid, outline.start_ticks);
        } else if self.looks.must_wait(outline) {
            self.scan_again |= !self.looks.wait(subject, ended);
        } else {
            self.looks.begin(subject, ended);
        }
    }

    /// A look that was begun is done; those that waited for it go on.
    pub fn looked(&mut self, looked: Looked) {
        let done = self.looks.finish(looked);
        // A look that took longer than all that was to be told of the process comes too late.
        let is_over = |facts: &ProcessFacts| self.ends.was_told(facts.outline.pid, facts.outline.start_ticks);
        if let Some(facts) = done.facts.filter(|facts| !is_over(facts)) {
            let judgement = self.census.judge(&facts);
            self.take_judgement(judgement, done.hint, done.is_gone);
        }
        if let Some(Ended { start_ticks, exit, hint }) = done.ended {
            self.end_process(done.pid, start_ticks, exit, hint);
        }
        for (subject, ended) in self.looks.take_waiting() {
            self.look(subject, ended);
        }
    }

    pub(super) fn take_processes(&mut self, report: &mut ScanReport) {
        let hint = Hint { source: EventSource::Scan, at_boot: None };
        // The walk may have seen processes whose end was told since.
        let mut processes = std::mem::take(&mut report.processes);
        processes.retain(|facts| self.is_known_or_alive(&facts.outline));
        for judgement in self.census.judge_all(processes) {
            self.take_judgement(judgement, hint, false);
        }
        for &(pid, start_ticks) in &report.refused {
            self.refuse(pid, start_ticks);
        }
        self.counters.count_foreign(self.refusals.grown(report.refused_beyond));
        if !report.procfs_is_readable {
            return;
        }
        let is_alive = |one: &Process| self.is_alive(one.pid, one.start_ticks);
        let ended: Vec<Process> = self.census.all().filter(|one| !is_alive(one)).collect();
        for process in ended {
            self.end_process(process.pid, Some(process.start_ticks), ProcessExit::default(), hint);
        }
    }

    fn is_known_or_alive(&self, outline: &Outline) -> bool {
        self.census.proven().processes.contains_key(&outline.pid) || self.is_alive(outline.pid, outline.start_ticks)
    }

    /// An error other than "gone" is no proof of an end.
    fn is_alive(&self, pid: Pid, start_ticks: u64) -> bool {
        process::is_running(&self.host, pid, start_ticks).unwrap_or(true)
    }

    /// `is_gone`: it ended already, so there is nothing to watch.
    fn take_judgement(&mut self, judgement: Judgement, hint: Hint, is_gone: bool) {
        for (sandbox, found) in self.census.take_replaced() {
            let is_started = self.started.remove(&found.process.pid);
            self.ends.settle(sandbox, found, hint, is_started);
        }
        match judgement {
            Judgement::Joined(id, mut found) => {
                if !is_gone {
                    self.joined.push(found.process);
                    self.watch_end(found.process);
                }
                if found.process.role == ProcessRole::Shim && !is_gone {
                    found.version = shim_version::release::read(&self.host, found.process.pid);
                    self.census.set_version(found.process.pid, found.version);
                }
                if self.known.contains_key(&id) || self.gone.contains(&id) {
                    self.push_started(hint.source, hint.at_boot, id, found);
                }
            }
            Judgement::Foreign(pid, start_ticks) => self.refuse(pid, start_ticks),
            Judgement::Known | Judgement::Stranger => {}
        }
    }

    /// Counts a process that claims to be Kata's once.
    fn refuse(&mut self, pid: Pid, start_ticks: u64) {
        if self.refusals.is_new((pid, start_ticks)) {
            self.counters.count_foreign(1);
        }
    }

    fn watch_end(&mut self, process: Process) {
        let Some(pidfds) = &self.pidfds else { return };
        let grace = if self.sight.exits { EXIT_GRACE } else { Duration::ZERO };
        match pidfds.watch(&self.host, process.pid, process.start_ticks, grace) {
            Ok(true) => {}
            Ok(false) => debug!(pid = %process.pid, "no room for its pidfd, its end is seen by eBPF or a scan"),
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "pidfds cannot be used, ends are seen by scans");
                self.pidfds = None;
            }
        }
    }

    pub fn process_ended(&mut self, pid: Pid, start_ticks: u64) {
        // A hint like all others: the descriptor may have been another process's.
        if !self.is_alive(pid, start_ticks) {
            let hint = Hint { source: EventSource::Pidfd, at_boot: None };
            self.end_process(pid, Some(start_ticks), ProcessExit::default(), hint);
        }
    }

    fn end_process(&mut self, pid: Pid, start_ticks: Option<u64>, exit: ProcessExit, hint: Hint) {
        self.looks.ended(pid, Ended { start_ticks, exit, hint });
        match self.census.end(pid, start_ticks) {
            // Also after the directory went: runtime-rs removes it before its processes end.
            Some((id, found)) => {
                let is_started = self.started.remove(&pid);
                self.ends.hold(id, found, exit, hint, is_started);
            }
            None => self.ends.tell(pid, start_ticks, exit, hint),
        }
    }

    /// A member goes on as a program that is none of Kata's, and is not followed any more.
    fn become_stranger(&mut self, pid: Pid, hint: Hint) {
        self.looks.ended(pid, Ended { start_ticks: None, exit: ProcessExit::default(), hint });
        if let Some((id, found)) = self.census.end(pid, None) {
            let is_started = self.started.remove(&pid);
            self.ends.settle(id, found, hint, is_started);
        }
    }

    pub(super) fn push_started(
        &mut self,
        source: EventSource,
        at_boot: Option<Duration>,
        id: SandboxId,
        found: ProcessFound,
    ) {
        self.started.insert(found.process.pid);
        self.push(source, at_boot, Change::ProcessStarted(id, found));
    }

    /// Tells the ends that are waited for no longer; that of a process whose sandbox nobody ever saw is nobody's.
    pub(super) fn tell_ends(&mut self) {
        for held in self.ends.take_due() {
            if held.is_started {
                let change = Change::ProcessEnded(held.sandbox, held.found.process, held.exit);
                self.push(held.hint.source, held.hint.at_boot, change);
            }
        }
    }
}

fn start_ticks(process: &ebpf::Process) -> Option<u64> {
    (process.start_boot_ns > 0).then_some(process.start_boot_ns / NS_PER_TICK)
}

/// The process as the kernel's programs saw it when it became this program; nothing of it was asked of the process.
fn told_facts(process: &ebpf::Process, file: &[u8], argv: &[Vec<u8>]) -> ProcessFacts {
    let outline = Outline {
        pid: Pid(process.pid),
        parent: Pid(process.parent),
        start_ticks: process.start_boot_ns / NS_PER_TICK,
        executable: Path::new(OsStr::from_bytes(file)).to_owned(),
        mount_namespace: (process.mount_ns > 0).then(|| u64::from(process.mount_ns)),
        cgroups: Vec::new(),
        uid: process.uid,
    };
    ProcessFacts { outline, arguments: argv.to_vec() }
}
