//! Containers as CRI lists and describes them.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{CriFlavour, Service, pods::selected, proto::*};
use crate::{
    container::{ContainerLimits, ContainerSpec},
    containerd::containers::runtime_name,
    node::Sandbox,
    spec::{SECRET, oci_spec},
    workload,
};

pub(super) const RUNNING: i32 = 1;
const EXITED: i32 = 2;
/// What containerd says of a container whose shim is gone.
const SHIM_GONE: i32 = 255;

/// State, end and exit code.
struct Fate {
    state: i32,
    finished_at: i64,
    exit_code: i32,
    reason: &'static str,
}

fn fate(sandbox: &Sandbox, container: &workload::Container) -> Fate {
    match container.state {
        workload::ContainerState::Running if sandbox.shim.life.is_cancelled() => {
            Fate { state: EXITED, finished_at: container.spec.started_unix_ns, exit_code: SHIM_GONE, reason: "Unknown" }
        }
        workload::ContainerState::Running => Fate { state: RUNNING, finished_at: 0, exit_code: 0, reason: "" },
        workload::ContainerState::Exited { at_unix_ns, code, oom } => {
            let reason = match code {
                _ if oom => "OOMKilled",
                0 => "Completed",
                _ => "Error",
            };
            Fate { state: EXITED, finished_at: at_unix_ns, exit_code: code, reason }
        }
    }
}

/// The digest that stands for an image.
fn image_id(image: &str) -> String {
    format!("sha256:{}", ContainerSpec::named(image, "image").id)
}

fn listed(flavour: CriFlavour, sandbox: &Sandbox, container: &workload::Container) -> Option<Container> {
    let spec = &container.spec;
    let mut labels = sandbox.spec.pod.as_ref()?.labels();
    labels.insert("io.kubernetes.container.name".to_owned(), spec.name.clone());
    let image_id = image_id(&spec.image);
    let image = match flavour {
        // Kubelet resolves the name first and passes the id on.
        CriFlavour::Containerd => image_id.clone(),
        CriFlavour::CriO => spec.image.clone(),
    };
    Some(Container {
        id: spec.id.clone(),
        pod_sandbox_id: sandbox.spec.id.clone(),
        metadata: Some(ContainerMetadata { name: spec.name.clone(), attempt: spec.attempt }),
        image: Some(ImageSpec { image, user_specified_image: spec.image.clone() }),
        image_ref: image_id.clone(),
        state: fate(sandbox, container).state,
        created_at: spec.created_unix_ns,
        labels,
        annotations: annotations(spec),
        image_id,
    })
}

fn annotations(spec: &ContainerSpec) -> HashMap<String, String> {
    HashMap::from([
        ("io.kubernetes.container.hash".to_owned(), "5f0d8c1e".to_owned()),
        ("io.kubernetes.container.restartCount".to_owned(), spec.attempt.to_string()),
        ("io.kubernetes.container.terminationMessagePath".to_owned(), "/dev/termination-log".to_owned()),
    ])
}

impl Service {
    /// Filters are joined with "and"; ids may be cut short.
    pub(super) fn containers(&self, filter: &ContainerFilter) -> Vec<Container> {
        let sandboxes = self.node.lock();
        let named = sandboxes.values().filter(|sandbox| sandbox.spec.id.starts_with(&filter.pod_sandbox_id));
        named
            .flat_map(|sandbox| sandbox.workload.containers.iter().map(move |container| (sandbox, container)))
            .filter_map(|(sandbox, container)| listed(self.flavour, sandbox, container))
            .filter(|container| container.id.starts_with(&filter.id))
            .filter(|container| filter.state.is_none_or(|wanted| wanted.state == container.state))
            .filter(|container| selected(&container.labels, &filter.label_selector))
            .collect()
    }

    /// `None`: CRI knows no such container.
    pub(super) fn container_status(&self, request: &ContainerStatusRequest) -> Option<ContainerStatusResponse> {
        let sandboxes = self.node.lock();
        let all = sandboxes.values().flat_map(|sandbox| sandbox.workload.containers.iter().map(move |c| (sandbox, c)));
        let (sandbox, container) = all
            .into_iter()
            .find(|(_, container)| container.spec.id.starts_with(&request.container_id))
            .filter(|_| !request.container_id.is_empty())?;
        let mut info = HashMap::new();
        if request.verbose {
            info.insert("info".to_owned(), verbose(self.flavour, sandbox, &container.spec).to_string());
        }
        Some(ContainerStatusResponse { status: Some(status(self.flavour, sandbox, container)?), info })
    }
}

fn status(flavour: CriFlavour, sandbox: &Sandbox, container: &workload::Container) -> Option<ContainerStatus> {
    let spec = &container.spec;
    let listed = listed(flavour, sandbox, container)?;
    let fate = fate(sandbox, container);
    let repository = spec.image.rsplit_once(':').map_or(spec.image.as_str(), |(repository, _)| repository);
    let image = ImageSpec { image: spec.image.clone(), user_specified_image: spec.image.clone() };
    Some(ContainerStatus {
        id: listed.id,
        metadata: listed.metadata,
        state: fate.state,
        created_at: spec.created_unix_ns,
        started_at: spec.started_unix_ns,
        finished_at: fate.finished_at,
        exit_code: fate.exit_code,
        image: Some(image),
        image_ref: format!("{repository}@{}", listed.image_id),
        reason: fate.reason.to_owned(),
        labels: listed.labels,
        annotations: listed.annotations,
        resources: Some(ContainerResources { linux: Some(resources(&spec.limits)) }),
        image_id: listed.image_id,
    })
}

fn resources(limits: &ContainerLimits) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpu_shares: limits.cpu_shares,
        memory_limit_in_bytes: limits.memory_limit,
        memory_swap_limit_in_bytes: limits.memory_swap_limit,
    }
}

/// `info["info"]`: the secret of the environment stands in it twice.
fn verbose(flavour: CriFlavour, sandbox: &Sandbox, container: &ContainerSpec) -> Value {
    let mut info = json!({
        "sandboxID": sandbox.spec.id,
        "pid": sandbox.spec.vmm_pid,
        "runtimeSpec": oci_spec(&sandbox.spec, Some(container), flavour),
    });
    match flavour {
        CriFlavour::CriO => info["privileged"] = json!(false),
        CriFlavour::Containerd => {
            info["removing"] = json!(false);
            info["snapshotKey"] = json!(container.id);
            info["snapshotter"] = json!("overlayfs");
            info["runtimeType"] = json!(runtime_name(&sandbox.spec));
            info["runtimeOptions"] = Value::Null;
            info["config"] = json!({
                "metadata": {"name": container.name, "attempt": container.attempt},
                "image": {"image": image_id(&container.image)},
                "envs": [{"key": "API_TOKEN", "value": SECRET}],
            });
        }
    }
    info
}
