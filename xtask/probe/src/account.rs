//! The accounting programs: whether this kernel takes them, with and without BTF, and that they count.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kata_pulse_probe::account::{Hidden, KernelOptions, KernelView, ProgramGroup};
use kata_pulse_probe::sandbox::{HostRole, Pid};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::report::Report;

const BUSY: Duration = Duration::from_millis(500);

pub fn check(report: &mut Report) {
    for (rung, btf) in [("account", true), ("account without BTF", false)] {
        report.rung = rung;
        let hide = Hidden { btf: !btf, ..Hidden::default() };
        let view = KernelView::start(&KernelOptions { hide, ..KernelOptions::default() });
        for program in view.programs() {
            let state = if program.attached { "attached" } else { program.reason.as_str() };
            println!("     {rung}: {} on {}: {state}", program.name, program.hook);
        }
        for group in ProgramGroup::ALL {
            attached(&view, group, btf, report);
        }
        if btf {
            report.check("time on the run queue is counted", counts(&view));
        }
        view.detach();
    }
}

fn attached(view: &KernelView, group: ProgramGroup, btf: bool, report: &mut Report) {
    let name = format!("{} attaches", group.as_str());
    let reasons = view.programs().iter().filter(|program| program.feature == group.as_str());
    let reason = reasons.map(|program| program.reason.as_str()).find(|reason| !reason.is_empty()).unwrap_or_default();
    match group {
        ProgramGroup::Runqueue if !btf => report.require("runqueue needs BTF", !view.has(group), "attached without"),
        // The module may not be loaded.
        ProgramGroup::Kvm if reason.starts_with("the kernel has no tracepoint") => report.skip(&name, reason),
        _ => report.require(&name, view.has(group), reason),
    }
}

/// Two threads of this process want the same CPU.
fn counts(view: &KernelView) -> anyhow::Result<()> {
    let slot = view.open();
    let own = Pid(std::process::id());
    view.watch(slot, own, start_ticks()?, HostRole::Shim)?;
    let threads = [(); 2].map(|()| std::thread::spawn(busy));
    for thread in threads {
        thread.join().ok().context("a thread panicked")??;
    }
    let reading = view.free(slot);
    let (_, histogram) = reading.runqueue.first().context("no histogram")?;
    // Each ran for half of the time.
    let share = histogram.sum_seconds / BUSY.as_secs_f64();
    ensure!(histogram.count() >= 10 && (0.5..1.5).contains(&share), "{share} of {BUSY:?}: {histogram:?}");
    Ok(())
}

fn busy() -> anyhow::Result<()> {
    let mut one = CpuSet::new();
    one.set(0);
    sched_setaffinity(None, &one)?;
    let begun = Instant::now();
    while begun.elapsed() < BUSY {
        std::hint::black_box(begun);
    }
    Ok(())
}

/// Of this process.
pub fn start_ticks() -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
    Ok(rest.split_ascii_whitespace().nth(19).context("no start time in stat")?.parse()?)
}
