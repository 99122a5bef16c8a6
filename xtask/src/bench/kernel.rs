//! What all eBPF programs together cost others, by `kata-pulse-probe bench-account`.

use std::process::Command;

use anyhow::Context;

use super::{BINARIES, report};
use crate::measure::spread;
use crate::steps::{self, cargo};

pub fn run(rounds: u32) -> anyhow::Result<()> {
    steps::run(&mut cargo(&["build", "--release", "--package", "kata-pulse-probe"]))?;
    let probe = steps::root().join(BINARIES).join("kata-pulse-probe");
    let output = Command::new(&probe).args(["bench-account", &rounds.to_string()]).output()?;
    anyhow::ensure!(output.status.success(), "{}: {}", probe.display(), String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let (mut execs, mut foreign, mut own) = (Vec::new(), Vec::new(), Vec::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let ["bench", "exec", exec, with_exec, "switch", switch, with_switch, own_switch] = words[..] {
            println!("  {line}");
            let [exec, with_exec, switch, with_switch, own_switch] =
                [exec, with_exec, switch, with_switch, own_switch].map(str::parse::<f64>);
            execs.push((with_exec? / exec? - 1.0) * 100.0);
            let switch = switch?;
            foreign.push(with_switch? - switch);
            own.push(own_switch? - switch);
        } else if let ["bench", what, nanoseconds] = words[..] {
            println!("{what} (1,000 slots of 3 roles; free: each): {:.3} ms", nanoseconds.parse::<f64>()? / 1e6);
        }
    }
    let exec = spread(&execs).context("no round")?;
    let seen = format!("{:+.1} % ({:+.1} to {:+.1})", exec.median, exec.low, exec.high);
    report("exec storm, slower with all programs", &seen, "5 %", exec.median <= 5.0);
    for (whose, dearer) in [("others'", foreign), ("a sandbox's", own)] {
        let dearer = spread(&dearer).context("no round")?;
        let seen = format!("{:+.0} ns ({:+.0} to {:+.0})", dearer.median, dearer.low, dearer.high);
        report(&format!("{whose} switch with its wake-up, dearer"), &seen, "300 ns", dearer.median <= 300.0);
    }
    Ok(())
}
