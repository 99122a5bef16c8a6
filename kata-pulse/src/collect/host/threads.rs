//! Reads the threads of one process and credits what they use: which run the guest, which move packets, what they
//! waited for.
//!
//! A thread that runs the guest is known by its guest time, whatever it is called; a name is an early hint. Cost: of a
//! VMM's threads, `stat` and `schedstat` of those that run the guest each time, of the others sometimes; of other
//! processes' threads `status`, sometimes.

use super::counters::CpuNs;
use super::parse::{self, Stat};
use super::process::{Kernel, Plan, Reading};
use super::process_book::{ProcessBook, Share, ThreadCounters};

/// More are not looked at.
const MAX_THREADS: usize = 1024;
/// Runs Dragonball inside its shim.
const VMM_MASTER: &[u8] = b"vmm_master";

pub(super) fn take(reading: &mut Reading<'_>, book: &mut ProcessBook, plan: Plan) {
    if reading.scratch.list_tasks(reading.directory, MAX_THREADS).is_err() {
        return;
    }
    book.begin_threads(plan.split);
    let tids = std::mem::take(&mut reading.scratch.tids);
    for &tid in &tids {
        let known = book.threads.get(&tid).filter(|thread| thread.last.cpu.is_some()).map(|thread| thread.share);
        let of_interest = plan.split && known != Some(Share::Main);
        if of_interest || plan.thread_detail || plan.tiers.sometimes {
            take_one(reading, book, plan, tid);
        } else {
            book.meet(tid, None);
        }
    }
    reading.scratch.tids = tids;
    book.end_threads();
}

/// One that ended meanwhile is not met, and so forgotten.
fn take_one(reading: &mut Reading<'_>, book: &mut ProcessBook, plan: Plan, tid: u32) {
    let mut counters = ThreadCounters::default();
    let mut share = Share::Main;
    if plan.split || reading.kernel.has_io_delay {
        let Ok(bytes) = reading.scratch.read_task(reading.directory, tid, "stat") else { return };
        let Some(stat) = parse::parse_stat(bytes) else { return };
        let thread = book.meet(tid, Some(stat.start_ticks));
        if plan.split {
            share = if thread.share == Share::Main { share_of(&stat) } else { thread.share };
            thread.is_vmm_master = stat.comm == VMM_MASTER;
            if plan.thread_detail && thread.name.as_bytes() != stat.comm {
                thread.name = String::from_utf8_lossy(stat.comm).into_owned();
            }
        }
        counters = of_stat(reading.kernel, plan.split, &stat);
    } else {
        book.meet(tid, None);
    }
    if share == Share::Vcpu || (plan.split && plan.thread_detail) {
        let schedstat = reading.scratch.read_task(reading.directory, tid, "schedstat").ok();
        counters.run_delay_ns = schedstat.and_then(parse::run_delay_ns);
    }
    if plan.tiers.sometimes {
        let status = reading.scratch.read_task(reading.directory, tid, "status").ok();
        counters.switches = status.and_then(parse::switches);
    }
    book.credit(tid, share, &counters);
}

fn of_stat(kernel: &Kernel, split: bool, stat: &Stat<'_>) -> ThreadCounters {
    let ns = |ticks: u64| ticks.saturating_mul(kernel.tick_ns);
    ThreadCounters {
        cpu: split.then(|| CpuNs::of_kernel(ns(stat.user_ticks), ns(stat.system_ticks), ns(stat.guest_ticks))),
        minor_faults: split.then_some(stat.minor_faults),
        major_faults: split.then_some(stat.major_faults),
        io_blocked_ns: kernel.has_io_delay.then(|| ns(stat.io_blocked_ticks)),
        ..ThreadCounters::default()
    }
}

fn share_of(stat: &Stat<'_>) -> Share {
    if stat.guest_ticks > 0 || parse::is_vcpu_name(stat.comm) {
        Share::Vcpu
    } else if parse::vhost_owner(stat.comm).is_some() {
        Share::Vhost
    } else {
        Share::Main
    }
}
