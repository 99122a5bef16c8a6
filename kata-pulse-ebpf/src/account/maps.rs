//! Maps shared with the agent, and the offsets it hands over before load.
//!
//! All tables are allocated beforehand. What the programs insert must be, since they may run where nothing can be
//! allocated; of any other that a plain tracepoint uses, kernels before 6.1 print a warning with a stack trace, whoever
//! inserts into it. Nothing grows with the number of CPUs but `COUNTERS`: 64 bytes each.

use aya_ebpf::{
    Global,
    helpers::bpf_get_current_pid_tgid,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
    programs::TracePointContext,
};
use kata_pulse_common::{
    NONE,
    account::{
        ACCOUNT_COUNTERS, BLOCK_WORDS, BlockKey, CELLS, EXIT_CLASSES, FILTER_WORDS, Group, HAS_THREADS,
        HISTOGRAM_WORDS, Member, Thread,
    },
};

/// Process (thread group) → slot, role, and cell of its waits. 1.6 MB.
#[map]
pub static GROUPS: HashMap<u32, Group> = HashMap::with_max_entries(16_384, 0);
/// Bits of processes that are in `GROUPS`, see `filter_bit`: others' switches cost no search in it.
#[map]
pub static FILTER: Array<u64> = Array::with_max_entries(FILTER_WORDS, 0);
/// Grows after each change of `GROUPS` and `THREADS`: what was read from them before may be wrong.
#[map]
pub static EPOCH: Array<u32> = Array::with_max_entries(1, 0);
/// Thread → its process and cell, where that is not its process' cell. Only BTF tracepoints use it and only the agent
/// inserts, so that it may be allocated by and by (flag 1, BPF_F_NO_PREALLOC).
#[map]
pub static THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(32_768, 1);
/// Thread → how long it has waited, and where that is counted. 3.1 MB.
#[map]
pub static WAITS: HashMap<u32, Waits> = HashMap::with_max_entries(32_768, 0);
/// Cell → waits. 1.7 MB.
#[map]
pub static RUNQUEUE: Array<[u64; HISTOGRAM_WORDS]> = Array::with_max_entries(CELLS, 0);
/// Slot → exits by class. 1.2 MB.
#[map]
pub static KVM: HashMap<u32, [u64; EXIT_CLASSES]> = HashMap::with_max_entries(2_048, 0);
/// 2.5 MB.
#[map]
pub static BLOCK: HashMap<BlockKey, [u64; BLOCK_WORDS]> = HashMap::with_max_entries(8_192, 0);
/// Devices that are in `BLOCK`.
#[map]
pub static DEVICES: HashMap<u32, u32> = HashMap::with_max_entries(1_024, 0);
/// I/O that is under way. 0.9 MB.
#[map]
pub static UNDER_WAY: LruHashMap<Place, Request> = LruHashMap::with_max_entries(8_192, 0);
#[map]
pub static OOM: HashMap<Member, u64> = HashMap::with_max_entries(1_024, 0);
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(ACCOUNT_COUNTERS, 0);

/// Of a thread, for its life.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Waits {
    /// As the scheduler had it when the thread was switched from last, in nanoseconds.
    pub total: u64,
    /// In which slot and cell were looked up.
    pub epoch: u32,
    pub slot: u32,
    pub cell: u32,
    /// An id may be another thread's when the switch that ended the first one's life was not seen.
    pub process: u32,
}

/// Where on which device.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Place {
    pub sector: u64,
    pub device: u64,
}

/// Whose, what, since when.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Request {
    pub since: u64,
    pub slot: u32,
    pub operation: u32,
}

macro_rules! offsets {
    ($($name:ident)*) => {
        $(#[unsafe(no_mangle)]
        pub static $name: Global<u32> = Global::new(NONE);)*
    };
}

offsets! {
    O_TASK_PID O_TASK_TGID O_TASK_STATE O_TASK_WAITED O_TASK_RAN
    O_KVM_REASON O_KVM_ERRNO
    O_START_DEV O_START_SECTOR O_START_BYTES O_START_RWBS
    O_DONE_DEV O_DONE_SECTOR
    O_MERGE_DEV O_MERGE_SECTORS O_MERGE_RWBS
    O_QUEUE_DEV O_QUEUE_SECTORS O_QUEUE_RWBS
    O_ISSUE_DEV O_ISSUE_SECTOR O_ISSUE_BYTES O_ISSUE_RWBS
    O_COMPLETE_DEV O_COMPLETE_SECTOR
    O_VICTIM_PID
}

/// `None` when the kernel did not give the number.
#[inline(always)]
pub fn known(offset: &Global<u32>) -> Option<u32> {
    match offset.load() {
        NONE => None,
        value => Some(value),
    }
}

/// A field of the tracepoint's record, by the offset that tracefs names.
#[inline(always)]
pub fn read<T>(ctx: &TracePointContext, offset: &Global<u32>) -> Option<T> {
    // SAFETY: the helper checks the address and copies.
    unsafe { ctx.read_at(known(offset)? as usize) }.ok()
}

/// Slot and role of a process; the flag is not part of the role.
#[inline(always)]
pub fn member(process: u32) -> Option<Member> {
    // SAFETY: copied at once; entries are written by the agent as a whole, and what replaces a removed one is also a
    // process of ours.
    let [slot, role, _] = unsafe { *GROUPS.get_ptr(process)? };
    Some([slot, role & !HAS_THREADS])
}

/// Slot of the current process.
#[inline(always)]
pub fn current_slot() -> Option<u32> {
    member((bpf_get_current_pid_tgid() >> 32) as u32).map(|[slot, _]| slot)
}

#[inline(always)]
pub fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a per-CPU slot that the map just gave out; nothing else runs on it at this moment.
        unsafe { *counter += 1 };
    }
}
