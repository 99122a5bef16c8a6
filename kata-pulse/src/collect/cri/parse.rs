//! What runtimes put into JSON and paths. Pure. Verbose answers hold secrets: only what is named here is taken.

use std::collections::HashMap;

use serde::Deserialize;

use crate::sandbox::{Identity, SandboxId};

/// Kubernetes' own bounds are 253 for names; a longer string is nobody's name.
const NAME_BYTES: usize = 512;

/// What is asked for once per sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub cgroup_parent: Option<String>,
    pub runtime_handler: String,
}

/// One entry of the runtime's list.
pub(super) fn identity(sandbox: super::proto::cri::PodSandbox) -> Option<(SandboxId, Identity)> {
    let id = SandboxId::parse(&sandbox.id).ok()?;
    let metadata = sandbox.metadata.unwrap_or_default();
    let identity = Identity {
        pod_name: bounded(metadata.name),
        namespace: bounded(metadata.namespace),
        uid: bounded(metadata.uid),
        runtime_handler: bounded(sandbox.runtime_handler),
        cgroup_parent: None,
        ready: sandbox.state == i32::from(super::proto::cri::PodSandboxState::SandboxReady),
        created_unix_ns: Some(sandbox.created_at).filter(|&created| created > 0),
    };
    Some((id, identity))
}

fn bounded(mut text: String) -> String {
    if text.len() > NAME_BYTES {
        let end = (0..=NAME_BYTES).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default();
        text.truncate(end);
    }
    text
}

#[derive(Deserialize)]
struct Spec {
    linux: Option<Linux>,
    annotations: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Linux {
    #[serde(rename = "cgroupsPath")]
    cgroups_path: Option<String>,
}

/// From the OCI specification of a sandbox's own container.
pub fn details_of_spec(json: &[u8]) -> Option<Details> {
    details(serde_json::from_slice(json).ok()?)
}

/// From `info["info"]` of a verbose sandbox status.
pub fn details_of_status(json: &[u8]) -> Option<Details> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(rename = "runtimeSpec")]
        spec: Option<Spec>,
        config: Option<Config>,
    }
    #[derive(Deserialize)]
    struct Config {
        linux: Option<ConfigLinux>,
    }
    #[derive(Deserialize)]
    struct ConfigLinux {
        cgroup_parent: Option<String>,
    }
    let info: Info = serde_json::from_slice(json).ok()?;
    let sent = info.config.and_then(|config| config.linux).and_then(|linux| linux.cgroup_parent);
    let mut details = info.spec.and_then(details).unwrap_or_default();
    if let Some(parent) = sent.filter(|parent| is_cgroup(parent)) {
        details.cgroup_parent = Some(parent);
    }
    Some(details)
}

fn details(spec: Spec) -> Option<Details> {
    let annotation = |name: &str| spec.annotations.as_ref()?.get(name).cloned();
    let from_path = || pod_cgroup(spec.linux.as_ref()?.cgroups_path.as_ref()?);
    let cgroup_parent = match annotation("io.kubernetes.cri-o.CgroupParent").filter(|parent| !parent.is_empty()) {
        Some(parent) => expand(&parent).filter(|parent| is_cgroup(parent)),
        None => from_path(),
    };
    let runtime_handler = annotation("io.kubernetes.cri-o.RuntimeHandler").map(bounded).unwrap_or_default();
    Some(Details { cgroup_parent, runtime_handler })
}

/// The pod's cgroup, told by the cgroup of a container in it: `<parent>/<id>`, or `<slice>:<prefix>:<id>`.
pub fn pod_cgroup(cgroups_path: &str) -> Option<String> {
    let parent = match cgroups_path.split_once(':') {
        Some((slice, _)) => expand(slice)?,
        None => cgroups_path.rsplit_once('/')?.0.to_owned(),
    };
    is_cgroup(&parent).then_some(parent)
}

/// A slice's name as its path: each dash is a level (`a-b.slice` is `/a.slice/a-b.slice`). Paths stay as they are.
fn expand(slice: &str) -> Option<String> {
    if slice.starts_with('/') {
        return Some(slice.to_owned());
    }
    let name = slice.strip_suffix(".slice")?;
    let mut path = String::new();
    for (end, _) in name.match_indices('-').chain([(name.len(), "")]) {
        path.push('/');
        path.push_str(&name[..end]);
        path.push_str(".slice");
    }
    Some(path)
}

fn is_cgroup(path: &str) -> bool {
    path.starts_with('/') && path.len() <= 4096 && !path.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_pods_cgroup_with_either_driver() {
        let cgroup = |path| pod_cgroup(path);
        assert_eq!(cgroup("/kubepods/burstable/podu/abc").as_deref(), Some("/kubepods/burstable/podu"));
        assert_eq!(
            cgroup("kubepods-burstable-podu_1.slice:cri-containerd:abc").as_deref(),
            Some("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu_1.slice")
        );
        assert_eq!(cgroup(""), None);
        assert_eq!(cgroup("/abc"), None, "a sandbox without a pod's cgroup");
    }

    #[test]
    fn containerds_specification_tells_the_cgroup() {
        let json = br#"{"ociVersion":"1","annotations":{"x":"y"},"linux":{"cgroupsPath":"/kubepods/podu/abc"},
            "process":{"env":["SECRET=1"]}}"#;
        assert_eq!(details_of_spec(json).unwrap().cgroup_parent.as_deref(), Some("/kubepods/podu"));
        for empty in [&b"{}"[..], br#"{"linux":{"cgroupsPath":null},"annotations":null}"#] {
            assert_eq!(details_of_spec(empty).unwrap(), Details::default());
        }
    }

    #[test]
    fn cri_os_annotations_tell_cgroup_and_handler() {
        let json = br#"{"pid":1,"runtimeSpec":{"annotations":{"io.kubernetes.cri-o.RuntimeHandler":"kata-qemu",
            "io.kubernetes.cri-o.CgroupParent":"kubepods-podu.slice"},"linux":{"cgroupsPath":"x:crio:y"}}}"#;
        let expected = Details {
            cgroup_parent: Some("/kubepods.slice/kubepods-podu.slice".into()),
            runtime_handler: "kata-qemu".into(),
        };
        assert_eq!(details_of_status(json), Some(expected));
    }

    #[test]
    fn what_the_kubelet_sent_comes_first() {
        let json = br#"{"config":{"linux":{"cgroup_parent":"/kubelet/kubepods/podu"}},
            "runtimeSpec":{"linux":{"cgroupsPath":"/other/abc"}}}"#;
        assert_eq!(details_of_status(json).unwrap().cgroup_parent.as_deref(), Some("/kubelet/kubepods/podu"));
        let nulls = br#"{"pid":0,"config":null,"runtimeSpec":null}"#;
        assert_eq!(details_of_status(nulls), Some(Details::default()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,60}") {
            let _ = (details_of_spec(&bytes), details_of_status(&bytes), pod_cgroup(&text));
        }
    }
}
