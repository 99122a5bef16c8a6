//! cAdvisor's words. Base units: bytes, seconds, counts. `None` is what no source gave, and is not rendered.

mod kind;
mod page;

pub use kind::{Level, MetricKind};
pub use page::{SandboxPage, SourcePage};

/// The numbers of one pod, all its containers and its guest's kernel together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodStats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub processes: ProcessStats,
    pub oom_events: Option<f64>,
    pub interfaces: Vec<InterfaceStats>,
    pub disks: Vec<DiskStats>,
}

/// Cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuStats {
    pub usage_seconds: Option<f64>,
    pub user_seconds: Option<f64>,
    pub system_seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryStats {
    pub usage_bytes: Option<f64>,
    /// Usage without the page cache that was not used lately.
    pub working_set_bytes: Option<f64>,
    pub rss_bytes: Option<f64>,
    pub cache_bytes: Option<f64>,
    pub mapped_file_bytes: Option<f64>,
    pub swap_bytes: Option<f64>,
    pub active_file_bytes: Option<f64>,
    pub inactive_file_bytes: Option<f64>,
    /// Cumulative; major ones included.
    pub page_faults: Option<f64>,
    pub major_page_faults: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessStats {
    pub threads: Option<f64>,
}

/// Cumulative, in the pod's direction.
#[derive(Clone, Debug, PartialEq)]
pub struct InterfaceStats {
    pub name: Box<str>,
    pub receive: TrafficStats,
    pub transmit: TrafficStats,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrafficStats {
    pub bytes: Option<f64>,
    pub packets: Option<f64>,
    pub errors: Option<f64>,
    pub dropped: Option<f64>,
}

/// Cumulative.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskStats {
    /// Path as cAdvisor names it: `/dev/vda`.
    pub device: Box<str>,
    pub read_bytes: Option<f64>,
    pub written_bytes: Option<f64>,
    pub reads: Option<f64>,
    pub writes: Option<f64>,
}
