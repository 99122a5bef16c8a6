//! Everything that must hold before a change is handed in; CI calls this and nothing else.
//!
//! Output of each step: `target/xtask/<step>.log`. The last line sums all tests of all runners.

use std::process::Command;
use std::time::Instant;

use anyhow::bail;

use crate::steps::{self, Outcome, cargo, xtask};

/// Tests that need a real thing (kernel, containerd, promtool) fail without it instead of skipping.
const REQUIRE_REAL: &str = "KATA_PULSE_REQUIRE_REAL";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

pub fn run() -> anyhow::Result<()> {
    let started = Instant::now();
    let mut outcomes = Vec::new();
    for (name, mut command, needed) in plan()? {
        let outcome = steps::logged(name, &mut command)?;
        if !outcome.success {
            print_tail(&outcome);
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

/// Name, command, and whether the steps after it make no sense without it.
fn plan() -> anyhow::Result<Vec<(&'static str, Command, bool)>> {
    let mut clippy = cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    let mut lab = xtask(&["lab"])?;
    for command in [&mut clippy, &mut tests, &mut lab] {
        command.env(REQUIRE_REAL, "1");
    }
    Ok(vec![
        ("setup", xtask(&["setup"])?, true),
        ("fmt", cargo(&["fmt", "--all", "--check"]), false),
        ("build-ebpf", xtask(&["build-ebpf"])?, true),
        ("clippy", clippy, false),
        ("doc", doc, false),
        ("generated", xtask(&["docs", "--check"])?, false),
        ("licences", xtask(&["licences"])?, false),
        ("tests", tests, false),
        ("lab", lab, false),
    ])
}

fn print_tail(outcome: &Outcome) {
    let text = outcome.text();
    let lines: Vec<_> = text.lines().collect();
    println!("--- {} failed; end of {}:", outcome.name, outcome.log.display());
    lines.iter().skip(lines.len().saturating_sub(60)).for_each(|line| println!("{line}"));
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
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    let failed: Vec<_> =
        outcomes.iter().filter(|o| !o.success).map(|o| format!("{} ({})", o.name, o.log.display())).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Sums cargo's `test result:` lines and plain `N passed, N failed[, N skipped]` lines.
fn parse_counts(log: &str) -> Counts {
    let mut counts = Counts::default();
    for line in log.lines().map(str::trim) {
        let parts: Vec<_> = match line.strip_prefix("test result: ") {
            Some(rest) => rest.split_once(". ").map_or("", |(_, rest)| rest).split("; ").collect(),
            None => line.split(", ").collect(),
        };
        let numbers: Option<Vec<(u64, &str)>> = parts
            .iter()
            .take(3)
            .map(|part| part.split_once(' ').and_then(|(n, w)| Some((n.parse().ok()?, w))))
            .collect();
        if let Some([(passed, "passed"), (failed, "failed"), rest @ ..]) = numbers.as_deref() {
            counts.passed += passed;
            counts.failed += failed;
            counts.skipped += rest.first().filter(|(_, w)| matches!(*w, "skipped" | "ignored")).map_or(0, |(n, _)| *n);
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_runners_are_summed() {
        let log = "test a ... ok\ntest result: ok. 9 passed; 1 failed; 2 ignored; 0 measured; 7 filtered out; finished\n\
                   noise\n4 passed, 0 failed\n3 passed, 1 failed, 5 skipped\n1 passed, but not a line\n";
        assert_eq!(parse_counts(log), Counts { passed: 16, failed: 2, skipped: 7 });
    }
}
