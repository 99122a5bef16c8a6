//! containerd's task service, as a thin layer over [`Tasks`].

use std::sync::Arc;

use containerd_shim_protos::{
    api::{
        ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty,
        KillRequest, PidsRequest, PidsResponse, ProcessInfo, ShutdownRequest, StartRequest, StartResponse,
        StateRequest, StateResponse, StatsRequest, StatsResponse, Status, WaitRequest, WaitResponse,
    },
    protobuf::well_known_types::{any::Any, timestamp::Timestamp},
    shim_async,
    ttrpc::{self, Code, r#async::TtrpcContext},
};

use super::task::{Phase, Streams, TaskError, Tasks};

#[derive(Debug, Clone)]
pub(super) struct TaskService(pub(super) Arc<Tasks>);

pub(super) fn timestamp(unix_ns: i64) -> Timestamp {
    let time = crate::containerd::timestamp(unix_ns);
    Timestamp { seconds: time.seconds, nanos: time.nanos, ..Default::default() }
}

pub(super) fn any(message: prost_types::Any) -> Any {
    Any { type_url: message.type_url, value: message.value, ..Default::default() }
}

impl From<TaskError> for ttrpc::Error {
    fn from(error: TaskError) -> Self {
        let code = match error {
            TaskError::Unknown(_) => Code::NOT_FOUND,
            TaskError::NotRunning(_) => Code::FAILED_PRECONDITION,
            TaskError::Io(_) | TaskError::Sim(_) | TaskError::Stats(_) => Code::INTERNAL,
        };
        Self::RpcStatus(ttrpc::get_status(code, error.to_string()))
    }
}

#[tonic::async_trait]
impl shim_async::Task for TaskService {
    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> ttrpc::Result<CreateTaskResponse> {
        let streams = Streams { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr };
        self.0.create(&request.id, &request.bundle, streams).await?;
        let mut answer = CreateTaskResponse::new();
        answer.set_pid(self.0.pid());
        Ok(answer)
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        self.0.start(&request.id)?;
        let mut answer = StartResponse::new();
        answer.set_pid(self.0.pid());
        Ok(answer)
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        self.0.settled(&request.id).await;
        let seen = self.0.seen(&request.id)?;
        let mut answer = StateResponse::new();
        answer.set_id(request.id);
        answer.set_bundle(seen.bundle);
        answer.set_pid(self.0.pid());
        answer.set_stdin(seen.streams.stdin);
        answer.set_stdout(seen.streams.stdout);
        answer.set_stderr(seen.streams.stderr);
        answer.set_status(match seen.phase {
            Phase::Created => Status::CREATED,
            Phase::Running => Status::RUNNING,
            Phase::Exited(_) => Status::STOPPED,
        });
        if let Phase::Exited(exit) = seen.phase {
            answer.set_exit_status(exit.status);
            answer.set_exited_at(timestamp(exit.at_unix_ns));
        }
        Ok(answer)
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        self.0.seen(&request.id)?;
        let mut process = ProcessInfo::new();
        process.set_pid(self.0.pid());
        let mut answer = PidsResponse::new();
        answer.set_processes(vec![process]);
        Ok(answer)
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        self.0.seen(&request.id)?;
        let mut answer = ConnectResponse::new();
        answer.set_shim_pid(std::process::id());
        answer.set_task_pid(self.0.pid());
        Ok(answer)
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        self.0.kill(&request.id, request.signal)?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let exit = self.0.wait(&request.id).await?;
        let mut answer = WaitResponse::new();
        answer.set_exit_status(exit.status);
        answer.set_exited_at(timestamp(exit.at_unix_ns));
        Ok(answer)
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let exit = self.0.delete(&request.id).await?;
        let mut answer = DeleteResponse::new();
        answer.set_pid(self.0.pid());
        answer.set_exit_status(exit.status);
        answer.set_exited_at(timestamp(exit.at_unix_ns));
        Ok(answer)
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.0.shutdown();
        Ok(Empty::new())
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let mut answer = StatsResponse::new();
        if let Some(message) = self.0.stats(&request.id).await? {
            answer.set_stats(any(message));
        }
        Ok(answer)
    }
}
