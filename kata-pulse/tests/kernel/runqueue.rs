//! Waiting for a CPU: threads that starve each other, against what the scheduler itself accounts to them.

use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use kata_pulse::collect::kernel::{Histogram, ProgramGroup, Slot};
use kata_pulse::sandbox::{HostRole, Pid};
use rustix::thread::{CpuSet, gettid, sched_setaffinity};

use crate::{Background, own_pid, start_ticks, view};

const THREADS: usize = 4;
const BUSY: Duration = Duration::from_secs(4);

/// Nanoseconds that this thread waited, and how often it was switched to.
fn schedstat() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let numbers: Vec<u64> = text.split_ascii_whitespace().map(|number| number.parse().unwrap()).collect();
    (numbers[1], numbers[2])
}

fn pin(thread: Option<rustix::process::Pid>) {
    let mut cpu = CpuSet::new();
    cpu.set(0);
    sched_setaffinity(thread, &cpu).unwrap();
}

/// Busy when let go, and what it waited meanwhile.
fn busy(tell: &mpsc::Sender<Pid>, go: &Barrier, end: &Barrier) -> (u64, u64) {
    pin(None);
    tell.send(Pid(gettid().as_raw_nonzero().get() as u32)).unwrap();
    go.wait();
    let before = schedstat();
    let begun = Instant::now();
    while begun.elapsed() < BUSY {
        std::hint::black_box((0..1_000).sum::<u32>());
    }
    let after = schedstat();
    // Threads that end would have nothing to compare.
    end.wait();
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn time_on_the_run_queue_is_what_the_scheduler_accounts() {
    let Some(view) = view(ProgramGroup::Runqueue) else { return };
    let slot = view.open();
    view.watch(slot, own_pid(), start_ticks(own_pid()), HostRole::Vmm).unwrap();
    let (tell, told) = mpsc::channel();
    let (go, end) = (Arc::new(Barrier::new(THREADS + 1)), Arc::new(Barrier::new(THREADS + 1)));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (tell, go, end) = (tell.clone(), go.clone(), end.clone());
            std::thread::spawn(move || busy(&tell, &go, &end))
        })
        .collect();
    for thread in told.iter().take(THREADS) {
        view.watch_thread(own_pid(), thread, HostRole::Vcpu).unwrap();
    }
    let competitors: Vec<_> = (0..3).map(|_| Background::start("sh", &["-c", "while :; do :; done"])).collect();
    for competitor in &competitors {
        pin(rustix::process::Pid::from_raw(competitor.pid().0 as i32));
    }
    let before = of(&view.read(slot).unwrap().runqueue, HostRole::Vcpu);
    go.wait();
    end.wait();
    let after = of(&view.read(slot).unwrap().runqueue, HostRole::Vcpu);
    let waited: Vec<(u64, u64)> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let truth = waited.iter().map(|(nanoseconds, _)| *nanoseconds).sum::<u64>() as f64 / 1e9;
    let slices: u64 = waited.iter().map(|(_, slices)| slices).sum();
    let (seen, count) = (after.sum_seconds - before.sum_seconds, after.count() - before.count());
    let differs = (seen / truth - 1.0) * 100.0;
    println!(
        "run queue: {seen:.4} s in {count} waits; the scheduler says {truth:.4} s in {slices} slices: {differs:+.2} %"
    );
    assert!(truth > 2.0, "they did not compete");
    assert!(differs.abs() <= 2.0, "{differs} %");
    assert_eq!(after.counts.iter().zip(before.counts).map(|(after, before)| after - before).sum::<u64>(), count);
    let lost: u64 = view.counted().iter().map(|counted| counted.lost).sum();
    assert_eq!(lost, 0);
    let last = view.free(slot);
    assert!(of(&last.runqueue, HostRole::Vcpu).count() >= after.count());
    assert_eq!(view.read(slot), None);
    nothing_is_left(&view, slot);
}

fn of(readings: &[(HostRole, Histogram)], role: HostRole) -> Histogram {
    readings.iter().find(|(found, _)| *found == role).unwrap().1.clone()
}

/// A process of an earlier sandbox is another's now, and only what it does from then on.
fn nothing_is_left(view: &kata_pulse::collect::kernel::KernelView, freed: Slot) {
    let next = view.open();
    assert_ne!(next, freed);
    view.watch(next, own_pid(), start_ticks(own_pid()), HostRole::Shim).unwrap();
    let reading = view.read(next).unwrap();
    let roles: Vec<HostRole> = reading.runqueue.iter().map(|(role, _)| *role).collect();
    assert_eq!(roles, [HostRole::Shim]);
    assert!(of(&reading.runqueue, HostRole::Shim).sum_seconds < 1.0, "{reading:?}");
    assert!(view.watch(freed, own_pid(), start_ticks(own_pid()), HostRole::Shim).is_err());
}

#[test]
fn a_process_that_is_another_by_now_is_not_watched() {
    let Some(view) = view(ProgramGroup::Runqueue) else { return };
    let slot = view.open();
    let error = view.watch(slot, own_pid(), start_ticks(own_pid()) + 1, HostRole::Vmm).unwrap_err();
    assert_eq!(error.to_string(), format!("process {} has ended, or is another one by now", own_pid()));
    std::thread::sleep(Duration::from_millis(20));
    let reading = view.read_all().remove(&slot).unwrap();
    assert!(reading.runqueue.iter().all(|(_, histogram)| histogram.count() == 0), "{reading:?}");
}
