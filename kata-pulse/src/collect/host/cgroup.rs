//! The cgroups in which a sandbox's processes really sit, and nobody else's: Kata's sandbox cgroup and, where the
//! runtime keeps its own cost apart, its overhead cgroup.
//!
//! In: `/proc/<pid>/cgroup` of each process, on v1 also of the threads that run the guest. Out: [`CgroupReading`]s, no
//! two of which hold the same cost. Nothing is assumed of drivers and layouts: a cgroup counts when a process is in it
//! and its name is the sandbox's. A pod's slice, or the service a process was born in, is not.

use std::path::{Path, PathBuf};

use procfs::{FromBufRead, ProcessCGroup, ProcessCGroups};

use super::cgroup_files::{read_v1, read_v2};
use super::files::Scratch;
use crate::config::{CgroupNamespace, unified_cgroups};
use crate::model::CgroupReading;
use crate::sandbox::SandboxId;

/// Kata makes two; the rest is slack for processes that were moved.
const MAX_CGROUPS: usize = 8;
const OVERHEAD_PARENTS: [&str; 2] = ["kata_overhead", "kata-overhead.slice"];

/// Whose cgroups are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner<'a> {
    pub id: &'a SandboxId,
    /// The pod's cgroup, which is never the sandbox's.
    pub pod: Option<&'a str>,
    /// Out of which the paths were read.
    pub namespace: &'a CgroupNamespace,
}

/// One cgroup and its directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub kind: &'static str,
    pub path: String,
    pub tree: Tree,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    Unified,
    /// Directories of the hierarchies, below the mount points; a controller that is missing has none.
    V1 {
        cpuacct: Option<String>,
        cpu: Option<String>,
        memory: Option<String>,
    },
}

/// The cgroups of a sandbox, from the `cgroup` files of its processes and threads.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Place>);

impl Places {
    /// Whether the file was of v1: then threads may sit elsewhere than their process.
    pub(super) fn add(&mut self, owner: Owner<'_>, file: &[u8]) -> bool {
        let Ok(ProcessCGroups(lines)) = ProcessCGroups::from_buf_read(file) else { return false };
        let is_v1 = lines.iter().any(|line| has(line, "cpuacct") || has(line, "memory"));
        for line in &lines {
            // Containers share the hierarchies of v1 with the host.
            let unified = line.hierarchy == 0;
            let path = if unified { owner.namespace.absolute(&line.pathname) } else { line.pathname.as_str().into() };
            let Some((path, kind)) = own_cgroup(&path, owner) else { continue };
            if !is_v1 && unified {
                self.place(path, kind, Tree::Unified);
            } else if is_v1 {
                self.add_v1(line, path, kind);
            }
        }
        is_v1
    }

    fn add_v1(&mut self, line: &ProcessCGroup, path: &str, kind: &'static str) {
        let none = Tree::V1 { cpuacct: None, cpu: None, memory: None };
        if !["cpuacct", "cpu", "memory"].iter().any(|controller| has(line, controller)) {
            return;
        }
        let Some(Place { tree: Tree::V1 { cpuacct, cpu, memory }, .. }) = self.place(path, kind, none) else { return };
        let mount = line.controllers.join(",");
        for (controller, directory) in [("cpuacct", cpuacct), ("cpu", cpu), ("memory", memory)] {
            if has(line, controller) {
                *directory = Some(mount.clone());
            }
        }
    }

    fn place(&mut self, path: &str, kind: &'static str, tree: Tree) -> Option<&mut Place> {
        let known = self.0.iter().position(|place| place.path == path);
        if known.is_none() && self.0.len() < MAX_CGROUPS {
            self.0.push(Place { kind, path: path.to_owned(), tree });
            return self.0.last_mut();
        }
        known.map(|at| &mut self.0[at])
    }

    /// Without those that lie in another: its numbers hold theirs.
    pub(super) fn distinct(self) -> Vec<Place> {
        let all = self.0;
        let is_nested = |place: &Place| all.iter().any(|other| is_below(&place.path, &other.path));
        let mut places: Vec<_> = all.iter().filter(|place| !is_nested(place)).cloned().collect();
        places.sort_by(|one, other| one.path.cmp(&other.path));
        places
    }
}

fn has(line: &ProcessCGroup, controller: &str) -> bool {
    line.controllers.iter().any(|known| known == controller)
}

fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/'))
}

/// Kind and path of the sandbox's own cgroups that one `cgroup` file names.
pub fn parse(file: &[u8], id: &SandboxId) -> Vec<(&'static str, String)> {
    let mut places = Places::default();
    places.add(Owner { id, pod: None, namespace: &CgroupNamespace::HOST }, file);
    places.distinct().into_iter().map(|place| (place.kind, place.path)).collect()
}

/// The part of a path that ends with the sandbox's own cgroup, and its kind.
fn own_cgroup<'a>(path: &'a str, owner: Owner<'_>) -> Option<(&'a str, &'static str)> {
    // Out of a cgroup namespace whose place is not known it begins with `/..`, and says nothing about where it is.
    if !path.starts_with('/') || path.split('/').any(|name| name == "..") {
        return None;
    }
    let mut end = path.len();
    loop {
        let start = path[..end].rfind('/')?;
        if is_named_after(&path[start + 1..end], owner.id.as_str()) {
            break;
        }
        end = start;
    }
    let own = &path[..end];
    if owner.pod.is_some_and(|pod| pod == own || is_below(pod, own)) {
        return None;
    }
    let is_overhead = own.split('/').any(|name| OVERHEAD_PARENTS.contains(&name));
    Some((own, if is_overhead { "overhead" } else { "sandbox" }))
}

