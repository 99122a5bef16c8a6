//! The release of a process that was tracked to its end: its account is complete then.

use kata_pulse_common::{
    COMM_BYTES, FLAG_EXIT_CODE, FLAG_HOST, KIND_RELEASED, PROGRAM_OTHER, ProcessEvent, RawAccount,
};

use crate::{
    account::{self, Sum},
    maps::{ENDED, O_TASK_PID, O_TASK_SIGNAL, O_TASK_TGID},
    process::{now, send_exit},
    task::{self, field},
};

/// A task is freed. Of a process that was tracked to its end, the leader is the last one.
#[inline(always)]
pub fn released(task: u64) -> Option<()> {
    let tgid: u32 = field(task, &O_TASK_TGID)?;
    // SAFETY: copied at once; values are never torn (8 bytes).
    let start = unsafe { *ENDED.get_ptr(tgid)? };
    let pid: u32 = field(task, &O_TASK_PID)?;
    if pid != tgid || task::start(task) != start {
        return None;
    }
    let _ = ENDED.remove(tgid);
    let code = task::exit_code(task);
    let event = ProcessEvent {
        kind: KIND_RELEASED,
        flags: if code.is_some() { FLAG_HOST | FLAG_EXIT_CODE } else { FLAG_HOST },
        boot_ns: now(),
        start_boot_ns: start,
        pid: tgid,
        parent: 0,
        uid: 0,
        exit_code: code.unwrap_or(0),
        mount_ns: 0,
        program: PROGRAM_OTHER,
        comm: [0; COMM_BYTES],
    };
    send_exit(event, |to| account_of(task, to))
}

/// Writes the account of the released process that `task` led.
#[inline(always)]
fn account_of(task: u64, to: *mut RawAccount) -> u32 {
    let mut sum = Sum::new(to);
    match field(task, &O_TASK_SIGNAL) {
        Some(signal) if account::is_known() => {
            sum.add_signal(signal);
            sum.flags()
        }
        _ => 0,
    }
}
