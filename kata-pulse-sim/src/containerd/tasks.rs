//! containerd's task service: a call to each shim in turn, which one hung shim stops.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::{
    filter::Filters,
    namespace_of,
    proto::tasks::{
        GetRequest, GetResponse, ListTasksRequest, ListTasksResponse, Metric, MetricsRequest, MetricsResponse, Process,
        tasks_server::Tasks,
    },
    timestamp,
};
use crate::{cri::Calls, node::Node, stats::Task, workload::unix_now_ns};

/// containerd's own limit for a shim's State; Stats has none.
const STATE_TIMEOUT: Duration = Duration::from_secs(2);
const UNKNOWN: i32 = 0;
const RUNNING: i32 = 2;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct TasksService {
    pub(crate) node: Arc<Node>,
    pub(crate) calls: Calls,
}

impl TasksService {
    fn in_namespace(&self, namespace: &str, fits: impl Fn(&str) -> bool) -> Vec<Task> {
        let mut tasks = self.node.tasks(fits);
        tasks.retain(|task| task.namespace == namespace);
        tasks
    }
}

async fn process(task: &Task) -> Process {
    let status = if timeout(STATE_TIMEOUT, task.state()).await.is_ok() { RUNNING } else { UNKNOWN };
    Process { id: task.id.clone(), pid: task.pid, status, ..Default::default() }
}

#[tonic::async_trait]
impl Tasks for TasksService {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.calls.called("Tasks.Get").await?;
        let namespace = namespace_of(&request)?;
        let id = request.into_inner().container_id;
        let found = self.in_namespace(&namespace, |task| task == id).into_iter().next();
        let task = found.ok_or_else(|| Status::not_found(format!("task {id}: not found")))?;
        Ok(Response::new(GetResponse { process: Some(process(&task).await) }))
    }

    async fn list(&self, request: Request<ListTasksRequest>) -> Result<Response<ListTasksResponse>, Status> {
        self.calls.called("Tasks.List").await?;
        let namespace = namespace_of(&request)?;
        let mut tasks = Vec::new();
        for task in self.in_namespace(&namespace, |_| true) {
            tasks.push(process(&task).await);
        }
        Ok(Response::new(ListTasksResponse { tasks }))
    }

    /// Tasks that fail are left out; the caller's deadline is the only limit.
    async fn metrics(&self, request: Request<MetricsRequest>) -> Result<Response<MetricsResponse>, Status> {
        self.calls.called("Tasks.Metrics").await?;
        let namespace = namespace_of(&request)?;
        let filters = Filters::parse(&request.into_inner().filters)?;
        let wanted = |id: &str| {
            filters.accept(|field| match field {
                "id" => Some(id.into()),
                "namespace" => Some(namespace.as_str().into()),
                _ => None,
            })
        };
        self.node.note_stats_of_stopping(wanted);
        let mut metrics = Vec::new();
        for task in self.in_namespace(&namespace, wanted) {
            let now = unix_now_ns();
            if let Ok(data) = task.stats(now).await {
                metrics.push(Metric { timestamp: Some(timestamp(now)), id: task.id, data });
            }
        }
        Ok(Response::new(MetricsResponse { metrics }))
    }
}