/// `<id>`, `kata_<id>`, `<prefix>-<id>.scope`, `<slice>:<prefix>:<id>`.
fn is_named_after(name: &str, id: &str) -> bool {
    let whole = name.strip_suffix(".scope").unwrap_or(name);
    whole.strip_suffix(id).is_some_and(|before| before.is_empty() || before.ends_with(['_', '-', ':']))
}

/// Reads all of them. `root` is where cgroups are mounted.
pub(super) fn read(scratch: &mut Scratch, root: &CgroupRoot, places: &[Place]) -> Vec<CgroupReading> {
    let readings = places.iter().map(|place| match &place.tree {
        Tree::Unified => read_v2(scratch, &root.unified, place),
        Tree::V1 { cpuacct, cpu, memory } => {
            let directory = |controller: &str, mount: &Option<String>| root.v1(controller, mount.as_deref()?, place);
            let directories = [directory("cpuacct", cpuacct), directory("cpu", cpu), directory("memory", memory)];
            read_v1(scratch, root.tick_ns, directories, place)
        }
    });
    readings.flatten().collect()
}

/// Where this host has its hierarchies.
#[derive(Clone, Debug)]
pub(super) struct CgroupRoot {
    root: PathBuf,
    unified: PathBuf,
    tick_ns: u64,
}

impl CgroupRoot {
    pub(super) fn new(sysfs: &Path, tick_ns: u64) -> Self {
        let root = sysfs.join("fs/cgroup");
        Self { unified: unified_cgroups(sysfs).unwrap_or_else(|| root.clone()), root, tick_ns }
    }

    /// Mounted as the controller is called, or as the list of all that are mounted together.
    fn v1(&self, controller: &str, mount: &str, place: &Place) -> Option<PathBuf> {
        let below = place.path.trim_start_matches('/');
        [controller, mount].iter().map(|name| self.root.join(name).join(below)).find(|path| path.is_dir())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> SandboxId {
        SandboxId::parse("sid").unwrap()
    }

    fn own(path: &str) -> Option<(&str, &'static str)> {
        own_cgroup(path, Owner { id: &id(), pod: Some("/kubepods/pod-sid"), namespace: &CgroupNamespace::HOST })
    }

    #[test]
    fn every_layout_of_kata_is_recognised() {
        for (path, kind) in [
            ("/kubepods/burstable/podu/kata_sid", "sandbox"),
            ("/kubepods/burstable/podu/sid", "sandbox"),
            ("/kata_overhead/sid", "overhead"),
            ("/kubepods.slice/kubepods-podu.slice/cri-containerd-sid.scope", "sandbox"),
            ("/kubepods.slice/kubepods-podu.slice/crio-sid.scope", "sandbox"),
            ("/kubepods-podu.slice:cri-containerd:sid", "sandbox"),
            ("/kata.slice/kata-overhead.slice/runtime-rs-sid.scope", "overhead"),
            ("/kata_sandboxed_pod/sid", "sandbox"),
        ] {
            assert_eq!(own(path), Some((path, kind)));
            assert_eq!(own(&format!("{path}/below")).map(|found| found.0.to_owned()), Some(path.to_owned()));
        }
    }

    #[test]
    fn what_others_may_sit_in_is_not_the_sandbox_s() {
        for path in [
            "/",
            "/system.slice/containerd.service",
            "/kubepods.slice/kubepods-podu.slice",
            "/kata_vc",
            "/kata_overhead",
            "/kubepods/podu/kata_other",
            "/kubepods/podu/kata_sidx",
            "/kubepods/podu/xsid",
            "/../kubepods/podu/kata_sid",
            "/kubepods/pod-sid",
            "",
        ] {
            assert_eq!(own(path), None, "{path}");
        }
    }

    fn places(files: &[&str]) -> Vec<(&'static str, String)> {
        let (id, mut places) = (id(), Places::default());
        for file in files {
            places.add(Owner { id: &id, pod: None, namespace: &CgroupNamespace::HOST }, file.as_bytes());
        }
        places.distinct().into_iter().map(|place| (place.kind, place.path)).collect()
    }

    #[test]
    fn a_cgroup_in_another_is_not_there_twice() {
        let nested = places(&["0::/p/kata_sid\n", "0::/p/kata_sid/sid\n", "0::/kata_overhead/sid\n"]);
        assert_eq!(nested, [("overhead", "/kata_overhead/sid".to_owned()), ("sandbox", "/p/kata_sid".to_owned())]);
    }

    #[test]
    fn of_a_hybrid_host_the_hierarchies_with_controllers_count() {
        let file = "4:memory:/p/sid\n3:cpu,cpuacct:/p/sid\n2:pids:/x/sid\n1:name=systemd:/s/sid\n0::/u/sid\n";
        let (id, mut all) = (id(), Places::default());
        assert!(all.add(Owner { id: &id, pod: None, namespace: &CgroupNamespace::HOST }, file.as_bytes()));
        let mount = Some("cpu,cpuacct".to_owned());
        let tree = Tree::V1 { cpuacct: mount.clone(), cpu: mount, memory: Some("memory".to_owned()) };
        assert_eq!(all.distinct(), [Place { kind: "sandbox", path: "/p/sid".to_owned(), tree }]);
        assert_eq!(places(&["1:name=systemd:/s/sid\n0::/u/sid\n"]), [("sandbox", "/u/sid".to_owned())]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), path in "[/a-z.:_-]{0,40}") {
            let mut all = Places::default();
            let id = id();
            all.add(Owner { id: &id, pod: None, namespace: &CgroupNamespace::HOST }, &bytes);
            let _ = parse(&bytes, &id);
            all.add(Owner { id: &id, pod: Some(&path), namespace: &CgroupNamespace::beginning_at("/a/b") }, format!("0::{path}\n3:cpu,cpuacct:{path}sid").as_bytes());
            let _ = all.distinct();
        }
    }
}
