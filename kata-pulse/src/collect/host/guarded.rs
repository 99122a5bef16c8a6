//! Reads that wait for a process's memory: it may have mapped it from a file system that does not answer.
//!
//! Each gets a thread of its own and a deadline. One that hangs keeps its thread, so no more than [`MAX_HANGING`] may.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(2);
const MAX_HANGING: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Guarded(Arc<AtomicUsize>);

/// One read under way, however it ends.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Guarded {
    /// `None`: it took too long, or too many do already.
    pub(super) fn read<T: Send + 'static>(&self, read: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
        self.read_within(DEADLINE, read)
    }

    fn read_within<T: Send + 'static>(
        &self,
        deadline: Duration,
        read: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let under_way = self.0.fetch_add(1, Ordering::Relaxed);
        let guard = UnderWay(self.0.clone());
        if under_way >= MAX_HANGING {
            return None;
        }
        let (sender, result) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("process-memory".to_owned()).spawn(move || {
            let value = read();
            drop(guard);
            // Nobody waits any more after the deadline.
            let _ = sender.send(value);
        });
        thread.ok()?;
        result.recv_timeout(deadline).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_hangs_costs_its_deadline_and_many_none() {
        let guarded = Guarded::default();
        assert_eq!(guarded.read(|| Some(1)), Some(1));
        let mut ends = Vec::new();
        for _ in 0..MAX_HANGING {
            let (end, hang) = mpsc::channel::<()>();
            ends.push(end);
            let read = move || hang.recv().ok().map(|()| 1);
            assert_eq!(guarded.read_within(Duration::from_millis(1), read), None);
        }
        assert_eq!(guarded.read(|| Some(1)), None, "too many hang");
        ends.clear();
        while guarded.0.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        assert_eq!(guarded.read(|| Some(1)), Some(1));
    }
}
