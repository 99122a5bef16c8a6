//! Cgroups as evidence: what Kata's state files name, what `/proc` says a process is in. Pure.
//!
//! Paths are those of the host's hierarchy. One that begins with `/..` proves nothing: it is seen out of a cgroup namespace
//! whose place on the host is not known.

use crate::config::CgroupNamespace;
use crate::sandbox::SandboxId;

/// Distinct paths in `/proc/<pid>/cgroup`, of all hierarchies; the root says nothing.
pub fn parse_cgroups(bytes: &[u8], namespace: &CgroupNamespace) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut paths: Vec<String> = Vec::new();
    for line in text.lines() {
        let path = match line.strip_prefix("0::") {
            Some(unified) => namespace.absolute(unified),
            None => line.splitn(3, ':').nth(2).unwrap_or("/").into(),
        };
        if path != "/" && !paths.iter().any(|known| *known == path) {
            paths.push(path.into_owned());
        }
    }
    paths
}

/// Where a cgroup that a state file names may lie. One without the sandbox's id may be shared, and proves nothing.
pub fn candidates(named: &[String], id: &SandboxId) -> Vec<String> {
    named.iter().filter(|name| name.contains(id.as_str())).flat_map(|name| places(name)).collect()
}

/// A path; or `<slice>:<prefix>:<name>`, which is a scope below the slice, and in some releases the literal directory.
fn places(name: &str) -> Vec<String> {
    let literal = format!("/{}", name.trim_start_matches('/'));
    let parts: Vec<&str> = name.split(':').collect();
    let scope = match parts[..] {
        [slice, prefix, name] => slice_path(slice).map(|slice| format!("{slice}/{prefix}-{name}.scope")),
        _ => None,
    };
    std::iter::once(literal).chain(scope).collect()
}

/// Each dash is a level: `a-b.slice` is `/a.slice/a-b.slice`.
fn slice_path(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice")?;
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    Some(ends.map(|end| format!("/{}.slice", &name[..end])).collect())
}

/// Whether a process with these cgroups is in one of the `named` ones, or below.
pub fn is_inside(process: &[String], named: &[String]) -> bool {
    let inside = |path: &str, named: &str| {
        path.strip_prefix(named).is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'/', ..]))
    };
    process.iter().any(|path| named.iter().any(|named| inside(path, named)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> SandboxId {
        SandboxId::parse("sid").unwrap()
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn both_versions_are_read_and_the_root_is_nothing() {
        let host = CgroupNamespace::HOST;
        assert_eq!(parse_cgroups(b"0::/a/b\n", &host), ["/a/b"]);
        let hybrid = b"5:memory:/k/s\n4:cpu,cpuacct:/k/s\n1:name=systemd:/\n0::/x:y\n";
        assert_eq!(parse_cgroups(hybrid, &host), ["/k/s", "/x:y"]);
        let container = CgroupNamespace::beginning_at("/k/agent");
        assert_eq!(parse_cgroups(b"4:cpu:/k/s\n0::/../s\n", &container), ["/k/s"]);
    }

    #[test]
    fn every_layout_has_its_place() {
        let place = |name: &str| candidates(&texts(&[name]), &id());
        assert_eq!(place("/kubepods/pod1/kata_sid"), ["/kubepods/pod1/kata_sid"]);
        assert_eq!(place("kubepods/pod1/sid"), ["/kubepods/pod1/sid"]);
        let slice = "kubepods-burstable-podu.slice:cri-containerd:sid";
        let scope = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu.slice/cri-containerd-sid.scope";
        assert_eq!(place(slice), [format!("/{slice}"), scope.to_owned()]);
        assert!(place("/kata_vc").is_empty() && place("").is_empty() && place("/").is_empty());
    }

    #[test]
    fn inside_is_the_cgroup_or_below_and_no_longer_name() {
        let named = texts(&["/k/kata_sid"]);
        let inside = |path: &str| is_inside(&texts(&[path]), &named);
        assert!(inside("/k/kata_sid") && inside("/k/kata_sid/vcpu"));
        assert!(!inside("/k/kata_sid2") && !inside("/evil/k/kata_sid") && !inside("/../k/kata_sid"));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), name in "\\PC{0,60}") {
            let _ = is_inside(&parse_cgroups(&bytes, &CgroupNamespace::beginning_at("/a/b")), &candidates(&[name + "sid"], &id()));
        }
    }
}
