//! Pods and containers made and removed through CRI, as kubelet would.

use std::{collections::HashMap, sync::PoisonError, time::Instant};

use prost::Message;
use tonic::{Code, Status, codegen::http::uri::PathAndQuery};

use super::{Containerd, PATIENCE, PAUSE, calls, image, leftovers};

/// A pod in the host's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodConfig {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub cgroup_parent: String,
    /// `kata` or `runc`.
    pub handler: String,
}

impl PodConfig {
    /// A burstable Kata pod in namespace `ns`, with uid `uid-<name>`.
    pub fn kata(name: &str) -> Self {
        let uid = format!("uid-{name}");
        Self {
            name: name.to_owned(),
            namespace: "ns".to_owned(),
            cgroup_parent: format!("/kubepods/burstable/pod{uid}"),
            uid,
            handler: "kata".to_owned(),
        }
    }

    fn labels(&self) -> HashMap<String, String> {
        [("name", &self.name), ("namespace", &self.namespace), ("uid", &self.uid)]
            .map(|(key, value)| (format!("io.kubernetes.pod.{key}"), value.clone()))
            .into()
    }
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerConfig {
    pub name: String,
    pub attempt: u32,
    /// Microseconds of CPU time per 100 ms; zero: no quota.
    pub cpu_quota: i64,
    /// Bytes; zero: no limit.
    pub memory_limit: i64,
}

impl ContainerConfig {
    /// First attempt, half a CPU, 64 MiB.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), attempt: 0, cpu_quota: 50_000, memory_limit: 64 << 20 }
    }
}

impl Containerd {
    async fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut client = tonic::client::Grpc::new(self.channel());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}")
            .parse()
            .map_err(|_| Status::invalid_argument("not a method's name"))?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        Ok(client.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }

    fn pod_sandbox_config(&self, pod: &PodConfig) -> calls::PodSandboxConfig {
        let (name, uid, namespace) = (pod.name.clone(), pod.uid.clone(), pod.namespace.clone());
        let namespaces = Some(calls::Namespaces { network: 2 });
        calls::PodSandboxConfig {
            metadata: Some(calls::PodMetadata { name, uid, namespace }),
            log_directory: self.folder.join("logs").join(&pod.uid).display().to_string(),
            labels: pod.labels(),
            linux: Some(calls::PodLinux {
                cgroup_parent: pod.cgroup_parent.clone(),
                security: Some(calls::Security { namespaces }),
            }),
        }
    }

    /// The sandbox's id; waits while containerd starts, or starts again.
    pub async fn run_pod(&self, pod: &PodConfig) -> Result<String, Status> {
        let request =
            calls::RunPodSandbox { config: Some(self.pod_sandbox_config(pod)), runtime_handler: pod.handler.clone() };
        let made = leftovers::missing_cgroups(&pod.cgroup_parent);
        self.cgroups.lock().unwrap_or_else(PoisonError::into_inner).extend(made);
        let started = Instant::now();
        loop {
            match self.call::<_, calls::Id>("RunPodSandbox", request.clone()).await {
                Ok(answer) => return Ok(answer.id),
                Err(error) if !starting(&error) || started.elapsed() > PATIENCE => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// A running container's id.
    pub async fn run_container(&self, sandbox: &str, pod: &PodConfig, of: &ContainerConfig) -> Result<String, Status> {
        let mut labels = pod.labels();
        labels.insert("io.kubernetes.container.name".to_owned(), of.name.clone());
        let resources = calls::Resources {
            cpu_period: 100_000,
            cpu_quota: of.cpu_quota,
            cpu_shares: 512,
            memory_limit_in_bytes: of.memory_limit,
        };
        let config = calls::ContainerConfig {
            metadata: Some(calls::ContainerMetadata { name: of.name.clone(), attempt: of.attempt }),
            image: Some(calls::Image { image: image::NAME.to_owned() }),
            labels,
            log_path: format!("{}-{}.log", of.name, of.attempt),
            linux: Some(calls::ContainerLinux { resources: Some(resources) }),
        };
        let request = calls::CreateContainer {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(self.pod_sandbox_config(pod)),
        };
        let made: calls::Id = self.call("CreateContainer", request).await?;
        self.call::<_, calls::Nothing>("StartContainer", made.clone()).await?;
        Ok(made.id)
    }

    pub async fn stop_container(&self, id: &str) -> Result<(), Status> {
        let request = calls::StopContainer { container_id: id.to_owned(), timeout: 1 };
        self.call::<_, calls::Nothing>("StopContainer", request).await.map(drop)
    }

    pub async fn remove_container(&self, id: &str) -> Result<(), Status> {
        self.call::<_, calls::Nothing>("RemoveContainer", calls::Id { id: id.to_owned() }).await.map(drop)
    }

    pub async fn stop_pod(&self, id: &str) -> Result<(), Status> {
        self.call::<_, calls::Nothing>("StopPodSandbox", calls::Id { id: id.to_owned() }).await.map(drop)
    }

    /// With its containers.
    pub async fn remove_pod(&self, id: &str) -> Result<(), Status> {
        self.stop_pod(id).await?;
        self.call::<_, calls::Nothing>("RemovePodSandbox", calls::Id { id: id.to_owned() }).await.map(drop)
    }
}

fn starting(error: &Status) -> bool {
    let said = ["not initialized yet", "transport error"];
    error.code() == Code::Unavailable || said.iter().any(|words| error.message().contains(words))
}
