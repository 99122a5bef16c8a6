//! The agent against a simulated Kata node, until Ctrl-C.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use crate::node::Node;
use crate::steps::{self, cargo};
use crate::{build_ebpf, http, setup};

/// One of each per sandbox; the simulator calls its container app.
const SERIES: [&str; 3] = [
    "kata_sandbox_info{",
    "container_cpu_usage_seconds_total{container=\"app\",",
    "container_memory_working_set_bytes{container=\"app\",",
];

#[derive(clap::Args)]
pub struct Options {
    /// Check the page once and exit.
    #[arg(long)]
    once: bool,
    /// Sandboxes on the simulated node.
    #[arg(long, default_value_t = 5)]
    sandboxes: u32,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    setup::for_building()?;
    build_ebpf::run()?;
    steps::run(&mut cargo(&["build", "--package", "kata-pulse", "--package", "kata-pulse-sim"]))?;
    // Signals are waited for from before the first child on: however it ends, the children are ended too.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let mut node = Node::start_with(Path::new("target/debug"), options.sandboxes, &["--processes"], &[])?;
        if options.once {
            return check(&mut node, options.sandboxes);
        }
        let at = node.address;
        println!("\nThe agent watches {} simulated sandboxes below {}.", options.sandboxes, node.root.display());
        println!("  http://{at}/            index\n  http://{at}/metrics     for Prometheus");
        println!("  http://{at}/sandboxes   what it found\nCtrl-C ends both.");
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                () = tokio::time::sleep(Duration::from_millis(200)) => node.check()?,
            }
        }
    })
}

/// Every sandbox is on the page within seconds, and with it the numbers of its container, which come from the runtime
/// and so also for a sandbox whose shim must not be asked.
pub fn check(node: &mut Node, sandboxes: u32) -> anyhow::Result<()> {
    let wanted = sandboxes as usize;
    for series in SERIES {
        node.wait_until(&format!("{wanted} times {series} on the page"), Duration::from_secs(30), |node| {
            Ok(count(&http::get(node.address, "/metrics")?.1, series) >= wanted)
        })?;
    }
    let (status, page) = http::get(node.address, "/metrics")?;
    ensure!(status == 200, "GET /metrics: {status}");
    ensure!(page.contains("\nkata_pulse_build_info{"), "kata_pulse_build_info is not on the page");
    println!("demo: {sandboxes} sandboxes with their containers, page of {} bytes", page.len());
    Ok(())
}

fn count(page: &str, series: &str) -> usize {
    page.lines().filter(|line| line.starts_with(series)).count()
}
