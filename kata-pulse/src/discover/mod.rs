//! Who appears, who goes?
//!
//! In: notices of inotify, events of the eBPF programs, ends told by pidfds, and full scans. Out: one stream of
//! [`DiscoveryEvent`]s for the registry. All sources but the scan only hasten; nothing they say is believed before
//! it was looked at: a sandbox is a directory that is seen in the host's own base directory, a process belongs to it
//! by the evidence of [`membership`]. Cost: see docs/overhead.md. What a sandbox's state is, the registry decides.

mod census;
mod clock;
mod descriptor;
pub mod directory;
mod explorer;
pub mod hypervisor;
mod inotify;
pub mod membership;
mod pidfd;
pub mod process;
mod scan;
mod shim_version;
pub mod state_files;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

pub use clock::boot_now;

use crate::config::HostPaths;
use crate::sandbox::DiscoveryEvent;
use explorer::Explorer;
use inotify::{Notice, Watcher};
use scan::ScanReport;

/// Between scans when nothing gives a reason for one.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);
/// First scan for processes of a sandbox that has just appeared, when no program tells of their exec; doubled after
/// each, up to the interval.
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// What discovery refused or lost, for the agent's own metrics. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct DiscoveryCounters(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    foreign: AtomicU64,
    overflows: AtomicU64,
}

impl DiscoveryCounters {
    /// Hints that turned out to be forged or not Kata's.
    pub fn foreign(&self) -> u64 {
        self.0.foreign.load(Ordering::Relaxed)
    }

    /// Times the kernel dropped inotify notices.
    pub fn overflows(&self) -> u64 {
        self.0.overflows.load(Ordering::Relaxed)
    }

    fn count_foreign(&self, count: u64) {
        self.0.foreign.fetch_add(count, Ordering::Relaxed);
    }

    fn count_overflow(&self) {
        self.0.overflows.fetch_add(1, Ordering::Relaxed);
    }
}

/// A batch of events; `first_scan` marks the one that holds what was there before the agent.
#[derive(Debug)]
pub struct Batch {
    pub events: Vec<DiscoveryEvent>,
    pub first_scan: bool,
}

/// Runs until the receiver of `out` is gone.
pub async fn run(host: HostPaths, counters: DiscoveryCounters, out: mpsc::Sender<Batch>) {
    let watcher = match Watcher::new(host.bases.iter().map(|base| base.path.clone())) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!(
                error = &error as &dyn std::error::Error,
                "inotify cannot be used, sandboxes are found by eBPF and scans; raise fs.inotify.max_user_instances"
            );
            None
        }
    };
    let (ended_sender, ended) = mpsc::channel(1024);
    let explorer = Explorer::new(host.clone(), counters, ended_sender);
    Loop { host, watcher, ended, explorer, out, scan: None, next_scan: Instant::now(), pace: FIRST_LOOK, scans: 0 }
        .run()
        .await;
}

struct Loop {
    host: HostPaths,
    watcher: Option<Watcher>,
    ended: mpsc::Receiver<pidfd::Ended>,
    explorer: Explorer,
    out: mpsc::Sender<Batch>,
    scan: Option<JoinHandle<ScanReport>>,
    next_scan: Instant,
    pace: Duration,
    scans: u64,
}

impl Loop {
    async fn run(mut self) {
        self.arm();
        let mut notices = Vec::new();
        loop {
            let mut first_scan = false;
            tokio::select! {
                result = next_notices(self.watcher.as_mut(), &mut notices) => {
                    if let Err(error) = result {
                        warn!(error = &error as &dyn std::error::Error, "inotify ended, going on with scans");
                        self.watcher = None;
                    }
                    self.take_notices(&mut notices);
                }
                Some((pid, start_ticks)) = self.ended.recv() => self.explorer.process_ended(pid, start_ticks),
                report = finished(self.scan.as_mut()) => {
                    self.scan = None;
                    first_scan = self.scans == 0;
                    self.take_scan(report);
                }
                () = tokio::time::sleep_until(self.next_scan), if self.scan.is_none() => self.start_scan(),
                () = self.out.closed() => return,
            }
            if self.flush(first_scan).await.is_err() {
                return;
            }
        }
    }

    async fn flush(&mut self, first_scan: bool) -> Result<(), mpsc::error::SendError<Batch>> {
        let events = self.explorer.take_events(self.watcher.as_mut());
        if events.is_empty() && !first_scan {
            return Ok(());
        }
        if self.explorer.wants_processes() {
            self.look_soon();
        }
        self.out.send(Batch { events, first_scan }).await
    }

    fn take_notices(&mut self, notices: &mut Vec<Notice>) {
        for notice in notices.drain(..) {
            match notice {
                Notice::Made { base, name } => self.explorer.directory_made(base, &name),
                Notice::Removed { base, name } => self.explorer.directory_removed(base, &name),
                Notice::Files(id) => self.explorer.files_changed(&id),
                Notice::BaseChanged(base) => self.explorer.base_changed(base),
                Notice::Overflow => {
                    self.explorer.counters().count_overflow();
                    self.next_scan = Instant::now();
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
    }

    fn start_scan(&mut self) {
        self.arm();
        let host = self.host.clone();
        self.scan = Some(tokio::task::spawn_blocking(move || scan::walk(&host)));
    }

    fn take_scan(&mut self, report: ScanReport) {
        self.explorer.scanned(report, self.scans == 0);
        self.scans += 1;
        self.pace = if self.explorer.wants_processes() { (self.pace * 2).min(SCAN_INTERVAL) } else { SCAN_INTERVAL };
        self.next_scan = Instant::now() + self.pace;
    }

    /// Something new appeared: its processes are looked for soon, and then ever less often.
    fn look_soon(&mut self) {
        self.pace = FIRST_LOOK;
        self.next_scan = self.next_scan.min(Instant::now() + FIRST_LOOK);
    }
}

async fn next_notices(watcher: Option<&mut Watcher>, out: &mut Vec<Notice>) -> std::io::Result<()> {
    match watcher {
        Some(watcher) => watcher.next_batch(out).await,
        None => std::future::pending().await,
    }
}

/// The report of a running scan; a scan that panicked counts as one that saw nothing and could read nothing.
async fn finished(scan: Option<&mut JoinHandle<ScanReport>>) -> ScanReport {
    match scan {
        Some(scan) => {
            scan.await.unwrap_or_else(|_| ScanReport { unreadable_bases: vec![0, 1], ..ScanReport::default() })
        }
        None => std::future::pending().await,
    }
}
