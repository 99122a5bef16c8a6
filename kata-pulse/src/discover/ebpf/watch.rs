//! The running watch: events out, bases and processes in, counters.

use std::{
    fmt, io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf, lpm_trie::Key},
};
use kata_pulse_common as abi;
use tracing::warn;

use super::{Counters, EbpfError, KernelEvent, ProgramStatus, RunStats, kernel_device, load::Loaded, rings::Rings};
use crate::kernel::run_stats;

/// Program names (of comm, so at most 15 bytes) by prefix.
const NAMES: &[(&str, u32)] = &[
    ("containerd-shim", abi::PROGRAM_SHIM),
    ("qemu-system-", abi::PROGRAM_HYPERVISOR),
    ("qemu-kvm", abi::PROGRAM_HYPERVISOR),
    ("cloud-hyperviso", abi::PROGRAM_HYPERVISOR),
    ("firecracker", abi::PROGRAM_HYPERVISOR),
    ("stratovirt", abi::PROGRAM_HYPERVISOR),
    ("openvmm", abi::PROGRAM_HYPERVISOR),
    ("jailer", abi::PROGRAM_JAILER),
    ("virtiofsd", abi::PROGRAM_FILE_SERVER),
    ("nydusd", abi::PROGRAM_FILE_SERVER),
];

/// Programs of the rungs on which the kernel itself says which directory it was.
const BY_INODE: [&str; 2] = ["mkdir_fexit", "mkdir_kretprobe"];

type BasePaths = LpmTrie<MapData, [u8; abi::PATH_KEY_BYTES], [u32; 2]>;

/// Programs in the kernel. Dropping it detaches them, which blocks: see [`EbpfWatch::detach`].
pub struct EbpfWatch {
    ebpf: Ebpf,
    programs: Vec<ProgramStatus>,
    /// Until the first batch is asked for, in a runtime.
    idle: Option<(RingBuf<MapData>, RingBuf<MapData>)>,
    rings: Option<Rings>,
    bases: Mutex<HashMap<MapData, [u64; 2], u32>>,
    base_paths: Mutex<BasePaths>,
    tracked: Mutex<HashMap<MapData, u32, u64>>,
    counters: PerCpuArray<MapData, u64>,
    log: Option<super::log::KernelLog>,
}

impl fmt::Debug for EbpfWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EbpfWatch").field("programs", &self.programs).finish_non_exhaustive()
    }
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, EbpfError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(EbpfError::Map(name, None))?;
    T::try_from(map).map_err(|error| EbpfError::Map(name, Some(Box::new(error))))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ignore_missing(result: Result<(), MapError>) -> io::Result<()> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}

impl EbpfWatch {
    pub(super) fn new(loaded: Loaded, log: bool) -> Result<Self, EbpfError> {
        let Loaded { mut ebpf, programs } = loaded;
        let mut names: LpmTrie<MapData, [u8; abi::COMM_BYTES], u32> = take(&mut ebpf, "NAMES")?;
        for (name, program) in NAMES {
            let mut comm = [0; abi::COMM_BYTES];
            comm[..name.len()].copy_from_slice(name.as_bytes());
            names
                .insert(&Key::new(8 * name.len() as u32, comm), program, 0)
                .map_err(|error| EbpfError::Map("NAMES", Some(Box::new(error))))?;
        }
        let rings = (take(&mut ebpf, "EVENTS")?, take(&mut ebpf, "FOREIGN")?);
        let log = log.then(|| super::log::KernelLog::attach(&mut ebpf)).flatten();
        Ok(Self {
            idle: Some(rings),
            rings: None,
            bases: Mutex::new(take(&mut ebpf, "BASES")?),
            base_paths: Mutex::new(take(&mut ebpf, "BASE_PATHS")?),
            tracked: Mutex::new(take(&mut ebpf, "TRACKED")?),
            counters: take(&mut ebpf, "COUNTERS")?,
            ebpf,
            programs,
            log,
        })
    }

    /// Waits for events and appends them: the host's all at once, foreign ones a limited number. In a tokio
    /// runtime; may be cancelled without loss.
    pub async fn next_batch(&mut self, out: &mut Vec<KernelEvent>) -> io::Result<()> {
        if let Some((host, foreign)) = self.idle.take() {
            self.rings = Some(Rings::new(host, foreign)?);
        }
        let rings = self.rings.as_mut().ok_or_else(|| io::Error::other("the ring buffers were not registered"))?;
        let result = rings.next_batch(out).await;
        if let Some(log) = &mut self.log {
            log.flush();
        }
        result
    }

