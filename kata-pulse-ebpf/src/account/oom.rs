//! Processes of sandboxes that the kernel killed for want of memory, its own or its cgroup's.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::tracepoint, programs::TracePointContext};
use kata_pulse_common::account::{ACCOUNTED_OOM, FULL_OOM, Member};

use crate::{
    maps::{O_VICTIM_PID, OOM, THREADS, count, member, read},
    sum::add,
};

/// BPF_NOEXIST: another CPU may have been first.
const ONLY_NEW: u64 = 1;

/// oom:mark_victim
#[tracepoint]
pub fn oom_victim(ctx: TracePointContext) -> u32 {
    let _ = victim(&ctx);
    0
}

#[inline(always)]
fn victim(ctx: &TracePointContext) -> Option<()> {
    let key = whose(read(ctx, &O_VICTIM_PID)?)?;
    if OOM.get_ptr(key).is_none() {
        let _ = OOM.insert(key, 0_u64, ONLY_NEW);
    }
    let Some(kills) = OOM.get_ptr_mut(key) else {
        count(FULL_OOM);
        return None;
    };
    // SAFETY: the map just gave it out.
    unsafe { add(kills, 1) };
    count(ACCOUNTED_OOM);
    Some(())
}

/// The kernel names a thread: the leader of the process, or another one if the leader has ended. That one is told by
/// what the agent knows of threads, or by being the current one.
#[inline(always)]
fn whose(thread: u32) -> Option<Member> {
    if let Some(member) = member(thread) {
        return Some(member);
    }
    if let Some(known) = THREADS.get_ptr(thread) {
        // SAFETY: copied at once.
        let [process, _] = unsafe { *known };
        return member(process);
    }
    let current = bpf_get_current_pid_tgid();
    if current as u32 == thread { member((current >> 32) as u32) } else { None }
}
