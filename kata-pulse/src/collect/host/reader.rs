//! Reads a sandbox's processes, cgroups and network into its [`HostBook`].

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::time::{ClockId, clock_gettime};

use super::book::HostBook;
use super::cgroup::{self, CgroupRoot, Owner, Places};
use super::files::{self, Scratch};
use super::guarded::Guarded;
use super::network::{self, HostNetworks};
use super::process::{Kernel, Plan, Reading};
use super::process_book::{ProcessBook, Share};
use super::qdisc;
use super::tiers::Tiers;
use super::vhost::{KernelThread, VhostThreads};
use crate::config::{CgroupNamespace, HostPaths};
use crate::model::HostReading;
use crate::sandbox::{HostRole, Process, ProcessRole, SandboxId, Vmm};

const NS_PER_SECOND: u64 = 1_000_000_000;
/// As many times as counting a process's pages took.
const PAUSE_PER_SANDBOX: u32 = 100;
const SHORTEST_PAUSE: u32 = 1000;
const LONGEST_PAUSE: u32 = 100_000;
/// More processes of one sandbox are not read.
const MAX_PROCESSES: usize = 64;

#[derive(Clone, Debug)]
pub struct HostOptions {
    pub procfs: PathBuf,
    pub sysfs: PathBuf,
    pub cgroup_namespace: CgroupNamespace,
    /// Since when use is counted, in ticks since boot as `/proc/<pid>/stat` has them.
    pub agent_start_ticks: u64,
    /// Also what each thread of a VMM uses.
    pub thread_detail: bool,
    /// Also what queueing disciplines of the pod's interfaces dropped; needs CAP_SYS_ADMIN.
    pub qdisc: bool,
}

impl HostOptions {
    /// Counting from now.
    pub fn new(host: &HostPaths) -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let ticks = procfs::ticks_per_second();
        let whole = u64::try_from(now.tv_sec).unwrap_or(0).saturating_mul(ticks);
        let part = u64::try_from(now.tv_nsec).unwrap_or(0).saturating_mul(ticks) / NS_PER_SECOND;
        Self {
            procfs: host.procfs.clone(),
            sysfs: host.sysfs.clone(),
            cgroup_namespace: host.cgroup_namespace.clone(),
            agent_start_ticks: whole.saturating_add(part),
            thread_detail: false,
            qdisc: false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("open {}", path.display())]
    Procfs { path: PathBuf, source: io::Error },
}

/// Which sandbox is read.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub id: &'a SandboxId,
    /// As discovery proved them.
    pub processes: &'a [Process],
    pub vmm: Option<Vmm>,
    /// The pod's cgroup, as the container runtime names it.
    pub cgroup_parent: Option<&'a str>,
}

/// Reads any sandbox of this host; shared by all threads that read.
#[derive(Debug)]
pub struct HostReader {
    procfs: OwnedFd,
    cgroups: CgroupRoot,
    cgroup_namespace: CgroupNamespace,
    kernel: Kernel,
    networks: HostNetworks,
    vhosts: VhostThreads,
    guarded: Guarded,
    agent_start_ticks: u64,
    thread_detail: bool,
    qdisc: bool,
    sandboxes: AtomicU32,
}

impl HostReader {
    pub fn new(options: HostOptions) -> Result<Self, HostError> {
        let path = &options.procfs;
        let procfs = files::open_directory(path)
            .map_err(|source| HostError::Procfs { path: path.clone(), source: source.into() })?;
        let kernel = read_kernel(path);
        Ok(Self {
            cgroups: CgroupRoot::new(&options.sysfs, kernel.tick_ns),
            cgroup_namespace: options.cgroup_namespace.clone(),
            kernel,
            networks: HostNetworks::read(procfs.as_fd()),
            procfs,
            vhosts: VhostThreads::default(),
            guarded: Guarded::default(),
            agent_start_ticks: options.agent_start_ticks,
            thread_detail: options.thread_detail,
            qdisc: options.qdisc,
            sandboxes: AtomicU32::new(0),
        })
    }

