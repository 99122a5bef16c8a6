//! A guest as a machine: what its kernel says of itself.

/// Modes of CPU time, as `/proc/stat` orders them. Time of guests inside the guest is contained in user and nice.
pub const CPU_MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];

/// `type` values of the guest's memory. `cache` is page cache and buffers; `working_set` is what is neither free nor
/// page cache that was not used lately.
pub const MEMORY_TYPES: [&str; 15] = [
    "total",
    "free",
    "available",
    "working_set",
    "cache",
    "buffers",
    "active_file",
    "inactive_file",
    "anonymous",
    "mapped",
    "shared",
    "slab",
    "slab_reclaimable",
    "swap_total",
    "swap_free",
];

/// `period` values of the load.
pub const LOAD_PERIODS: [&str; 3] = ["1m", "5m", "15m"];

/// `type` values of file systems.
pub const SIZE_TYPES: [&str; 3] = ["total", "used", "available"];

#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuestStats {
    /// Cumulative, in the order of [`CPU_MODES`].
    pub cpu_seconds: [Option<f64>; CPU_MODES.len()],
    /// In the order of [`MEMORY_TYPES`].
    pub memory_bytes: [Option<f64>; MEMORY_TYPES.len()],
    /// In the order of [`LOAD_PERIODS`].
    pub load: [Option<f64>; LOAD_PERIODS.len()],
    pub tasks_runnable: Option<f64>,
    pub tasks_total: Option<f64>,
    pub disks: Vec<GuestDiskStats>,
    pub filesystems: Vec<FilesystemStats>,
    /// Cumulative; major ones included.
    pub page_faults: Option<f64>,
    pub major_page_faults: Option<f64>,
    pub oom_kills: Option<f64>,
}

/// Cumulative but for `in_progress`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuestDiskStats {
    /// As the guest names it: `vda`.
    pub device: Box<str>,
    pub reads: Option<f64>,
    pub reads_merged: Option<f64>,
    pub read_bytes: Option<f64>,
    pub read_seconds: Option<f64>,
    pub writes: Option<f64>,
    pub writes_merged: Option<f64>,
    pub written_bytes: Option<f64>,
    pub write_seconds: Option<f64>,
    pub in_progress: Option<f64>,
    pub io_seconds: Option<f64>,
    pub weighted_io_seconds: Option<f64>,
    pub discards: Option<f64>,
    pub discarded_bytes: Option<f64>,
    pub flushes: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilesystemStats {
    pub mount: Box<str>,
    pub device: Box<str>,
    /// In the order of [`SIZE_TYPES`].
    pub bytes: [Option<f64>; SIZE_TYPES.len()],
    pub inodes: [Option<f64>; SIZE_TYPES.len()],
}
