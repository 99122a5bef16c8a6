//! Who appears, who goes?
//!
//! In: notices of inotify, events of the eBPF programs, ends told by pidfds, and full scans. Out: one stream of
//! [`DiscoveryEvent`]s for the registry. All sources but the scan only hasten; nothing they say is believed before
//! it was looked at: a sandbox is a directory that is seen in the host's own base directory, a process belongs to it
//! by the evidence of [`membership`]. Cost: see docs/overhead.md. What a sandbox's state is, the registry decides.

mod census;
pub mod cgroup;
pub mod cgroup_namespace;
mod clock;
mod descriptor;
pub mod directory;
pub mod ebpf;
mod explorer;
#[cfg(test)]
mod fixture;
pub mod hypervisor;
mod inotify;
pub mod membership;
mod memory;
mod notes;
mod pidfd;
pub mod process;
mod refusals;
mod scan;
pub mod shim_version;
mod sieve;
pub mod state_files;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

pub use clock::{boot_now, to_boot};
pub use descriptor::raise_limit as raise_descriptor_limit;
pub use notes::DiscoveryCounters;

use crate::config::HostPaths;
use crate::sandbox::{DiscoveryEvent, Process};
use ebpf::{EbpfWatch, KernelEvent};
use explorer::{Explorer, Looked, Sight};
use inotify::{Notice, Watcher};
use scan::ScanReport;

/// Between scans when nothing gives a reason for one.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);
/// First scan for processes of a sandbox that has just appeared, when no program tells of their exec; doubled after
/// each, up to the interval.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// The same when a program does tell: then it is a check.
const FIRST_LOOK_WITH_EXECS: Duration = Duration::from_secs(1);

/// A scan that takes longer hangs in a process that does not let itself be read.
const SCAN_PATIENCE: Duration = Duration::from_secs(20);

/// Between readings of the kernel programs' counters.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// A batch of events; `first_scan` marks the one that holds what was there before the agent.
#[derive(Debug)]
pub struct Batch {
    pub events: Vec<DiscoveryEvent>,
    pub first_scan: bool,
}

/// Runs until the receiver of `out` is gone. `kernel`: the eBPF programs, where there are any.
pub async fn run(host: HostPaths, kernel: Option<EbpfWatch>, counters: DiscoveryCounters, out: mpsc::Sender<Batch>) {
    Loop::new(host, kernel, counters, out).run().await;
}

fn watch_directories(host: &HostPaths) -> Option<Watcher> {
    match Watcher::new(host.bases.iter().map(|base| base.path.clone())) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!(
                error = &error as &dyn std::error::Error,
                "inotify cannot be used, sandboxes are found by eBPF and scans; raise fs.inotify.max_user_instances"
            );
            None
        }
    }
}

struct Loop {
    host: HostPaths,
    watcher: Option<Watcher>,
    kernel: Option<EbpfWatch>,
    /// Device and inode of the bases that the kernel's programs watch.
    watched: Vec<Option<(u64, u64)>>,
    ended: mpsc::Receiver<pidfd::Ended>,
    looked: mpsc::Receiver<Looked>,
    explorer: Explorer,
    out: mpsc::Sender<Batch>,
    scan: Option<Scan>,
    next_scan: Instant,
    /// Something was lost while a scan was running, which may have passed the place already.
    again: bool,
    first_look: Duration,
    pace: Duration,
    scans: u64,
    /// Kernel events that were lost so far.
    lost: u64,
    reported: Instant,
}

/// A walk on a thread of its own.
struct Scan {
    walk: JoinHandle<ScanReport>,
    give_up: Instant,
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.kernel.take().into_iter().for_each(detach_aside);
    }
}

impl Loop {
    fn new(host: HostPaths, kernel: Option<EbpfWatch>, counters: DiscoveryCounters, out: mpsc::Sender<Batch>) -> Self {
        let (ended_sender, ended) = mpsc::channel(1024);
        let (looked_sender, looked) = mpsc::channel(64);
        let sees = |feature| kernel.as_ref().is_some_and(|kernel| kernel.sees(feature));
        let first_look = if sees("exec") { FIRST_LOOK_WITH_EXECS } else { FIRST_LOOK };
        let directories_by_inode = kernel.as_ref().is_some_and(EbpfWatch::names_directories_by_inode);
        let sight = Sight { exits: sees("exit"), releases: sees("release"), directories_by_inode };
        Self {
            watched: vec![None; host.bases.len()],
            watcher: watch_directories(&host),
            explorer: Explorer::new(host.clone(), counters, sight, ended_sender, looked_sender),
            host,
            kernel,
            ended,
            looked,
            out,
            scan: None,
            next_scan: Instant::now(),
            again: false,
            first_look,
            pace: first_look,
            scans: 0,
            lost: 0,
            reported: Instant::now(),
        }
    }

