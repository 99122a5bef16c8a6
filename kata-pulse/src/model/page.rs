//! One sandbox as the page shows it: labels and numbers, ready to be written.

use std::sync::Arc;

use super::PodStats;

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
    /// `None`: no source has given numbers.
    pub stats: Option<Arc<PodStats>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SourcePage {
    pub source: &'static str,
    pub state: &'static str,
    /// When it last gave numbers.
    pub collected_unix_seconds: Option<f64>,
}
