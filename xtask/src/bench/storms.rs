//! What the agent costs others: storms of execs and of system calls, in turn with and without an agent that watches.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::{BINARIES, report};
use crate::measure::{exec_storm, spread, syscall_storm};
use crate::node::Node;

const EXECS: u32 = 1_000;
const SYSCALLS: u32 = 10_000_000;
/// After the start or the end of an agent, whose programs are attached and detached.
const REST: Duration = Duration::from_millis(500);

pub fn run(rounds: u32) -> anyhow::Result<()> {
    let (mut execs, mut calls) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut times = [[0.0; 2]; 2];
        // Whichever comes second must not always be the same.
        let order = if round % 2 == 0 { [false, true] } else { [true, false] };
        for with in order {
            let node = if with { Some(Node::start(Path::new(BINARIES), 1)?) } else { None };
            std::thread::sleep(REST);
            let at = usize::from(with);
            times[0][at] = exec_storm(EXECS)?.as_secs_f64();
            times[1][at] = syscall_storm(SYSCALLS).as_secs_f64();
            drop(node);
        }
        let [exec, call] = times.map(|[without, with]| (with / without - 1.0) * 100.0);
        println!(
            "  exec storm {:.3} s and {exec:+.1} %, syscall storm {:.3} s and {call:+.1} %",
            times[0][0], times[1][0]
        );
        execs.push(exec);
        calls.push(call);
    }
    for (what, slower, bound) in [("exec storm", execs, 5.0), ("syscall storm", calls, 1.0)] {
        let slower = spread(&slower).context("no round")?;
        let seen = format!("{:+.1} % ({:+.1} to {:+.1})", slower.median, slower.low, slower.high);
        report(&format!("{what}, slower with the agent"), &seen, &format!("{bound} %"), slower.median <= bound);
    }
    Ok(())
}
