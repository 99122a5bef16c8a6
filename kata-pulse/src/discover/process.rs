//! What `/proc` says of one process. In: a pid. Out: [`Outline`], then [`ProcessFacts`]. Cost: five small reads, then
//! three.
//!
//! The outline is the kernel's own knowledge. The arguments are the process's memory, and reading them can hang: only
//! those of a process that could be proven are read, never on a task.
//! Nothing found here is ever executed, and no path found here is opened.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use procfs::FromRead;

use super::memory::MemoryReads;
use super::{cgroup, hypervisor};
use crate::config::HostPaths;
use crate::sandbox::Pid;

/// Enough for every command line of Kata; a longer one is cut.
const ARGUMENT_BYTES: u64 = 16 * 1024;
/// The same in arguments: each costs an allocation, also an empty one.
const MAX_ARGUMENTS: usize = 256;
/// The kernel's first thread, the parent of its others.
const KTHREADD: Pid = Pid(2);

/// One process as it was at one moment, without its arguments; `start_ticks` tells whether it is still the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    pub pid: Pid,
    pub parent: Pid,
    pub start_ticks: u64,
    pub executable: PathBuf,
    /// Inode of the mount namespace; `None` where we may not look.
    pub mount_namespace: Option<u64>,
    /// Its cgroups, by the host's paths.
    pub cgroups: Vec<String>,
    pub uid: u32,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    pub outline: Outline,
    pub arguments: Vec<Vec<u8>>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("parse {}", path.display())]
    Parse { path: PathBuf, source: procfs::ProcError },
    #[error("{} is being read already, or too many are", path.display())]
    Busy { path: PathBuf },
}

impl ProcessError {
    /// The process ended while or before we looked: normal.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Read { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
            }
            Self::Parse { .. } | Self::Busy { .. } => false,
        }
    }
}

/// Parent and start time: the cheap part of [`read_outline`].
pub fn read_stat(host: &HostPaths, pid: Pid) -> Result<(Pid, u64), ProcessError> {
    let stat = read_whole_stat(host, pid)?;
    Ok((Pid(u32::try_from(stat.ppid).unwrap_or(0)), stat.starttime))
}

