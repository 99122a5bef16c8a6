//! The agent's own process, read from `/proc/self` in the background: a scrape reads memory only.
//! Cost: four small files every `INTERVAL`.

use std::time::Duration;

use procfs::process::{LimitValue, Process};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Own;

/// Between two readings.
const INTERVAL: Duration = Duration::from_secs(5);

/// What could be read; `None` is not shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessSample {
    pub cpu_seconds: Option<f64>,
    pub start_time_seconds: Option<f64>,
    pub resident_memory_bytes: Option<u64>,
    pub virtual_memory_bytes: Option<u64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
    pub threads: Option<u64>,
}

/// Reads now and every few seconds until cancelled.
pub async fn run(own: Own, cancelled: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancelled.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match tokio::task::spawn_blocking(read_process).await {
            Ok(Ok(sample)) => own.process(&sample),
            Ok(Err(error)) => debug!(error = &error as &dyn std::error::Error, "own process not readable"),
            Err(_) => return,
        }
    }
}

/// One reading of `/proc/self`.
pub fn read_process() -> Result<ProcessSample, procfs::ProcError> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let ticks = procfs::ticks_per_second() as f64;
    Ok(ProcessSample {
        cpu_seconds: Some((stat.utime + stat.stime) as f64 / ticks),
        start_time_seconds: procfs::boot_time_secs().ok().map(|boot| boot as f64 + stat.starttime as f64 / ticks),
        resident_memory_bytes: Some(stat.rss * procfs::page_size()),
        virtual_memory_bytes: Some(stat.vsize),
        open_fds: process.fd_count().ok().map(|count| count as u64),
        max_fds: process.limits().ok().and_then(|limits| match limits.max_open_files.soft_limit {
            LimitValue::Value(value) => Some(value),
            LimitValue::Unlimited => None,
        }),
        threads: u64::try_from(stat.num_threads).ok(),
    })
}
