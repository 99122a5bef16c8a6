//! Turns hints into facts: looks at what a hint names, and tells what changed.
//!
//! Holds which sandboxes and processes are known. Every method looks at the host itself before it believes.

mod ends;
mod gone;
mod looks;
mod processes;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;

use super::census::Census;
use super::ebpf::KernelEvent;
use super::inotify::Watcher;
use super::membership::Proven;
use super::memory::MemoryReads;
use super::pidfd::{self, Pidfds};
use super::process;
use super::refusals::Refusals;
use super::scan::ScanReport;
use super::{DiscoveryCounters, clock, descriptor, directory, state_files};
use crate::config::HostPaths;
use crate::sandbox::{
    Appeared, Change, DirectoryFacts, DiscoveryEvent, EventSource, Pid, Process, ProcessRole, SandboxId,
};
use ends::Ends;
use gone::Gone;
pub use looks::Looked;
use looks::Looks;

/// Of the descriptors that the agent may have, so much goes to pidfds: the rest is for sockets.
const PIDFD_SHARE: usize = 4;
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
    sight: Sight,
    /// `None`: they cannot be had here.
    pidfds: Option<Pidfds>,
    looks: Looks,
    refusals: Refusals,
    ends: Ends,
    /// Sandboxes that were there a moment ago.
    gone: Gone,
    /// Members whose beginning was told.
    started: HashSet<Pid>,
    /// Processes that joined since the last call of [`Explorer::take_joined`].
    joined: Vec<Process>,
    events: Vec<DiscoveryEvent>,
    /// A sandbox without a process appeared since the last look at `/proc`.
    wants_processes: bool,
    /// Pids that state files name, to be looked at when everything else was taken in: a scan may have found them.
    named: Vec<(SandboxId, Pid)>,
    /// Hints were dropped.
    scan_again: bool,
}

/// What the kernel's programs tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sight {
    /// Ends of processes, with their exit code.
    pub exits: bool,
    /// When nothing of an ended process runs any more.
    pub releases: bool,
    /// Directories by their parent's inode, read inside the kernel.
    pub directories_by_inode: bool,
}

impl Explorer {
    pub fn new(
        host: HostPaths,
        counters: DiscoveryCounters,
        sight: Sight,
        ended: mpsc::Sender<pidfd::Ended>,
        looked: mpsc::Sender<Looked>,
    ) -> Self {
        let census = Census::new(process::read_host_mount_namespace(&host));
        let pidfds = process::has_our_pids(&host).then(|| Pidfds::new(descriptor::limit() / PIDFD_SHARE, ended));
        if pidfds.is_none() {
            info!(procfs = %host.procfs.display(), "pids of another namespace: ends are told by eBPF and scans alone");
        }
        Self {
            looks: Looks::new(host.clone(), looked),
            host,
            known: BTreeMap::new(),
            census,
            counters,
            sight,
            pidfds,
            refusals: Refusals::default(),
            ends: Ends::new(sight),
            gone: Gone::default(),
            started: HashSet::new(),
            joined: Vec::new(),
            events: Vec::new(),
            wants_processes: false,
            named: Vec::new(),
            scan_again: false,
        }
    }

    pub fn counters(&self) -> &DiscoveryCounters {
        &self.counters
    }

    /// Some sandbox has no shim or no VMM yet, so that looking again soon is worth it.
    pub fn wants_processes(&self) -> bool {
        self.wants_processes
    }

    /// More was said than could be looked at: only a scan tells. Once.
    pub fn take_scan_again(&mut self) -> bool {
        std::mem::take(&mut self.scan_again)
    }

    /// What a scan needs to know.
    pub fn proven(&self) -> &Proven {
        self.census.proven()
    }

    pub fn reads(&self) -> &MemoryReads {
        self.looks.reads()
    }

    /// Everything that happened since the last call; keeps the watches of `watcher` in step.
    pub fn take_events(&mut self, watcher: Option<&mut Watcher>) -> Vec<DiscoveryEvent> {
        if let Some(watcher) = watcher {
            self.keep_watches(watcher);
        }
        self.look_at_named();
        self.tell_ends();
        std::mem::take(&mut self.events)
    }

    /// When [`Explorer::take_events`] will have something even if nothing happens.
    pub fn next_event(&self) -> Option<Instant> {
        self.ends.next_due()
    }

    /// Processes whose end is worth being told.
    pub fn take_joined(&mut self) -> Vec<Process> {
        std::mem::take(&mut self.joined)
    }

    /// An event of the kernel's programs: a hint like all others.
    pub fn kernel_said(&mut self, event: &KernelEvent) {
        let at_boot = Some(Duration::from_nanos(event.boot_ns()));
        match event {
            // Told by the inode of its base inside the kernel: nobody but the host can have made it. A path's text, or
            // a descriptor that is read again when the call returns, proves nothing.
            KernelEvent::DirectoryMade(made) => {
                let certain = self.sight.directories_by_inode && !made.by_path;
                self.made(made.base_index as usize, &made.name, EventSource::Ebpf, at_boot, certain);
            }
            KernelEvent::DirectoryRemoved(removed) => {
                self.removed(removed.base_index as usize, &removed.name, EventSource::Ebpf, at_boot);
            }
            other => self.kernel_said_of_process(other, at_boot),
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
            self.push_started(source, None, id.clone(), found);
        }
        for found in self.ends.started(&id) {
            self.push(source, None, Change::ProcessStarted(id.clone(), found));
        }
        self.gone.remove(&id);
        self.wants_processes |= self.lacks_processes(&id);
    }

    fn disappear(&mut self, id: &SandboxId, source: EventSource, at_boot: Option<Duration>) {
        if self.known.remove(id).is_some() {
            self.census.state_tells(id, None);
            self.gone.insert(id.clone());
            self.push(source, at_boot, Change::Removed(id.clone()));
        }
    }

    /// Reads the sandbox's files anew.
    pub fn files_changed(&mut self, id: &SandboxId) {
        let Some(known) = self.known.get_mut(id) else { return };
        let facts = state_files::read_directory(&known.appeared.directory, id, known.appeared.runtime);
        if known.facts == facts {
            return;
        }
        known.facts = facts.clone();
        self.census.state_tells(id, Some(&facts));
        let pids = [facts.vmm_pid, facts.virtiofsd_pid];
        self.named.extend(pids.into_iter().flatten().map(|named| (id.clone(), Pid(named.pid))));
        self.push(EventSource::Scan, None, Change::Files(id.clone(), facts));
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

    pub fn scanned(&mut self, mut report: ScanReport, first: bool) {
        self.wants_processes = false;
        for (base, appeared, facts) in std::mem::take(&mut report.sandboxes) {
            let id = appeared.id.clone();
            if self.known.get(&id).is_none_or(|known| known.appeared.inode != appeared.inode)
                && let Some((appeared, created)) = directory::look(&self.host.bases[base], id.clone())
            {
                let at_boot = created.filter(|_| !first).and_then(clock::to_boot).filter(is_recent);
                self.appear(base, appeared, EventSource::Scan, at_boot);
            }
            // The walk may have read them before what a notice made us read since.
            if self.known.get(&id).is_some_and(|known| known.facts != facts) {
                self.files_changed(&id);
            }
        }
        self.drop_absent(&report.unreadable_bases);
        self.take_processes(&mut report);
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

#[cfg(test)]
mod tests;
