//! The kernel's own threads that move packets: since Linux 6.4 they are threads of the VMM, before they are nobody's.
//!
//! In: the pid of a VMM. Out: the thread named `vhost-<pid>`, a child of kthreadd. Cost: one small file for each process
//! of the host, once a minute for all sandboxes together, and only on kernels before 6.4.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::files::Scratch;
use super::parse;

const SCAN_EVERY: Duration = Duration::from_secs(60);
const MAX_PROCESSES: usize = 131_072;
const KTHREADD: u32 = 2;

/// A kernel thread: pid and start.
pub(super) type KernelThread = (u32, u64);

#[derive(Debug, Default)]
pub(super) struct VhostThreads(Mutex<Option<Scan>>);

#[derive(Debug)]
struct Scan {
    at: Instant,
    /// By the process that asked for it; it may have several.
    threads: HashMap<u32, Vec<KernelThread>>,
}

impl VhostThreads {
    pub(super) fn of(&self, scratch: &mut Scratch, procfs: BorrowedFd<'_>, vmm: u32) -> Vec<KernelThread> {
        let mut scan = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if scan.as_ref().is_none_or(|scan| scan.at.elapsed() >= SCAN_EVERY) {
            *scan = Some(Scan { at: Instant::now(), threads: read_threads(scratch, procfs) });
        }
        scan.as_ref().and_then(|scan| scan.threads.get(&vmm).cloned()).unwrap_or_default()
    }
}

fn read_threads(scratch: &mut Scratch, procfs: BorrowedFd<'_>) -> HashMap<u32, Vec<KernelThread>> {
    let mut found: HashMap<u32, Vec<KernelThread>> = HashMap::new();
    if scratch.list_processes(procfs, MAX_PROCESSES).is_err() {
        return found;
    }
    let pids = std::mem::take(&mut scratch.tids);
    for &pid in &pids {
        let Ok(process) = scratch.open_process(procfs, pid) else { continue };
        let Ok(bytes) = scratch.read(process.as_fd(), "stat") else { continue };
        // A process that calls itself so has another parent.
        let Some(stat) = parse::parse_stat(bytes).filter(|stat| stat.parent == KTHREADD) else { continue };
        if let Some(owner) = parse::vhost_owner(stat.comm) {
            found.entry(owner).or_default().push((pid, stat.start_ticks));
        }
    }
    scratch.tids = pids;
    found
}

#[cfg(test)]
mod tests {
    use super::super::files;
    use super::*;

    #[test]
    fn only_kthreadd_s_children_are_the_kernel_s() {
        let root = tempfile::tempdir().unwrap();
        for (pid, name, parent) in [(40, "vhost-7", 2), (41, "vhost-7", 1), (42, "vhost-8", 2), (43, "kworker", 2)] {
            let folder = root.path().join(pid.to_string());
            std::fs::create_dir(&folder).unwrap();
            let line =
                format!("{pid} ({name}) S {parent} 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9{} 0\n", " 0".repeat(30));
            std::fs::write(folder.join("stat"), line).unwrap();
        }
        let procfs = files::open_directory(root.path()).unwrap();
        let (threads, mut scratch) = (VhostThreads::default(), Scratch::default());
        assert_eq!(threads.of(&mut scratch, procfs.as_fd(), 7), [(40, 9)]);
        assert_eq!(threads.of(&mut scratch, procfs.as_fd(), 8), [(42, 9)]);
        assert!(threads.of(&mut scratch, procfs.as_fd(), 9).is_empty());
    }
}
