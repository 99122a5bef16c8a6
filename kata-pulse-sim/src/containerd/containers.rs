//! containerd's container store: what it knows of every sandbox and container without asking a shim.

use std::{borrow::Cow, collections::HashMap, pin::Pin, sync::Arc};

use prost_types::Any;
use serde_json::json;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{
    filter::Filters,
    namespace_of,
    proto::containers::{
        Container, GetContainerRequest, GetContainerResponse, ListContainerMessage, ListContainersRequest,
        ListContainersResponse, container::Runtime, containers_server::Containers,
    },
    timestamp,
};
use crate::{
    container::ContainerSpec,
    cri::{Calls, CriFlavour},
    node::{Node, Sandbox, SandboxSpec},
    spec::{PAUSE_IMAGE, oci_spec, overhead},
};

const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// `io.containerd.<handler>.v2`, as kata-deploy writes it; a pod without a handler runs under `kata`.
pub(crate) fn runtime_name(sandbox: &SandboxSpec) -> String {
    match sandbox.pod.as_ref().map(|pod| pod.handler.as_str()) {
        None | Some("") => "io.containerd.kata.v2".to_owned(),
        Some(handler) => format!("io.containerd.{handler}.v2"),
    }
}

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct ContainersService {
    pub(crate) node: Arc<Node>,
    pub(crate) calls: Calls,
}

impl ContainersService {
    /// Sandboxes and containers whose id fits. Each costs its whole specification.
    fn in_namespace(&self, namespace: &str, fits: impl Fn(&str) -> bool) -> Vec<Container> {
        let sandboxes = self.node.lock();
        let mut found = Vec::new();
        for sandbox in sandboxes.values().filter(|sandbox| sandbox.spec.namespace() == namespace) {
            let containers = sandbox.workload.containers.iter().map(|container| &container.spec);
            found.extend(fits(&sandbox.spec.id).then(|| record(sandbox, None)));
            found.extend(containers.filter(|container| fits(&container.id)).map(|c| record(sandbox, Some(c))));
        }
        found
    }

    async fn listed(&self, request: Request<ListContainersRequest>) -> Result<Vec<Container>, Status> {
        let namespace = namespace_of(&request)?;
        let filters = Filters::parse(&request.into_inner().filters)?;
        let mut found = self.in_namespace(&namespace, |_| true);
        found.retain(|container| filters.accept(|field| field_of(container, field)));
        Ok(found)
    }
}

fn field_of<'a>(container: &'a Container, field: &str) -> Option<Cow<'a, str>> {
    match field {
        "id" => Some(container.id.as_str().into()),
        "image" => Some(container.image.as_str().into()),
        "runtime.name" => container.runtime.as_ref().map(|runtime| runtime.name.as_str().into()),
        _ => container.labels.get(field.strip_prefix("labels.")?).map(|value| value.as_str().into()),
    }
}

/// `None` for the sandbox's own container.
fn record(sandbox: &Sandbox, container: Option<&ContainerSpec>) -> Container {
    let created_unix_ns = container.map_or(sandbox.created_unix_ns, |container| container.created_unix_ns);
    let id = container.map_or(&sandbox.spec.id, |container| &container.id).clone();
    let spec = oci_spec(&sandbox.spec, container, CriFlavour::Containerd);
    Container {
        labels: labels(&sandbox.spec, container),
        image: container.map_or(PAUSE_IMAGE, |container| &container.image).to_owned(),
        runtime: Some(Runtime { name: runtime_name(&sandbox.spec), options: None }),
        spec: Some(Any { type_url: SPEC_TYPE.to_owned(), value: spec.to_string().into_bytes() }),
        snapshotter: "overlayfs".to_owned(),
        snapshot_key: id.clone(),
        created_at: Some(timestamp(created_unix_ns)),
        updated_at: Some(timestamp(created_unix_ns)),
        extensions: if container.is_none() { metadata(&sandbox.spec) } else { HashMap::new() },
        id,
    }
}

/// What the CRI plugin keeps with a sandbox's record: the kubelet's own words.
fn metadata(sandbox: &SandboxSpec) -> HashMap<String, Any> {
    if sandbox.pod.is_none() {
        return HashMap::new();
    }
    let mut linux = json!({"cgroup_parent": sandbox.cgroup_parent()});
    if let Some(overhead) = overhead(sandbox) {
        linux["overhead"] = overhead;
    }
    let metadata = json!({"Version": "v1", "Metadata": {"ID": sandbox.id, "Config": {"linux": linux}}});
    let type_url = "github.com/containerd/cri/pkg/store/sandbox/Metadata".to_owned();
    let value = metadata.to_string().into_bytes();
    HashMap::from([("io.cri-containerd.sandbox.metadata".to_owned(), Any { type_url, value })])
}

fn labels(sandbox: &SandboxSpec, container: Option<&ContainerSpec>) -> HashMap<String, String> {
    let Some(pod) = &sandbox.pod else {
        return HashMap::new();
    };
    let kind = if container.is_some() { "container" } else { "sandbox" };
    let mut labels = pod.labels();
    labels.insert("io.cri-containerd.kind".to_owned(), kind.to_owned());
    if let Some(container) = container {
        labels.insert("io.kubernetes.container.name".to_owned(), container.name.clone());
    }
    labels
}

#[tonic::async_trait]
impl Containers for ContainersService {
    type ListStreamStream = Pin<Box<dyn Stream<Item = Result<ListContainerMessage, Status>> + Send>>;

    async fn get(&self, request: Request<GetContainerRequest>) -> Result<Response<GetContainerResponse>, Status> {
        self.calls.called("Containers.Get").await?;
        let namespace = namespace_of(&request)?;
        let id = request.into_inner().id;
        let found = self.in_namespace(&namespace, |known| known == id).pop();
        let missing = || Status::not_found(format!("container {id:?} in namespace {namespace:?}: not found"));
        Ok(Response::new(GetContainerResponse { container: Some(found.ok_or_else(missing)?) }))
    }

    async fn list(&self, request: Request<ListContainersRequest>) -> Result<Response<ListContainersResponse>, Status> {
        self.calls.called("Containers.List").await?;
        Ok(Response::new(ListContainersResponse { containers: self.listed(request).await? }))
    }

    async fn list_stream(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<Self::ListStreamStream>, Status> {
        self.calls.called("Containers.ListStream").await?;
        let found = self.listed(request).await?.into_iter();
        let messages = found.map(|container| Ok(ListContainerMessage { container: Some(container) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }
}
