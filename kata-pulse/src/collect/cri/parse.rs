//! What runtimes put into JSON and paths. Pure. Verbose answers hold secrets: only what is named here is taken.

use std::collections::HashMap;

use serde::Deserialize;

use super::proto::cri;
use crate::sandbox::{ContainerId, Identity, Limits, Overhead, SandboxId};

/// Kubernetes' own bounds are 253 for names; a longer string is nobody's name.
const NAME_BYTES: usize = 512;

/// What is asked for once per sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub cgroup_parent: Option<String>,
    pub runtime_handler: String,
    pub overhead: Overhead,
}

/// One entry of the runtime's list.
pub(super) fn identity(sandbox: cri::PodSandbox) -> Option<(SandboxId, Identity)> {
    let id = SandboxId::parse(&sandbox.id).ok()?;
    let metadata = sandbox.metadata.unwrap_or_default();
    let identity = Identity {
        pod_name: bounded(metadata.name),
        namespace: bounded(metadata.namespace),
        uid: bounded(metadata.uid),
        runtime_handler: bounded(sandbox.runtime_handler),
        cgroup_parent: None,
        ready: sandbox.state == i32::from(cri::PodSandboxState::SandboxReady),
        created_unix_ns: Some(sandbox.created_at).filter(|&created| created > 0),
        overhead: Overhead::default(),
    };
    Some((id, identity))
}

/// One entry of the list of running containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub id: ContainerId,
    pub name: String,
    pub attempt: u32,
    pub image: String,
    pub created_unix_ns: Option<i64>,
}

pub(super) fn listed(container: cri::Container) -> Option<(SandboxId, Listed)> {
    let sandbox = SandboxId::parse(&container.pod_sandbox_id).ok()?;
    let metadata = container.metadata.unwrap_or_default();
    let image = container.image.map(|image| image.image).filter(|image| !image.is_empty());
    let listed = Listed {
        id: ContainerId::parse(&container.id)?,
        name: bounded(metadata.name),
        attempt: metadata.attempt,
        image: bounded(image.unwrap_or(container.image_ref)),
        created_unix_ns: Some(container.created_at).filter(|&at| at > 0),
    };
    (!listed.name.is_empty()).then_some((sandbox, listed))
}

/// What is asked for of each container: once what cannot change, now and then what a resize in place changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerDetails {
    /// Empty: not told.
    pub image: String,
    /// The cgroup that it would have on the host.
    pub cgroup: Option<String>,
    pub started_unix_ns: Option<i64>,
    pub limits: Limits,
}

/// From containerd's record of a container: its image's name and its OCI specification.
pub fn details_of_record(image: String, json: &[u8]) -> ContainerDetails {
    let mut details = serde_json::from_slice(json).map(container_details).unwrap_or_default();
    details.image = bounded(image);
    details
}

/// From `info["info"]` of a verbose container status.
pub fn details_of_container_status(json: &[u8]) -> ContainerDetails {
    #[derive(Deserialize)]
    struct Info {
        #[serde(rename = "runtimeSpec")]
        spec: Option<Spec>,
    }
    let info: Option<Info> = serde_json::from_slice(json).ok();
    info.and_then(|info| info.spec).map(container_details).unwrap_or_default()
}

/// Adds what the status itself tells, which is newer than the specification.
pub(super) fn take_status(details: &mut ContainerDetails, status: cri::ContainerStatus) {
    details.started_unix_ns = Some(status.started_at).filter(|&at| at > 0);
    if details.image.is_empty() {
        let named = status.image.map(|image| image.image).filter(|image| !image.is_empty());
        details.image = bounded(named.unwrap_or(status.image_ref));
    }
    let Some(linux) = status.resources.and_then(|resources| resources.linux) else { return };
    let limits = &mut details.limits;
    // proto3 tells an unset number from zero by nothing: zero is none of these.
    let told = |value: i64| Some(value).filter(|&value| value != 0);
    limits.cpu_period_us = told(linux.cpu_period).or(limits.cpu_period_us);
    limits.cpu_quota_us = told(linux.cpu_quota).or(limits.cpu_quota_us);
    limits.cpu_shares = told(linux.cpu_shares).or(limits.cpu_shares);
    limits.memory_bytes = told(linux.memory_limit_in_bytes).or(limits.memory_bytes);
    limits.memory_swap_bytes = told(linux.memory_swap_limit_in_bytes).or(limits.memory_swap_bytes);
}

