//! What one container's task said, in the words and units of the message that carried it.

use crate::sandbox::ContainerId;

pub mod v1 {
    //! `io.containerd.cgroups.v1.Metrics`: nanoseconds and bytes.
    tonic::include_proto!("io.containerd.cgroups.v1");
}

pub mod v2 {
    //! `io.containerd.cgroups.v2.Metrics`: microseconds and bytes.
    tonic::include_proto!("io.containerd.cgroups.v2");
}

/// One container's numbers as they came.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskSample {
    pub container: ContainerId,
    pub metrics: TaskMetrics,
}

/// Which message it was is told by its type's name, never by the host's or the guest's cgroups.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskMetrics {
    V1(Box<v1::Metrics>),
    V2(Box<v2::Metrics>),
    Cri(CriStats),
}

/// CRI's own container stats, where the runtime is not containerd: nanoseconds and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CriStats {
    pub cpu_usage_ns: Option<u64>,
    pub usage_bytes: Option<u64>,
    pub working_set_bytes: Option<u64>,
    pub rss_bytes: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    /// Of the container's writable layer on the host.
    pub writable_layer_bytes: Option<u64>,
}
