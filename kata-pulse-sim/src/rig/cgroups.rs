//! The cgroup directories above a pod's own: the runtime makes them and only kubelet would remove them.

use std::{
    fs,
    path::{Path, PathBuf},
};

const MOUNTS: &str = "/sys/fs/cgroup";

/// In every hierarchy, those of `parent` and the directories above it that do not exist yet.
pub(super) fn missing(parent: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir(MOUNTS).into_iter().flatten().flatten().map(|entry| entry.path());
    let mounts = hierarchies.chain([PathBuf::from(MOUNTS)]).filter(|path| path.join("cgroup.procs").exists());
    mounts.flat_map(|mount| missing_below(&mount, parent)).collect()
}

fn missing_below(mount: &Path, parent: &str) -> Vec<PathBuf> {
    let parent = Path::new(parent.trim_start_matches('/'));
    let above = parent.ancestors().filter(|path| !path.as_os_str().is_empty());
    above.map(|path| mount.join(path)).take_while(|path| !path.exists()).collect()
}

/// Those that are there and empty, the deepest first.
pub(super) fn remove(folders: &mut [PathBuf]) {
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
    for folder in folders {
        // Not made after all, or in use by somebody else.
        fs::remove_dir(folder).ok();
    }
}
