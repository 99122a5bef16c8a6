//! BTF tracepoints and fexit: cheaper, and they give the task itself.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, fexit},
    programs::{BtfTracePointContext, FExitContext},
};
use kata_pulse_common::{KIND_MKDIR, KIND_RMDIR};

use crate::{
    directory,
    maps::{
        MKDIR_ARGS, MKDIR_DIR_ARG, MKDIR_RETURNS_DENTRY, O_BPRM_FILENAME, O_TASK_PID, O_TASK_TGID, RMDIR_ARGS,
        RMDIR_DIR_ARG, known,
    },
    process, release,
    task::{self, field},
};

const MAX_ERRNO: u64 = 4095;

/// sched_process_exec(task, old pid, linux_binprm)
#[btf_tracepoint]
pub fn exec_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = process::exec(&ctx, || field(ctx.arg::<u64>(2), &O_BPRM_FILENAME));
    0
}

/// sched_process_fork(parent, child)
#[btf_tracepoint]
pub fn fork_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = process::fork(&ctx, || {
        let child: u64 = ctx.arg(1);
        let pid: u32 = field(child, &O_TASK_PID)?;
        let tgid: u32 = field(child, &O_TASK_TGID)?;
        (pid == tgid).then_some((pid, child))
    });
    0
}

/// sched_process_exit(task, group_dead)
#[btf_tracepoint]
pub fn exit_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = process::exit(&ctx, |_| ctx.arg::<u64>(1) & 0xff != 0);
    0
}

/// sched_process_exit(task), as kernels without the second argument have it.
#[btf_tracepoint]
pub fn exit_btf_live(ctx: BtfTracePointContext) -> i32 {
    let _ = process::exit(&ctx, |task| task::live_threads(task) == Some(0));
    0
}

/// sched_process_free(task): after the wait for it, once nobody can look at the task any more.
#[btf_tracepoint]
pub fn free_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = release::released(ctx.arg(0));
    0
}

/// One slot of the context by a constant offset in the instruction: the verifier refuses any other, and the
/// compiler would merge ordinary loads of two branches into one with a computed address.
macro_rules! slot {
    ($ctx:expr, $offset:literal) => {{
        let value: u64;
        // SAFETY: reads eight bytes of the context; the verifier checks that the slot exists.
        unsafe {
            asm!(
                concat!("{value} = *(u64 *)({ctx} + ", $offset, ")"),
                value = out(reg) value,
                ctx = in(reg) $ctx.as_ptr(),
                options(nostack, readonly),
            )
        };
        value
    }};
}

#[inline(always)]
fn argument(ctx: &FExitContext, index: u32) -> Option<u64> {
    match index {
        0 => Some(slot!(ctx, 0)),
        1 => Some(slot!(ctx, 8)),
        2 => Some(slot!(ctx, 16)),
        _ => None,
    }
}

/// The return value follows the arguments.
#[inline(always)]
fn returned(ctx: &FExitContext, arguments: u32) -> Option<u64> {
    match arguments {
        2 => Some(slot!(ctx, 16)),
        3 => Some(slot!(ctx, 24)),
        4 => Some(slot!(ctx, 32)),
        5 => Some(slot!(ctx, 40)),
        6 => Some(slot!(ctx, 48)),
        _ => None,
    }
}

#[fexit]
pub fn mkdir_fexit(ctx: FExitContext) -> i32 {
    let _ = mkdir(&ctx);
    0
}

#[inline(always)]
fn mkdir(ctx: &FExitContext) -> Option<()> {
    let index = known(&MKDIR_DIR_ARG)?;
    let result = returned(ctx, known(&MKDIR_ARGS)?)?;
    let dir = argument(ctx, index)?;
    if MKDIR_RETURNS_DENTRY.load() == 1 {
        // The dentry that came in may have been released in favour of the one that comes out.
        if result == 0 || result >= u64::MAX - MAX_ERRNO {
            return None;
        }
        return directory::done(ctx, KIND_MKDIR, dir, result);
    }
    if result as i32 != 0 {
        return None;
    }
    directory::done(ctx, KIND_MKDIR, dir, argument(ctx, index + 1)?)
}

#[fexit]
pub fn rmdir_fexit(ctx: FExitContext) -> i32 {
    let _ = rmdir(&ctx);
    0
}

#[inline(always)]
fn rmdir(ctx: &FExitContext) -> Option<()> {
    let index = known(&RMDIR_DIR_ARG)?;
    if returned(ctx, known(&RMDIR_ARGS)?)? as i32 != 0 {
        return None;
    }
    directory::done(ctx, KIND_RMDIR, argument(ctx, index)?, argument(ctx, index + 1)?)
}
