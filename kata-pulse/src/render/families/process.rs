//! `container_threads` and what else is counted in tasks.

use super::{Family, Type, value};
use crate::model::MetricKind::{OomEvent, Process};

const TASKS: &str = "guest: kata_guest_tasks{item=\"max\"}, the guest's kernel threads included";

pub(super) const THREADS: Family = value(
    "container_threads",
    Type::Gauge,
    "",
    Process,
    "Number of threads.",
    [TASKS, "task: pids current, which counts threads"],
    |stats| stats.processes.threads,
);

pub(super) const THREADS_MAX: Family = value(
    "container_threads_max",
    Type::Gauge,
    "",
    Process,
    "Number of threads that are allowed; 0 without limit.",
    ["", "task: pids limit"],
    |stats| stats.processes.threads_max,
);

/// Documented by the first generation of kata-pulse; cAdvisor has no such family.
pub(super) const PROCESSES_COUNT: Family = value(
    "container_processes_count",
    Type::Gauge,
    "",
    Process,
    "Number of tasks in the guest, threads included.",
    [TASKS, ""],
    |stats| stats.processes.guest_tasks,
);

pub(super) const OOM_EVENTS: Family = value(
    "container_oom_events_total",
    Type::Counter,
    "",
    OomEvent,
    "Kills by the out-of-memory killer, cumulative.",
    ["guest: kata_guest_vm_stat{item=\"oom_kill\"}", "containerd: /tasks/oom since this agent started"],
    |stats| stats.oom_events,
);
