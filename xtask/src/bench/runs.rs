//! What is measured of an agent that runs beside a simulated node.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{BINARIES, report};
use crate::http;
use crate::measure::{cpu_time, spread};
use crate::node::Node;

/// From the kernel's timestamp to the registry, on an idle machine: directories come and go one after the other.
pub fn discovery() -> anyhow::Result<()> {
    let node = Node::start_with(Path::new(BINARIES), 1, &[], &["--log-level", "warn"])?;
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
        let seen = format!("of {count}, 99 % within {:.1} ms", bound * 1e3);
        report(&format!("discovery, {event}"), &seen, "10 ms", bound <= 0.010);
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

/// CPU of the agent for each answer it took, over a few seconds in which nobody scrapes.
pub fn collected(node: &Node, pid: u32) -> anyhow::Result<(Duration, u64)> {
    let count = || -> anyhow::Result<u64> {
        let page = http::get(node.address, "/metrics?filter_family=kata_pulse_collect_duration")?.1;
        let counts = page.lines().filter(|line| line.starts_with("kata_pulse_collect_duration_seconds_count"));
        counts.map(|line| Ok(line.rsplit_once(' ').context("a line without a value")?.1.parse::<u64>()?)).sum()
    };
    let (pages, cpu) = (count()?, cpu_time(pid)?);
    std::thread::sleep(Duration::from_secs(3));
    let (cpu, pages) = (cpu_time(pid)? - cpu, count()? - pages);
    anyhow::ensure!(pages > 0, "nothing was collected");
    Ok((cpu / u32::try_from(pages)?, pages))
}

/// A page that was rendered already, and one that was not; how many bytes it has.
pub fn scrapes(node: &Node) -> anyhow::Result<usize> {
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..30 {
        let started = Instant::now();
        bytes = http::get(node.address, "/metrics")?.1.len();
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let times = spread(&times).context("no scrape")?;
    let bound = 10.0 + bytes as f64 / 1e6;
    // The fastest were certainly not rendered anew; the slowest were.
    let seen = format!("{:.1} ms (rendered anew: {:.1} ms), {bytes} bytes, client included", times.low, times.high);
    report("GET /metrics from the cache", &seen, &format!("{bound:.1} ms"), times.low <= bound);
    Ok(bytes)
}
