//! CRI's methods: each counted, most of them answered by a neighbour.

use std::{collections::HashMap, sync::PoisonError};

use tonic::{Request, Response, Status};

use super::{CriFlavour, Service, config, proto::*};

#[tonic::async_trait]
impl runtime_service_server::RuntimeService for Service {
    type GetContainerEventsStream = tokio_stream::Empty<Result<ContainerEventResponse, Status>>;

    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        self.calls.called("Version").await?;
        let (name, version) = match self.flavour {
            CriFlavour::Containerd => ("containerd", "v2.1.4"),
            CriFlavour::CriO => ("cri-o", "1.33.0"),
        };
        Ok(Response::new(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: name.into(),
            runtime_version: version.into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.calls.called("Status").await?;
        let mut info = HashMap::new();
        if request.into_inner().verbose && self.flavour == CriFlavour::Containerd {
            let default = self.default_handler.lock().unwrap_or_else(PoisonError::into_inner).clone();
            info.insert("config".to_owned(), config::containerd_config(&default));
        }
        let ready = RuntimeCondition { r#type: "RuntimeReady".into(), status: true, ..Default::default() };
        let runtime_handlers = config::handlers().map(|name| RuntimeHandler { name }).collect();
        let status = Some(RuntimeStatus { conditions: vec![ready] });
        Ok(Response::new(StatusResponse { status, info, runtime_handlers }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Result<Response<ListPodSandboxResponse>, Status> {
        self.calls.called("ListPodSandbox").await?;
        let filter = request.into_inner().filter.unwrap_or_default();
        Ok(Response::new(ListPodSandboxResponse { items: self.pods(&filter) }))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Result<Response<PodSandboxStatusResponse>, Status> {
        self.calls.called("PodSandboxStatus").await?;
        let found = self.pod_status(request.get_ref());
        let missing = || Status::not_found("an error occurred when try to find sandbox: not found");
        Ok(Response::new(found.ok_or_else(missing)?))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        self.calls.called("ListContainers").await?;
        let filter = request.into_inner().filter.unwrap_or_default();
        Ok(Response::new(ListContainersResponse { containers: self.containers(&filter) }))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Result<Response<ContainerStatusResponse>, Status> {
        self.calls.called("ContainerStatus").await?;
        let found = self.container_status(request.get_ref());
        Ok(Response::new(found.ok_or_else(unknown_container)?))
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Result<Response<ContainerStatsResponse>, Status> {
        self.calls.called("ContainerStats").await?;
        let found = self.stats_of(request.into_inner().container_id).await?;
        Ok(Response::new(ContainerStatsResponse { stats: Some(found.ok_or_else(unknown_container)?) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Result<Response<ListContainerStatsResponse>, Status> {
        self.calls.called("ListContainerStats").await?;
        let stats = self.list_stats(request.into_inner().filter).await?;
        Ok(Response::new(ListContainerStatsResponse { stats }))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        self.calls.called("GetContainerEvents").await?;
        Ok(Response::new(tokio_stream::empty()))
    }
}

fn unknown_container() -> Status {
    Status::not_found("an error occurred when try to find container: not found")
}
