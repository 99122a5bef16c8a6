//! Pod sandboxes as CRI lists and describes them.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{CriFlavour, Service, proto::*};
use crate::{
    containerd::containers::runtime_name,
    node::{Pod, Sandbox, SandboxSpec},
    spec::{PAUSE_IMAGE, oci_spec, overhead},
};

const READY: i32 = 0;
const NOT_READY: i32 = 1;

impl Pod {
    /// The labels kubelet sets.
    pub(crate) fn labels(&self) -> HashMap<String, String> {
        HashMap::from([
            ("io.kubernetes.pod.name".to_owned(), self.name.clone()),
            ("io.kubernetes.pod.namespace".to_owned(), self.namespace.clone()),
            ("io.kubernetes.pod.uid".to_owned(), self.uid.clone()),
        ])
    }
}

impl Sandbox {
    /// Neither stopping nor without its shim.
    pub(super) fn is_ready(&self) -> bool {
        !self.workload.stats.is_stopping() && !self.shim.life.is_cancelled()
    }
}

/// Every wanted label is there with that value.
pub(super) fn selected(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn pod_sandbox(flavour: CriFlavour, sandbox: &Sandbox) -> Option<PodSandbox> {
    let pod = sandbox.spec.pod.as_ref()?;
    let mut labels = pod.labels();
    let mut runtime_handler = pod.handler.clone();
    if flavour == CriFlavour::CriO {
        labels.insert("io.kubernetes.container.name".to_owned(), "POD".to_owned());
        runtime_handler.clear();
    }
    let (name, uid, namespace) = (pod.name.clone(), pod.uid.clone(), pod.namespace.clone());
    Some(PodSandbox {
        id: sandbox.spec.id.clone(),
        metadata: Some(PodSandboxMetadata { name, uid, namespace, attempt: 0 }),
        state: if sandbox.is_ready() { READY } else { NOT_READY },
        created_at: sandbox.created_unix_ns,
        labels,
        annotations: HashMap::from([("kubernetes.io/config.source".to_owned(), "api".to_owned())]),
        runtime_handler,
    })
}

impl Service {
    /// Filters are joined with "and"; an id may be cut short.
    pub(super) fn pods(&self, filter: &PodSandboxFilter) -> Vec<PodSandbox> {
        let sandboxes = self.node.lock();
        let named = sandboxes.values().filter(|sandbox| sandbox.spec.id.starts_with(&filter.id));
        named
            .filter_map(|sandbox| pod_sandbox(self.flavour, sandbox))
            .filter(|pod| filter.state.is_none_or(|wanted| wanted.state == pod.state))
            .filter(|pod| selected(&pod.labels, &filter.label_selector))
            .collect()
    }

    /// `None`: CRI knows no such pod.
    pub(super) fn pod_status(&self, request: &PodSandboxStatusRequest) -> Option<PodSandboxStatusResponse> {
        let sandboxes = self.node.lock();
        let named = |sandbox: &&Sandbox| sandbox.spec.id.starts_with(&request.pod_sandbox_id);
        let sandbox = sandboxes.values().find(named).filter(|_| !request.pod_sandbox_id.is_empty())?;
        let pod = pod_sandbox(self.flavour, sandbox)?;
        let mut info = HashMap::new();
        if request.verbose {
            let text = match self.flavour {
                CriFlavour::Containerd => containerd_info(sandbox, &pod),
                CriFlavour::CriO => crio_info(&sandbox.spec),
            };
            info.insert("info".to_owned(), text.to_string());
        }
        let status = PodSandboxStatus {
            id: pod.id,
            metadata: pod.metadata,
            state: pod.state,
            created_at: pod.created_at,
            labels: pod.labels,
            annotations: pod.annotations,
            runtime_handler: pod.runtime_handler,
        };
        Some(PodSandboxStatusResponse { status: Some(status), info })
    }
}

fn containerd_info(sandbox: &Sandbox, pod: &PodSandbox) -> Value {
    let spec = &sandbox.spec;
    let config = pod_config(spec, pod);
    json!({
        "pid": spec.vmm_pid,
        "processStatus": if sandbox.is_ready() { "running" } else { "deleted" },
        "netNamespaceClosed": false,
        "image": PAUSE_IMAGE,
        "snapshotKey": spec.id,
        "snapshotter": "overlayfs",
        "runtimeHandler": pod.runtime_handler,
        "runtimeType": runtime_name(spec),
        "runtimeOptions": null,
        "config": config,
        "runtimeSpec": oci_spec(spec, None, CriFlavour::Containerd),
        "sandboxMetadata": {"Version": "v1", "Metadata": {
            "ID": spec.id, "Config": config, "RuntimeHandler": pod.runtime_handler}},
    })
}

/// What kubelet sent, in the names of CRI's own messages.
fn pod_config(spec: &SandboxSpec, pod: &PodSandbox) -> Value {
    let mut linux = json!({"cgroup_parent": spec.cgroup_parent(), "security_context": {"namespace_options": {}}});
    if let Some(overhead) = overhead(spec) {
        linux["overhead"] = overhead;
    }
    let metadata = pod.metadata.as_ref();
    json!({
        "metadata": metadata.map(|m| json!({"name": m.name, "uid": m.uid, "namespace": m.namespace})),
        "labels": pod.labels,
        "annotations": pod.annotations,
        "log_directory": format!("/var/log/pods/{}", spec.id),
        "linux": linux,
    })
}

fn crio_info(spec: &SandboxSpec) -> Value {
    json!({"image": PAUSE_IMAGE, "pid": spec.vmm_pid, "runtimeSpec": oci_spec(spec, None, CriFlavour::CriO)})
}
