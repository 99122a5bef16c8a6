//! The agent under the CPU limit of the chart: whether it starts, answers and keeps up with a tenth of a CPU.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{BINARIES, report};
use crate::http;
use crate::measure::{cpu_time, peak_memory};
use crate::node::Node;

/// The chart's limit of 100m, as the kubelet writes it.
const QUOTA_MICROSECONDS: u64 = 10_000;
const PERIOD_MICROSECONDS: u64 = 100_000;
/// As the chart lets Prometheus scrape.
const BETWEEN_SCRAPES: Duration = Duration::from_secs(30);
const SCRAPES: u32 = 4;

pub fn run() -> anyhow::Result<()> {
    for sandboxes in [100, 250] {
        of(sandboxes)?;
    }
    Ok(())
}

fn of(sandboxes: u32) -> anyhow::Result<()> {
    let group = Group::make()?;
    let agent = group.command(&Path::new(BINARIES).join("kata-pulse"));
    let started = Instant::now();
    let mut node = Node::start_by(Path::new(BINARIES), agent, sandboxes, &["--mix", "go-qemu=1", "--processes"], &[])?;
    let (pid, ready) = (node.agent_pid().context("no agent")?, node.ready_after);
    node.wait_until("every sandbox's numbers on the page", Duration::from_secs(120), |node| {
        let page = http::get(node.address, "/metrics")?.1;
        Ok(page.lines().filter(|line| line.starts_with("kata_sandbox_guest_load{")).count() >= sandboxes as usize)
    })?;
    let at_start = cpu_time(pid)?;
    println!("{sandboxes} sandboxes, 0.1 CPU: ready after {ready:.2?}, {at_start:.2?} of CPU until all were collected");
    let (before, cpu, started) = (group.throttled()?, cpu_time(pid)?, started.elapsed().as_secs_f64());
    let (mut slowest, mut bytes, watched) = (Duration::ZERO, 0, Instant::now());
    for _ in 0..SCRAPES {
        std::thread::sleep(BETWEEN_SCRAPES);
        let asked = Instant::now();
        bytes = http::get(node.address, "/metrics")?.1.len();
        slowest = slowest.max(asked.elapsed());
    }
    let share = (cpu_time(pid)? - cpu).as_secs_f64() / watched.elapsed().as_secs_f64() * 100.0;
    let after = group.throttled()?;
    let (periods, throttled) = (after.0 - before.0, after.1 - before.1);
    println!("  all on the page {started:.1} s after the simulator's start; then {share:.2} % of a CPU, throttled in");
    println!("  {throttled} of {periods} periods; page {bytes} bytes; peak {:.1} MB", peak_memory(pid)? as f64 / 1e6);
    let what = format!("slowest of {SCRAPES} GET /metrics with {sandboxes} sandboxes under 0.1 CPU");
    report(&what, &format!("{slowest:.0?}"), "1 s", slowest <= Duration::from_secs(1));
    Ok(())
}

/// A cgroup with the limit, of whichever version is here; removed when it is dropped, after the agent.
struct Group {
    path: PathBuf,
}

impl Group {
    fn make() -> anyhow::Result<Self> {
        let name = format!("kata-pulse-bench-{}", std::process::id());
        let roots = [("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us"), ("/sys/fs/cgroup", "cpu.max")];
        for (root, limit) in roots {
            let path = Path::new(root).join(&name);
            if fs::create_dir(&path).is_err() {
                continue;
            }
            let group = Self { path };
            if !group.path.join(limit).exists() {
                continue;
            }
            if limit == "cpu.max" {
                fs::write(group.path.join(limit), format!("{QUOTA_MICROSECONDS} {PERIOD_MICROSECONDS}"))?;
            } else {
                fs::write(group.path.join("cpu.cfs_period_us"), PERIOD_MICROSECONDS.to_string())?;
                fs::write(group.path.join(limit), QUOTA_MICROSECONDS.to_string())?;
            }
            return Ok(group);
        }
        bail!("no cgroup with a CPU limit can be made: run as root where the cpu controller is");
    }

    /// Becomes the program when it is in the group.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"]);
        command.arg(&self.path).arg(program);
        command
    }

    /// Periods, and those in which the group had to wait.
    fn throttled(&self) -> anyhow::Result<(u64, u64)> {
        let text = fs::read_to_string(self.path.join("cpu.stat"))?;
        let number = |name: &str| -> anyhow::Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).context("cpu.stat says too little")?;
            Ok(line.trim().parse()?)
        };
        Ok((number("nr_periods ")?, number("nr_throttled ")?))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is empty once the kernel has buried the agent; one that stays costs nothing.
        let asked = Instant::now();
        while fs::remove_dir(&self.path).is_err() && asked.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
