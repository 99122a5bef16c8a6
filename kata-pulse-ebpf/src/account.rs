//! What all threads of a process used, at its end.
//!
//! The kernel adds what a thread used to the process's `signal_struct` when it releases the thread. At the end of the
//! last thread some are not released yet, their leader never is: they are walked, and the kernel's own sequence counter
//! shows whether the sum is of one moment. It lacks what the last thread used since the last clock tick, and what it is
//! still to use. When the process itself is released, after somebody waited for it, everything is in one place and
//! complete.

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};
use kata_pulse_common::{COUNT_FAULTS, FLAG_ACCOUNT, FLAG_ACCOUNT_CUT, FLAG_ACCOUNT_IO, RawAccount};

use crate::{
    maps::{
        HAS_ACCOUNT, HAS_ACCOUNT_IO, O_SIGNAL_GTIME, O_SIGNAL_MAJ_FLT, O_SIGNAL_MAXRSS, O_SIGNAL_MIN_FLT,
        O_SIGNAL_NIVCSW, O_SIGNAL_NVCSW, O_SIGNAL_READ, O_SIGNAL_RUNTIME, O_SIGNAL_STATS_SEQ, O_SIGNAL_STIME,
        O_SIGNAL_SYSCR, O_SIGNAL_SYSCW, O_SIGNAL_THREADS, O_SIGNAL_TOLD_STIME, O_SIGNAL_TOLD_UTIME, O_SIGNAL_UTIME,
        O_SIGNAL_WRITE, O_TASK_GTIME, O_TASK_MAJ_FLT, O_TASK_MIN_FLT, O_TASK_NIVCSW, O_TASK_NVCSW, O_TASK_READ,
        O_TASK_RUNTIME, O_TASK_SIGNAL, O_TASK_STIME, O_TASK_SYSCR, O_TASK_SYSCW, O_TASK_THREAD_NODE, O_TASK_UTIME,
        O_TASK_WRITE, count,
    },
    task::field,
};

/// Threads that are walked: those that end at this very moment, and the leader. Each costs the verifier 700
/// instructions; a walk that could begin anew would cost it minutes, since it follows every way through.
const MAX_THREADS: u32 = 32;

/// Whether this kernel's type information has all that an account takes. The agent says so: no single offset below
/// has to be checked again.
#[inline(always)]
pub fn is_known() -> bool {
    HAS_ACCOUNT.load() == 1
}

#[inline(always)]
fn has_io() -> bool {
    HAS_ACCOUNT_IO.load() == 1
}

/// An account that is being added up in the record itself: the stack has no room for it.
pub struct Sum {
    to: *mut RawAccount,
    /// 0 as long as every read succeeded.
    faults: i64,
}

/// `field += number at base + offset`, for each.
macro_rules! add {
    ($sum:ident, $base:expr, $($field:ident $offset:ident)*) => {
        $(
            let number = $sum.number($base, &$offset);
            // SAFETY: in the record that the caller reserved; it was written before.
            unsafe { (&raw mut (*$sum.to).$field).write((*$sum.to).$field.wrapping_add(number)) };
        )*
    };
}

impl Sum {
    #[inline(always)]
    fn number(&mut self, base: u64, offset: &Global<u32>) -> u64 {
        let mut value = 0u64;
        // SAFETY: eight bytes into a u64; the helper checks the source.
        self.faults |=
            unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, (base + u64::from(offset.load())) as *const _) }
                as i64;
        value
    }

    /// Of nothing so far. `to` is in a record that the caller reserved.
    #[inline(always)]
    pub fn new(to: *mut RawAccount) -> Self {
        let mut sum = Self { to, faults: 0 };
        sum.begin();
        sum
    }

    #[inline(always)]
    fn begin(&mut self) {
        // SAFETY: the caller reserved a record of this size.
        unsafe { self.to.write(RawAccount::default()) };
        self.faults = 0;
    }

    /// What the process had used in threads that are released.
    #[inline(always)]
    pub fn add_signal(&mut self, signal: u64) {
        add!(self, signal,
            user_ns O_SIGNAL_UTIME system_ns O_SIGNAL_STIME guest_ns O_SIGNAL_GTIME run_ns O_SIGNAL_RUNTIME
            minor_faults O_SIGNAL_MIN_FLT major_faults O_SIGNAL_MAJ_FLT
            voluntary_switches O_SIGNAL_NVCSW involuntary_switches O_SIGNAL_NIVCSW
            peak_rss O_SIGNAL_MAXRSS told_user_ns O_SIGNAL_TOLD_UTIME told_system_ns O_SIGNAL_TOLD_STIME
        );
        if has_io() {
            add!(self, signal,
                read_calls O_SIGNAL_SYSCR write_calls O_SIGNAL_SYSCW read_bytes O_SIGNAL_READ write_bytes O_SIGNAL_WRITE
            );
        }
    }

    /// What a thread has used that is not released.
    #[inline(always)]
    fn add_thread(&mut self, task: u64) {
        add!(self, task,
            user_ns O_TASK_UTIME system_ns O_TASK_STIME guest_ns O_TASK_GTIME run_ns O_TASK_RUNTIME
            minor_faults O_TASK_MIN_FLT major_faults O_TASK_MAJ_FLT
            voluntary_switches O_TASK_NVCSW involuntary_switches O_TASK_NIVCSW
        );
        if has_io() {
            add!(self, task,
                read_calls O_TASK_SYSCR write_calls O_TASK_SYSCW read_bytes O_TASK_READ write_bytes O_TASK_WRITE
            );
        }
    }

    #[inline(always)]
    pub fn flags(&self) -> u32 {
        if self.faults != 0 {
            count(COUNT_FAULTS);
            return 0;
        }
        if has_io() { FLAG_ACCOUNT | FLAG_ACCOUNT_IO } else { FLAG_ACCOUNT }
    }
}

/// Writes the account of the current task's process, whose last thread the task is.
#[inline(always)]
pub fn at_exit(task: u64, to: *mut RawAccount) -> u32 {
    let mut sum = Sum::new(to);
    let signal: u64 = match field(task, &O_TASK_SIGNAL) {
        Some(signal) if is_known() => signal,
        _ => return 0,
    };
    let head = signal + u64::from(O_SIGNAL_THREADS.load());
    let node_at = u64::from(O_TASK_THREAD_NODE.load());
    let before = sequence_of(signal);
    sum.add_signal(signal);
    let mut node = next_of(head);
    for _ in 0..MAX_THREADS {
        if node == head {
            break;
        }
        sum.add_thread(node - node_at);
        node = next_of(node);
    }
    // Odd is the counter while a thread is being released.
    let is_whole = node == head && before & 1 == 0 && sequence_of(signal) == before;
    match sum.flags() {
        0 => 0,
        flags if is_whole => flags,
        flags => flags | FLAG_ACCOUNT_CUT,
    }
}

/// Changes whenever a thread is released.
#[inline(always)]
fn sequence_of(signal: u64) -> u32 {
    field(signal, &O_SIGNAL_STATS_SEQ).unwrap_or(1)
}

/// The next entry of a list of the kernel's.
#[inline(always)]
fn next_of(node: u64) -> u64 {
    let mut next = 0u64;
    // SAFETY: eight bytes into a u64; the helper checks the source.
    let _ = unsafe { bpf_probe_read_kernel((&raw mut next).cast(), 8, node as *const _) };
    next
}
