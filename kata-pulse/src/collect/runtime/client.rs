//! Asks the runtime for one pod's numbers: containerd's task metrics, or CRI's stats elsewhere.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Status};

use super::parse;
use super::types::TaskSample;
use crate::collect::cri::proto::cri::{ContainerStatsFilter, ListContainerStatsRequest};
use crate::collect::cri::proto::tasks::MetricsRequest;
use crate::collect::cri::proto::tasks::tasks_client::TasksClient;
use crate::collect::cri::{Client, MESSAGE_BYTES, in_kubernetes};
use crate::sandbox::{Sandbox, SourceState};

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("no container runtime is connected")]
    NotConnected,
    #[error("{call} for sandbox {sandbox}")]
    Call {
        call: &'static str,
        sandbox: String,
        #[source]
        source: Box<Status>,
    },
    #[error("no answer to {call} for sandbox {sandbox} within {deadline:?}")]
    Deadline { call: &'static str, sandbox: String, deadline: Duration },
}

impl RuntimeError {
    pub fn state(&self) -> SourceState {
        match self {
            Self::NotConnected => SourceState::Refused,
            Self::Deadline { .. } => SourceState::Timeout,
            Self::Call { source, .. } => match source.code() {
                Code::DeadlineExceeded | Code::Cancelled => SourceState::Timeout,
                Code::Unavailable => SourceState::Refused,
                Code::NotFound => SourceState::Gone,
                Code::PermissionDenied | Code::Unauthenticated => SourceState::Denied,
                Code::Unimplemented => SourceState::Unsupported,
                _ => SourceState::BadPage,
            },
        }
    }
}

/// Numbers of the sandbox's running containers, of which there must be one: a filter that matches nothing would ask
/// every shim of the node. What a container's shim did not give is missing in the answer.
pub async fn ask(client: &Client, sandbox: &Sandbox, deadline: Duration) -> Result<Vec<TaskSample>, RuntimeError> {
    if sandbox.containers.is_empty() {
        return Ok(Vec::new());
    }
    let call = if client.is_containerd() { "Tasks.Metrics" } else { "ListContainerStats" };
    let answer = async {
        if client.is_containerd() {
            of_containerd(client, sandbox, deadline).await
        } else {
            of_cri(client, sandbox, deadline).await
        }
    };
    match timeout(deadline, answer).await {
        Ok(Ok(samples)) => Ok(ours(samples, sandbox)),
        Ok(Err(source)) => Err(RuntimeError::Call { call, sandbox: sandbox.id.to_string(), source: Box::new(source) }),
        Err(_) => Err(RuntimeError::Deadline { call, sandbox: sandbox.id.to_string(), deadline }),
    }
}

async fn of_containerd(client: &Client, sandbox: &Sandbox, deadline: Duration) -> Result<Vec<TaskSample>, Status> {
    // An id that is gone by now gives nothing; ids hold nothing that means something in a filter.
    let filters = sandbox.containers.iter().map(|container| format!("id=={}", container.id)).collect();
    let mut request = in_kubernetes(MetricsRequest { filters });
    request.set_timeout(servers(deadline));
    let mut service = TasksClient::new(client.channel()).max_decoding_message_size(MESSAGE_BYTES);
    let answer = service.metrics(request).await?.into_inner();
    Ok(answer.metrics.iter().filter_map(parse::task_sample).collect())
}

async fn of_cri(client: &Client, sandbox: &Sandbox, deadline: Duration) -> Result<Vec<TaskSample>, Status> {
    let filter = ContainerStatsFilter { pod_sandbox_id: sandbox.id.to_string() };
    let mut request = tonic::Request::new(ListContainerStatsRequest { filter: Some(filter) });
    request.set_timeout(servers(deadline));
    let answer = client.cri().list_container_stats(request).await?.into_inner();
    Ok(answer.stats.into_iter().filter_map(parse::cri_sample).collect())
}

/// A runtime whose own deadline comes first may answer with what it has, which looks like the answer of a shim that has
/// nothing to say.
fn servers(deadline: Duration) -> Duration {
    deadline + Duration::from_secs(1)
}

/// The answer is a peer's: what was not asked for is nobody's.
fn ours(samples: Vec<TaskSample>, sandbox: &Sandbox) -> Vec<TaskSample> {
    let known = |sample: &TaskSample| sandbox.containers.iter().any(|container| container.id == sample.container);
    samples.into_iter().filter(known).collect()
}
