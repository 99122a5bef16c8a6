//! Work of a simulated process besides its vCPUs': CPU by mode, bytes read from storage, voluntary switches, and what
//! is merely held, threads and files. In: [`Chores`]. Out, when they are stopped: a [`ChoresTruth`].
//!
//! CPU follows its target as a vCPU's does; bytes and switches are done once, as fast as it goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::burn::{STEP, ended, spin, thread_cpu};

/// What storage wants addresses, offsets and lengths to be multiples of.
const ALIGNED: usize = 4096;
const BLOCK: usize = 256 * 1024;
/// Long enough that the thread really sleeps.
const NAP: Duration = Duration::from_micros(100);

/// What a process is to do besides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chores {
    /// CPUs' worth of user time of one thread, at most one.
    pub user: f64,
    /// CPUs' worth of system time of another.
    pub system: f64,
    /// Read once from `read_from`, around the page cache.
    pub read_bytes: u64,
    /// A file of that size at least, on a file system that is on storage.
    pub read_from: PathBuf,
    /// Made once, by sleeping.
    pub switches: u64,
    pub idle_threads: u32,
    pub open_files: u32,
}

/// What was done, by the process's own clocks and counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChoresTruth {
    pub user_seconds: f64,
    pub system_seconds: f64,
    pub read_bytes: u64,
    pub switches: u64,
}

/// Chores that go on until they are stopped.
#[derive(Debug)]
pub(crate) struct AtWork {
    life: Vec<mpsc::Sender<()>>,
    user: JoinHandle<Duration>,
    system: JoinHandle<Duration>,
    /// Done before the work is called begun.
    once: ChoresTruth,
    idle: Vec<JoinHandle<()>>,
    files: Vec<File>,
}

impl AtWork {
    pub(crate) fn start(chores: &Chores) -> io::Result<Self> {
        let mut life = Vec::new();
        let mut stop_signal = || {
            let (ours, stop) = mpsc::channel();
            life.push(ours);
            stop
        };
        let (user, system, stop) = (chores.user, chores.system, stop_signal());
        let user = std::thread::spawn(move || follow(user, &stop, spin));
        let stop = stop_signal();
        let mut zeros = Zeros::open()?;
        let system = std::thread::spawn(move || follow(system, &stop, || zeros.read()));
        let idle = (0..chores.idle_threads).map(|_| {
            let stop = stop_signal();
            std::thread::Builder::new().spawn(move || {
                // Ends when the other end is dropped.
                let _ = stop.recv();
            })
        });
        let idle = idle.collect::<io::Result<_>>()?;
        let files = (0..chores.open_files).map(|_| File::open("/dev/null")).collect::<io::Result<_>>()?;
        (0..chores.switches).for_each(|_| std::thread::sleep(NAP));
        let read_bytes = if chores.read_bytes > 0 { read(&chores.read_from, chores.read_bytes)? } else { 0 };
        let once = ChoresTruth { read_bytes, switches: chores.switches, ..ChoresTruth::default() };
        Ok(Self { life, user, system, once, idle, files })
    }

    pub(crate) fn stop(self) -> io::Result<ChoresTruth> {
        drop((self.life, self.files));
        let panicked = |_| io::Error::other("a working thread panicked");
        let (user, system) = (self.user.join().map_err(panicked)?, self.system.join().map_err(panicked)?);
        self.idle.into_iter().try_for_each(|thread| thread.join().map_err(panicked))?;
        Ok(ChoresTruth { user_seconds: user.as_secs_f64(), system_seconds: system.as_secs_f64(), ..self.once })
    }
}

/// The thread's own CPU time at its end.
fn follow(share: f64, stop: &Receiver<()>, mut work: impl FnMut()) -> Duration {
    let started = Instant::now();
    while !ended(stop, STEP) {
        let owed = started.elapsed().mul_f64(share.clamp(0.0, 1.0));
        while thread_cpu() < owed && !ended(stop, Duration::ZERO) {
            work();
        }
    }
    thread_cpu()
}

/// Reading zeros is nearly nothing but the kernel's work.
#[derive(Debug)]
struct Zeros {
    file: File,
    buffer: Vec<u8>,
}

impl Zeros {
    fn open() -> io::Result<Self> {
        Ok(Self { file: File::open("/dev/zero")?, buffer: vec![0; BLOCK] })
    }

    fn read(&mut self) {
        // Zeros never run out.
        let _ = self.file.read_exact(&mut self.buffer);
    }
}

fn read(path: &Path, bytes: u64) -> io::Result<u64> {
    let direct = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(direct).open(path)?;
    let mut space = vec![0; BLOCK + ALIGNED];
    let at = space.as_ptr().align_offset(ALIGNED);
    let block = &mut space[at..at + BLOCK];
    let mut done = 0;
    while done < bytes {
        file.read_exact_at(block, done)?;
        done += BLOCK as u64;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chores_done_once_are_done_when_the_work_has_begun() {
        let chores = Chores { switches: 3, idle_threads: 2, open_files: 2, ..Chores::default() };
        let truth = AtWork::start(&chores).and_then(AtWork::stop).expect("truth");
        assert_eq!((truth.switches, truth.read_bytes), (3, 0));
        assert!(truth.user_seconds + truth.system_seconds < 0.1, "idle: {truth:?}");
    }
}
