//! Capped reads of small files below one directory that stays the same: one process, one cgroup.
//!
//! In: a directory's descriptor and a name. Out: bytes in a buffer that is used again. A process's directory, once
//! open, never becomes another process's: when it has ended, every read says so. Cost: open, two reads, close.

use std::fmt::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, RawDir, openat, readlinkat, readlinkat_raw, statat};
use rustix::io::Errno;

/// More than any of these files has; of a longer one the lines that fit are taken.
const FILE_BYTES: usize = 16 * 1024;
const DIRECTORY_BYTES: usize = 8 * 1024;

/// Buffers of one reading of one sandbox.
#[derive(Debug)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    path: String,
    entries: Vec<MaybeUninit<u8>>,
    pub(super) tids: Vec<u32>,
}

impl Default for Scratch {
    fn default() -> Self {
        let entries = vec![MaybeUninit::uninit(); DIRECTORY_BYTES];
        Self { bytes: vec![0; FILE_BYTES], path: String::with_capacity(64), entries, tids: Vec::new() }
    }
}

/// A directory to read below.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

pub(super) fn open_file(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
}

/// The process or thread ended: normal.
pub(super) fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::SRCH)
}

impl Scratch {
    pub(super) fn open_process(&mut self, procfs: BorrowedFd<'_>, pid: u32) -> Result<OwnedFd, Errno> {
        self.path.clear();
        let _ = write!(self.path, "{pid}");
        openat(procfs, self.path.as_str(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    pub(super) fn read(&mut self, directory: BorrowedFd<'_>, name: &str) -> Result<&[u8], Errno> {
        let file = open_file(directory, name)?;
        read_lines(file.as_fd(), &mut self.bytes)
    }

    /// A file of one thread of the process whose directory this is.
    pub(super) fn read_task(&mut self, process: BorrowedFd<'_>, tid: u32, name: &str) -> Result<&[u8], Errno> {
        self.path.clear();
        let _ = write!(self.path, "task/{tid}/{name}");
        let file = open_file(process, &self.path)?;
        read_lines(file.as_fd(), &mut self.bytes)
    }

    /// Fills `tids` with the threads of a process, no more than `limit`.
    pub(super) fn list_tasks(&mut self, process: BorrowedFd<'_>, limit: usize) -> Result<(), Errno> {
        let Self { entries, tids, .. } = self;
        tids.clear();
        for_each_number(process, "task", entries, limit, |tid| tids.push(tid))
    }

    /// Fills `tids` with the processes of the host, no more than `limit`.
    pub(super) fn list_processes(&mut self, procfs: BorrowedFd<'_>, limit: usize) -> Result<(), Errno> {
        let Self { entries, tids, .. } = self;
        tids.clear();
        for_each_number(procfs, ".", entries, limit, |pid| tids.push(pid))
    }

    /// Calls `look` with the target of every descriptor of the process, no more than `limit`.
    pub(super) fn for_each_fd(
        &mut self,
        process: BorrowedFd<'_>,
        limit: usize,
        mut look: impl FnMut(&[u8]),
    ) -> Result<(), Errno> {
        let Self { entries, tids: numbers, path, bytes, .. } = self;
        numbers.clear();
        for_each_number(process, "fd", entries, limit, |number| numbers.push(number))?;
        for number in numbers {
            path.clear();
            let _ = write!(path, "fd/{number}");
            if let Ok(length) = readlinkat_raw(process, path.as_str(), bytes.as_mut_slice()) {
                look(&bytes[..length]);
            }
        }
        Ok(())
    }

    /// How many descriptors are open, no more than `limit`, by counting them.
    pub(super) fn count_fds(&mut self, process: BorrowedFd<'_>, limit: usize) -> Result<u64, Errno> {
        let mut count = 0;
        for_each_number(process, "fd", &mut self.entries, limit, |_| count += 1)?;
        Ok(count)
    }
}

/// How many descriptors are open: what the directory's size says since Linux 6.2.
pub(super) fn fd_directory_size(process: BorrowedFd<'_>) -> Result<u64, Errno> {
    let status = statat(process, "fd", rustix::fs::AtFlags::empty())?;
    Ok(u64::try_from(status.st_size).unwrap_or(0))
}

/// Inode in the text of a namespace's link (`net:[4026531840]`), which fixture trees can hold too.
pub(super) fn read_namespace(directory: BorrowedFd<'_>, path: &str) -> Option<u64> {
    let target = readlinkat(directory, path, Vec::new()).ok()?;
    let (_, inode) = target.to_str().ok()?.split_once(":[")?;
    inode.strip_suffix(']')?.parse().ok()
}

fn for_each_number(
    process: BorrowedFd<'_>,
    name: &str,
    entries: &mut [MaybeUninit<u8>],
    limit: usize,
    mut take: impl FnMut(u32),
) -> Result<(), Errno> {
    let directory = openat(process, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut directory = RawDir::new(&directory, entries);
    let mut taken = 0;
    while let Some(entry) = directory.next() {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
            if taken == limit {
                break;
            }
            taken += 1;
            take(number);
        }
    }
    Ok(())
}

/// All of the file, or the whole lines that fit.
fn read_lines<'a>(file: BorrowedFd<'_>, bytes: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::read(file, &mut bytes[filled..]) {
            Ok(0) => return Ok(&bytes[..filled]),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&bytes[..memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_file_whole_lines_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("long"), "a line\n".repeat(FILE_BYTES)).unwrap();
        std::fs::write(folder.path().join("short"), "no end").unwrap();
        let directory = open_directory(folder.path()).unwrap();
        let mut scratch = Scratch::default();
        let long = scratch.read(directory.as_fd(), "long").unwrap();
        assert!(long.ends_with(b"a line\n") && long.len() > FILE_BYTES - 8);
        assert_eq!(scratch.read(directory.as_fd(), "short").unwrap(), b"no end");
        assert!(is_gone(scratch.read(directory.as_fd(), "none").unwrap_err()));
    }

    #[test]
    fn own_threads_and_descriptors_are_listed() {
        let procfs = open_directory(Path::new("/proc")).unwrap();
        let mut scratch = Scratch::default();
        let own = scratch.open_process(procfs.as_fd(), std::process::id()).unwrap();
        scratch.list_tasks(own.as_fd(), 1000).unwrap();
        assert!(scratch.tids.contains(&std::process::id()));
        scratch.list_tasks(own.as_fd(), 1).unwrap();
        assert_eq!(scratch.tids.len(), 1);
        let mut targets = 0;
        scratch.for_each_fd(own.as_fd(), 1000, |target| targets += usize::from(!target.is_empty())).unwrap();
        assert!(targets >= 2 && scratch.count_fds(own.as_fd(), 1000).unwrap() >= 2);
        assert!(read_namespace(own.as_fd(), "ns/net").is_some());
    }
}
