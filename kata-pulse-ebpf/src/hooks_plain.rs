//! Plain tracepoints and kprobes: what works without the kernel accepting BTF of ours.

use aya_ebpf::{
    EbpfContext, Global,
    macros::{kprobe, kretprobe, tracepoint},
    programs::{ProbeContext, RetProbeContext, TracePointContext},
};
use kata_pulse_common::{KIND_MKDIR, KIND_RMDIR};

use crate::{
    directory,
    maps::{
        MKDIR_DIR_ARG, MKDIR_RETURNS_DENTRY, O_EXEC_FILENAME, O_EXIT_GROUP_DEAD, O_FORK_CHILD, O_MKDIR_PATH,
        O_MKDIRAT_FD, O_MKDIRAT_PATH, O_RMDIR_PATH, O_SYSCALL_RET, O_UNLINKAT_FD, O_UNLINKAT_FLAG, O_UNLINKAT_PATH,
        RMDIR_DIR_ARG, known,
    },
    process, task,
};

const AT_FDCWD: i32 = -100;
const AT_REMOVEDIR: u64 = 0x200;
/// Error pointers are the last page of addresses.
const MAX_ERRNO: u64 = 4095;

/// A field of the tracepoint's record, by the offset that tracefs names.
#[inline(always)]
fn read<T>(ctx: &TracePointContext, offset: &Global<u32>) -> Option<T> {
    // SAFETY: the helper checks the address and copies.
    unsafe { ctx.read_at(known(offset)? as usize) }.ok()
}

#[tracepoint]
pub fn exec_plain(ctx: TracePointContext) -> u32 {
    let _ = process::exec(&ctx, || {
        // __data_loc: the low half is the string's offset in the record.
        let location: u32 = read(&ctx, &O_EXEC_FILENAME)?;
        Some(ctx.as_ptr() as u64 + u64::from(location & 0xffff))
    });
    0
}

#[tracepoint]
pub fn fork_plain(ctx: TracePointContext) -> u32 {
    let _ = process::fork(&ctx, || Some((read(&ctx, &O_FORK_CHILD)?, 0)));
    0
}

#[tracepoint]
pub fn exit_plain(ctx: TracePointContext) -> u32 {
    let _ = process::exit(&ctx, |task| match read::<u8>(&ctx, &O_EXIT_GROUP_DEAD) {
        Some(dead) => dead != 0,
        None => task::live_threads(task) == Some(0),
    });
    0
}

/// An argument of the probed function, by a position that only the running kernel tells. All are loaded first, and
/// kept where the compiler must not merge the loads: a load from a computed place of the context is refused by
/// older kernels.
#[inline(always)]
fn argument(ctx: &ProbeContext, index: u32) -> Option<u64> {
    let mut kept = [0_u64; 3];
    let values: [u64; 3] = [ctx.arg(0)?, ctx.arg(1)?, ctx.arg(2)?];
    // SAFETY: both are local arrays of the same length, in bounds by the constant indices.
    unsafe {
        core::ptr::write_volatile(&mut kept[0], values[0]);
        core::ptr::write_volatile(&mut kept[1], values[1]);
        core::ptr::write_volatile(&mut kept[2], values[2]);
        match index {
            0 => Some(core::ptr::read_volatile(&kept[0])),
            1 => Some(core::ptr::read_volatile(&kept[1])),
            2 => Some(core::ptr::read_volatile(&kept[2])),
            _ => None,
        }
    }
}

#[inline(always)]
fn enter(ctx: &ProbeContext, kind: u32, dir_arg: &Global<u32>) -> Option<()> {
    let index = known(dir_arg)?;
    directory::enter_function(kind, argument(ctx, index)?, argument(ctx, index + 1)?)
}

#[kprobe]
pub fn mkdir_kprobe(ctx: ProbeContext) -> u32 {
    let _ = enter(&ctx, KIND_MKDIR, &MKDIR_DIR_ARG);
    0
}

#[kprobe]
pub fn rmdir_kprobe(ctx: ProbeContext) -> u32 {
    let _ = enter(&ctx, KIND_RMDIR, &RMDIR_DIR_ARG);
    0
}

#[kretprobe]
pub fn mkdir_kretprobe(ctx: RetProbeContext) -> u32 {
    let _ = mkdir_returned(&ctx);
    0
}

#[inline(always)]
fn mkdir_returned(ctx: &RetProbeContext) -> Option<()> {
    let pending = directory::recall()?;
    let result: u64 = ctx.ret();
    if MKDIR_RETURNS_DENTRY.load() == 1 {
        // The dentry that came in may have been released in favour of the one that comes out.
        if result == 0 || result >= u64::MAX - MAX_ERRNO {
            return None;
        }
        return directory::done(ctx, KIND_MKDIR, pending.a, result);
    }
    if result as i32 != 0 {
        return None;
    }
    directory::done(ctx, KIND_MKDIR, pending.a, pending.b)
}

#[kretprobe]
pub fn rmdir_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some(pending) = directory::recall() {
        let result: i32 = ctx.ret();
        if result == 0 {
            let _ = directory::done(&ctx, KIND_RMDIR, pending.a, pending.b);
        }
    }
    0
}

#[inline(always)]
fn begins(ctx: &TracePointContext, kind: u32, descriptor: Option<&Global<u32>>, path: &Global<u32>) -> Option<()> {
    let descriptor = match descriptor {
        Some(offset) => read::<u64>(ctx, offset)? as i32,
        None => AT_FDCWD,
    };
    directory::enter_syscall(kind, descriptor, read(ctx, path)?)
}

#[tracepoint]
pub fn mkdir_enter(ctx: TracePointContext) -> u32 {
    let _ = begins(&ctx, KIND_MKDIR, None, &O_MKDIR_PATH);
    0
}

#[tracepoint]
pub fn mkdirat_enter(ctx: TracePointContext) -> u32 {
    let _ = begins(&ctx, KIND_MKDIR, Some(&O_MKDIRAT_FD), &O_MKDIRAT_PATH);
    0
}

#[tracepoint]
pub fn rmdir_enter(ctx: TracePointContext) -> u32 {
    let _ = begins(&ctx, KIND_RMDIR, None, &O_RMDIR_PATH);
    0
}

#[tracepoint]
pub fn unlinkat_enter(ctx: TracePointContext) -> u32 {
    if read::<u64>(&ctx, &O_UNLINKAT_FLAG).is_some_and(|flag| flag & AT_REMOVEDIR != 0) {
        let _ = begins(&ctx, KIND_RMDIR, Some(&O_UNLINKAT_FD), &O_UNLINKAT_PATH);
    }
    0
}

/// Attached to the return of all four.
#[tracepoint]
pub fn directory_exit(ctx: TracePointContext) -> u32 {
    if let Some(result) = read::<i64>(&ctx, &O_SYSCALL_RET) {
        let _ = directory::exit_syscall(&ctx, result);
    }
    0
}