fn container_details(spec: Spec) -> ContainerDetails {
    let soft_files = spec.process.iter().flat_map(|process| &process.rlimits).find(|one| one.kind == "RLIMIT_NOFILE");
    let open_files = soft_files.map(|one| one.soft);
    let linux = spec.linux.unwrap_or_default();
    let cgroup = linux.cgroups_path.as_deref().and_then(container_cgroup);
    let (cpu, memory) = linux.resources.map(|all| (all.cpu, all.memory)).unwrap_or_default();
    let (cpu, memory) = (cpu.unwrap_or_default(), memory.unwrap_or_default());
    let limits = Limits {
        cpu_period_us: cpu.period.and_then(|period| i64::try_from(period).ok()),
        cpu_quota_us: cpu.quota,
        cpu_shares: cpu.shares.and_then(|shares| i64::try_from(shares).ok()),
        memory_bytes: memory.limit,
        memory_swap_bytes: memory.swap,
        open_files,
    };
    ContainerDetails { cgroup, limits, ..ContainerDetails::default() }
}

/// `slice:prefix:name` is the scope of that name in the slice; a path is the cgroup itself.
pub fn container_cgroup(cgroups_path: &str) -> Option<String> {
    let path = match cgroups_path.split_once(':') {
        Some((slice, rest)) => {
            let (prefix, name) = rest.split_once(':')?;
            format!("{}/{prefix}-{name}.scope", expand(slice)?)
        }
        None => cgroups_path.to_owned(),
    };
    is_cgroup(&path).then_some(path)
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
    process: Option<ProcessSpec>,
}

#[derive(Default, Deserialize)]
struct Linux {
    #[serde(rename = "cgroupsPath")]
    cgroups_path: Option<String>,
    resources: Option<Resources>,
}

#[derive(Default, Deserialize)]
struct Resources {
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

#[derive(Default, Deserialize)]
struct Cpu {
    period: Option<u64>,
    quota: Option<i64>,
    shares: Option<u64>,
}

#[derive(Default, Deserialize)]
struct Memory {
    limit: Option<i64>,
    swap: Option<i64>,
}

/// Its environment, which holds secrets, is not among the fields.
#[derive(Deserialize)]
struct ProcessSpec {
    #[serde(default)]
    rlimits: Vec<Rlimit>,
}

#[derive(Deserialize)]
struct Rlimit {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    soft: u64,
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
    let info: Info = serde_json::from_slice(json).ok()?;
    let mut details = info.spec.and_then(details).unwrap_or_default();
    if let Some(linux) = info.config.and_then(|config| config.linux) {
        if let Some(parent) = linux.cgroup_parent.filter(|parent| is_cgroup(parent)) {
            details.cgroup_parent = Some(parent);
        }
        details.overhead = linux.overhead.map(LinuxResources::into_overhead).unwrap_or(details.overhead);
    }
    Some(details)
}

/// From what containerd's CRI plugin keeps with the sandbox's record.
pub fn overhead_of_metadata(json: &[u8]) -> Overhead {
    #[derive(Deserialize)]
    struct Versioned {
        #[serde(rename = "Metadata")]
        metadata: Option<Metadata>,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(rename = "Config")]
        config: Option<Config>,
    }
    let config = serde_json::from_slice::<Versioned>(json).ok().and_then(|known| known.metadata?.config);
    let sent = config.and_then(|config| config.linux?.overhead);
    sent.map(LinuxResources::into_overhead).unwrap_or_default()
}

