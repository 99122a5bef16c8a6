//! What discovery tells of itself: what it refused and lost, whether it still turns, whether eBPF still tells.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::ebpf::{self, RunStats};

/// What times are counted from.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What discovery refused or lost, for the agent's own metrics. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct DiscoveryCounters(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    foreign: AtomicU64,
    overflows: AtomicU64,
    lost: AtomicU64,
    rejected: AtomicU64,
    runs: Mutex<Vec<RunStats>>,
    /// Milliseconds since `BEGIN` of the last turn of discovery's loop.
    turned: AtomicU64,
    /// Why the kernel's programs tell nothing any more.
    kernel_lost: watch::Sender<Option<String>>,
}

impl DiscoveryCounters {
    /// Hints that turned out to be forged or not Kata's.
    pub fn foreign(&self) -> u64 {
        self.0.foreign.load(Ordering::Relaxed) + self.0.rejected.load(Ordering::Relaxed)
    }

    /// Events that the kernel did not deliver: full rings, and overflows of inotify, each counted once.
    pub fn lost(&self) -> u64 {
        self.0.overflows.load(Ordering::Relaxed) + self.0.lost.load(Ordering::Relaxed)
    }

    /// How often the eBPF programs ran, as far as the kernel counts.
    pub fn runs(&self) -> Vec<RunStats> {
        self.0.runs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_kernel(&self, counts: &ebpf::Counters, runs: Vec<RunStats>) {
        self.0.lost.store(counts.lost, Ordering::Relaxed);
        self.0.rejected.store(counts.rejected_foreign + counts.foreign_lost, Ordering::Relaxed);
        *self.0.runs.lock().unwrap_or_else(PoisonError::into_inner) = runs;
    }

    /// How long ago discovery's loop turned; it does so at least every half minute, unless it hangs.
    pub fn last_turn(&self) -> Duration {
        BEGIN.elapsed().saturating_sub(Duration::from_millis(self.0.turned.load(Ordering::Relaxed)))
    }

    pub(super) fn turn(&self) {
        self.0.turned.store(u64::try_from(BEGIN.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Says why when the kernel's programs, which were attached, tell nothing any more.
    pub fn kernel_lost(&self) -> watch::Receiver<Option<String>> {
        self.0.kernel_lost.subscribe()
    }

    pub(super) fn lose_kernel(&self, reason: &str) {
        self.0.kernel_lost.send_replace(Some(reason.to_owned()));
        self.0.runs.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn count_foreign(&self, count: u64) {
        self.0.foreign.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn count_overflow(&self) {
        self.0.overflows.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_seen_by_every_clone() {
        let counters = DiscoveryCounters::default();
        let seen = counters.clone();
        counters.turn();
        std::thread::sleep(Duration::from_millis(20));
        assert!(seen.last_turn() >= Duration::from_millis(10));
        let before = Instant::now();
        counters.turn();
        assert!(seen.last_turn() <= before.elapsed() + Duration::from_millis(1));
    }
}
