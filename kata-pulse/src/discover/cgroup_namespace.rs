//! Where the agent's cgroup namespace begins: cgroup v2's paths in `/proc` are relative to that place, which a container
//! is not told. In: the host's trees. Out: [`CgroupNamespace`]. Cost: two small reads on the host, one for each cgroup of
//! the host in a namespace of the container's own, once.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::config::{CgroupNamespace, HostPaths, unified_cgroups};

/// Some hundred pods have a thousand.
const MAX_CGROUPS: usize = 20_000;
/// Of one directory: a container that may make cgroups of its own can make any number.
const MAX_BELOW: usize = 1_000;
/// All processes of a host, for one that has no cgroups to speak of.
const PROCS_BYTES: u64 = 1024 * 1024;

/// `Err`: the agent is in none of the host's cgroups that it sees, so that paths of others' mean nothing to it.
pub fn read(host: &HostPaths) -> io::Result<CgroupNamespace> {
    let own = host.procfs.join("self");
    let pid = fs::read_link(&own)?.display().to_string();
    let seen = fs::read_to_string(own.join("cgroup"))?;
    // No line: the host has no unified hierarchy, and those of v1 are shared with containers.
    let Some(seen) = seen.lines().find_map(|line| line.strip_prefix("0::")) else { return Ok(CgroupNamespace::HOST) };
    let Some(root) = unified_cgroups(&host.sysfs) else { return Ok(CgroupNamespace::HOST) };
    if holds(&root.join(seen.trim_start_matches('/')), &pid) {
        return Ok(CgroupNamespace::HOST);
    }
    let not_found = || io::Error::new(io::ErrorKind::NotFound, format!("no cgroup below {} holds us", root.display()));
    let found = find(&root, &pid).ok_or_else(not_found)?;
    // The agent may sit below where its namespace begins.
    let begin = found.strip_suffix(seen.trim_end_matches('/')).ok_or_else(not_found)?;
    Ok(CgroupNamespace::beginning_at(begin))
}

/// Path of the cgroup that the process is in, from the hierarchy's root. Level by level, since what a container makes
/// below its own cgroup lies no higher than the agent's.
fn find(root: &Path, pid: &str) -> Option<String> {
    let mut waiting = VecDeque::from([String::new()]);
    let mut found = 1;
    while let Some(path) = waiting.pop_front() {
        let directory = root.join(path.trim_start_matches('/'));
        if holds(&directory, pid) {
            return Some(path);
        }
        // One that went away meanwhile has none below.
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let below = below.take(MAX_BELOW.min(MAX_CGROUPS - found));
        let before = waiting.len();
        waiting.extend(below.map(|entry| format!("{path}/{}", entry.file_name().display())));
        found += waiting.len() - before;
    }
    None
}

fn holds(cgroup: &Path, pid: &str) -> bool {
    let mut text = String::new();
    let read =
        File::open(cgroup.join("cgroup.procs")).and_then(|file| file.take(PROCS_BYTES).read_to_string(&mut text));
    read.is_ok() && text.lines().any(|line| line == pid)
}
