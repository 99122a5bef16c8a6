//! How long threads of sandboxes were runnable and did not run.
//!
//! The scheduler itself adds up how long each thread waited. When a thread is switched from, what was added since the last
//! time is how long it waited before it ran: no hook on wake-ups, no clock, and a switch that was not seen makes one wait
//! of two, with all of their time (but for a thread's first and last). Others' threads cost a look at one bit; a sandbox's a
//! search in one table.

use aya_ebpf::{Global, macros::btf_tracepoint, programs::BtfTracePointContext};
use kata_pulse_common::account::{ACCOUNTED_RUNQUEUE, FULL_RUNQUEUE, HAS_THREADS, filter_bit};

use crate::{
    maps::{
        EPOCH, FILTER, GROUPS, O_TASK_PID, O_TASK_RAN, O_TASK_STATE, O_TASK_TGID, O_TASK_WAITED, RUNQUEUE, THREADS,
        WAITS, Waits, count, known,
    },
    sum::observe,
};

/// A thread that is switched from for the last time. The kernel's own number, since 4.14.
const TASK_DEAD: u32 = 0x80;

/// A number in a task, by a load that the verifier checks against the kernel's BTF.
#[inline(always)]
fn field<T: Copy>(task: *const u8, offset: &Global<u32>) -> Option<T> {
    let offset = known(offset)? as usize;
    // SAFETY: the kernel gave the task; the verifier refuses the program if the load is not a member's.
    Some(unsafe { *task.add(offset).cast::<T>() })
}

/// sched_switch(preempted, previous, next)
#[btf_tracepoint]
pub fn runqueue_switch(ctx: BtfTracePointContext) -> i32 {
    let _ = leaves(ctx.arg(1));
    0
}

#[inline(always)]
fn leaves(task: *const u8) -> Option<()> {
    let process = field(task, &O_TASK_TGID)?;
    if may_be_ours(process) {
        let _ = waited(task, process);
    }
    if field::<u32>(task, &O_TASK_STATE)? & TASK_DEAD != 0 {
        // The id will be another's. Most threads of a host never had an entry.
        let _ = WAITS.remove(field::<u32>(task, &O_TASK_PID)?);
    }
    None
}

/// Most processes of a host are not, and idle tasks, which are runnable whenever they do not run, never.
#[inline(always)]
fn may_be_ours(process: u32) -> bool {
    let (word, bit) = filter_bit(process);
    // SAFETY: the map just gave it out.
    process != 0 && FILTER.get_ptr(word).is_some_and(|bits| unsafe { *bits } & bit != 0)
}

/// Counts the wait that was before the thread ran.
#[inline(always)]
fn waited(task: *const u8, process: u32) -> Option<()> {
    let thread = field::<u32>(task, &O_TASK_PID)?;
    let total = field::<u64>(task, &O_TASK_WAITED)?;
    // Before anything is looked up: what changes meanwhile is looked up again the next time.
    // SAFETY: the map's only element, which it just gave out.
    let epoch = unsafe { *EPOCH.get_ptr(0)? };
    let Some(entry) = WAITS.get_ptr_mut(thread) else {
        let [slot, cell] = place_of(process, thread)?;
        if WAITS.insert(thread, Waits { total, epoch, slot, cell, process }, 0).is_err() {
            count(FULL_RUNQUEUE);
            return None;
        }
        // One that ran before is counted from now on.
        return if field::<u64>(task, &O_TASK_RAN)? == 1 { add(cell, total) } else { None };
    };
    // SAFETY: the map just gave it out; a thread leaves one CPU at a time.
    let Waits { total: before, epoch: looked_up, slot, cell, process: of } = unsafe { *entry };
    let is_same = of == process && total >= before;
    if looked_up == epoch && is_same {
        // SAFETY: as above.
        unsafe { (*entry).total = total };
        return add(cell, total - before);
    }
    let [now_slot, now_cell] = place_of(process, thread)?;
    // SAFETY: as above.
    unsafe { *entry = Waits { total, epoch, slot: now_slot, cell: now_cell, process } };
    // What it waited as another sandbox's, or as nobody's, is not this one's.
    if now_slot == slot && is_same { add(now_cell, total - before) } else { None }
}

#[inline(always)]
fn add(cell: u32, nanoseconds: u64) -> Option<()> {
    let histogram = RUNQUEUE.get_ptr_mut(cell)?;
    // SAFETY: the map just gave it out, and its values are histograms.
    unsafe { observe(histogram.cast(), nanoseconds) };
    count(ACCOUNTED_RUNQUEUE);
    Some(())
}

/// The slot, and where the waits of this thread are counted: in its own role's cell, or in its process'.
#[inline(always)]
fn place_of(process: u32, thread: u32) -> Option<[u32; 2]> {
    // SAFETY: copied at once, see `maps::member`.
    let [slot, role, cell] = unsafe { *GROUPS.get_ptr(process)? };
    if role & HAS_THREADS != 0
        && let Some(own) = THREADS.get_ptr(thread)
    {
        // SAFETY: copied at once.
        let [owner, own] = unsafe { *own };
        // The thread id may have been another process' when the agent told of it.
        if owner == process {
            return Some([slot, own]);
        }
    }
    Some([slot, cell])
}
