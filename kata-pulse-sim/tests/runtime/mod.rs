//! A simulated runtime and a connection to it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{path::Path, sync::Arc};

use kata_pulse_sim::{
    CriFlavour, CriServer, Kind, Node, Runtime, SandboxSpec, Vmm,
    containerd::proto::tasks::{MetricsRequest, tasks_client::TasksClient},
    cri::proto::{
        ContainerStats, ContainerStatsFilter, ListContainerStatsRequest, runtime_service_client::RuntimeServiceClient,
    },
};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

pub struct Rig {
    pub node: Arc<Node>,
    pub server: CriServer,
    pub channel: Channel,
    _root: tempfile::TempDir,
}

pub const GO: Kind = Kind::new(Runtime::Go, Vmm::Qemu);
pub const RS: Kind = Kind::new(Runtime::Rs, Vmm::Dragonball);

/// Short ids: a socket's path has at most 107 bytes.
pub fn spec(n: u64, kind: Kind) -> SandboxSpec {
    let mut spec = SandboxSpec::numbered(n, kind);
    spec.id = format!("sandbox{n}");
    spec
}

pub async fn rig(flavour: CriFlavour, specs: Vec<SandboxSpec>) -> Rig {
    let root = tempfile::tempdir().unwrap();
    let node = Arc::new(Node::new(root.path()));
    for spec in specs {
        node.create(spec).await.unwrap();
    }
    let socket = root.path().join("cri.sock");
    let server = CriServer::start(Arc::clone(&node), &socket, flavour).unwrap();
    Rig { node, server, channel: connect(&socket).await, _root: root }
}

async fn connect(socket: &Path) -> Channel {
    Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap().connect().await.unwrap()
}

pub fn k8s<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "k8s.io".parse().unwrap());
    request
}

impl Rig {
    pub fn cri(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    pub fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }

    pub async fn stats(&self, pod: &str) -> Result<Vec<ContainerStats>, Status> {
        let filter = ContainerStatsFilter { pod_sandbox_id: pod.into(), ..Default::default() };
        let request = ListContainerStatsRequest { filter: Some(filter) };
        Ok(self.cri().list_container_stats(request).await?.into_inner().stats)
    }

    /// Ids with the types of their messages.
    pub async fn metrics(&self, filters: &[&str]) -> Vec<(String, String)> {
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        let answer = self.tasks().metrics(k8s(MetricsRequest { filters })).await.unwrap().into_inner();
        answer.metrics.into_iter().map(|m| (m.id, m.data.map(|data| data.type_url).unwrap_or_default())).collect()
    }
}
