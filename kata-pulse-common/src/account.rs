//! What the accounting programs and the agent agree on: keys and values of maps are arrays of integers, whose words
//! these constants name. All sums grow by atomic additions, so that a map needs no copy of itself for each CPU.

/// Buckets of a histogram: bucket `i` counts what took at most 2^i µs and more than the bucket before; the last one
/// counts everything beyond 2^23 µs, some 8 s.
pub const BUCKETS: usize = 25;
/// A histogram in memory: its buckets, then the sum in nanoseconds.
pub const HISTOGRAM_WORDS: usize = BUCKETS + 1;
pub const SUM: usize = BUCKETS;

/// Slot and role, of a count of OOM kills.
pub type Member = [u32; 2];
/// A process' slot and role, and the cell of its waits (in `GROUPS`).
pub type Group = [u32; 3];
/// Set in the role of a process some threads of which have a role of their own.
pub const HAS_THREADS: u32 = 1 << 31;
/// A thread's process and the cell of its waits (in `THREADS`).
pub type Thread = [u32; 2];

/// Histograms of waits: a cell for each role of each slot.
pub const CELLS: u32 = 8_192;
/// A process whose bit is not set (in `FILTER`) is nobody's.
pub const FILTER_WORDS: u32 = 1_024;

/// Word and bit of a process in the filter.
pub const fn filter_bit(process: u32) -> (u32, u64) {
    ((process / u64::BITS) % FILTER_WORDS, 1 << (process % u64::BITS))
}

/// KVM exits of a slot, by class: the exit's reason, or one of the last ones.
pub const EXIT_CLASSES: usize = 64;
/// A reason that is larger than the table.
pub const EXIT_OTHER: u32 = 61;
/// KVM_RUN ended with -EINTR.
pub const EXIT_INTERRUPTED: u32 = 62;
/// KVM_RUN ended with another error.
pub const EXIT_ERROR: u32 = 63;

/// Block I/O: slot, device (major << 20 | minor), operation.
pub type BlockKey = [u32; 3];
/// A histogram, then bytes and requests.
pub const BLOCK_WORDS: usize = HISTOGRAM_WORDS + 2;
pub const BYTES: usize = HISTOGRAM_WORDS;
pub const REQUESTS: usize = HISTOGRAM_WORDS + 1;
pub const OP_READ: u32 = 0;
pub const OP_WRITE: u32 = 1;
pub const OP_DISCARD: u32 = 2;
pub const OP_FLUSH: u32 = 3;

/// Indices of the per-CPU counters: what was accounted, by group of programs.
pub const ACCOUNTED_RUNQUEUE: u32 = 0;
pub const ACCOUNTED_KVM: u32 = 1;
pub const ACCOUNTED_BLOCK: u32 = 2;
pub const ACCOUNTED_OOM: u32 = 3;
/// What was not, because a map was full, by group.
pub const FULL_RUNQUEUE: u32 = 4;
pub const FULL_BLOCK: u32 = 5;
pub const FULL_OOM: u32 = 6;
pub const ACCOUNT_COUNTERS: u32 = 8;
