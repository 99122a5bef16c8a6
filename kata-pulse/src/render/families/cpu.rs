//! `container_cpu_*`

use super::{Family, Type, pod};
use crate::model::MetricKind::Cpu;

const SOURCE: &str = "guest: kata_guest_cpu_time{cpu=\"total\"}, unit told at run time";

pub(super) const USAGE: Family = Family {
    labels: "cpu=\"total\"",
    ..pod(
        "container_cpu_usage_seconds_total",
        Type::Counter,
        "seconds",
        Cpu,
        "Cumulative CPU time consumed.",
        "guest: user + system as below",
        |sandbox, sink| sink.put(&[("cpu", "total")], sandbox.stats.as_ref().and_then(|stats| stats.cpu.usage_seconds)),
    )
};

pub(super) const USER: Family = pod(
    "container_cpu_user_seconds_total",
    Type::Counter,
    "seconds",
    Cpu,
    "Cumulative user CPU time consumed.",
    SOURCE,
    |sandbox, sink| sink.put(&[], sandbox.stats.as_ref().and_then(|stats| stats.cpu.user_seconds)),
);

pub(super) const SYSTEM: Family = pod(
    "container_cpu_system_seconds_total",
    Type::Counter,
    "seconds",
    Cpu,
    "Cumulative system CPU time consumed.",
    SOURCE,
    |sandbox, sink| sink.put(&[], sandbox.stats.as_ref().and_then(|stats| stats.cpu.system_seconds)),
);
