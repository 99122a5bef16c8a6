//! The agent's cost, measured in one run beside the floor, with the bounds that the project set itself. A bound that is
//! missed is said and is no error: these machines are noisy, and a figure is read beside its spread.

mod kernel;
mod limited;
mod runs;
mod storms;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::measure::{floor, peak_memory, spread};
use crate::node::Node;
use crate::steps::{self, cargo};
use crate::{build, http};

/// Where release builds are.
const BINARIES: &str = "target/release";

#[derive(clap::Args)]
pub struct Options {
    /// Sandboxes on the simulated node.
    #[arg(long, default_value_t = 1000)]
    sandboxes: u32,
    /// Measurements of each kind; of storms, pairs with and without the agent in turn.
    #[arg(long, default_value_t = 11)]
    rounds: u32,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Measure what is in target/release as it is, without building.
    #[arg(long)]
    built: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Discovery,
    Storms,
    Kernel,
    Sandboxes,
    Containers,
    Host,
    Limited,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    if !options.built {
        build::run()?;
        steps::run(&mut cargo(&["build", "--release", "--package", "kata-pulse-sim"]))?;
    }
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    if wanted(Part::Discovery) {
        runs::discovery()?;
    }
    if wanted(Part::Storms) {
        storms::run(options.rounds)?;
    }
    if wanted(Part::Kernel) {
        kernel::run(options.rounds)?;
    }
    if wanted(Part::Sandboxes) {
        sandboxes(options)?;
    }
    if wanted(Part::Containers) {
        containers(options)?;
    }
    if wanted(Part::Host) {
        host(options)?;
    }
    if wanted(Part::Limited) {
        limited::run()?;
    }
    Ok(())
}

/// One line of the report.
fn report(what: &str, seen: &str, bound: &str, kept: bool) {
    println!("{what}: {seen}; bound: {bound}: {}", if kept { "kept" } else { "MISSED" });
}

/// Many sandboxes with the pages of real shims, all of them Go so that every one is asked, once a second.
fn sandboxes(options: &Options) -> anyhow::Result<()> {
    let count = options.sandboxes;
    let quiet = ["--log-level", "warn", "--metrics-interval-secs", "1", "--levels", "pod"];
    let mut node = Node::start_with(Path::new(BINARIES), count, &["--mix", "go-qemu=1"], &quiet)?;
    let ready = node.ready_after;
    report(&format!("ready with {count} sandboxes"), &format!("{ready:.2?}"), "2 s", ready <= Duration::from_secs(2));
    node.wait_until("every sandbox's numbers on the page", Duration::from_secs(120), |node| {
        let page = http::get(node.address, "/metrics")?.1;
        Ok(page.lines().filter(|line| line.starts_with("container_threads{")).count() >= count as usize)
    })?;
    let pid = node.agent_pid().context("no agent")?;
    let sockets = go_sockets(&node.root)?;
    let (mut ratios, mut page_bytes) = (Vec::new(), 0);
    for _ in 0..options.rounds {
        let (at_least, bytes) = floor(sockets.iter().map(PathBuf::as_path))?;
        let (took, pages) = runs::collected(&node, pid)?;
        ratios.push(took.as_secs_f64() / at_least.as_secs_f64());
        println!("  {took:?} of CPU a page ({pages} pages of {bytes} bytes), floor {at_least:?}");
        page_bytes = bytes;
    }
    let ratio = spread(&ratios).context("no round")?;
    let what = format!("collect, parse, convert and store a page of {page_bytes} bytes, {count} sandboxes");
    report(&what, &format!("{ratio} times the floor's CPU"), "4 times", ratio.median <= 4.0);
    let page = runs::scrapes(&node)?;
    memory(pid, page)
}

/// The node of issue B: 250 pods of 3 containers.
fn containers(options: &Options) -> anyhow::Result<()> {
    let quiet = ["--log-level", "warn", "--metrics-interval-secs", "1"];
    let simulated = ["--mix", "go-qemu=1", "--containers", "3"];
    let mut node = Node::start_with(Path::new(BINARIES), 250, &simulated, &quiet)?;
    node.wait_until("every container's numbers on the page", Duration::from_secs(120), |node| {
        let page = http::get(node.address, "/metrics")?.1;
        let of_containers =
            |line: &&str| line.starts_with("container_threads{container=\"") && !line.contains("=\"\",id");
        Ok(page.lines().filter(of_containers).count() >= 750)
    })?;
    let pid = node.agent_pid().context("no agent")?;
    let mut took = Vec::new();
    for _ in 0..options.rounds.min(5) {
        took.push(runs::collected(&node, pid)?.0.as_secs_f64() * 1e6);
    }
    let took = spread(&took).context("no round")?;
    println!("250 pods of 3 containers: {took} µs of CPU for each answer of a shim or of the runtime");
    let page = runs::scrapes(&node)?;
    memory(pid, page)
}

/// The price of the host's own numbers, by tier: real processes, read by the library alone.
fn host(options: &Options) -> anyhow::Result<()> {
    let count = options.sandboxes.to_string();
    steps::run(&mut cargo(&["bench", "--package", "kata-pulse", "--bench", "host", "--", &count]))
}

fn memory(pid: u32, page: usize) -> anyhow::Result<()> {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let (peak, bound) = (peak_memory(pid)?, 40_000_000 + 2 * page as u64);
    let seen = format!("{:.1} MB, the page has {:.1} MB", megabytes(peak), megabytes(page as u64));
    report("peak memory", &seen, &format!("40 MB + twice the page: {:.1} MB", megabytes(bound)), peak <= bound);
    Ok(())
}

/// Only Go sandboxes may be asked: a request can kill others.
fn go_sockets(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let directories = std::fs::read_dir(root.join("run/vc/sbs"))?;
    let sockets = directories.filter_map(|entry| Some(entry.ok()?.path().join("shim-monitor.sock")));
    Ok(sockets.filter(|socket| socket.exists()).collect())
}
