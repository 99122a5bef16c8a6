//! Measuring: CPU and memory of a process, time of a storm, medians with their spread.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use anyhow::Context;

/// Middle, lowest and highest of some runs.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ({:.3} to {:.3})", self.median, self.low, self.high)
    }
}

/// `None` of nothing.
pub fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(Spread { median: *sorted.get(sorted.len() / 2)?, low: *sorted.first()?, high: *sorted.last()? })
}

/// CPU time of a process so far, all threads, from the scheduler's own nanoseconds.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        total += schedstat(&task?.path().join("schedstat")).unwrap_or(0);
    }
    Ok(Duration::from_nanos(total))
}

fn schedstat(path: &Path) -> anyhow::Result<u64> {
    let text = fs::read_to_string(path)?;
    Ok(text.split(' ').next().context("empty schedstat")?.parse()?)
}

/// Highest resident memory of a process so far, in bytes.
pub fn peak_memory(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// CPU time per page of connecting, reading and finding newlines: what no collector can be cheaper than.
pub fn floor<'a>(sockets: impl Iterator<Item = &'a Path>) -> anyhow::Result<(Duration, u64)> {
    let own = Path::new("/proc/thread-self/schedstat");
    let (mut pages, mut bytes, mut lines) = (0, 0, 0);
    let mut body = Vec::with_capacity(1 << 20);
    let before = schedstat(own)?;
    for socket in sockets {
        body.clear();
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        stream.read_to_end(&mut body)?;
        lines += memchr::memchr_iter(b'\n', &body).count();
        (pages, bytes) = (pages + 1, bytes + body.len() as u64);
    }
    let after = schedstat(own)?;
    anyhow::ensure!(pages > 0 && lines > 0, "no pages to read");
    Ok((Duration::from_nanos((after - before) / pages), bytes / pages))
}

/// Time of so many processes, one after the other.
pub fn exec_storm(count: u32) -> anyhow::Result<Duration> {
    let started = Instant::now();
    for _ in 0..count {
        Command::new("/bin/true").stdin(Stdio::null()).status()?;
    }
    Ok(started.elapsed())
}

/// Time of so many of the cheapest system calls.
pub fn syscall_storm(count: u32) -> Duration {
    let started = Instant::now();
    for _ in 0..count {
        std::hint::black_box(std::os::unix::process::parent_id());
    }
    started.elapsed()
}
