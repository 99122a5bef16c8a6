//! Waiting for a CPU: threads that starve each other, against what the scheduler itself accounts to them.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use kata_pulse::collect::kernel::{Histogram, KernelView, ProgramGroup, Slot};
use kata_pulse::sandbox::{HostRole, Pid};
use rustix::thread::{CpuSet, gettid, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::{Background, own_pid, start_ticks, until, view};

const THREADS: usize = 4;
const BUSY: Duration = Duration::from_secs(4);

/// Nanoseconds that these threads waited, and how often they were switched to.
fn schedstat(threads: &[Pid]) -> (u64, u64) {
    let one = |thread: &Pid| {
        let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
        let numbers: Vec<u64> = text.split_ascii_whitespace().map(|number| number.parse().unwrap()).collect();
        (numbers[1], numbers[2])
    };
    threads.iter().map(one).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

fn pin(thread: Option<rustix::process::Pid>) {
    let mut cpu = CpuSet::new();
    cpu.set(0);
    sched_setaffinity(thread, &cpu).unwrap();
}

/// Both accounts at a moment between two waits: that of the scheduler is the same before and after.
fn accounts(view: &KernelView, slot: Slot, threads: &[Pid]) -> (Histogram, (u64, u64)) {
    let mut found = None;
    until("no thread waits for a CPU", || {
        let before = schedstat(threads);
        let histogram = of(&view.read(slot).unwrap().runqueue, HostRole::Vcpu);
        found = (schedstat(threads) == before).then_some((histogram, before));
        found.is_some()
    });
    found.unwrap()
}

/// Busy when let go, then there until the end, since a thread that has ended has nothing to compare. The time that passed
/// for it without it running.
fn busy(tell: &mpsc::Sender<Pid>, go: &mpsc::Receiver<()>) -> Duration {
    pin(None);
    tell.send(Pid(gettid().as_raw_nonzero().get() as u32)).unwrap();
    go.recv().unwrap();
    let ran = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let (begun, ran_before) = (Instant::now(), ran());
    while begun.elapsed() < BUSY {
        std::hint::black_box((0..1_000).sum::<u32>());
    }
    let waited = begun.elapsed().saturating_sub(ran() - ran_before);
    tell.send(Pid(0)).unwrap();
    go.recv().unwrap();
    waited
}

/// What the kernel's programs and the scheduler say of the same waits.
struct Compared {
    seen_seconds: f64,
    seen: u64,
    truth_seconds: f64,
    truth: u64,
    /// By the threads' own clocks.
    not_running: Duration,
}

impl Compared {
    fn percent(&self) -> f64 {
        (self.seen_seconds / self.truth_seconds - 1.0) * 100.0
    }

    fn percent_of_clocks(&self) -> f64 {
        (self.seen_seconds / self.not_running.as_secs_f64() - 1.0) * 100.0
    }
}

/// Threads of this process against each other and against other processes, all on one CPU.
fn compete(view: &KernelView, slot: Slot) -> Compared {
    let (tell, told) = mpsc::channel();
    let (mut go, mut threads) = (Vec::new(), Vec::new());
    for _ in 0..THREADS {
        let (tell, (sender, receiver)) = (tell.clone(), mpsc::channel());
        go.push(sender);
        threads.push(std::thread::spawn(move || busy(&tell, &receiver)));
    }
    let tids: Vec<Pid> = told.iter().take(THREADS).collect();
    for thread in &tids {
        view.watch_thread(own_pid(), *thread, HostRole::Vcpu).unwrap();
    }
    let competitors: Vec<_> = (0..3).map(|_| Background::start("sh", &["-c", "while :; do :; done"])).collect();
    for competitor in &competitors {
        pin(rustix::process::Pid::from_raw(competitor.pid().0 as i32));
    }
    let (before, scheduler_before) = accounts(view, slot, &tids);
    go.iter().for_each(|go| go.send(()).unwrap());
    assert_eq!(told.iter().take(THREADS).count(), THREADS);
    let (after, scheduler_after) = accounts(view, slot, &tids);
    go.iter().for_each(|go| go.send(()).unwrap());
    let not_running = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    tids.iter().for_each(|thread| view.forget_thread(own_pid(), *thread));
    let in_buckets: u64 = after.counts.iter().zip(before.counts).map(|(after, before)| after - before).sum();
    Compared {
        seen_seconds: after.sum_seconds - before.sum_seconds,
        seen: in_buckets,
        truth_seconds: (scheduler_after.0 - scheduler_before.0) as f64 / 1e9,
        truth: scheduler_after.1 - scheduler_before.1,
        not_running,
    }
}

/// What else interrupts the CPU is no wait, but time that passes. Hence more than one try.
#[test]
fn time_on_the_run_queue_is_what_the_scheduler_accounts() {
    let Some(view) = view(ProgramGroup::Runqueue) else { return };
    let slot = view.open();
    view.watch(slot, own_pid(), start_ticks(own_pid()), HostRole::Vmm).unwrap();
    let agrees = (0..5).any(|_| {
        let compared = compete(&view, slot);
        let Compared { seen_seconds, seen, truth_seconds, truth, not_running } = compared;
        let (percent, of_clocks) = (compared.percent(), compared.percent_of_clocks());
        println!(
            "run queue: {seen_seconds:.4} s in {seen} waits; the scheduler: {truth_seconds:.4} s in {truth}: {percent:+.2} %; \
             the threads' clocks: {not_running:.4?}: {of_clocks:+.2} %"
        );
        assert!(truth_seconds > 2.0, "they did not compete");
        assert!(percent.abs() <= 15.0, "{percent} %");
        percent.abs() <= 2.0 && of_clocks.abs() <= 5.0
    });
    assert!(agrees, "never within 2 % of the scheduler and 5 % of the clocks");
    assert_eq!(view.counted().iter().map(|counted| counted.lost).sum::<u64>(), 0);
    let last = view.free(slot);
    assert!(of(&last.runqueue, HostRole::Vcpu).count() > 0 && of(&last.runqueue, HostRole::Vmm).count() > 0);
    assert_eq!(view.read(slot), None);
    nothing_is_left(&view, slot);
}

fn of(readings: &[(HostRole, Histogram)], role: HostRole) -> Histogram {
    readings.iter().find(|(found, _)| *found == role).unwrap().1.clone()
}

/// A process of an earlier sandbox is another's now, and only what it does from then on.
fn nothing_is_left(view: &KernelView, freed: Slot) {
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

#[test]
fn what_finds_no_room_shows_nothing_and_is_counted_as_lost() {
    let Some(view) = view(ProgramGroup::Runqueue) else { return };
    let started = start_ticks(own_pid());
    let open = |roles: &[HostRole]| {
        let slot = view.open();
        roles.iter().for_each(|role| view.watch(slot, own_pid(), started, *role).unwrap());
        slot
    };
    let four = [HostRole::Vcpu, HostRole::Vmm, HostRole::Virtiofsd, HostRole::Shim];
    let slots: Vec<Slot> = (0..2_048).map(|_| open(&four)).collect();
    let roles = |slot: Slot| view.read(slot).unwrap().runqueue.len();
    let lost = || view.counted().iter().map(|counted| counted.lost).sum::<u64>();
    assert!(lost() == 0 && slots.iter().all(|slot| roles(*slot) == 4));
    let one_too_many = open(&[HostRole::Shim]);
    assert_eq!((roles(one_too_many), lost()), (0, 1));
    view.free(slots[0]);
    assert_eq!((roles(open(&four)), lost()), (4, 1));
}