    async fn run(mut self) {
        self.arm();
        let (mut notices, mut said) = (Vec::new(), Vec::new());
        loop {
            let mut first_scan = false;
            self.explorer.counters().turn();
            tokio::select! {
                result = next_notices(self.watcher.as_mut(), &mut notices) => {
                    if let Err(error) = result {
                        warn!(error = &error as &dyn std::error::Error, "inotify ended, going on with scans");
                        self.watcher = None;
                    }
                    // The kernel's programs tell of the same, and when it was: they come first.
                    let told = tokio::select! {
                        biased;
                        result = kernel_events(self.kernel.as_mut(), &mut said) => result,
                        () = std::future::ready(()) => Ok(()),
                    };
                    self.take_kernel(told, &mut said);
                    self.take_notices(&mut notices);
                }
                result = kernel_events(self.kernel.as_mut(), &mut said) => self.take_kernel(result, &mut said),
                Some((pid, start_ticks)) = self.ended.recv() => self.explorer.process_ended(pid, start_ticks),
                Some(looked) = self.looked.recv() => self.explorer.looked(looked),
                report = finished(self.scan.as_mut()) => {
                    self.scan = None;
                    first_scan = self.scans == 0 && report.is_some();
                    self.take_scan(report);
                }
                () = tokio::time::sleep_until(self.next_scan), if self.scan.is_none() => self.start_scan(),
                () = until(self.explorer.next_event()) => {}
                () = self.out.closed() => return,
            }
            if self.flush(first_scan).await.is_err() {
                return;
            }
        }
    }

    async fn flush(&mut self, first_scan: bool) -> Result<(), mpsc::error::SendError<Batch>> {
        let events = self.explorer.take_events(self.watcher.as_mut());
        for process in self.explorer.take_joined() {
            self.follow(process);
        }
        if self.explorer.take_scan_again() {
            self.scan_now();
        }
        if events.is_empty() && !first_scan {
            return Ok(());
        }
        if self.explorer.wants_processes() {
            self.look_soon();
        }
        self.out.send(Batch { events, first_scan }).await
    }

    /// Has the kernel's programs tell of this process.
    fn follow(&self, process: Process) {
        let Some(kernel) = self.kernel.as_ref().filter(|kernel| kernel.sees("exit")) else { return };
        let pid = process.pid;
        if let Err(error) = kernel.track(pid.0, 0) {
            debug!(%pid, error = &error as &dyn std::error::Error, "process is not tracked by eBPF");
        } else if !process::is_running(&self.host, pid, process.start_ticks).unwrap_or(true)
            && let Err(error) = kernel.untrack(pid.0)
        {
            debug!(%pid, error = &error as &dyn std::error::Error, "an ended process stays tracked by eBPF");
        }
    }

    fn take_kernel(&mut self, result: std::io::Result<()>, said: &mut Vec<KernelEvent>) {
        if let Err(error) = result {
            self.lose_kernel(&error);
        }
        said.drain(..).for_each(|event| self.explorer.kernel_said(&event));
        self.report_kernel();
    }

    fn take_notices(&mut self, notices: &mut Vec<Notice>) {
        for notice in notices.drain(..) {
            match notice {
                Notice::Made { base, name } => self.explorer.directory_made(base, &name),
                Notice::Removed { base, name } => self.explorer.directory_removed(base, &name),
                Notice::Files(id) => self.explorer.files_changed(&id),
                Notice::BaseChanged(base) => {
                    self.watch_bases_in_kernel();
                    self.explorer.base_changed(base);
                }
                Notice::Overflow => {
                    self.explorer.counters().count_overflow();
                    self.scan_now();
                }
            }
        }
    }

    fn arm(&mut self) {
        if let Some(watcher) = &mut self.watcher {
            for base in watcher.arm() {
                self.explorer.base_changed(base);
            }
        }
        self.watch_bases_in_kernel();
    }

