//! Everything that must hold before a change is handed in; CI calls this and nothing else.
//!
//! Output of each step: `target/xtask/<step>.log`. The last line sums all tests of all runners.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::counts::{self, Counts, parse_counts};
use crate::logged::{self, Outcome, Step};
use crate::steps::{cargo, xtask};

/// Tests that need a real thing (kernel, containerd, promtool) fail without it instead of skipping.
const REQUIRE_REAL: &str = "KATA_PULSE_REQUIRE_REAL";

/// None of them takes half of it on a fresh machine with two cores.
const DEADLINE: Duration = Duration::from_secs(20 * 60);
/// The queries alone watch Prometheus for seven minutes.
const DEADLINE_OF_TESTS: Duration = Duration::from_secs(40 * 60);
/// Of a failed step that are shown.
const MOST_LINES: usize = 200;
/// Workspaces of their own, which no command of the workspace reaches.
const EBPF: &str = "kata-pulse-ebpf/Cargo.toml";
const FUZZ: &str = "fuzz/Cargo.toml";

pub fn run() -> anyhow::Result<()> {
    let started = Instant::now();
    let mut outcomes = Vec::new();
    for step in plan()? {
        let (name, needed) = (step.name, step.needed);
        let outcome = logged::run(step)?;
        if !outcome.success {
            print_failures(&outcome);
        }
        let stop = needed && !outcome.success;
        outcomes.push(outcome);
        if stop {
            println!("    the remaining steps need {name}: not run");
            break;
        }
    }
    close(&outcomes, started)
}

fn plan() -> anyhow::Result<Vec<Step>> {
    let needed = |name, command| Step { name, command, deadline: DEADLINE, needed: true };
    let step = |name, command| Step { needed: false, ..needed(name, command) };
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    Ok(vec![
        needed("setup", xtask(&["setup"])?),
        step("fmt", cargo(&["fmt", "--all", "--check"])),
        step("fmt-ebpf", cargo(&["fmt", "--check", "--manifest-path", EBPF])),
        step("fmt-fuzz", cargo(&["fmt", "--check", "--manifest-path", FUZZ])),
        needed("build-ebpf", xtask(&["build-ebpf"])?),
        step("lint-ebpf", xtask(&["lint-ebpf"])?),
        step("clippy", real(cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))),
        step("clippy-fuzz", clippy_fuzz()),
        step("doc", doc),
        step("generated", xtask(&["docs", "--check"])?),
        step("licences", xtask(&["licences"])?),
        Step { deadline: DEADLINE_OF_TESTS, ..step("tests", tests()) },
        step("lab", real(xtask(&["lab"])?)),
        step("image", real(xtask(&["image"])?)),
    ])
}

fn real(mut command: Command) -> Command {
    command.env(REQUIRE_REAL, "1");
    command
}

/// Output of passed tests is shown, since it says which of them could not run.
fn tests() -> Command {
    real(cargo(&["test", "--workspace", "--no-fail-fast", "--", "--show-output"]))
}

/// Compiles the fuzz targets without their sanitizer. Profile and versions are the workspace's, and so is the target
/// directory: what clippy has checked there is not checked again.
fn clippy_fuzz() -> Command {
    real(cargo(&["clippy", "--locked", "--manifest-path", FUZZ, "--target-dir", "target", "--", "-D", "warnings"]))
}

/// What failed tests said; without such a report, the end of the log.
fn print_failures(outcome: &Outcome) {
    let text = outcome.text();
    let failures = counts::failures(&text);
    let lines: Vec<&str> = if failures.is_empty() { text.lines().collect() } else { failures };
    let skipped = lines.len().saturating_sub(MOST_LINES);
    println!("--- {} failed; from {}:", outcome.name, outcome.log.display());
    if skipped > 0 {
        println!("({skipped} lines before these)");
    }
    lines.iter().skip(skipped).for_each(|line| println!("{line}"));
    println!("---");
}

fn close(outcomes: &[Outcome], started: Instant) -> anyhow::Result<()> {
    let mut counts = Counts::default();
    println!();
    for outcome in outcomes {
        let mut own = parse_counts(&outcome.text());
        if !outcome.success && own.failed == 0 {
            own.failed = 1;
        }
        let word = if outcome.success { "ok" } else { "FAILED" };
        println!("{:<11} {:>7.1} s  {word}", outcome.name, outcome.took.as_secs_f64());
        counts.passed += own.passed;
        counts.failed += own.failed;
        counts.skipped += own.skipped;
    }
    println!("{:<11} {:>7.1} s", "together", started.elapsed().as_secs_f64());
    let failed: Vec<_> =
        outcomes.iter().filter(|o| !o.success).map(|o| format!("{} ({})", o.name, o.log.display())).collect();
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    // Ours is the last line of all.
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    if !failed.is_empty() {
        bail!("see above");
    }
    Ok(())
}
