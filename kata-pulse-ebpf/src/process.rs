//! exec, fork and exit: what is the same whichever kind of hook calls.
//!
//! Cost for a process that is none of ours: one map lookup at fork, exit and release, two at exec.

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str},
    },
    maps::{RingBuf, lpm_trie::Key},
};
use aya_log_ebpf::debug;
use kata_pulse_common::{
    COMM_BYTES, COUNT_EMITTED, COUNT_FAULTS, COUNT_FOREIGN_EMITTED, COUNT_FOREIGN_LOST, COUNT_LOST, COUNT_MAP_FULL,
    ExecEvent, ExitEvent, FILE_BYTES, FLAG_EXIT_CODE, FLAG_HOST, FLAG_MAYBE_THREAD, KIND_EXEC, KIND_EXIT, KIND_FORK,
    PROGRAM_OTHER, ProcessEvent, RawAccount,
};

use crate::{
    account,
    maps::{ENDED, EVENTS, FOREIGN, NAMES, O_FORK_CHILD, TRACKED, count, known},
    task,
};

/// Where the kernel has the executed file's path: an address, or nowhere we can read.
pub type FileName = Option<u64>;

#[inline(always)]
fn ids() -> (u32, u32) {
    let both = bpf_get_current_pid_tgid();
    ((both >> 32) as u32, both as u32)
}

#[inline(always)]
fn is_tracked(tgid: u32) -> bool {
    TRACKED.get_ptr(tgid).is_some()
}

#[inline(always)]
fn track(tgid: u32, start: u64) {
    if TRACKED.insert(tgid, start, 0).is_err() {
        count(COUNT_MAP_FULL);
    }
}

/// A process became another program.
#[inline(always)]
pub fn exec<C: EbpfContext>(ctx: &C, file: impl FnOnce() -> FileName) -> Option<()> {
    let comm = bpf_get_current_comm().ok()?;
    let (tgid, _) = ids();
    let program = NAMES.get(Key::new(8 * COMM_BYTES as u32, comm)).copied().unwrap_or(PROGRAM_OTHER);
    let tracked = is_tracked(tgid);
    if program == PROGRAM_OTHER && !tracked {
        return None;
    }
    let task = task::current();
    let mount_ns = task::mount_namespace(task);
    // A tracked process keeps its provenance: the jailer enters a mount namespace, then becomes Firecracker.
    let origin = if tracked { FLAG_HOST } else { task::origin(mount_ns) };
    let start = task::start(task);
    if program == PROGRAM_OTHER {
        let _ = TRACKED.remove(tgid);
    } else if origin & FLAG_HOST != 0 {
        track(tgid, start);
    }
    debug!(ctx, "exec: pid {} program {} origin {}", tgid, program, origin);
    let event = ProcessEvent {
        kind: KIND_EXEC,
        flags: origin,
        boot_ns: now(),
        start_boot_ns: start,
        pid: tgid,
        parent: task::parent(task),
        uid: bpf_get_current_uid_gid() as u32,
        exit_code: 0,
        mount_ns,
        program,
        comm,
    };
    if origin & FLAG_HOST != 0 {
        send_exec(&EVENTS, event, task, file, COUNT_EMITTED, COUNT_LOST)
    } else {
        send_exec(&FOREIGN, event, task, file, COUNT_FOREIGN_EMITTED, COUNT_FOREIGN_LOST)
    }
}