    /// Tells the kernel's programs which directories are the bases now.
    fn watch_bases_in_kernel(&mut self) {
        let Some(kernel) = &self.kernel else { return };
        for (index, base) in self.host.bases.iter().enumerate() {
            let key = ebpf::base_key(&base.path).ok();
            if key == self.watched[index] {
                continue;
            }
            if let Some((device, inode)) = self.watched[index].take() {
                // What cannot be forgotten is only looked at in vain.
                let _ = kernel.unwatch_base(device, inode, &base.path);
            }
            let Some((device, inode)) = key else { continue };
            match kernel.watch_base(index as u32, device, inode, &base.path) {
                Ok(()) => self.watched[index] = key,
                Err(error) => {
                    warn!(directory = %base.path.display(), error = &error as &dyn std::error::Error, "eBPF cannot watch a base directory");
                }
            }
        }
    }

    fn start_scan(&mut self) {
        self.arm();
        self.report_kernel();
        self.again = false;
        let (host, proven, reads) = (self.host.clone(), self.explorer.proven().clone(), self.explorer.reads().clone());
        let walk = tokio::task::spawn_blocking(move || scan::walk(&host, proven, &reads));
        self.scan = Some(Scan { walk, give_up: Instant::now() + SCAN_PATIENCE });
    }

    /// Something was lost.
    fn scan_now(&mut self) {
        self.next_scan = Instant::now();
        self.again = self.scan.is_some();
    }

    /// `None`: given up. What it hangs in is not read again until that read ends.
    fn take_scan(&mut self, report: Option<ScanReport>) {
        let Some(report) = report else {
            warn!("a scan hangs in some process, starting another");
            self.next_scan = Instant::now() + FIRST_LOOK;
            return;
        };
        self.explorer.scanned(report, self.scans == 0);
        self.scans += 1;
        if std::mem::take(&mut self.again) {
            // Not at once: a flood must not keep us walking without pause.
            self.next_scan = Instant::now() + FIRST_LOOK;
            return;
        }
        self.pace = if self.explorer.wants_processes() { (self.pace * 2).min(SCAN_INTERVAL) } else { SCAN_INTERVAL };
        self.next_scan = Instant::now() + self.pace;
    }

    /// Lost events are a reason for a scan at once.
    fn report_kernel(&mut self) {
        let Some(kernel) = self.kernel.as_ref().filter(|_| self.reported.elapsed() >= REPORT_INTERVAL) else { return };
        self.reported = Instant::now();
        let counts = kernel.counters();
        self.explorer.counters().set_kernel(&counts, kernel.run_stats());
        if counts.lost > self.lost {
            self.lost = counts.lost;
            self.scan_now();
        }
    }

    fn lose_kernel(&mut self, error: &std::io::Error) {
        warn!(error = error as &dyn std::error::Error, "eBPF events ended, going on without");
        self.explorer.counters().lose_kernel(&format!("events ended: {error}"));
        self.first_look = FIRST_LOOK;
        self.kernel.take().into_iter().for_each(detach_aside);
    }

    /// Something new appeared: its processes are looked for soon, and then ever less often.
    fn look_soon(&mut self) {
        self.pace = self.first_look;
        self.next_scan = self.next_scan.min(Instant::now() + self.first_look);
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

async fn kernel_events(kernel: Option<&mut EbpfWatch>, out: &mut Vec<KernelEvent>) -> std::io::Result<()> {
    match kernel {
        Some(kernel) => kernel.next_batch(out).await,
        None => std::future::pending().await,
    }
}

async fn next_notices(watcher: Option<&mut Watcher>, out: &mut Vec<Notice>) -> std::io::Result<()> {
    match watcher {
        Some(watcher) => watcher.next_batch(out).await,
        None => std::future::pending().await,
    }
}

/// Detaching blocks for as long as the kernel likes: not on a task.
fn detach_aside(kernel: EbpfWatch) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || kernel.detach())),
        Err(_) => kernel.detach(),
    }
}

/// The report of a running scan, or `None` when it is given up; a scan that panicked counts as one that saw nothing and
/// could read nothing.
async fn finished(scan: Option<&mut Scan>) -> Option<ScanReport> {
    let Some(scan) = scan else { return std::future::pending().await };
    match tokio::time::timeout_at(scan.give_up, &mut scan.walk).await {
        Ok(Ok(report)) => Some(report),
        Ok(Err(_)) => Some(ScanReport { unreadable_bases: vec![0, 1], ..ScanReport::default() }),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests;
