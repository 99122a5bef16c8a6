//! Reads of other processes' memory (`/proc/<pid>/cmdline`), which can hang: a process may have mapped its arguments
//! from a file system that does not answer.
//!
//! A read that hangs holds one thread. It is not begun a second time, and no more than [`MAX_READS`] are under way.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sandbox::Pid;

/// Threads that hanging reads may hold.
const MAX_READS: usize = 64;

/// Which reads are under way. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryReads(Arc<Mutex<HashSet<Pid>>>);

/// One read, from here until it is dropped.
#[derive(Debug)]
pub struct Reading {
    reads: MemoryReads,
    pid: Pid,
}

impl MemoryReads {
    /// `None`: this process is being read already, or too many are.
    pub fn begin(&self, pid: Pid) -> Option<Reading> {
        let mut under_way = self.lock();
        (under_way.len() < MAX_READS && under_way.insert(pid)).then(|| Reading { reads: self.clone(), pid })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.reads.lock().remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_once_at_a_time_and_not_too_many_are() {
        let reads = MemoryReads::default();
        let first = reads.begin(Pid(1)).unwrap();
        assert!(reads.begin(Pid(1)).is_none());
        drop(first);
        let all: Vec<_> = (1..=MAX_READS as u32).filter_map(|pid| reads.begin(Pid(pid))).collect();
        assert_eq!(all.len(), MAX_READS);
        assert!(reads.begin(Pid(1000)).is_none());
    }
}
