//! `container_cpu_*`

use super::{Family, Type, Write, value};
use crate::model::MetricKind::Cpu;

const MODES: [&str; 2] =
    ["guest: kata_guest_cpu_time{cpu=\"total\"}, unit told at run time", "task: cpu usage user and kernel"];
const THROTTLING: [&str; 2] = ["", "task: cpu throttling, with a quota"];

pub(super) const USAGE: Family = Family {
    labels: "cpu=\"total\"",
    write: Write::Series(|stats, sink| sink.put(&[("cpu", "total")], stats.cpu.usage_seconds)),
    ..value(
        "container_cpu_usage_seconds_total",
        Type::Counter,
        "seconds",
        Cpu,
        "Cumulative CPU time consumed.",
        ["guest: user + system as below", "task: cpu usage total"],
        |_| None,
    )
};

pub(super) const USER: Family = value(
    "container_cpu_user_seconds_total",
    Type::Counter,
    "seconds",
    Cpu,
    "Cumulative user CPU time consumed.",
    MODES,
    |stats| stats.cpu.user_seconds,
);

pub(super) const SYSTEM: Family = value(
    "container_cpu_system_seconds_total",
    Type::Counter,
    "seconds",
    Cpu,
    "Cumulative system CPU time consumed.",
    MODES,
    |stats| stats.cpu.system_seconds,
);

pub(super) const CFS_PERIODS: Family = value(
    "container_cpu_cfs_periods_total",
    Type::Counter,
    "",
    Cpu,
    "Periods of the CPU quota in which the container wanted to run.",
    THROTTLING,
    |stats| stats.throttling.periods,
);

pub(super) const CFS_THROTTLED_PERIODS: Family = value(
    "container_cpu_cfs_throttled_periods_total",
    Type::Counter,
    "",
    Cpu,
    "Periods in which the container was throttled.",
    THROTTLING,
    |stats| stats.throttling.throttled_periods,
);

pub(super) const CFS_THROTTLED_SECONDS: Family = value(
    "container_cpu_cfs_throttled_seconds_total",
    Type::Counter,
    "seconds",
    Cpu,
    "Time for which the container was throttled.",
    THROTTLING,
    |stats| stats.throttling.throttled_seconds,
);