/// Whether the process that started at `start_ticks` still runs; one that nobody waited for yet does not.
pub fn is_running(host: &HostPaths, pid: Pid, start_ticks: u64) -> Result<bool, ProcessError> {
    match read_whole_stat(host, pid) {
        // A leader that ended before its threads looks dead too, and is not.
        Ok(stat) => Ok(stat.starttime == start_ticks && !(matches!(stat.state, 'Z' | 'X') && stat.num_threads <= 1)),
        Err(error) if error.is_gone() => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_whole_stat(host: &HostPaths, pid: Pid) -> Result<procfs::process::Stat, ProcessError> {
    let path = host.proc_file(pid, "stat");
    let read = |source| ProcessError::Read { path: path.clone(), source };
    let mut bytes = Vec::with_capacity(512);
    File::open(&path).map_err(read)?.take(4096).read_to_end(&mut bytes).map_err(read)?;
    procfs::process::Stat::from_read(bytes.as_slice())
        .map_err(|source| ProcessError::Parse { path: path.clone(), source })
}

/// Whether the pids of this procfs are those that the kernel takes from us: not so where the host's procfs is mounted
/// into a container with pids of its own.
pub fn has_our_pids(host: &HostPaths) -> bool {
    std::fs::read_link(host.procfs.join("self")).is_ok_and(|me| me == Path::new(&std::process::id().to_string()))
}

/// Looks at a process whose executable is one of Kata's; `None` for every other one, at the price of one readlink.
/// Never waits for the process.
pub fn read_outline(host: &HostPaths, pid: Pid) -> Result<Option<Outline>, ProcessError> {
    let executable = read_executable(host, pid)?;
    if !hypervisor::is_interesting(&executable) {
        return Ok(None);
    }
    let (parent, start_ticks) = read_stat(host, pid)?;
    let directory = host.proc_file(pid, "");
    let uid = std::fs::metadata(&directory).map_err(|source| ProcessError::Read { path: directory, source })?.uid();
    let mount_namespace = read_mount_namespace(host, pid);
    let cgroups =
        read_small(&host.proc_file(pid, "cgroup")).map(|bytes| cgroup::parse_cgroups(&bytes, &host.cgroup_namespace));
    let cgroups = cgroups.unwrap_or_default();
    Ok(Some(Outline { pid, parent, start_ticks, executable, mount_namespace, cgroups, uid }))
}

/// Adds the arguments; `None` if it is another process or program by now. Blocks for as long as the process likes.
pub fn read_facts(
    host: &HostPaths,
    outline: Outline,
    reads: &MemoryReads,
) -> Result<Option<ProcessFacts>, ProcessError> {
    let pid = outline.pid;
    let path = host.proc_file(pid, "cmdline");
    let Some(_reading) = reads.begin(pid) else { return Err(ProcessError::Busy { path }) };
    let bytes = read_small(&path).map_err(|source| ProcessError::Read { path, source })?;
    let arguments = parse_arguments(&bytes);
    // The same process and program from first to last read, or none.
    let same = read_stat(host, pid)?.1 == outline.start_ticks && read_executable(host, pid)? == outline.executable;
    Ok(same.then_some(ProcessFacts { outline, arguments }))
}

fn read_executable(host: &HostPaths, pid: Pid) -> Result<PathBuf, ProcessError> {
    let path = host.proc_file(pid, "exe");
    std::fs::read_link(&path).map_err(|source| ProcessError::Read { path, source })
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1024);
    File::open(path)?.take(ARGUMENT_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Arguments are ended by NUL; empty ones count (CRI-O passes an empty address).
pub fn parse_arguments(bytes: &[u8]) -> Vec<Vec<u8>> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|&byte| byte == 0).take(MAX_ARGUMENTS).map(<[u8]>::to_vec).collect()
}

/// From the link's text (`mnt:[4026531841]`), which fixture trees can hold too.
pub fn read_mount_namespace(host: &HostPaths, pid: Pid) -> Option<u64> {
    let target = std::fs::read_link(host.proc_file(pid, "ns/mnt")).ok()?;
    parse_namespace(&target)
}

/// The mount namespace of the host: that of process 1. Where that may not be looked at, that of kthreadd, which the
/// kernel itself started before there was any other.
pub fn read_host_mount_namespace(host: &HostPaths) -> Option<u64> {
    read_mount_namespace(host, Pid(1))
        .or_else(|| sees_kernel_threads(host).then(|| read_mount_namespace(host, KTHREADD)).flatten())
}

/// Whether this procfs is that of the first pid namespace, in which the kernel's own threads are.
pub fn sees_kernel_threads(host: &HostPaths) -> bool {
    std::fs::read(host.proc_file(KTHREADD, "comm")).is_ok_and(|comm| comm == b"kthreadd\n")
        && read_stat(host, KTHREADD).is_ok_and(|(parent, _)| parent == Pid(0))
}

fn parse_namespace(target: &Path) -> Option<u64> {
    let text = std::str::from_utf8(target.as_os_str().as_bytes()).ok()?;
    text.strip_prefix("mnt:[")?.strip_suffix(']')?.parse().ok()
}

/// All pids of the host, as far as procfs shows them.
pub fn read_pids(host: &HostPaths) -> io::Result<Vec<Pid>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir(&host.procfs)? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            pids.push(Pid(pid));
        }
    }
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_keep_their_empty_ones() {
        assert_eq!(parse_arguments(b"a\0\0b\0"), [b"a".to_vec(), vec![], b"b".to_vec()]);
        assert!(parse_arguments(b"").is_empty());
        assert_eq!(parse_arguments(b"cut"), [b"cut".to_vec()]);
        assert_eq!(parse_arguments(&[0; ARGUMENT_BYTES as usize]).len(), MAX_ARGUMENTS, "each costs an allocation");
    }

    #[test]
    fn namespace_links_are_read() {
        assert_eq!(parse_namespace(Path::new("mnt:[4026531841]")), Some(4_026_531_841));
        assert_eq!(parse_namespace(Path::new("net:[1]")), None);
    }

    #[test]
    fn a_process_that_nobody_waited_for_does_not_run() {
        let host = HostPaths::default();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid(child.id());
        let (_, start) = read_stat(&host, pid).unwrap();
        assert!(is_running(&host, pid, start).unwrap());
        let raw = rustix::process::Pid::from_raw(i32::try_from(pid.0).unwrap()).unwrap();
        let pidfd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()).unwrap();
        child.kill().unwrap();
        let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)), options).unwrap();
        assert!(read_stat(&host, pid).is_ok(), "still listed");
        assert!(!is_running(&host, pid, start).unwrap());
        child.wait().unwrap();
        assert!(!is_running(&host, pid, start).unwrap());
    }

    #[test]
    fn our_own_process_is_read_from_the_real_procfs() {
        let host = HostPaths::default();
        let me = Pid(std::process::id());
        let (parent, start) = read_stat(&host, me).unwrap();
        assert_eq!(parent.0, std::os::unix::process::parent_id());
        assert!(start > 0);
        assert!(read_pids(&host).unwrap().contains(&me) && has_our_pids(&host));
        assert!(is_running(&host, me, start).unwrap() && !is_running(&host, me, start + 1).unwrap());
        assert_eq!(read_outline(&host, me).unwrap(), None, "a test binary is none of Kata's");
    }
}
