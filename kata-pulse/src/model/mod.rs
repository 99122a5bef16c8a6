//! cAdvisor's words. Base units: bytes, seconds, counts. `None` is what no source gave, and is not rendered.

mod guest;
mod host;
mod kind;
mod page;
mod raw;

pub use guest::{CPU_MODES, FilesystemStats, GuestDiskStats, GuestStats, LOAD_PERIODS, MEMORY_TYPES, SIZE_TYPES};
pub use host::{
    BlockReading, CgroupReading, CostStats, Counted, EndPage, Histogram, HostReading, HostStats, InterfaceReading,
    KernelReading, MemoryNow, NamespaceStats, NetworkReading, RoleReading, ThreadReading, TrafficReading,
};
pub use kind::{Level, MetricKind};
pub use page::{ContainerPage, Limits, SandboxPage, SourcePage};
pub use raw::{RawFamily, RawSample};

/// The numbers of one container, or of one pod: all its containers and its guest's kernel together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    pub cpu: CpuStats,
    pub throttling: ThrottlingStats,
    pub memory: MemoryStats,
    pub processes: ProcessStats,
    pub oom_events: Option<f64>,
    pub interfaces: Vec<InterfaceStats>,
    pub disks: Vec<DiskStats>,
    pub huge_pages: Vec<HugePageStats>,
    /// What the container wrote into its root file system, on the host.
    pub writable_layer_bytes: Option<f64>,
}

/// Cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuStats {
    pub usage_seconds: Option<f64>,
    pub user_seconds: Option<f64>,
    pub system_seconds: Option<f64>,
}

/// Cumulative; there only where a CPU quota is set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ThrottlingStats {
    pub periods: Option<f64>,
    pub throttled_periods: Option<f64>,
    pub throttled_seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryStats {
    pub usage_bytes: Option<f64>,
    /// 0: none.
    pub limit_bytes: Option<f64>,
    /// Usage without the page cache that was not used lately.
    pub working_set_bytes: Option<f64>,
    pub rss_bytes: Option<f64>,
    pub cache_bytes: Option<f64>,
    pub mapped_file_bytes: Option<f64>,
    pub swap_bytes: Option<f64>,
    pub active_file_bytes: Option<f64>,
    pub inactive_file_bytes: Option<f64>,
    pub file_dirty_bytes: Option<f64>,
    pub file_writeback_bytes: Option<f64>,
    pub max_usage_bytes: Option<f64>,
    pub kernel_bytes: Option<f64>,
    /// Cumulative: how often the limit was hit.
    pub limit_hits: Option<f64>,
    /// Cumulative; major ones included.
    pub page_faults: Option<f64>,
    pub major_page_faults: Option<f64>,
    /// Cumulative, in pages.
    pub pages_scanned: Option<f64>,
    pub pages_stolen: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessStats {
    pub threads: Option<f64>,
    /// 0: no limit.
    pub threads_max: Option<f64>,
    /// Everything that the guest's scheduler knows, its kernel's own threads included; told of pods only.
    pub guest_tasks: Option<f64>,
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
    /// The guest's numbers of the device, where they are what tells it.
    pub numbers: Option<(u64, u64)>,
    pub read_bytes: Option<f64>,
    pub written_bytes: Option<f64>,
    pub reads: Option<f64>,
    pub writes: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HugePageStats {
    /// As the kernel writes it: `2MB`.
    pub page_size: Box<str>,
    pub usage_bytes: Option<f64>,
    pub max_usage_bytes: Option<f64>,
    /// Cumulative.
    pub limit_hits: Option<f64>,
}
