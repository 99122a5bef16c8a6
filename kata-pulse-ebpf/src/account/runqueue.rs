//! How long threads of sandboxes were runnable and did not run, from the scheduler's own events.
//!
//! A thread waits from its wake-up, or from being preempted, until it is switched to. Cost for others' threads: one
//! lookup at a wake-up, one or two at a switch.

use aya_ebpf::{Global, helpers::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext};
use kata_pulse_common::account::{ACCOUNTED_RUNQUEUE, FULL_RUNQUEUE, HAS_THREADS};

use crate::{
    maps::{GROUPS, O_TASK_PID, O_TASK_STATE, O_TASK_TGID, RUNQUEUE, STAMPS, THREADS, count, known},
    sum::observe,
};

/// A thread that is switched from for the last time. The kernel's own number, since 4.14.
const TASK_DEAD: u32 = 0x80;

/// Four bytes of a task, by a load that the verifier checks against the kernel's BTF.
#[inline(always)]
fn field(task: *const u8, offset: &Global<u32>) -> Option<u32> {
    let offset = known(offset)? as usize;
    // SAFETY: the kernel gave the task; the verifier refuses the program if the load is not a member's.
    Some(unsafe { *task.add(offset).cast::<u32>() })
}

/// sched_wakeup(task)
#[btf_tracepoint]
pub fn runqueue_wakeup(ctx: BtfTracePointContext) -> i32 {
    let _ = waits(ctx.arg(0));
    0
}

/// sched_wakeup_new(task)
#[btf_tracepoint]
pub fn runqueue_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    let _ = waits(ctx.arg(0));
    0
}

/// sched_switch(preempted, previous, next)
#[btf_tracepoint]
pub fn runqueue_switch(ctx: BtfTracePointContext) -> i32 {
    let _ = leaves(ctx.arg::<u64>(0) & 0xff != 0, ctx.arg(1));
    let _ = arrives(ctx.arg(2));
    0
}

/// The thread is runnable from now on.
#[inline(always)]
fn waits(task: *const u8) -> Option<()> {
    let process = field(task, &O_TASK_TGID)?;
    // Idle tasks are runnable whenever they do not run.
    if process == 0 {
        return None;
    }
    GROUPS.get_ptr(process)?;
    let thread = field(task, &O_TASK_PID)?;
    // SAFETY: no arguments, no effect.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(stamp) = STAMPS.get_ptr_mut(thread) {
        // SAFETY: the map just gave it out; a thread wakes, leaves and arrives on one CPU at a time.
        unsafe { *stamp = now };
    } else if STAMPS.insert(thread, now, 0).is_err() {
        count(FULL_RUNQUEUE);
    }
    Some(())
}

#[inline(always)]
fn leaves(preempted: bool, task: *const u8) -> Option<()> {
    let state = field(task, &O_TASK_STATE)?;
    if state == 0 || preempted {
        return waits(task);
    }
    if state & TASK_DEAD != 0 {
        // Most threads of a host never had one.
        let _ = STAMPS.remove(field(task, &O_TASK_PID)?);
    }
    None
}

/// The thread runs.
#[inline(always)]
fn arrives(task: *const u8) -> Option<()> {
    let process = field(task, &O_TASK_TGID)?;
    if process == 0 {
        return None;
    }
    // SAFETY: copied at once, see `maps::member`.
    let [slot, role] = unsafe { *GROUPS.get_ptr(process)? };
    let thread = field(task, &O_TASK_PID)?;
    let stamp = STAMPS.get_ptr_mut(thread)?;
    // SAFETY: as in `waits`.
    let since = unsafe { core::mem::replace(&mut *stamp, 0) };
    if since == 0 {
        return None;
    }
    let role = if role & HAS_THREADS == 0 { role } else { role_of(process, thread).unwrap_or(role & !HAS_THREADS) };
    let histogram = RUNQUEUE.get_ptr_mut([slot, role])?;
    // SAFETY: no arguments, no effect.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the map just gave it out, and its values are histograms.
    unsafe { observe(histogram.cast(), now.saturating_sub(since)) };
    count(ACCOUNTED_RUNQUEUE);
    Some(())
}

/// A role of the thread's own. The thread id may have been another process' when the agent told of it.
#[inline(always)]
fn role_of(process: u32, thread: u32) -> Option<u32> {
    // SAFETY: copied at once.
    let [owner, role] = unsafe { *THREADS.get_ptr(thread)? };
    (owner == process).then_some(role)
}
