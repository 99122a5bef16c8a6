//! Load time, memory, and time per run of each program under unrelated and related work.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;
use kata_pulse_probe::ebpf::{DirectoryMode, EbpfOptions, EbpfWatch, KernelEvent, base_key, start};

use crate::report::arrivals;

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";
const ROUNDS: u32 = 3_000;

fn memory(label: &str) -> anyhow::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let of = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned()).unwrap_or_default()
    };
    println!("memory {label}: VmRSS {} VmHWM {}", of("VmRSS:"), of("VmHWM:"));
    Ok(())
}

pub async fn run() -> anyhow::Result<()> {
    fs::write(STATS, "1").context("count the programs' runs")?;
    memory("before")?;
    let begun = Instant::now();
    let options = EbpfOptions { directories: DirectoryMode::Syscalls, ..EbpfOptions::default() };
    let mut watch = start(&options)?;
    println!("start: {:?}", begun.elapsed());
    memory("after start")?;
    let place = std::path::PathBuf::from("/run/kata-pulse-probe-bench");
    fs::create_dir_all(place.join("base"))?;
    let (device, inode) = base_key(&place.join("base"))?;
    watch.watch_base(0, device, inode, &place.join("base"))?;
    unrelated(&mut watch, &place).await?;
    latency(&mut watch, &place).await?;
    memory("at the end")?;
    let begun = Instant::now();
    watch.detach();
    println!("detach: {:?}", begun.elapsed());
    fs::write(STATS, "0")?;
    fs::remove_dir_all(place)?;
    Ok(())
}

async fn unrelated(watch: &mut EbpfWatch, place: &Path) -> anyhow::Result<()> {
    for _ in 0..ROUNDS {
        fs::create_dir(place.join("x"))?;
        fs::remove_dir(place.join("x"))?;
    }
    for _ in 0..ROUNDS / 10 {
        Command::new("/bin/true").status()?;
    }
    for run in watch.run_stats() {
        if let (Some(runs), Some(seconds)) = (run.runs, run.run_seconds) {
            println!("unrelated: {} {runs} runs, {:.0} ns each", run.name, seconds * 1e9 / runs as f64);
        }
    }
    arrivals(watch).await;
    Ok(())
}

async fn latency(watch: &mut EbpfWatch, place: &Path) -> anyhow::Result<()> {
    let mut nanoseconds = Vec::new();
    for round in 0..500 {
        let name = place.join("base").join(format!("{round:064}"));
        let worker = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(1));
            fs::create_dir(&name).and_then(|()| fs::remove_dir(&name))
        });
        let mut seen = 0;
        while seen < 2 {
            let mut events = Vec::new();
            let wait = tokio::time::timeout(Duration::from_secs(1), watch.next_batch(&mut events)).await;
            if wait.is_err() {
                println!("latency: no directory rung on this kernel");
                return Ok(());
            }
            let now = boot_ns();
            for event in &events {
                if matches!(event, KernelEvent::DirectoryMade(_) | KernelEvent::DirectoryRemoved(_)) {
                    nanoseconds.push(now.saturating_sub(event.boot_ns()));
                    seen += 1;
                }
            }
        }
        worker.await??;
    }
    nanoseconds.sort_unstable();
    let at = |percent: usize| nanoseconds[(nanoseconds.len() - 1) * percent / 100] / 1000;
    println!("latency to user space: p50 {} us, p99 {} us, max {} us", at(50), at(99), at(100));
    println!("{:?}", watch.counters());
    Ok(())
}

fn boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