    /// How many sandboxes share what reading may cost.
    pub fn share_among(&self, sandboxes: usize) {
        self.sandboxes.store(u32::try_from(sandboxes).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Counting pages of all sandboxes together takes no more than a few percent of the time, of one no more than a
    /// thousandth: a large VM is counted less often.
    fn memory_pause(&self) -> u32 {
        self.sandboxes.load(Ordering::Relaxed).saturating_mul(PAUSE_PER_SANDBOX).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    }

    /// An empty book for a sandbox.
    pub fn book(&self) -> HostBook {
        HostBook::new(self.agent_start_ticks)
    }

    /// Reads what `tiers` name of all processes; of one met for the first time everything. What cannot be read is
    /// `None`, and what has ended is as it was last.
    pub fn read(&self, book: &mut HostBook, target: &Target<'_>, tiers: Tiers) -> HostReading {
        let mut scratch = Scratch::default();
        let is_first = book.processes.is_empty();
        // Whoever waits for another began before it; the shim waits for all. The kernel adds the I/O of whom it has
        // waited for to a process's own, at a moment that only the end tells.
        let mut processes: Vec<&Process> = target.processes.iter().take(MAX_PROCESSES).collect();
        processes.sort_by_key(|process| (process.role == ProcessRole::Shim, Reverse(process.start_ticks)));
        let is_listed = |book: &ProcessBook| {
            book.role == HostRole::Vhost
                || target.processes.iter().any(|process| (process.pid.0, process.start_ticks) == book.key())
        };
        let is_delisted = book.processes.iter().any(|book| book.is_running && !is_listed(book));
        let mut is_gone = is_delisted || book.has_untold_end();
        for process in processes {
            is_gone |= !self.read_process(&mut scratch, book, target, process, tiers, is_gone);
        }
        self.read_vhosts(&mut scratch, book, tiers.rarely || is_first, vmm_role(target));
        book.settle(is_listed);
        if tiers.sometimes || is_first {
            self.read_cgroups(&mut scratch, book, target);
        }
        self.read_network(&mut scratch, book, target, self.qdisc && (tiers.sometimes || is_first));
        book.reading()
    }

    /// Says whether it still runs.
    fn read_process(
        &self,
        scratch: &mut Scratch,
        book: &mut HostBook,
        target: &Target<'_>,
        process: &Process,
        tiers: Tiers,
        skips_io: bool,
    ) -> bool {
        let holds_vmm = is_vmm_in_shim(target, process.role);
        let plan = Plan {
            tiers,
            split: process.role == ProcessRole::Vmm || holds_vmm,
            thread_detail: self.thread_detail,
            tells_memory: process.role == ProcessRole::Vmm && matches!(target.vmm, Some(Vmm::Qemu | Vmm::Stratovirt)),
            skips_io,
        };
        let book = book.process(HostRole::from(process.role), process.pid.0, process.start_ticks);
        self.read_one(scratch, book, plan);
        book.is_running
    }

    fn read_one(&self, scratch: &mut Scratch, book: &mut ProcessBook, plan: Plan) {
        let taken = scratch.open_process(self.procfs.as_fd(), book.pid).and_then(|directory| {
            let (kernel, guarded) = (&self.kernel, &self.guarded);
            let memory_pause = self.memory_pause();
            Reading { kernel, guarded, directory: directory.as_fd(), scratch, memory_pause }.take(book, plan)
        });
        if taken.is_err_and(files::is_gone) {
            book.stop();
        }
    }

    /// Kernel threads that belong to a VMM by their name only.
    fn read_vhosts(&self, scratch: &mut Scratch, book: &mut HostBook, look: bool, vmm: HostRole) {
        if self.kernel.vhost_is_a_thread {
            return;
        }
        let mut known: Vec<KernelThread> = book.running(HostRole::Vhost).map(ProcessBook::key).collect();
        if look {
            // Named after the thread that asked for it.
            let owners = |vmm: &ProcessBook| vmm.threads.keys().copied().chain([vmm.pid]).collect::<Vec<_>>();
            let owners: Vec<u32> = book.running(vmm).flat_map(owners).collect();
            known.extend(owners.into_iter().flat_map(|owner| self.vhosts.of(scratch, self.procfs.as_fd(), owner)));
            known.sort_unstable();
            known.dedup();
        }
        let tiers = Tiers { sometimes: look, rarely: false };
        let plan = Plan { tiers, split: false, thread_detail: false, tells_memory: false, skips_io: false };
        for (pid, start_ticks) in known.into_iter().take(MAX_PROCESSES) {
            self.read_one(scratch, book.process(HostRole::Vhost, pid, start_ticks), plan);
        }
    }

    /// In the namespace itself, on a thread that is not used for anything else.
    fn read_qdisc(&self, process: BorrowedFd<'_>, thread: Option<u32>, book: &mut HostBook) {
        let path = thread.map_or_else(|| "ns/net".to_owned(), |tid| format!("task/{tid}/ns/net"));
        let namespace = files::open_file(process, &path).ok();
        let drops = namespace.and_then(|namespace| self.guarded.read(move || qdisc::read(&namespace)));
        book.network.take_qdisc_drops(&drops.unwrap_or_default());
    }

    /// Keeps what was read last when nothing runs any more.
    fn read_cgroups(&self, scratch: &mut Scratch, book: &mut HostBook, target: &Target<'_>) {
        let owner = Owner { id: target.id, pod: target.cgroup_parent, namespace: &self.cgroup_namespace };
        let mut places = Places::default();
        let running = || book.processes.iter().filter(|book| book.is_running && book.role != HostRole::Vhost);
        for process in running() {
            let Ok(directory) = scratch.open_process(self.procfs.as_fd(), process.pid) else { continue };
            let is_v1 = scratch.read(directory.as_fd(), "cgroup").is_ok_and(|file| places.add(owner, file));
            if is_v1 {
                add_threads(scratch, directory.as_fd(), process, owner, &mut places);
            }
        }
        if running().next().is_some() {
            book.cgroups = cgroup::read(scratch, &self.cgroups, &places.distinct());
        }
    }

    fn read_network(&self, scratch: &mut Scratch, book: &mut HostBook, target: &Target<'_>, qdisc: bool) {
        let role = vmm_role(target);
        let in_shim = role == HostRole::Shim;
        let Some(vmm) = book.running(role).last() else { return };
        let thread = vmm.vmm_master();
        // The shim's own network is the host's.
        if in_shim && thread.is_none() {
            return;
        }
        let (pid, has_macvtap) = (vmm.pid, vmm.gauges.has_macvtap);
        let Ok(process) = scratch.open_process(self.procfs.as_fd(), pid) else { return };
        let thread = thread.filter(|_| in_shim);
        if let Some(reading) = network::read(scratch, process.as_fd(), thread, &self.networks, has_macvtap) {
            let is_pods = !reading.is_hosts;
            book.network.take(reading);
            if qdisc && is_pods {
                self.read_qdisc(process.as_fd(), thread, book);
            }
        }
    }
}

/// Whose process the VMM's threads are in.
fn vmm_role(target: &Target<'_>) -> HostRole {
    if is_vmm_in_shim(target, ProcessRole::Shim) { HostRole::Shim } else { HostRole::Vmm }
}

/// Dragonball.
fn is_vmm_in_shim(target: &Target<'_>, role: ProcessRole) -> bool {
    role == ProcessRole::Shim && target.vmm == Some(Vmm::Dragonball)
}

/// On v1, threads that run the guest may sit in another cgroup than their process.
fn add_threads(
    scratch: &mut Scratch,
    process: BorrowedFd<'_>,
    book: &ProcessBook,
    owner: Owner<'_>,
    places: &mut Places,
) {
    let vcpus = book.threads.iter().filter(|(_, thread)| thread.share == Share::Vcpu);
    for (&tid, _) in vcpus {
        if let Ok(file) = scratch.read_task(process, tid, "cgroup") {
            places.add(owner, file);
        }
    }
}

fn read_kernel(procfs: &Path) -> Kernel {
    let text = |file: &str| fs::read_to_string(procfs.join("sys/kernel").join(file)).ok();
    let release = text("osrelease").and_then(|release| parse_release(&release));
    let is_at_least = |version| release.is_some_and(|release| release >= version);
    Kernel {
        tick_ns: NS_PER_SECOND / procfs::ticks_per_second().max(1),
        page_bytes: procfs::page_size(),
        fd_directory_has_size: is_at_least((6, 2)),
        vhost_is_a_thread: is_at_least((6, 4)),
        // Kernels before 5.14 have no switch for it.
        has_io_delay: text("task_delayacct").is_none_or(|switch| switch.trim() != "0"),
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_kernels_are_read() {
        assert_eq!(parse_release("6.18.44-fc-v657\n"), Some((6, 18)));
        assert_eq!(parse_release("5.10.0-28-amd64"), Some((5, 10)));
        assert_eq!(parse_release("linux"), None);
    }
}
