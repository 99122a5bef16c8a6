//! The calls of CRI that make and remove pods; numbers as in cri-api 0.36.

use std::collections::HashMap;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RunPodSandbox {
    #[prost(message, optional, tag = "1")]
    pub(super) config: Option<PodSandboxConfig>,
    #[prost(string, tag = "2")]
    pub(super) runtime_handler: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<PodMetadata>,
    #[prost(string, tag = "3")]
    pub(super) log_directory: String,
    #[prost(map = "string, string", tag = "6")]
    pub(super) labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub(super) linux: Option<PodLinux>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PodMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) namespace: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PodLinux {
    #[prost(string, tag = "1")]
    pub(super) cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    pub(super) security: Option<Security>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Security {
    #[prost(message, optional, tag = "1")]
    pub(super) namespaces: Option<Namespaces>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Namespaces {
    /// 2: the node's.
    #[prost(int32, tag = "1")]
    pub(super) network: i32,
}

/// A sandbox's or container's id, as request and as answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Id {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CreateContainer {
    #[prost(string, tag = "1")]
    pub(super) pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    pub(super) sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    pub(super) image: Option<Image>,
    #[prost(map = "string, string", tag = "9")]
    pub(super) labels: HashMap<String, String>,
    #[prost(string, tag = "11")]
    pub(super) log_path: String,
    #[prost(message, optional, tag = "15")]
    pub(super) linux: Option<ContainerLinux>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(uint32, tag = "2")]
    pub(super) attempt: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Image {
    #[prost(string, tag = "1")]
    pub(super) image: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ContainerLinux {
    #[prost(message, optional, tag = "1")]
    pub(super) resources: Option<Resources>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Resources {
    #[prost(int64, tag = "1")]
    pub(super) cpu_period: i64,
    #[prost(int64, tag = "2")]
    pub(super) cpu_quota: i64,
    #[prost(int64, tag = "3")]
    pub(super) cpu_shares: i64,
    #[prost(int64, tag = "4")]
    pub(super) memory_limit_in_bytes: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StopContainer {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
    /// Seconds until it is killed.
    #[prost(int64, tag = "2")]
    pub(super) timeout: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Nothing {}
