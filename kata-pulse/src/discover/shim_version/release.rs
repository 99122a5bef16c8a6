//! The release that a `VERSION` file tells, without running anything.
//!
//! kata-deploy unpacks a release below `/opt/kata*` with a `VERSION` file at its top. That file speaks for a running
//! shim only while the shim's executable is still the very file of that release: after an upgrade it is not, and the
//! version is unknown. In: the pid of a proven shim. Out: the version, if it can be known.

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::clock::boot_now;
use super::super::process::read_stat;
use super::super::state_files::read_trusted;
use crate::config::HostPaths;
use crate::sandbox::{Pid, Version};

pub fn read(host: &HostPaths, shim: Pid) -> Option<Version> {
    let link = host.proc_file(shim, "exe");
    let executable = std::fs::read_link(&link).ok()?;
    // The shim was proven to live in the host's mount namespace, so this is the host's root.
    let root = host.proc_file(shim, "root");
    let on_disk = std::fs::symlink_metadata(below(&root, &executable)?).ok()?;
    let running = std::fs::metadata(&link).ok()?;
    if !is_same_file(&on_disk, &running) || running.uid() != 0 || running.mode() & 0o022 != 0 {
        return None;
    }
    let release = release_directory(&executable)?;
    let file = below(&root, &release.join("VERSION"))?;
    // An upgrade may write it before it replaces the program: it must not be newer than the running one's start.
    let written = u64::try_from(std::fs::symlink_metadata(&file).ok()?.ctime()).ok()?;
    if written > started_unix_seconds(host, shim)? + 1 {
        return None;
    }
    let bytes = read_trusted(&file).ok()?;
    Version::parse(std::str::from_utf8(&bytes).ok()?)
}

fn started_unix_seconds(host: &HostPaths, pid: Pid) -> Option<u64> {
    let (_, start_ticks) = read_stat(host, pid).ok()?;
    let started = Duration::from_millis(start_ticks * 1000 / procfs::ticks_per_second());
    let age = boot_now().checked_sub(started)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(now.checked_sub(age)?.as_secs())
}

fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// `/opt/kata` for `/opt/kata/bin/…` and `/opt/kata/runtime-rs/bin/…`.
fn release_directory(executable: &Path) -> Option<&Path> {
    let is_release = |folder: &&Path| folder.file_name().is_some_and(|name| name.as_bytes().starts_with(b"kata"));
    executable.ancestors().skip(1).take(3).find(is_release)
}

/// `path` below `root`; nothing that could lead out of it.
fn below(root: &Path, path: &Path) -> Option<PathBuf> {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    (plain && path.is_absolute()).then(|| root.join(path.strip_prefix("/").unwrap_or(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_found_above_either_shim_and_nowhere_else() {
        let release = |path| release_directory(Path::new(path)).and_then(Path::to_str);
        assert_eq!(release("/opt/kata/bin/containerd-shim-kata-v2"), Some("/opt/kata"));
        assert_eq!(release("/opt/kata-2/runtime-rs/bin/containerd-shim-kata-v2"), Some("/opt/kata-2"));
        assert_eq!(release("/usr/bin/containerd-shim-kata-v2"), None);
    }

    #[test]
    fn nothing_leads_out_of_the_root() {
        assert_eq!(below(Path::new("/r"), Path::new("/a/b")), Some("/r/a/b".into()));
        assert_eq!(below(Path::new("/r"), Path::new("/a/../../b")), None);
        assert_eq!(below(Path::new("/r"), Path::new("b")), None);
    }

    /// A release with a real running program in the shim's place.
    #[test]
    fn the_version_file_speaks_for_the_running_file_only() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("kata/bin");
        std::fs::create_dir_all(&bin).unwrap();
        let shim = bin.join("containerd-shim-kata-v2");
        std::fs::copy("/bin/sleep", &shim).unwrap();
        std::fs::write(folder.path().join("kata/VERSION"), "4.1.0\n").unwrap();
        let mut child = std::process::Command::new(&shim).arg("1000").spawn().unwrap();
        let host = HostPaths::default();
        assert_eq!(read(&host, Pid(child.id())), Some(Version::new(4, 1, 0)));
        // As by an upgrade that has not come to the program yet.
        let later = SystemTime::now() + Duration::from_secs(2);
        while SystemTime::now() < later {
            std::thread::yield_now();
        }
        std::fs::write(folder.path().join("kata/VERSION"), "4.2.0\n").unwrap();
        assert_eq!(read(&host, Pid(child.id())), None, "written after the start");
        std::fs::remove_file(&shim).unwrap();
        std::fs::copy("/bin/sleep", &shim).unwrap();
        assert_eq!(read(&host, Pid(child.id())), None, "another file took its place");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
