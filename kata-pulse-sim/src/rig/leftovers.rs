//! What pods leave on the machine. The cgroup directories above a pod's own, which the runtime makes and only kubelet
//! would remove; and, where a test ended before it removed its pods, their shims and mounts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

const MOUNTS: &str = "/sys/fs/cgroup";

/// In every hierarchy, those of `parent` and the directories above it that do not exist yet.
pub(super) fn missing_cgroups(parent: &str) -> Vec<PathBuf> {
    let mounts =
        entries(Path::new(MOUNTS)).chain([PathBuf::from(MOUNTS)]).filter(|path| path.join("cgroup.procs").exists());
    mounts.flat_map(|mount| missing_below(&mount, parent)).collect()
}

fn missing_below(mount: &Path, parent: &str) -> Vec<PathBuf> {
    let parent = Path::new(parent.trim_start_matches('/'));
    let above = parent.ancestors().filter(|path| !path.as_os_str().is_empty());
    above.map(|path| mount.join(path)).take_while(|path| !path.exists()).collect()
}

/// Those that are there and empty, the deepest first.
pub(super) fn remove_cgroups(folders: &mut [PathBuf]) {
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
    for folder in folders {
        // Not made after all, or in use by somebody else.
        fs::remove_dir(folder).ok();
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The simulated shims of the bundles, whose VMMs end with them.
pub(super) fn end_shims(bundles: &Path) {
    for bundle in entries(bundles) {
        let pid = fs::read_to_string(bundle.join("shim.pid")).ok().and_then(|text| text.parse().ok());
        let is_shim = |pid: &i32| {
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.ends_with("containerd-shim-kata-v2"))
        };
        if let Some(pid) = pid.filter(is_shim).and_then(Pid::from_raw) {
            // It may end by itself just now.
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

/// containerd mounts memory for each sandbox.
pub(super) fn unmount_all(state: &Path) {
    for sandbox in entries(&state.join("io.containerd.grpc.v1.cri/sandboxes")) {
        // Not mounted: the pod was removed.
        unmount(sandbox.join("shm"), UnmountFlags::DETACH).ok();
    }
}
