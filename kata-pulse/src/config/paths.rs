//! Where the host's trees are: every path hangs from here, so a test swaps the host.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::sandbox::{Pid, Runtime, SandboxId};

/// A directory below which sandbox directories appear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseDirectory {
    /// `None`: the operator gave no prefix; the runtime is told from evidence.
    pub runtime: Option<Runtime>,
    pub path: PathBuf,
}

/// The trees of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPaths {
    pub bases: Vec<BaseDirectory>,
    pub procfs: PathBuf,
    pub sysfs: PathBuf,
    pub cgroup_namespace: CgroupNamespace,
}

/// Where the agent's own cgroup namespace begins on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupNamespace(Option<String>);

impl CgroupNamespace {
    /// At the root.
    pub const HOST: Self = Self(None);

    pub fn beginning_at(path: &str) -> Self {
        Self(Some(path.trim_end_matches('/').to_owned()).filter(|path| !path.is_empty()))
    }

    /// The host's path of a cgroup (v2) that `/proc` names; one that leads out of the hierarchy stays as it is.
    pub fn absolute<'a>(&self, seen: &'a str) -> Cow<'a, str> {
        let Some(begin) = &self.0 else { return Cow::Borrowed(seen) };
        let mut path = begin.as_str();
        let mut names = seen.trim_start_matches('/');
        // Only at the start. Names that begin so are possible.
        while let Some(rest) = names.strip_prefix("..").filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            let Some((parent, _)) = path.rsplit_once('/') else { return Cow::Borrowed(seen) };
            path = parent;
            names = rest.trim_start_matches('/');
        }
        Cow::Owned(if names.is_empty() && !path.is_empty() { path.to_owned() } else { format!("{path}/{names}") })
    }
}

impl HostPaths {
    pub fn proc_file(&self, pid: Pid, file: &str) -> PathBuf {
        self.procfs.join(pid.0.to_string()).join(file)
    }

    /// Kata's Go state tree (`/run/vc`), told from a Go base directory (`/run/vc/sbs`).
    pub fn go_state(base: &Path) -> Option<&Path> {
        base.parent()
    }

    pub fn sandbox_directory(base: &BaseDirectory, id: &SandboxId) -> PathBuf {
        base.path.join(id.as_str())
    }
}

/// Where cgroup v2 is, alone or beside v1. `None`: it is mounted elsewhere, if at all, and nothing is read from there.
pub fn unified_cgroups(sysfs: &Path) -> Option<PathBuf> {
    let places = ["fs/cgroup", "fs/cgroup/unified"].map(|place| sysfs.join(place));
    places.into_iter().find(|root| root.join("cgroup.controllers").exists())
}

impl Default for HostPaths {
    fn default() -> Self {
        Self {
            bases: vec![
                BaseDirectory { runtime: Some(Runtime::Go), path: "/run/vc/sbs".into() },
                BaseDirectory { runtime: Some(Runtime::Rust), path: "/run/kata".into() },
            ],
            procfs: "/proc".into(),
            sysfs: "/sys".into(),
            cgroup_namespace: CgroupNamespace::HOST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_out_of_a_namespace_are_the_host_s() {
        let namespace = CgroupNamespace::beginning_at("/kubepods.slice/kubepods-pod1.slice/agent.scope");
        for (seen, absolute) in [
            ("/", "/kubepods.slice/kubepods-pod1.slice/agent.scope"),
            ("/below", "/kubepods.slice/kubepods-pod1.slice/agent.scope/below"),
            ("/../other.scope", "/kubepods.slice/kubepods-pod1.slice/other.scope"),
            ("/../../kubepods-pod2.slice/kata_sid", "/kubepods.slice/kubepods-pod2.slice/kata_sid"),
            ("/../../../kata_overhead/sid", "/kata_overhead/sid"),
            ("/../../..", "/"),
            ("/../../..x/kata_sid", "/kubepods.slice/..x/kata_sid"),
            ("/../../../../x", "/../../../../x"),
        ] {
            assert_eq!(namespace.absolute(seen), absolute, "{seen}");
        }
        for host in [CgroupNamespace::HOST, CgroupNamespace::beginning_at("/")] {
            assert_eq!(host.absolute("/../x"), "/../x");
        }
    }
}
