//! One sandbox as the page shows it: labels and numbers, ready to be written.

use std::sync::Arc;

use super::{EndPage, GuestStats, HostStats, RawFamily, Stats};

#[derive(Clone, Debug, Default)]
pub struct SandboxPage {
    pub sandbox_id: String,
    /// Empty without a pod.
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    /// The `id` label of pod-level series: a path that no cgroup has.
    pub pod_level_id: String,
    pub runtime: &'static str,
    pub vmm: &'static str,
    pub state: &'static str,
    pub runtime_handler: String,
    pub shim_version: String,
    /// `guest` or `host`; empty while it is not decided.
    pub pod_source: &'static str,
    /// `v1`, `v2`, or empty where the host's cgroups cannot be seen.
    pub cgroup_mode: &'static str,
    pub sources: Vec<SourcePage>,
    /// Of the pod as a whole; `None`: no source has given numbers.
    pub stats: Option<Arc<Stats>>,
    pub guest: Option<Arc<GuestStats>>,
    pub host: Option<Arc<HostStats>>,
    /// Of a sandbox that is no more: of its series only counters stay, and what says what it was.
    pub end: Option<EndPage>,
    pub containers: Vec<ContainerPage>,
    /// What is passed through, in name order.
    pub raw: Arc<Vec<RawFamily>>,
}

/// One workload container.
#[derive(Clone, Debug, Default)]
pub struct ContainerPage {
    pub container: String,
    /// The `id` label: the cgroup that it would have on the host.
    pub cgroup: String,
    pub image: String,
    pub name: String,
    pub created_unix_seconds: Option<f64>,
    pub started_unix_seconds: Option<f64>,
    /// When it last gave numbers.
    pub seen_unix_seconds: Option<f64>,
    pub limits: Limits,
    pub stats: Option<Arc<Stats>>,
}

/// As cAdvisor shows them: 0 is no limit, and `None` is not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    pub cpu_period_us: Option<f64>,
    pub cpu_quota_us: Option<f64>,
    pub cpu_shares: Option<f64>,
    pub memory_bytes: Option<f64>,
    pub memory_swap_bytes: Option<f64>,
    pub open_files: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SourcePage {
    pub source: &'static str,
    pub state: &'static str,
    /// When it last gave numbers.
    pub collected_unix_seconds: Option<f64>,
}
