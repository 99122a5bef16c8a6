//! Exits of virtual CPUs to their VMM, by reason. In the vCPU's own thread, so that the current process is the VMM.

use aya_ebpf::{macros::tracepoint, programs::TracePointContext};
use kata_pulse_common::account::{ACCOUNTED_KVM, EXIT_CLASSES, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OTHER};

use crate::{
    maps::{KVM, O_KVM_ERRNO, O_KVM_REASON, count, current_slot, read},
    sum::add,
};

const EINTR: i32 = 4;

/// kvm:kvm_userspace_exit
#[tracepoint]
pub fn kvm_exit(ctx: TracePointContext) -> u32 {
    let _ = exit(&ctx);
    0
}

#[inline(always)]
fn exit(ctx: &TracePointContext) -> Option<()> {
    let slot = current_slot()?;
    let class = class(read(ctx, &O_KVM_REASON)?, read(ctx, &O_KVM_ERRNO)?);
    let classes = KVM.get_ptr_mut(slot)?;
    // SAFETY: the map just gave it out; the mask keeps the index inside.
    unsafe { add(classes.cast::<u64>().add(class as usize & (EXIT_CLASSES - 1)), 1) };
    count(ACCOUNTED_KVM);
    Some(())
}

/// With an error, the reason is left over from the exit before.
#[inline(always)]
fn class(reason: u32, errno: i32) -> u32 {
    if errno == -EINTR {
        EXIT_INTERRUPTED
    } else if errno < 0 {
        EXIT_ERROR
    } else if reason < EXIT_OTHER {
        reason
    } else {
        EXIT_OTHER
    }
}