/// The kubelet's own words: CRI's PodSandboxConfig.
#[derive(Deserialize)]
struct Config {
    linux: Option<ConfigLinux>,
}

#[derive(Deserialize)]
struct ConfigLinux {
    cgroup_parent: Option<String>,
    overhead: Option<LinuxResources>,
}

/// CRI's LinuxContainerResources.
#[derive(Default, Deserialize)]
#[serde(default)]
struct LinuxResources {
    cpu_period: i64,
    cpu_quota: i64,
    cpu_shares: i64,
    memory_limit_in_bytes: i64,
}

/// As the kernel has it for groups of processes.
const LEAST_SHARES: i64 = 2;

impl LinuxResources {
    fn into_overhead(self) -> Overhead {
        let by_quota = self.cpu_quota.checked_mul(1000).filter(|_| self.cpu_quota > 0 && self.cpu_period > 0);
        // The kubelet sends the kernel's least where nothing is declared.
        let by_shares = self.cpu_shares.checked_mul(1000).filter(|_| self.cpu_shares > LEAST_SHARES);
        Overhead {
            memory_bytes: Some(self.memory_limit_in_bytes).filter(|&bytes| bytes > 0),
            cpu_millicores: by_quota
                .map(|quota| quota / self.cpu_period)
                .or_else(|| by_shares.map(|shares| shares / 1024)),
        }
    }
}

