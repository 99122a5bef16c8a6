//! `container_spec_*` and times: what the pod's specification and the runtime say of a container.

use super::{Family, Scope, Sink, Type, Write};
use crate::model::ContainerPage;
use crate::model::MetricKind::{Cpu, Memory, Process};

const STATUS: &str = "CRI: container status, else the OCI specification";

const ANY: Family = Family {
    name: "",
    help: "",
    of_type: Type::Gauge,
    unit: "",
    labels: "",
    of_pod: "",
    of_container: STATUS,
    scope: Scope::Cadvisor,
    kind: None,
    write: Write::Container(|_, _| {}),
};

const fn spec(name: &'static str, help: &'static str, write: fn(&ContainerPage, &mut Sink<'_>)) -> Family {
    Family { name, help, write: Write::Container(write), ..ANY }
}

pub(super) const CPU_PERIOD: Family = Family {
    kind: Some(Cpu),
    ..spec("container_spec_cpu_period", "CPU period of the container, in microseconds.", |container, sink| {
        sink.put(&[], container.limits.cpu_period_us);
    })
};

pub(super) const CPU_QUOTA: Family = Family {
    kind: Some(Cpu),
    ..spec("container_spec_cpu_quota", "CPU quota of the container, in microseconds a period.", |container, sink| {
        sink.put(&[], container.limits.cpu_quota_us);
    })
};

pub(super) const CPU_SHARES: Family = Family {
    kind: Some(Cpu),
    ..spec("container_spec_cpu_shares", "CPU share of the container.", |container, sink| {
        sink.put(&[], container.limits.cpu_shares);
    })
};

pub(super) const MEMORY_LIMIT: Family = Family {
    kind: Some(Memory),
    unit: "bytes",
    of_container: "CRI: container status, else the OCI specification, else task: memory usage limit",
    ..spec("container_spec_memory_limit_bytes", "Memory limit of the container; 0 without limit.", |container, sink| {
        sink.put(&[], container.limits.memory_bytes)
    })
};

pub(super) const MEMORY_SWAP_LIMIT: Family = Family {
    kind: Some(Memory),
    unit: "bytes",
    ..spec(
        "container_spec_memory_swap_limit_bytes",
        "Limit of memory and swap of the container; 0 without limit.",
        |container, sink| sink.put(&[], container.limits.memory_swap_bytes),
    )
};

pub(super) const START_TIME: Family = Family {
    unit: "seconds",
    of_container: "CRI: container status",
    ..spec("container_start_time_seconds", "Start of the container, in seconds since 1970.", |container, sink| {
        sink.put(&[], container.started_unix_seconds)
    })
};

pub(super) const CREATION_TIME: Family = Family {
    unit: "seconds",
    of_container: "CRI: list of containers",
    ..spec("container_creation_time_seconds", "Creation of the container, in seconds since 1970.", |container, sink| {
        sink.put(&[], container.created_unix_seconds)
    })
};

pub(super) const LAST_SEEN: Family = Family {
    unit: "seconds",
    of_container: "collection: when the container last gave numbers",
    ..spec("container_last_seen", "When the container last gave numbers, in seconds since 1970.", |container, sink| {
        sink.put(&[], container.seen_unix_seconds)
    })
};

pub(super) const ULIMITS: Family = Family {
    kind: Some(Process),
    labels: "ulimit",
    of_container: "OCI specification: soft RLIMIT_NOFILE",
    ..spec(
        "container_ulimits_soft",
        "Soft limits of the container's processes; -1 without limit.",
        |container, sink| sink.put(&[("ulimit", "max_open_files")], container.limits.open_files),
    )
};
