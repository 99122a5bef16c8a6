//! What the cgroups say in which a sandbox's processes sit, and nobody else's.

use super::host::{by_mode, host};
use super::{Family, Sink, Type};
use crate::model::{CgroupReading, HostStats};

const SOURCE: &str = "the cgroups named by /proc/<pid>/cgroup, v1 and v2";

fn each(host: &HostStats, sink: &mut Sink<'_>, value: fn(&CgroupReading) -> Option<f64>) {
    for cgroup in &host.reading.cgroups {
        sink.put(&[("cgroup", cgroup.kind)], value(cgroup));
    }
}

pub(super) const CPU: Family = host(
    "kata_sandbox_cgroup_cpu_seconds_total",
    Type::Counter,
    "seconds",
    "cgroup, mode",
    "CPU time of the sandbox's own cgroups on the host; time in the guest is in user.",
    SOURCE,
    |host, sink| {
        for cgroup in &host.reading.cgroups {
            for (mode, value) in cgroup.cpu.map(by_mode).into_iter().flatten().filter(|(mode, _)| *mode != "guest") {
                sink.put(&[("cgroup", cgroup.kind), ("mode", mode)], Some(value));
            }
        }
    },
);

pub(super) const MEMORY: Family = host(
    "kata_sandbox_cgroup_memory_bytes",
    Type::Gauge,
    "bytes",
    "cgroup",
    "Memory charged to the sandbox's own cgroups, page cache included.",
    SOURCE,
    |host, sink| each(host, sink, |cgroup| cgroup.memory_bytes),
);

pub(super) const MEMORY_PEAK: Family = host(
    "kata_sandbox_cgroup_memory_peak_bytes",
    Type::Gauge,
    "bytes",
    "cgroup",
    "Most memory that was charged to the sandbox's own cgroups.",
    SOURCE,
    |host, sink| each(host, sink, |cgroup| cgroup.memory_peak_bytes),
);

pub(super) const MEMORY_LIMIT: Family = host(
    "kata_sandbox_cgroup_memory_limit_bytes",
    Type::Gauge,
    "bytes",
    "cgroup",
    "Memory limit of the sandbox's own cgroups, where there is one.",
    SOURCE,
    |host, sink| each(host, sink, |cgroup| cgroup.memory_limit_bytes),
);

pub(super) const PERIODS: Family = host(
    "kata_sandbox_cgroup_cpu_periods_total",
    Type::Counter,
    "",
    "cgroup",
    "Periods in which the sandbox's own cgroups could have been throttled.",
    SOURCE,
    |host, sink| each(host, sink, |cgroup| cgroup.periods),
);

pub(super) const THROTTLED_PERIODS: Family = host(
    "kata_sandbox_cgroup_cpu_throttled_periods_total",
    Type::Counter,
    "",
    "cgroup",
    "Periods in which the sandbox's own cgroups were throttled.",
    SOURCE,
    |host, sink| each(host, sink, |cgroup| cgroup.throttled_periods),
);

pub(super) const THROTTLED_SECONDS: Family = host(
    "kata_sandbox_cgroup_cpu_throttled_seconds_total",
    Type::Counter,
    "seconds",
    "cgroup",
    "Time for which the sandbox's own cgroups were throttled.",
    SOURCE,
    |host, sink| each(host, sink, |cgroup| cgroup.throttled_seconds),
);

pub(super) const OOM_KILLS: Family = host(
    "kata_sandbox_cgroup_oom_kills_total",
    Type::Counter,
    "",
    "cgroup",
    "Processes of the sandbox's own cgroups that the kernel killed for lack of memory.",
    SOURCE,
    |host, sink| each(host, sink, |cgroup| cgroup.oom_kills),
);

pub(super) const PRESSURE: Family = host(
    "kata_sandbox_cgroup_pressure_seconds_total",
    Type::Counter,
    "seconds",
    "cgroup, resource, severity",
    "Time for which some or all threads of the sandbox's own cgroups waited for a resource.",
    "cpu.pressure, io.pressure, memory.pressure of the cgroups, v2 with PSI",
    |host, sink| {
        for cgroup in &host.reading.cgroups {
            for (resource, severity, seconds) in &cgroup.pressure {
                let labels = [("cgroup", cgroup.kind), ("resource", resource), ("severity", severity)];
                sink.put(&labels, Some(*seconds));
            }
        }
    },
);
