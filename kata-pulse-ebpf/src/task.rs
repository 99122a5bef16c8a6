//! Reading the kernel's own structures by offsets that the agent handed over.

use aya_ebpf::{
    Global,
    bindings::bpf_pidns_info,
    helpers::{
        bpf_get_current_task, bpf_probe_read_kernel,
        generated::{bpf_get_ns_current_pid_tgid, bpf_probe_read_user},
    },
};
use kata_pulse_common::{FLAG_HOST, FLAG_UNKNOWN_ORIGIN};

use crate::maps::{
    HOST_MNTNS, HOST_PIDNS_DEV, HOST_PIDNS_INO, O_MM_ARG_END, O_MM_ARG_START, O_MNTNS_INUM, O_NSPROXY_MNT,
    O_SIGNAL_LIVE, O_TASK_EXIT_CODE, O_TASK_LEADER, O_TASK_MM, O_TASK_NSPROXY, O_TASK_PARENT, O_TASK_SIGNAL,
    O_TASK_START, O_TASK_TGID, known,
};

/// The `T` at `base + offset` in kernel memory. `None`: no such offset on this kernel, or a fault.
#[inline(always)]
pub fn field<T>(base: u64, offset: &Global<u32>) -> Option<T> {
    let offset = known(offset)?;
    if base == 0 {
        return None;
    }
    // SAFETY: the helper checks the address and copies; nothing is dereferenced here.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

#[inline(always)]
pub fn current() -> u64 {
    // SAFETY: no arguments, no effect.
    unsafe { bpf_get_current_task() }
}

/// Inode of the task's mount namespace, 0 if it cannot be read.
#[inline(always)]
pub fn mount_namespace(task: u64) -> u32 {
    field(task, &O_TASK_NSPROXY)
        .and_then(|proxy: u64| field(proxy, &O_NSPROXY_MNT))
        .and_then(|mount: u64| field(mount, &O_MNTNS_INUM))
        .unwrap_or(0)
}

/// Origin of the current task as flags: the host's mount namespace, else (no offsets) its pid namespace.
#[inline(always)]
pub fn origin(mount_ns: u32) -> u32 {
    if let (Some(host), true) = (known(&HOST_MNTNS), mount_ns != 0) {
        return if mount_ns == host { FLAG_HOST } else { 0 };
    }
    let inode = HOST_PIDNS_INO.load();
    if inode == 0 {
        return FLAG_HOST | FLAG_UNKNOWN_ORIGIN;
    }
    let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the buffer is of the size that is passed; the helper fails with -EINVAL when the current
    // task's pid namespace is not the one named by device and inode.
    let result = unsafe { bpf_get_ns_current_pid_tgid(HOST_PIDNS_DEV.load(), inode, &mut ids, 8) };
    if result == 0 { FLAG_HOST } else { 0 }
}

#[inline(always)]
pub fn parent(task: u64) -> u32 {
    field(task, &O_TASK_PARENT).and_then(|parent: u64| field(parent, &O_TASK_TGID)).unwrap_or(0)
}

/// Start of the task's process since boot, 0 if unknown.
#[inline(always)]
pub fn start(task: u64) -> u64 {
    field(task, &O_TASK_LEADER).and_then(|leader: u64| field(leader, &O_TASK_START)).unwrap_or(0)
}

/// The leader's code: what the parent's wait(2) will see, whichever thread was the last.
#[inline(always)]
pub fn exit_code(task: u64) -> Option<u32> {
    field(task, &O_TASK_LEADER).and_then(|leader: u64| field(leader, &O_TASK_EXIT_CODE))
}

/// Threads of the process that have not ended yet.
#[inline(always)]
pub fn live_threads(task: u64) -> Option<i32> {
    field(task, &O_TASK_SIGNAL).and_then(|signal: u64| field(signal, &O_SIGNAL_LIVE))
}

/// Copies the first bytes of argv, at most `N - 1`; `N` is a power of two. Returns how many.
#[inline(always)]
pub fn argv<const N: usize>(task: u64, to: *mut [u8; N]) -> Option<u32> {
    let memory: u64 = field(task, &O_TASK_MM)?;
    let start: u64 = field(memory, &O_MM_ARG_START)?;
    let end: u64 = field(memory, &O_MM_ARG_END)?;
    let wanted = end.checked_sub(start)?;
    let most = N as u64 - 1;
    // The mask tells the verifier what the comparison already holds.
    let len = (if wanted > most { most } else { wanted }) & most;
    // SAFETY: at most N - 1 bytes into a buffer of N; the helper checks the source.
    let result = unsafe { bpf_probe_read_user(to.cast(), len as u32, start as *const _) };
    (result == 0).then_some(len as u32)
}
