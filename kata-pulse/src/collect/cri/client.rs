//! gRPC over the runtime's Unix socket. Every unary call has a deadline; keep-alive pings are off, since runtimes
//! take frequent ones for an attack.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tracing::debug;

use super::handlers::{Handlers, parse_handlers};
use super::parse::{self, ContainerDetails, Details, Listed};
use super::pause::spread;
use super::proto::containers::containers_client::ContainersClient;
use super::proto::containers::{Container as ContainerRecord, GetContainerRequest};
use super::proto::cri::runtime_service_client::RuntimeServiceClient;
use super::proto::cri::{
    ContainerFilter, ContainerState, ContainerStateValue, ContainerStatusRequest, ListContainersRequest,
    ListPodSandboxRequest, PodSandboxFilter, PodSandboxStatusRequest, StatusRequest, VersionRequest,
};
use super::proto::events::events_client::EventsClient;
use super::proto::events::{SubscribeRequest, TaskEvent};
use crate::sandbox::{ContainerId, Identity, SandboxId, SourceState};

/// Tried in turn when the operator names none; found by asking, not by being there.
const WELL_KNOWN: [&str; 5] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/crio/crio.sock",
];
/// Extension of a sandbox's record in containerd: what the kubelet sent.
const SANDBOX_METADATA: &str = "io.cri-containerd.sandbox.metadata";
const DEADLINE: Duration = Duration::from_secs(3);
/// Of the question for the handlers, which names wait for.
const HANDLERS_DEADLINE: Duration = Duration::from_millis(500);
/// After the event stream ended; doubled while it cannot be had.
const RESUBSCRIBE: Duration = Duration::from_secs(1);
const LONGEST_RESUBSCRIBE: Duration = Duration::from_secs(60);
/// Kubernetes' sandboxes and containers that come and go. Not /tasks/exit: that is sent for every process that a probe
/// runs.
const FILTER: &str = "namespace==k8s.io,topic~=\"^/(tasks/(create|start|delete|oom)|containers/(create|delete))\"";
/// A list with all annotations of all pods is larger than gRPC's usual 4 MiB.
pub(in crate::collect) const MESSAGE_BYTES: usize = 32 << 20;

#[derive(Debug, thiserror::Error)]
pub enum CriError {
    #[error("no container runtime answers at {tried}; name its socket with --runtime-endpoint")]
    NoneFound { tried: String },
    #[error("the runtime's socket {} is no path", path.display())]
    Endpoint {
        path: PathBuf,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("connect to {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("{call} at {}", path.display())]
    Call {
        call: &'static str,
        path: PathBuf,
        #[source]
        source: Status,
    },
    #[error("no answer to {call} from {} within {DEADLINE:?}", path.display())]
    Deadline { call: &'static str, path: PathBuf },
}

impl CriError {
    pub fn state(&self) -> SourceState {
        match self {
            Self::NoneFound { .. } | Self::Connect { .. } | Self::Endpoint { .. } => SourceState::Refused,
            Self::Deadline { .. } => SourceState::Timeout,
            Self::Call { source, .. } => match source.code() {
                Code::Cancelled | Code::DeadlineExceeded => SourceState::Timeout,
                Code::Unavailable => SourceState::Refused,
                // What tonic says when the connection broke, and containerd while it starts.
                Code::Unknown if is_of_a_restart(source) => SourceState::Refused,
                Code::PermissionDenied | Code::Unauthenticated => SourceState::Denied,
                Code::Unimplemented => SourceState::Unsupported,
                _ => SourceState::BadPage,
            },
        }
    }

    /// It says nothing of the sandbox that was asked for.
    pub(super) fn may_be_retried(&self) -> bool {
        matches!(self.state(), SourceState::Refused | SourceState::Timeout)
    }

    /// The runtime's answer does not fit into a message: by our limit, or by its own.
    pub(super) fn is_too_large(&self) -> bool {
        matches!(self, Self::Call { source, .. } if matches!(source.code(), Code::OutOfRange | Code::ResourceExhausted))
    }

    /// The next call may well succeed on the same connection.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Call { .. } | Self::Deadline { .. })
    }
}

fn is_of_a_restart(status: &Status) -> bool {
    ["transport error", "not initialized yet"].iter().any(|text| status.message().contains(text))
}

/// A request about Kubernetes' containers: containerd keeps others in other namespaces.
pub(in crate::collect) fn in_kubernetes<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", tonic::metadata::MetadataValue::from_static("k8s.io"));
    request
}

/// A connection to the container runtime. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: String,
    channel: Channel,
}

