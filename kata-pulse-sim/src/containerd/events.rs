//! What happens to sandboxes and containers, told to whoever subscribed. In: calls of the node. Out: containerd's
//! envelopes. A subscriber that does not read only fills its own queue, as in containerd.

use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{Request, Response, Status};

use super::{
    filter::Filters,
    proto::events::{Envelope, SubscribeRequest, events_server::Events, payload},
    timestamp,
};
use crate::{
    containerd::containers::runtime_name,
    cri::Calls,
    node::{Node, Sandbox},
    workload::unix_now_ns,
};

/// One step in the life of a container or of a sandbox's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happening {
    ContainerCreate,
    TaskCreate,
    TaskStart,
    Oom,
    TaskExit,
    TaskDelete,
    ContainerDelete,
}

impl Happening {
    pub(crate) const START: [Self; 3] = [Self::ContainerCreate, Self::TaskCreate, Self::TaskStart];
    pub(crate) const EXIT: [Self; 2] = [Self::TaskExit, Self::TaskDelete];

    fn topic(self) -> &'static str {
        match self {
            Self::ContainerCreate => "/containers/create",
            Self::TaskCreate => "/tasks/create",
            Self::TaskStart => "/tasks/start",
            Self::Oom => "/tasks/oom",
            Self::TaskExit => "/tasks/exit",
            Self::TaskDelete => "/tasks/delete",
            Self::ContainerDelete => "/containers/delete",
        }
    }

    fn payload(self, sandbox: &Sandbox, id: &str) -> Any {
        let (container_id, pid) = (id.to_owned(), sandbox.spec.vmm_pid);
        let now = Some(timestamp(unix_now_ns()));
        match self {
            Self::ContainerCreate => {
                let runtime = payload::container_create::Runtime { name: runtime_name(&sandbox.spec) };
                let image = sandbox.image_of(id).to_owned();
                any("ContainerCreate", &payload::ContainerCreate { id: container_id, image, runtime: Some(runtime) })
            }
            Self::TaskCreate => {
                let bundle = format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}");
                any("TaskCreate", &payload::TaskCreate { container_id, bundle, pid })
            }
            Self::TaskStart => any("TaskStart", &payload::TaskStart { container_id, pid }),
            Self::Oom => any("TaskOOM", &payload::TaskOom { container_id }),
            Self::TaskExit => {
                let id = id.to_owned();
                any("TaskExit", &payload::TaskExit { container_id, id, pid, exit_status: 137, exited_at: now })
            }
            Self::TaskDelete => {
                let id = id.to_owned();
                any("TaskDelete", &payload::TaskDelete { container_id, id, pid, exit_status: 137, exited_at: now })
            }
            Self::ContainerDelete => any("ContainerDelete", &payload::ContainerDelete { id: container_id }),
        }
    }
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("containerd.events.{name}"), value: message.encode_to_vec() }
}

/// An envelope with the id inside, which filters may ask for.
#[derive(Debug, Clone)]
struct Published {
    id: String,
    envelope: Envelope,
}

/// Hands every event to every subscriber.
#[derive(Debug, Default)]
pub(crate) struct EventHub(Mutex<Vec<mpsc::UnboundedSender<Published>>>);

impl EventHub {
    pub(crate) fn publish(&self, sandbox: &Sandbox, id: &str, happenings: &[Happening]) {
        for happening in happenings {
            let envelope = Envelope {
                timestamp: Some(timestamp(unix_now_ns())),
                namespace: sandbox.spec.namespace().to_owned(),
                topic: happening.topic().to_owned(),
                event: Some(happening.payload(sandbox, id)),
            };
            let published = Published { id: id.to_owned(), envelope };
            let mut subscribers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            subscribers.retain(|subscriber| subscriber.send(published.clone()).is_ok());
        }
    }

    /// For the sandbox's own task and its running containers; when they end, the sandbox's is the last.
    pub(crate) fn publish_all(&self, sandbox: &Sandbox, happenings: &[Happening]) {
        let deletion = happenings == [Happening::ContainerDelete];
        let containers = sandbox.workload.containers.iter().filter(|c| c.is_running() || deletion);
        let mut ids: Vec<&str> = vec![&sandbox.spec.id];
        ids.extend(containers.map(|container| container.spec.id.as_str()));
        if happenings != Happening::START {
            ids.reverse();
        }
        for id in ids {
            self.publish(sandbox, id, happenings);
        }
    }

    /// Everything from now on.
    pub(crate) fn envelopes(&self) -> impl Stream<Item = Envelope> + use<> {
        self.subscribe().map(|published| published.envelope)
    }

    fn subscribe(&self) -> UnboundedReceiverStream<Published> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        UnboundedReceiverStream::new(receiver)
    }
}

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct EventsService {
    pub(crate) node: Arc<Node>,
    pub(crate) calls: Calls,
}

#[tonic::async_trait]
impl Events for EventsService {
    type SubscribeStream = std::pin::Pin<Box<dyn Stream<Item = Result<Envelope, Status>> + Send>>;

    /// The answer's headers come with the first event, not before.
    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        self.calls.called("Events.Subscribe").await?;
        let filters = Filters::parse(&request.into_inner().filters)?;
        let wanted = move |published: &Published| {
            filters.accept(|field| match field {
                "namespace" => Some(published.envelope.namespace.as_str().into()),
                "topic" => Some(published.envelope.topic.as_str().into()),
                "event.container_id" | "event.id" => Some(published.id.as_str().into()),
                _ => None,
            })
        };
        let mut events = self.node.events.subscribe().filter(wanted).map(|published| Ok(published.envelope));
        let first = events.next().await;
        Ok(Response::new(Box::pin(tokio_stream::iter(first).chain(events))))
    }
}
