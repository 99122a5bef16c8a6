//! Work of a stated amount inside a simulated VMM: threads named as its vCPUs burn CPU, memory stays resident, a file
//! is written at a rate. In: a [`Burn`]. Out, when it is stopped: a [`BurnTruth`], measured by the process itself.
//!
//! A vCPU follows its target: what it owes since the start is burnt in steps of 5 ms, so that a busy machine makes it
//! late, never wrong; what it still owes when it is stopped, it does not do. Cost: what is asked for.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::chores::{AtWork, Chores, ChoresTruth};

pub(crate) const STEP: Duration = Duration::from_millis(5);
const WRITE_EVERY: Duration = Duration::from_millis(50);
const BLOCK: usize = 64 * 1024;
/// The file is written over and over, so it never grows beyond this.
const FILE_BYTES: u64 = 16 << 20;
/// Smaller than any page, so every page is touched.
const TOUCH_EVERY: usize = 1024;

/// What a VMM is to use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Burn {
    /// CPUs' worth of user time over all vCPU threads, e.g. 0.5; at most one for each thread.
    pub vcpu_user: f64,
    pub threads: u32,
    pub vmm_io_bytes_per_second: u64,
    pub resident_bytes: u64,
    /// Where it is written to; on a file system in memory the kernel counts no `write_bytes`.
    pub file: PathBuf,
    /// What is done besides.
    pub chores: Chores,
}

/// What was used, by the process's own clocks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BurnTruth {
    pub seconds: f64,
    pub vcpus: Vec<VcpuTruth>,
    pub written_bytes: u64,
    pub resident_bytes: u64,
    pub chores: ChoresTruth,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VcpuTruth {
    pub tid: u32,
    pub cpu_seconds: f64,
}

impl BurnTruth {
    /// Of all vCPUs together.
    pub fn cpu_seconds(&self) -> f64 {
        self.vcpus.iter().map(|vcpu| vcpu.cpu_seconds).sum()
    }
}

/// Work that goes on until it is stopped.
#[derive(Debug)]
pub(crate) struct Burning {
    started: Instant,
    /// Dropped to end the threads.
    life: Vec<mpsc::Sender<()>>,
    vcpus: Vec<JoinHandle<VcpuTruth>>,
    writer: Option<JoinHandle<io::Result<u64>>>,
    memory: Vec<u8>,
    chores: Option<AtWork>,
}

impl Burning {
    /// `name` gives the n-th vCPU thread its name; without one it has the process's.
    pub(crate) fn start(burn: &Burn, name: impl Fn(u32) -> Option<String>) -> io::Result<Self> {
        let mut burning = Self {
            started: Instant::now(),
            life: Vec::new(),
            vcpus: Vec::new(),
            writer: None,
            memory: resident(burn.resident_bytes)?,
            chores: None,
        };
        if burn.chores != Chores::default() {
            burning.chores = Some(AtWork::start(&burn.chores)?);
        }
        let share = if burn.threads == 0 { 0.0 } else { (burn.vcpu_user / f64::from(burn.threads)).clamp(0.0, 1.0) };
        let (ready, started) = mpsc::channel::<()>();
        for number in 0..burn.threads {
            let (stop, ready) = (burning.stop_signal(), ready.clone());
            let mut thread = std::thread::Builder::new();
            if let Some(name) = name(number) {
                thread = thread.name(name);
            }
            burning.vcpus.push(thread.spawn(move || {
                drop(ready);
                vcpu(share, &stop)
            })?);
        }
        drop(ready);
        // Closed by the last of them: from here on all have their names.
        let _ = started.recv();
        if burn.vmm_io_bytes_per_second > 0 {
            let (stop, rate) = (burning.stop_signal(), burn.vmm_io_bytes_per_second);
            let file = File::create(&burn.file)?;
            burning.writer = Some(std::thread::spawn(move || write(&file, rate, &stop)));
        }
        Ok(burning)
    }

    fn stop_signal(&mut self) -> Receiver<()> {
        let (life, stop) = mpsc::channel();
        self.life.push(life);
        stop
    }

    /// Ends the work; the memory goes with it.
    pub(crate) fn stop(mut self) -> io::Result<BurnTruth> {
        self.life.clear();
        let ended = |_| io::Error::other("a burning thread panicked");
        let vcpus = self.vcpus.into_iter().map(|vcpu| vcpu.join().map_err(ended)).collect::<io::Result<_>>()?;
        let written_bytes = self.writer.map_or(Ok(0), |writer| writer.join().map_err(ended)?)?;
        Ok(BurnTruth {
            seconds: self.started.elapsed().as_secs_f64(),
            vcpus,
            written_bytes,
            resident_bytes: self.memory.len() as u64,
            chores: self.chores.map_or_else(|| Ok(ChoresTruth::default()), AtWork::stop)?,
        })
    }
}

fn resident(bytes: u64) -> io::Result<Vec<u8>> {
    let mut memory = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    for byte in memory.iter_mut().step_by(TOUCH_EVERY) {
        *byte = 1;
    }
    Ok(std::hint::black_box(memory))
}

/// Whether the work has ended within `wait`.
pub(crate) fn ended(stop: &Receiver<()>, wait: Duration) -> bool {
    stop.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected)
}

pub(crate) fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

fn vcpu(share: f64, stop: &Receiver<()>) -> VcpuTruth {
    let started = Instant::now();
    while !ended(stop, STEP) {
        let owed = started.elapsed().mul_f64(share);
        while thread_cpu() < owed && !ended(stop, Duration::ZERO) {
            spin();
        }
    }
    let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    VcpuTruth { tid, cpu_seconds: thread_cpu().as_secs_f64() }
}

/// Some tens of microseconds in user mode: asking for the clock is a system call.
pub(crate) fn spin() {
    for number in 0..20_000_u32 {
        std::hint::black_box(number);
    }
}

fn write(file: &File, rate: u64, stop: &Receiver<()>) -> io::Result<u64> {
    let block = vec![0x6b; BLOCK];
    let (started, mut written) = (Instant::now(), 0);
    while !ended(stop, WRITE_EVERY) {
        let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
        while written + BLOCK as u64 <= due {
            file.write_all_at(&block, written % FILE_BYTES)?;
            file.sync_data()?;
            written += BLOCK as u64;
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ends_when_it_is_stopped_and_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let burn = Burn { threads: 2, resident_bytes: 1 << 20, file: folder.path().join("disk"), ..Burn::default() };
        let truth =
            Burning::start(&burn, |number| Some(format!("vcpu{number}"))).and_then(Burning::stop).expect("truth");
        assert_eq!((truth.vcpus.len(), truth.written_bytes, truth.resident_bytes), (2, 0, 1 << 20));
        assert!(truth.cpu_seconds() < 0.1, "idle vCPUs: {truth:?}");
    }
}
