//! The OCI specification of a sandbox or a container as the runtime would have written it, with what agents read from
//! it: cgroup path, limits, rlimits, annotations. Its environment holds [`SECRET`], which nobody may log or export.

use serde_json::{Value, json};

use crate::{
    container::ContainerSpec,
    cri::CriFlavour,
    node::{Sandbox, SandboxSpec},
};

/// Stands in the environment of every container.
pub const SECRET: &str = "kata-pulse-sim-secret-5f0d8c1e";

/// The image of every sandbox's own container.
pub(crate) const PAUSE_IMAGE: &str = "registry.k8s.io/pause:3.10";

impl Sandbox {
    /// The image of a container, or the pause image for the sandbox itself.
    pub(crate) fn image_of(&self, id: &str) -> &str {
        let mut containers = self.workload.containers.iter();
        containers.find(|container| container.spec.id == id).map_or(PAUSE_IMAGE, |container| &container.spec.image)
    }
}

/// `None` for the sandbox itself.
pub(crate) fn oci_spec(sandbox: &SandboxSpec, container: Option<&ContainerSpec>, flavour: CriFlavour) -> Value {
    let id = container.map_or(&sandbox.id, |container| &container.id);
    let environment = ["PATH=/usr/local/bin:/usr/bin:/bin".to_owned(), format!("API_TOKEN={SECRET}")];
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": ["/app"], "env": environment, "cwd": "/",
            "rlimits": container.map_or(json!([]), rlimits),
        },
        "root": {"path": "rootfs"},
        "annotations": match flavour {
            CriFlavour::Containerd => containerd_annotations(sandbox, container),
            CriFlavour::CriO => crio_annotations(sandbox, container),
        },
        "linux": {
            "cgroupsPath": sandbox.cgroups_path(id, flavour),
            "resources": container.map_or(json!({}), resources),
            "namespaces": [{"type": "pid"}, {"type": "network", "path": format!("/var/run/netns/cni-{}", &sandbox.id[..sandbox.id.len().min(8)])}],
        },
    })
}

fn rlimits(container: &ContainerSpec) -> Value {
    match container.nofile {
        Some((soft, hard)) => json!([{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}]),
        None => json!([]),
    }
}

fn resources(container: &ContainerSpec) -> Value {
    let limits = &container.limits;
    json!({
        "cpu": {"shares": limits.cpu_shares, "quota": limits.cpu_quota, "period": limits.cpu_period},
        "memory": {"limit": limits.memory_limit, "swap": limits.memory_swap_limit},
    })
}

fn containerd_annotations(sandbox: &SandboxSpec, container: Option<&ContainerSpec>) -> Value {
    let mut annotations = json!({
        "io.kubernetes.cri.container-type": if container.is_some() { "container" } else { "sandbox" },
        "io.kubernetes.cri.sandbox-id": sandbox.id,
    });
    if let Some(pod) = &sandbox.pod {
        annotations["io.kubernetes.cri.sandbox-name"] = json!(pod.name);
        annotations["io.kubernetes.cri.sandbox-namespace"] = json!(pod.namespace);
        annotations["io.kubernetes.cri.sandbox-uid"] = json!(pod.uid);
    }
    if let Some(container) = container {
        annotations["io.kubernetes.cri.container-name"] = json!(container.name);
        annotations["io.kubernetes.cri.image-name"] = json!(container.image);
    }
    annotations
}

fn crio_annotations(sandbox: &SandboxSpec, container: Option<&ContainerSpec>) -> Value {
    let Some(pod) = &sandbox.pod else {
        return json!({});
    };
    let mut annotations = json!({
        "io.kubernetes.cri-o.SandboxID": sandbox.id,
        "io.kubernetes.cri-o.ContainerType": if container.is_some() { "container" } else { "sandbox" },
        "io.kubernetes.cri-o.RuntimeHandler": pod.handler,
        "io.kubernetes.cri-o.CgroupParent": crio_parent(sandbox),
        "io.kubernetes.cri-o.KubeName": pod.name,
        "io.kubernetes.cri-o.Namespace": pod.namespace,
        "io.kubernetes.cri-o.Name": crio_name(sandbox, container),
        "io.kubernetes.cri-o.ImageName": container.map_or(PAUSE_IMAGE, |container| &container.image),
    });
    annotations["io.kubernetes.cri-o.Labels"] = json!(json!(pod.labels()).to_string());
    if let Some(overhead) = overhead(sandbox) {
        annotations["io.kubernetes.cri-o.PodLinuxOverhead"] = json!(overhead.to_string());
    }
    annotations
}

/// CRI-O keeps the last element alone where systemd names the cgroups.
fn crio_parent(sandbox: &SandboxSpec) -> String {
    let parent = sandbox.cgroup_parent();
    match parent.rsplit_once('/') {
        Some((_, slice)) if slice.ends_with(".slice") => slice.to_owned(),
        _ => parent,
    }
}

/// `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`; the sandbox's own container is called POD.
pub(crate) fn crio_name(sandbox: &SandboxSpec, container: Option<&ContainerSpec>) -> String {
    let (name, attempt) = container.map_or(("POD", 0), |container| (container.name.as_str(), container.attempt));
    let pod = sandbox.pod.as_ref();
    let [pod_name, namespace, uid] = match pod {
        Some(pod) => [&pod.name, &pod.namespace, &pod.uid].map(String::as_str),
        None => [""; 3],
    };
    format!("k8s_{name}_{pod_name}_{namespace}_{uid}_{attempt}")
}

/// What the RuntimeClass adds, as CRI's LinuxContainerResources in JSON.
pub(crate) fn overhead(sandbox: &SandboxSpec) -> Option<Value> {
    let overhead = sandbox.overhead?;
    Some(json!({
        "cpu_period": 100_000,
        "cpu_quota": overhead.cpu_millis * 100,
        "cpu_shares": overhead.cpu_millis * 1024 / 1000,
        "memory_limit_in_bytes": overhead.memory_bytes,
    }))
}
