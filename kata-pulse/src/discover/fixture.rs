//! A small procfs for tests: processes, and one whose arguments cannot be read until the test lets them.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use crate::config::{BaseDirectory, HostPaths};
use crate::sandbox::Runtime;

pub const HOST: u64 = 1;
pub const CONTAINER: u64 = 999;

/// A host of its own below `root`, with process 1.
pub fn host(root: &Path) -> HostPaths {
    let base = root.join("run/vc/sbs");
    fs::create_dir_all(&base).unwrap();
    let host = HostPaths {
        bases: vec![BaseDirectory { runtime: Some(Runtime::Go), path: base }],
        procfs: root.join("proc"),
        sysfs: root.join("sys"),
        ..HostPaths::default()
    };
    process(&host, 1, 0, 1, "/sbin/init", HOST);
    host
}

/// `line`: the executable and its arguments.
pub fn process(host: &HostPaths, pid: u32, parent: u32, start: u64, line: &str, namespace: u64) {
    let folder = host.procfs.join(pid.to_string());
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("ns")).unwrap();
    let executable = line.split(' ').next().unwrap();
    symlink(executable, folder.join("exe")).unwrap();
    symlink(format!("mnt:[{namespace}]"), folder.join("ns/mnt")).unwrap();
    fs::write(folder.join("cmdline"), line.replace(' ', "\0") + "\0").unwrap();
    fs::write(folder.join("cgroup"), "0::/x\n").unwrap();
    let numbers = "-1 4194560 2500 0 12 0 250 40 0 0 20 0 1 0";
    let rest = "2400000000 51200 18446744073709551615 1 1 0 0 0 0 0 4096 17642 0 0 0 17 1 0 0 0 180 0 0 0 0 0 0 0 0 0";
    fs::write(folder.join("stat"), format!("{pid} (x) S {parent} {pid} {pid} 0 {numbers} {start} {rest}\n")).unwrap();
}

/// The same for a process that is not answered when its arguments are read.
pub fn stalled_process(host: &HostPaths, pid: u32, parent: u32, start: u64, line: &str, namespace: u64) -> Stall {
    process(host, pid, parent, start, line, namespace);
    let path = host.procfs.join(pid.to_string()).join("cmdline");
    fs::remove_file(&path).unwrap();
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    Stall { path, held: None }
}

/// Lets its readers go when dropped.
pub struct Stall {
    path: std::path::PathBuf,
    held: Option<File>,
}

impl Stall {
    /// Whether somebody is reading now, who goes on doing so until this is dropped.
    pub fn has_reader(&mut self) -> bool {
        if self.held.is_none() {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            self.held = rustix::fs::open(&self.path, flags, Mode::empty()).ok().map(File::from);
        }
        self.held.is_some()
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        // Whoever waits for a writer gets one, and then the end of the file.
        self.has_reader();
    }
}