    /// Reports directories made and removed in this one (stat's device and inode) as of base `index`. The
    /// path serves the per-syscall rung only, and is compared as text.
    pub fn watch_base(&self, index: u32, device: u64, inode: u64, path: &Path) -> io::Result<()> {
        let key = [inode, kernel_device(device)];
        lock(&self.bases).insert(key, index, 0).map_err(io::Error::other)?;
        if let Some((key, len)) = path_key(path) {
            let mut paths = lock(&self.base_paths);
            paths.insert(&key, [index, len], 0).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Forgets a base; one that was never watched is no error.
    pub fn unwatch_base(&self, device: u64, inode: u64, path: &Path) -> io::Result<()> {
        ignore_missing(lock(&self.bases).remove(&[inode, kernel_device(device)]))?;
        match path_key(path) {
            Some((key, _)) => ignore_missing(lock(&self.base_paths).remove(&key)),
            None => Ok(()),
        }
    }

    /// Reports this process' forks, execs and end. `start_boot_ns` is only kept; 0 will do. Check the
    /// process' start time after this: it may have ended, and its pid been taken, in between.
    pub fn track(&self, pid: u32, start_boot_ns: u64) -> io::Result<()> {
        lock(&self.tracked).insert(pid, start_boot_ns, 0).map_err(io::Error::other)
    }

    /// Forgets a process; one that ended has been forgotten already.
    pub fn untrack(&self, pid: u32) -> io::Result<()> {
        ignore_missing(lock(&self.tracked).remove(&pid))
    }

    /// What was sent and what was lost so far.
    pub fn counters(&self) -> Counters {
        let sum = |slot: u32| -> u64 { self.counters.get(&slot, 0).map_or(0, |values| values.iter().sum()) };
        Counters {
            emitted: sum(abi::COUNT_EMITTED),
            lost: sum(abi::COUNT_LOST),
            foreign_emitted: sum(abi::COUNT_FOREIGN_EMITTED),
            foreign_lost: sum(abi::COUNT_FOREIGN_LOST),
            map_full: sum(abi::COUNT_MAP_FULL),
            rejected_foreign: sum(abi::COUNT_REJECTED_FOREIGN),
            faults: sum(abi::COUNT_FAULTS),
            undecoded: self.rings.as_ref().map_or(0, |rings| rings.undecoded),
        }
    }

    /// Every program of the plan: attached, or why not.
    pub fn programs(&self) -> &[ProgramStatus] {
        &self.programs
    }

    /// Whether this feature (exec, fork, exit, release, directories) has a program attached.
    pub fn sees(&self, feature: &str) -> bool {
        self.programs.iter().any(|program| program.attached && program.feature == feature)
    }

    /// Whether directories are told by their parent's inode, read inside the kernel: not so by the system calls'
    /// arguments, which the caller may change while the call runs.
    pub fn names_directories_by_inode(&self) -> bool {
        let by_inode = |program: &&ProgramStatus| program.attached && BY_INODE.contains(&program.name);
        self.programs.iter().any(|program| by_inode(&program))
    }

    /// Runs and time of the attached programs; `None` in it where the kernel does not count them.
    pub fn run_stats(&self) -> Vec<RunStats> {
        run_stats(&self.ebpf, &self.programs)
    }

    /// Detaches all. Blocks 50-90 ms for each plain tracepoint: on a thread for that.
    pub fn detach(self) {
        if self.programs.is_empty() {
            warn!("nothing to detach");
        }
        drop(self);
    }
}

/// The base's path without leading slashes and with one at the end. `None`: too long for the map.
fn path_key(path: &Path) -> Option<(Key<[u8; abi::PATH_KEY_BYTES]>, u32)> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    let start = bytes.iter().position(|&byte| byte != b'/')?;
    let end = bytes.iter().rposition(|&byte| byte != b'/')?;
    let text = bytes.get(start..=end)?;
    let mut key = [0; abi::PATH_KEY_BYTES];
    key.get_mut(..text.len())?.copy_from_slice(text);
    *key.get_mut(text.len())? = b'/';
    let len = text.len() as u32 + 1;
    Some((Key::new(8 * len, key), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_keyed_without_outer_slashes() {
        for (path, len) in [("/run/kata", 9), ("///run/kata//", 9), ("run/kata", 9)] {
            let (_, found) = path_key(Path::new(path)).unwrap();
            assert_eq!(found, len, "{path}");
        }
        assert!(path_key(Path::new("/")).is_none());
        assert!(path_key(Path::new(&"x".repeat(64))).is_none(), "no room for the slash");
        assert!(path_key(Path::new(&"x".repeat(63))).is_some());
    }

    #[test]
    fn names_fit_into_comm() {
        for (name, _) in NAMES {
            assert!(name.len() < abi::COMM_BYTES, "{name}");
        }
    }
}
