//! `container_threads` and what else is counted in tasks.

use super::{Family, Type, pod};
use crate::model::MetricKind::{OomEvent, Process};

const TASKS: &str = "guest: kata_guest_tasks{item=\"max\"}, the guest's kernel threads included";

pub(super) const THREADS: Family =
    pod("container_threads", Type::Gauge, "", Process, "Number of threads.", TASKS, |sandbox, sink| {
        sink.put(&[], sandbox.stats.as_ref().and_then(|stats| stats.processes.threads));
    });

/// Documented by the first generation of kata-pulse; cAdvisor has no such family.
pub(super) const PROCESSES_COUNT: Family = pod(
    "container_processes_count",
    Type::Gauge,
    "",
    Process,
    "Number of tasks in the guest, threads included.",
    TASKS,
    |sandbox, sink| sink.put(&[], sandbox.stats.as_ref().and_then(|stats| stats.processes.threads)),
);

pub(super) const OOM_EVENTS: Family = pod(
    "container_oom_events_total",
    Type::Counter,
    "",
    OomEvent,
    "Kills by the out-of-memory killer, cumulative.",
    "guest: kata_guest_vm_stat{item=\"oom_kill\"}",
    |sandbox, sink| sink.put(&[], sandbox.stats.as_ref().and_then(|stats| stats.oom_events)),
);
