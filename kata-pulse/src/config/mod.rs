//! Flags and environment, resolved once into a validated [`Config`]; modules get only their part.

mod args;
mod paths;

pub use crate::model::{Level, MetricKind};
pub use args::Args;
pub use paths::{BaseDirectory, CgroupNamespace, HostPaths, unified_cgroups};

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How much eBPF the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum EbpfMode {
    Auto,
    Require,
    Off,
}

/// Which hooks may watch directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum EbpfDirectories {
    Auto,
    Syscalls,
    Off,
}

/// Programs that count in the kernel, each of which can do without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum EbpfPrograms {
    /// Time from runnable to running.
    Runqueue,
    /// Exits from the guest.
    Kvm,
    /// Requests to block devices.
    Block,
    /// Processes killed for lack of memory.
    Oom,
    None,
}

/// Whether shims may be asked for their metrics page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ShimMetrics {
    Safe,
    Never,
    Force,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// The agent's whole configuration, valid by construction.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: SocketAddr,
    /// `None`: probe the well-known places.
    pub runtime_endpoint: Option<PathBuf>,
    pub metrics_interval: Duration,
    pub host_interval: Duration,
    pub log_level: String,
    pub log_format: LogFormat,
    pub host: HostPaths,
    pub ebpf: EbpfMode,
    pub ebpf_directories: EbpfDirectories,
    pub shim_metrics: ShimMetrics,
    pub levels: BTreeSet<Level>,
    pub disabled: BTreeSet<MetricKind>,
    pub passthrough: Vec<String>,
    pub ended_retention: Duration,
    pub ebpf_programs: BTreeSet<EbpfPrograms>,
    pub thread_detail: bool,
    pub qdisc: bool,
}
