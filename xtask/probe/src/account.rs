//! The accounting programs: whether this kernel takes them, with and without BTF, and that they count.

use std::time::Duration;

use anyhow::{Context, ensure};
use kata_pulse_probe::account::{Hidden, KernelOptions, KernelView, ProgramGroup};
use kata_pulse_probe::sandbox::{HostRole, Pid};

use crate::report::Report;

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

/// This process sleeps and wakes.
fn counts(view: &KernelView) -> anyhow::Result<()> {
    let slot = view.open();
    let own = Pid(std::process::id());
    view.watch(slot, own, start_ticks()?, HostRole::Shim)?;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let reading = view.free(slot);
    let (_, histogram) = reading.runqueue.first().context("no histogram")?;
    ensure!(histogram.count() >= 20 && histogram.sum_seconds > 0.0, "{histogram:?}");
    Ok(())
}

/// Of this process.
pub fn start_ticks() -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
    Ok(rest.split_ascii_whitespace().nth(19).context("no start time in stat")?.parse()?)
}
