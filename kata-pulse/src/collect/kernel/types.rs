//! What the kernel has counted of one sandbox. Everything is cumulative for the sandbox's whole life.

use kata_pulse_common::account::{BUCKETS, HISTOGRAM_WORDS, SUM};

use crate::sandbox::HostRole;

/// One sandbox. What no attached program counts is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelReading {
    /// How long threads were runnable and did not run. One entry for each role that had a process or thread.
    pub runqueue: Vec<(HostRole, Histogram)>,
    /// Exits of the vCPUs to the VMM, by reason; those that happened.
    pub kvm_exits: Vec<(&'static str, u64)>,
    /// By device and operation, those that happened.
    pub block: Vec<BlockReading>,
    /// Processes killed for want of memory; roles that were hit.
    pub oom_kills: Vec<(HostRole, u64)>,
}

/// One operation of a sandbox's processes on one disk.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockReading {
    /// As in /sys/block: the disk, not its partition.
    pub device: String,
    /// `read`, `write`, `discard` or `flush`.
    pub operation: &'static str,
    pub bytes: u64,
    /// Requests begun. Those in `latency` are done.
    pub requests: u64,
    pub latency: Histogram,
}

/// Upper bounds in seconds: powers of two from 1 µs to 8.4 s.
pub static BOUNDS: [f64; BUCKETS - 1] = bounds();

const fn bounds() -> [f64; BUCKETS - 1] {
    let mut bounds = [0.0; BUCKETS - 1];
    let mut index = 0;
    while index < bounds.len() {
        bounds[index] = (1_u64 << index) as f64 / 1e6;
        index += 1;
    }
    bounds
}

/// A distribution of times.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    pub bounds: &'static [f64],
    /// What lies at or below each bound and above the one before, then what lies above all: one more than bounds.
    pub counts: [u64; BUCKETS],
    pub sum_seconds: f64,
}

impl Histogram {
    pub(super) fn from_words(words: &[u64; HISTOGRAM_WORDS]) -> Self {
        let mut counts = [0; BUCKETS];
        counts.copy_from_slice(&words[..BUCKETS]);
        Self { bounds: &BOUNDS, counts, sum_seconds: words[SUM] as f64 / 1e9 }
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// As Prometheus counts: for each bound, what lies at or below it; the last one is [`Self::count`].
    pub fn cumulative(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        })
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.sum_seconds += other.sum_seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_powers_of_two_in_microseconds() {
        assert_eq!(&BOUNDS[..3], &[0.000001, 0.000002, 0.000004]);
        assert_eq!(BOUNDS.last(), Some(&8.388608));
    }

    #[test]
    fn counts_add_up() {
        let mut words = [0; HISTOGRAM_WORDS];
        words[0] = 2;
        words[3] = 5;
        words[BUCKETS - 1] = 1;
        words[SUM] = 1_500_000_000;
        let mut histogram = Histogram::from_words(&words);
        histogram.add(&histogram.clone());
        assert_eq!((histogram.count(), histogram.sum_seconds), (16, 3.0));
        let cumulative: Vec<u64> = histogram.cumulative().collect();
        assert_eq!((cumulative[0], cumulative[3], cumulative[BUCKETS - 1]), (4, 14, 16));
    }
}