fn details(spec: Spec) -> Option<Details> {
    let annotation = |name: &str| spec.annotations.as_ref()?.get(name).cloned();
    let from_path = || pod_cgroup(spec.linux.as_ref()?.cgroups_path.as_ref()?);
    let cgroup_parent = match annotation("io.kubernetes.cri-o.CgroupParent").filter(|parent| !parent.is_empty()) {
        Some(parent) => expand(&parent).filter(|parent| is_cgroup(parent)),
        None => from_path(),
    };
    let runtime_handler = annotation("io.kubernetes.cri-o.RuntimeHandler").map(bounded).unwrap_or_default();
    let overhead = annotation("io.kubernetes.cri-o.PodLinuxOverhead")
        .or_else(|| annotation("pod-linux-overhead.crio.io"))
        .and_then(|json| serde_json::from_str::<LinuxResources>(&json).ok());
    let overhead = overhead.map(LinuxResources::into_overhead).unwrap_or_default();
    Some(Details { cgroup_parent, runtime_handler, overhead })
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
            overhead: Overhead::default(),
        };
        assert_eq!(details_of_status(json), Some(expected));
    }

    #[test]
    fn a_containers_record_tells_cgroup_limits_and_nothing_secret() {
        let json = br#"{"process":{"env":["SECRET=1"],"rlimits":[{"type":"RLIMIT_NOFILE","hard":2048,"soft":1024}]},
            "linux":{"cgroupsPath":"kubepods-podu.slice:cri-containerd:c1","resources":{
            "cpu":{"shares":512,"quota":50000,"period":100000},"memory":{"limit":268435456}}}}"#;
        let details = details_of_record("docker.io/library/app:1".into(), json);
        let limits = Limits {
            cpu_period_us: Some(100_000),
            cpu_quota_us: Some(50_000),
            cpu_shares: Some(512),
            memory_bytes: Some(268_435_456),
            memory_swap_bytes: None,
            open_files: Some(1024),
        };
        let expected = ContainerDetails {
            image: "docker.io/library/app:1".into(),
            cgroup: Some("/kubepods.slice/kubepods-podu.slice/cri-containerd-c1.scope".into()),
            started_unix_ns: None,
            limits,
        };
        assert_eq!(details, expected);
        assert!(!format!("{details:?}").contains("SECRET"));
    }

    #[test]
    fn a_status_is_newer_than_the_specification() {
        let mut details = details_of_record(String::new(), br#"{"linux":{"resources":{"cpu":{"quota":50000}}}}"#);
        let linux = cri::LinuxContainerResources { cpu_quota: 70_000, ..Default::default() };
        let status = cri::ContainerStatus {
            started_at: 7,
            image_ref: "sha256:aa".into(),
            resources: Some(cri::ContainerResources { linux: Some(linux) }),
            ..Default::default()
        };
        take_status(&mut details, status);
        assert_eq!((details.limits.cpu_quota_us, details.started_unix_ns), (Some(70_000), Some(7)));
        assert_eq!(details.image, "sha256:aa", "never empty");
    }

    #[test]
    fn the_cgroup_that_a_container_would_have() {
        assert_eq!(container_cgroup("/kubepods/podu/abc").as_deref(), Some("/kubepods/podu/abc"));
        assert_eq!(container_cgroup("a.slice:crio:abc").as_deref(), Some("/a.slice/crio-abc.scope"));
        assert_eq!(container_cgroup("a.slice:crio"), None);
        assert_eq!(container_cgroup(""), None);
    }

    #[test]
    fn what_the_kubelet_sent_comes_first() {
        let json = br#"{"config":{"linux":{"cgroup_parent":"/kubelet/kubepods/podu"}},
            "runtimeSpec":{"linux":{"cgroupsPath":"/other/abc"}}}"#;
        assert_eq!(details_of_status(json).unwrap().cgroup_parent.as_deref(), Some("/kubelet/kubepods/podu"));
        let nulls = br#"{"pid":0,"config":null,"runtimeSpec":null}"#;
        assert_eq!(details_of_status(nulls), Some(Details::default()));
    }

    #[test]
    fn declared_overhead_is_found_wherever_it_is_kept() {
        let overhead = r#"{"cpu_period":100000,"cpu_quota":25000,"cpu_shares":256,"memory_limit_in_bytes":335544320}"#;
        let right = Overhead { memory_bytes: Some(335_544_320), cpu_millicores: Some(250) };
        let kept = format!(r#"{{"Version":"v1","Metadata":{{"Config":{{"linux":{{"overhead":{overhead}}}}}}}}}"#);
        assert_eq!(overhead_of_metadata(kept.as_bytes()), right);
        let verbose = format!(r#"{{"config":{{"linux":{{"overhead":{overhead}}}}}}}"#);
        assert_eq!(details_of_status(verbose.as_bytes()).unwrap().overhead, right);
        let annotated = serde_json::json!({"annotations": {"io.kubernetes.cri-o.PodLinuxOverhead": overhead}});
        assert_eq!(details_of_spec(annotated.to_string().as_bytes()).unwrap().overhead, right);
        let shares = br#"{"config":{"linux":{"overhead":{"cpu_shares":512}}}}"#;
        let by_shares = Overhead { memory_bytes: None, cpu_millicores: Some(500) };
        assert_eq!(details_of_status(shares).unwrap().overhead, by_shares);
        let memory_alone = br#"{"config":{"linux":{"overhead":{"cpu_period":100000,"cpu_quota":0,"cpu_shares":2,"memory_limit_in_bytes":4096}}}}"#;
        let of_memory = Overhead { memory_bytes: Some(4096), cpu_millicores: None };
        assert_eq!(details_of_status(memory_alone).unwrap().overhead, of_memory);
        for nothing in [&b"{}"[..], b"x", br#"{"Metadata":{"Config":{"linux":{"overhead":{}}}}}"#] {
            assert_eq!(overhead_of_metadata(nothing), Overhead::default());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,60}") {
            let _ = (details_of_spec(&bytes), details_of_status(&bytes), pod_cgroup(&text), container_cgroup(&text));
            let _ = (details_of_record(text, &bytes), details_of_container_status(&bytes), overhead_of_metadata(&bytes));
        }
    }
}
