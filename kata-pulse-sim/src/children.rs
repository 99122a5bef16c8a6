//! The programs that a simulated shim has started: reaped when they end, as a real shim does, and what they used is kept
//! until somebody asks. In: pids. Out: a [`ProcessUsage`] each. Cost: one blocked thread per child.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::usage::{self, ProcessUsage};

/// The kernel needs some milliseconds to end a process that was killed.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Known {
    running: Vec<u32>,
    ended: Vec<ProcessUsage>,
}

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct Children(Arc<Shared>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Children {
    /// Reaps this child when it ends.
    pub(crate) fn follow(&self, pid: u32) {
        self.0.lock().running.push(pid);
        let shared = Arc::clone(&self.0);
        std::thread::spawn(move || {
            let usage = usage::wait(pid);
            let mut known = shared.lock();
            known.running.retain(|running| *running != pid);
            known.ended.extend(usage);
            shared.changed.notify_all();
        });
    }

    /// Waits for the end of these; one that is not our child is left alone. Tells of each end once.
    pub(crate) fn reap(&self, pids: &[u32]) -> io::Result<Vec<ProcessUsage>> {
        let mut adopted = Vec::new();
        for pid in pids {
            let known = self.0.lock();
            if known.ended.iter().all(|usage| usage.pid != *pid) && !known.running.contains(pid) {
                drop(known);
                adopted.extend(usage::wait(*pid).ok());
            }
        }
        let runs = |known: &mut Known| pids.iter().any(|pid| known.running.contains(pid));
        let waited = self.0.changed.wait_timeout_while(self.0.lock(), PATIENCE, runs);
        let (mut known, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("one of the processes {pids:?} has not ended"),
            ));
        }
        adopted.append(&mut known.ended);
        Ok(adopted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_once_and_strangers_are_left_alone() {
        let children = Children::default();
        let pid = std::process::Command::new("sh").args(["-c", "exit 3"]).spawn().expect("sh").id();
        children.follow(pid);
        let ended = children.reap(&[pid, std::process::id()]).expect("in time");
        assert_eq!(ended.iter().map(|usage| usage.status().code()).collect::<Vec<_>>(), [Some(3)]);
        assert_eq!(children.reap(&[pid]).expect("in time"), []);
    }
}