#[inline(always)]
fn send_exec(
    ring: &RingBuf,
    event: ProcessEvent,
    task: u64,
    file: impl FnOnce() -> FileName,
    sent: u32,
    lost: u32,
) -> Option<()> {
    let Some(mut entry) = ring.reserve::<ExecEvent>(0) else {
        count(lost);
        return None;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the entry is as large as the record; every field is written before submit except the tails
    // of `file` and `argv`, whose lengths say how far they are valid.
    unsafe {
        (&raw mut (*record).process).write(event);
        let file_len = file().map_or(0, |from| {
            bpf_probe_read_kernel_str((&raw mut (*record).file).cast(), FILE_BYTES as u32, from as *const _)
        });
        (&raw mut (*record).file_len).write(if file_len > 0 { file_len as u32 - 1 } else { 0 });
        let argv_len = task::argv(task, &raw mut (*record).argv);
        (&raw mut (*record).argv_len).write(argv_len.unwrap_or(0));
        entry.submit(0);
        if argv_len.is_none() {
            count(COUNT_FAULTS);
        }
    }
    count(sent);
    Some(())
}

/// A tracked process made a new process. `child`: its id, task (0 if the hook does not give it).
#[inline(always)]
pub fn fork<C: EbpfContext>(ctx: &C, child: impl FnOnce() -> Option<(u32, u64)>) -> Option<()> {
    let (tgid, _) = ids();
    if !is_tracked(tgid) {
        return None;
    }
    let (pid, child_task) = child()?;
    let start = task::start(child_task);
    track(pid, start);
    debug!(ctx, "fork: {} from {}", pid, tgid);
    let flags = if child_task == 0 { FLAG_HOST | FLAG_MAYBE_THREAD } else { FLAG_HOST };
    send(ProcessEvent {
        kind: KIND_FORK,
        flags,
        boot_ns: now(),
        start_boot_ns: start,
        pid,
        parent: tgid,
        uid: bpf_get_current_uid_gid() as u32,
        exit_code: 0,
        mount_ns: task::mount_namespace(child_task),
        program: PROGRAM_OTHER,
        comm: bpf_get_current_comm().ok()?,
    })
}

/// A thread ended; `group_dead` tells whether it was the last one of its process.
#[inline(always)]
pub fn exit<C: EbpfContext>(ctx: &C, group_dead: impl FnOnce(u64) -> bool) -> Option<()> {
    let (tgid, tid) = ids();
    if !is_tracked(tgid) {
        return None;
    }
    if known(&O_FORK_CHILD).is_some() && tid != tgid {
        // The plain fork hook cannot tell threads from processes and tracks both.
        let _ = TRACKED.remove(tid);
    }
    let task = task::current();
    if !group_dead(task) {
        return None;
    }
    // Two threads that end at once may both look like the last; only one of them removes the entry.
    TRACKED.remove(tgid).ok()?;
    let code = task::exit_code(task);
    let start = task::start(task);
    debug!(ctx, "exit: {} code {}", tgid, code.unwrap_or(0));
    let event = ProcessEvent {
        kind: KIND_EXIT,
        flags: if code.is_some() { FLAG_HOST | FLAG_EXIT_CODE } else { FLAG_HOST },
        boot_ns: now(),
        start_boot_ns: start,
        pid: tgid,
        parent: task::parent(task),
        uid: bpf_get_current_uid_gid() as u32,
        exit_code: code.unwrap_or(0),
        mount_ns: task::mount_namespace(task),
        program: PROGRAM_OTHER,
        comm: bpf_get_current_comm().ok()?,
    };
    if account::is_known() {
        // Before the record: whoever waits for the process may be faster than the reader of this.
        let _ = ENDED.insert(tgid, start, 0);
    }
    send_exit(event, |to| account::at_exit(task, to))
}

/// `fill` writes the whole account and returns flags.
#[inline(always)]
pub fn send_exit(event: ProcessEvent, fill: impl FnOnce(*mut RawAccount) -> u32) -> Option<()> {
    let Some(mut entry) = EVENTS.reserve::<ExitEvent>(0) else {
        count(COUNT_LOST);
        return None;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the entry is as large as the record, and every field of it is written before submit.
    unsafe {
        (&raw mut (*record).process).write(event);
        let flags = fill(&raw mut (*record).account);
        (&raw mut (*record).process.flags).write(event.flags | flags);
        entry.submit(0);
    }
    count(COUNT_EMITTED);
    Some(())
}

#[inline(always)]
fn send(event: ProcessEvent) -> Option<()> {
    let Some(mut entry) = EVENTS.reserve::<ProcessEvent>(0) else {
        count(COUNT_LOST);
        return None;
    };
    entry.write(event);
    entry.submit(0);
    count(COUNT_EMITTED);
    Some(())
}

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments, no effect.
    unsafe { bpf_ktime_get_boot_ns() }
}
