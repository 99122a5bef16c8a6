//! The agent's cost, measured in one run beside the floor. The scenario with 1,000 sandboxes is started here;
//! what is compared with what is in the issue and in docs/overhead.md.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::measure::{cpu_time, exec_storm, floor, peak_memory, spread, syscall_storm};
use crate::node::Node;
use crate::steps::{self, cargo};
use crate::{build, http};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 1000)]
    sandboxes: u32,
    /// Pairs of storms, with and without the agent in turn.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    build::run()?;
    steps::run(&mut cargo(&["build", "--release", "--package", "kata-pulse-sim"]))?;
    discovery()?;
    storms(options.rounds)?;
    // All Go, so that every sandbox is asked; the log is quiet, and every sandbox is asked once a second.
    let quiet = ["--log-level", "warn", "--metrics-interval-secs", "1"];
    let mut node = Node::start_with(Path::new("target/release"), options.sandboxes, &["--mix", "go-qemu=1"], &quiet)?;
    node.wait_until("every sandbox's numbers on the page", Duration::from_secs(120), |node| {
        let page = http::get(node.address, "/metrics")?.1;
        Ok(page.lines().filter(|line| line.starts_with("container_threads{")).count() >= options.sandboxes as usize)
    })?;
    let pid = node.agent_pid().context("no agent")?;
    let sockets = go_sockets(&node.root)?;
    let mut ratios = Vec::new();
    for _ in 0..options.rounds {
        let (at_least, bytes) = floor(sockets.iter().map(PathBuf::as_path))?;
        let (took, pages) = collected(&node, pid)?;
        let ratio = took.as_secs_f64() / at_least.as_secs_f64();
        println!(
            "collect: {took:?} of CPU a page ({pages} pages of {bytes} bytes), floor {at_least:?}: {ratio:.2} times"
        );
        ratios.push(ratio);
    }
    println!("collect: {} times the floor (at most 4)", spread(&ratios).context("no round")?);
    scrapes(&node)?;
    println!("agent: peak memory {:.1} MB", peak_memory(pid)? as f64 / 1e6);
    Ok(())
}

/// From the kernel's timestamp to the registry, on an idle machine: directories come and go one after the other.
fn discovery() -> anyhow::Result<()> {
    let node = Node::start_with(Path::new("target/release"), 1, &[], &["--log-level", "warn"])?;
    let base = node.root.join("run/kata");
    std::fs::create_dir_all(&base)?;
    for number in 0..500 {
        let directory = base.join(format!("bench-{number}"));
        std::fs::create_dir(&directory)?;
        std::thread::sleep(Duration::from_millis(2));
        std::fs::remove_dir(&directory)?;
        std::thread::sleep(Duration::from_millis(2));
    }
    let page = http::get(node.address, "/metrics?filter_family=kata_pulse_discovery_latency")?.1;
    for event in ["appeared", "gone"] {
        let (count, bound) = quantile(&page, event, 0.99).context("no latencies on the page")?;
        println!("discovery: of {count} {event}, 99 % within {:.1} ms (at most 10)", bound * 1e3);
    }
    Ok(())
}

/// Count, and the upper bound of the bucket that holds the quantile.
fn quantile(page: &str, event: &str, share: f64) -> Option<(f64, f64)> {
    let start = format!("kata_pulse_discovery_latency_seconds_bucket{{event=\"{event}\",le=\"");
    let buckets: Vec<(f64, f64)> = page
        .lines()
        .filter_map(|line| line.strip_prefix(&start)?.split_once("\"} "))
        .filter_map(|(bound, count)| Some((bound.replace("+Inf", "inf").parse().ok()?, count.parse().ok()?)))
        .collect();
    let count = buckets.last()?.1;
    let (bound, _) = buckets.into_iter().find(|(_, below)| *below >= count * share)?;
    Some((count, bound))
}

/// CPU of the agent per page over a few seconds in which nobody scrapes.
fn collected(node: &Node, pid: u32) -> anyhow::Result<(Duration, u64)> {
    let count = || -> anyhow::Result<u64> {
        let page = http::get(node.address, "/metrics?filter_family=kata_pulse_collect_duration")?.1;
        let line = page.lines().find(|line| line.starts_with("kata_pulse_collect_duration_seconds_count"));
        Ok(line.and_then(|line| line.rsplit_once(' ')).context("no count of collections")?.1.parse()?)
    };
    let (pages, cpu) = (count()?, cpu_time(pid)?);
    std::thread::sleep(Duration::from_secs(5));
    let (cpu, pages) = (cpu_time(pid)? - cpu, count()? - pages);
    anyhow::ensure!(pages > 0, "nothing was collected");
    Ok((cpu / u32::try_from(pages)?, pages))
}

/// A cached page, ten times.
fn scrapes(node: &Node) -> anyhow::Result<()> {
    let (mut times, mut bytes) = (Vec::new(), 0);
    for _ in 0..10 {
        let started = Instant::now();
        bytes = http::get(node.address, "/metrics")?.1.len();
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    println!("GET /metrics: {} ms, {bytes} bytes", spread(&times).context("no scrape")?);
    Ok(())
}

/// Only Go sandboxes may be asked: a request can kill others.
fn go_sockets(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let directories = std::fs::read_dir(root.join("run/vc/sbs"))?;
    let sockets = directories.filter_map(|entry| Some(entry.ok()?.path().join("shim-monitor.sock")));
    Ok(sockets.filter(|socket| socket.exists()).collect())
}

/// Execs and system calls, without and with an agent on an idle simulated node.
fn storms(rounds: u32) -> anyhow::Result<()> {
    let [mut exec, mut calls] = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for _ in 0..rounds {
        for with in [false, true] {
            let _node = if with { Some(Node::start(Path::new("target/release"), 1)?) } else { None };
            std::thread::sleep(Duration::from_millis(300));
            exec[usize::from(with)].push(exec_storm(1000)?.as_secs_f64());
            calls[usize::from(with)].push(syscall_storm(5_000_000).as_secs_f64());
        }
    }
    for (name, [without, with]) in [("exec", exec), ("syscall", calls)] {
        let (without, with) = (spread(&without).context("no round")?, spread(&with).context("no round")?);
        let slower = (with.median / without.median - 1.0) * 100.0;
        println!("{name} storm: without {without} s, with {with} s: {slower:+.1} %");
    }
    Ok(())
}