impl Client {
    pub(super) async fn connect(endpoint: Option<&Path>) -> Result<Self, CriError> {
        if let Some(path) = endpoint {
            return Self::connect_to(path).await;
        }
        for path in WELL_KNOWN {
            match Self::connect_to(Path::new(path)).await {
                Ok(client) => return Ok(client),
                Err(error) => debug!(error = &error as &dyn std::error::Error, "not the container runtime"),
            }
        }
        Err(CriError::NoneFound { tried: WELL_KNOWN.join(", ") })
    }

    async fn connect_to(path: &Path) -> Result<Self, CriError> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()))
            .map_err(|source| CriError::Endpoint { path: path.into(), source })?
            .connect_timeout(DEADLINE);
        let channel = endpoint.connect().await.map_err(|source| CriError::Connect { path: path.into(), source })?;
        let mut client = Self { socket: path.into(), runtime: String::new(), channel };
        let mut service = client.cri();
        let version = client.unary("Version", service.version(VersionRequest {})).await?;
        client.runtime = format!("{} {}", version.runtime_name, version.runtime_version);
        Ok(client)
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn runtime(&self) -> &str {
        &self.runtime
    }

    pub fn is_containerd(&self) -> bool {
        self.runtime.starts_with("containerd")
    }

    pub(in crate::collect) fn cri(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    pub(in crate::collect) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(in crate::collect) async fn unary<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, CriError> {
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(source)) => Err(CriError::Call { call, path: self.socket.clone(), source }),
            Err(_) => Err(CriError::Deadline { call, path: self.socket.clone() }),
        }
    }

    /// Answered from the runtime's memory: no shim is asked.
    pub(super) async fn list(&self) -> Result<BTreeMap<SandboxId, Identity>, CriError> {
        let mut service = self.cri();
        let request = ListPodSandboxRequest { filter: None };
        let list = self.unary("ListPodSandbox", service.list_pod_sandbox(request)).await?;
        Ok(list.items.into_iter().filter_map(parse::identity).collect())
    }

    /// The same for one sandbox; `None`: the runtime does not know it.
    pub(super) async fn list_one(&self, id: &SandboxId) -> Result<Option<Identity>, CriError> {
        let mut service = self.cri();
        let request = ListPodSandboxRequest { filter: Some(PodSandboxFilter { id: id.to_string() }) };
        let list = self.unary("ListPodSandbox", service.list_pod_sandbox(request)).await?;
        // The filter takes a beginning of an id too.
        let found = list.items.into_iter().filter_map(parse::identity).find(|(listed, _)| listed == id);
        Ok(found.map(|(_, identity)| identity))
    }

    /// The handlers of a containerd, from its memory. Nothing depends on them but what is known of shims and of pods
    /// that named no handler, so a failure is none.
    pub(super) async fn handlers(&self) -> Option<Handlers> {
        if !self.is_containerd() {
            return None;
        }
        let mut service = self.cri();
        let asked = self.unary("Status", service.status(StatusRequest { verbose: true }));
        match tokio::time::timeout(HANDLERS_DEADLINE, asked).await {
            Ok(Ok(status)) => status.info.get("config").and_then(|json| parse_handlers(json.as_bytes())),
            Ok(Err(error)) => {
                debug!(error = &error as &dyn std::error::Error, "handlers are not known");
                None
            }
            Err(_) => {
                debug!("no answer to Status in time, handlers are not known");
                None
            }
        }
    }

    /// Cgroup and handler of one sandbox. On containerd its database tells, and only where that has no such API is
    /// the call made that reaches a shim.
    pub(super) async fn details(&self, id: &SandboxId) -> Result<Details, CriError> {
        if self.is_containerd() {
            match self.spec(id).await {
                Ok(details) => return Ok(details.unwrap_or_default()),
                Err(CriError::Call { source, .. }) if matches!(source.code(), Code::NotFound | Code::Unimplemented) => {
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.verbose(id).await?.unwrap_or_default())
    }

    /// From containerd's database, without its shim.
    async fn spec(&self, id: &SandboxId) -> Result<Option<Details>, CriError> {
        let Some(record) = self.get_container(id.as_str()).await? else { return Ok(None) };
        let mut details = record.spec.and_then(|spec| parse::details_of_spec(&spec.value)).unwrap_or_default();
        if let Some(metadata) = record.extensions.get(SANDBOX_METADATA) {
            details.overhead = parse::overhead_of_metadata(&metadata.value);
        }
        Ok(Some(details))
    }

    /// The running workload containers of all pods, from the runtime's memory.
    pub(super) async fn containers(&self) -> Result<Vec<(SandboxId, Listed)>, CriError> {
        let mut service = self.cri();
        let running = ContainerStateValue { state: ContainerState::ContainerRunning.into() };
        let request = ListContainersRequest { filter: Some(ContainerFilter { state: Some(running) }) };
        let list = self.unary("ListContainers", service.list_containers(request)).await?;
        Ok(list.containers.into_iter().filter_map(parse::listed).collect())
    }

    /// Image, cgroup and limits of one container; no shim is asked. `known`: what was told before, of which only
    /// limits may change.
    pub(super) async fn container(
        &self,
        id: &ContainerId,
        known: Option<ContainerDetails>,
    ) -> Result<ContainerDetails, CriError> {
        let mut details = match known {
            Some(known) => known,
            None if self.is_containerd() => self.record(id).await?,
            None => ContainerDetails::default(),
        };
        let mut service = self.cri();
        let verbose = details.cgroup.is_none();
        let request = ContainerStatusRequest { container_id: id.to_string(), verbose };
        let answer = self.unary("ContainerStatus", service.container_status(request)).await?;
        if let Some(info) = answer.info.get("info").filter(|_| verbose) {
            details = ContainerDetails { image: details.image, ..parse::details_of_container_status(info.as_bytes()) };
        }
        if let Some(status) = answer.status {
            parse::take_status(&mut details, status);
        }
        Ok(details)
    }

    /// From containerd's database; nothing where it has no such record.
    async fn record(&self, id: &ContainerId) -> Result<ContainerDetails, CriError> {
        match self.get_container(id.as_str()).await {
            Ok(Some(container)) => {
                let spec = container.spec.unwrap_or_default();
                Ok(parse::details_of_record(container.image, &spec.value))
            }
            Ok(None) => Ok(ContainerDetails::default()),
            Err(CriError::Call { source, .. }) if matches!(source.code(), Code::NotFound | Code::Unimplemented) => {
                Ok(ContainerDetails::default())
            }
            Err(error) => Err(error),
        }
    }

    async fn get_container(&self, id: &str) -> Result<Option<ContainerRecord>, CriError> {
        let mut service = ContainersClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES);
        let request = in_kubernetes(GetContainerRequest { id: id.to_owned() });
        Ok(self.unary("Containers.Get", service.get(request)).await?.container)
    }

    async fn verbose(&self, id: &SandboxId) -> Result<Option<Details>, CriError> {
        let mut service = self.cri();
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_string(), verbose: true };
        let answer = self.unary("PodSandboxStatus", service.pod_sandbox_status(request)).await?;
        Ok(answer.info.get("info").and_then(|json| parse::details_of_status(json.as_bytes())))
    }

    /// Sends a hint for whatever containerd says of containers and tasks; subscribes again when the stream ends.
    /// Returns where there is no such stream.
    pub(super) async fn hint(self, hints: mpsc::Sender<()>, ooms: mpsc::Sender<ContainerId>) {
        let mut pause = RESUBSCRIBE;
        while self.is_containerd() {
            match self.hint_once(&hints, &ooms).await {
                Ok(()) => pause = RESUBSCRIBE,
                Err(error) if error.code() == Code::Unimplemented => return,
                Err(error) => {
                    debug!(error = &error as &dyn std::error::Error, "event stream of the runtime ended");
                    pause = (pause * 2).min(LONGEST_RESUBSCRIBE);
                }
            }
            tokio::time::sleep(spread(pause)).await;
            // Whatever happened while nobody listened.
            let _ = hints.try_send(());
        }
    }

    async fn hint_once(&self, hints: &mpsc::Sender<()>, ooms: &mpsc::Sender<ContainerId>) -> Result<(), Status> {
        let filters = vec![FILTER.to_owned()];
        let mut service = EventsClient::new(self.channel.clone());
        // No deadline: the answer begins with the first event, whenever that is.
        let mut stream = service.subscribe(SubscribeRequest { filters }).await?.into_inner();
        while let Some(event) = stream.message().await? {
            debug!(topic = event.topic, "runtime event");
            if event.topic == "/tasks/oom" {
                // Kills are counted one by one; a full queue means that somebody kills faster than anyone counts.
                let id = event.event.and_then(|any| TaskEvent::decode(any.value.as_slice()).ok());
                let _ = id.and_then(|event| ContainerId::parse(&event.container_id)).map(|id| ooms.try_send(id));
                continue;
            }
            // A hint that is waiting already says the same.
            let _ = hints.try_send(());
        }
        Ok(())
    }
}
