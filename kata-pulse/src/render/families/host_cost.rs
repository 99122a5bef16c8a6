//! What a sandbox costs beyond its workload, and what namespaces cost.

use super::host::host;
use super::{Family, Scope, Type, Write};
use crate::model::MetricKind::Host;
use crate::model::NamespaceStats;

pub(super) const OVERHEAD_CPU: Family = host(
    "kata_sandbox_overhead_cpu_seconds_total",
    Type::Counter,
    "seconds",
    "",
    "CPU time on the host that was not the containers': the sandbox's processes less its containers.",
    "host and task",
    |host, sink| sink.put(&[], host.cost.overhead_cpu_seconds),
);

pub(super) const OVERHEAD_MEMORY: Family = host(
    "kata_sandbox_overhead_memory_bytes",
    Type::Gauge,
    "bytes",
    "",
    "Memory on the host that is not the containers' working set; below zero while containers use what the host does not hold.",
    "host and task",
    |host, sink| sink.put(&[], host.cost.overhead_memory_bytes),
);

pub(super) const DECLARED_MEMORY: Family = host(
    "kata_sandbox_overhead_declared_bytes",
    Type::Gauge,
    "bytes",
    "",
    "Memory that the RuntimeClass declares as the pod's overhead.",
    "the container runtime: the sandbox's configuration",
    |host, sink| sink.put(&[], host.cost.declared_memory_bytes),
);

pub(super) const DECLARED_CPU: Family = host(
    "kata_sandbox_overhead_declared_cpu_cores",
    Type::Gauge,
    "cores",
    "",
    "CPU that the RuntimeClass declares as the pod's overhead.",
    "the container runtime: the sandbox's configuration",
    |host, sink| sink.put(&[], host.cost.declared_cpu_cores),
);

pub(super) const BYTE_SECONDS: Family = host(
    "kata_sandbox_memory_byte_seconds_total",
    Type::Counter,
    "byte seconds",
    "",
    "Memory of the sandbox's processes on the host, summed over time: what was held for how long.",
    "pss, else rss, between two readings",
    |host, sink| sink.put(&[], host.cost.memory_byte_seconds),
);

pub(super) const RECLAIMABLE: Family = host(
    "kata_sandbox_memory_reclaimable_bytes",
    Type::Gauge,
    "bytes",
    "",
    "Memory that the guest has free and the host still holds for it.",
    "the VMM's resident memory less what the guest has in use",
    |host, sink| sink.put(&[], host.cost.reclaimable_bytes),
);

const fn namespace(
    name: &'static str,
    unit: &'static str,
    labels: &'static str,
    help: &'static str,
    write: Write,
) -> Family {
    Family {
        name,
        help,
        of_type: Type::Counter,
        unit,
        labels,
        of_pod: "sandboxes of the namespace since the agent began, ended ones too",
        of_container: "",
        scope: Scope::Agent,
        kind: Some(Host),
        write,
    }
}

/// One counter of each namespace.
const fn total(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    write: fn(&NamespaceStats, &mut super::Sink<'_>),
) -> Family {
    namespace(name, unit, "namespace", help, Write::Namespace(write))
}

pub(super) const NAMESPACE_CPU: Family = total(
    "kata_namespace_cpu_seconds_total",
    "seconds",
    "CPU time on the host of the namespace's sandboxes.",
    |of, sink| sink.put(&[("namespace", &of.namespace)], of.cpu_seconds),
);

pub(super) const NAMESPACE_BYTE_SECONDS: Family = total(
    "kata_namespace_memory_byte_seconds_total",
    "byte seconds",
    "Memory on the host of the namespace's sandboxes, summed over time.",
    |of, sink| sink.put(&[("namespace", &of.namespace)], of.memory_byte_seconds),
);

pub(super) const NAMESPACE_NETWORK: Family = Family {
    labels: "direction, namespace",
    ..total(
        "kata_namespace_network_bytes_total",
        "bytes",
        "Bytes on the pod interfaces of the namespace's sandboxes, in the pods' direction.",
        |of, sink| {
            for (direction, value) in [("receive", of.received_bytes), ("transmit", of.transmitted_bytes)] {
                sink.put(&[("direction", direction), ("namespace", &of.namespace)], value);
            }
        },
    )
};

pub(super) const NAMESPACE_IO: Family = Family {
    labels: "direction, namespace",
    ..total(
        "kata_namespace_io_bytes_total",
        "bytes",
        "Bytes that the namespace's sandboxes caused to be read from and written to the host's storage.",
        |of, sink| {
            for (direction, value) in [("read", of.read_bytes), ("write", of.written_bytes)] {
                sink.put(&[("direction", direction), ("namespace", &of.namespace)], value);
            }
        },
    )
};

pub(super) const NAMESPACE_STARTED: Family = total(
    "kata_namespace_sandboxes_started_total",
    "",
    "Sandboxes of the namespace that appeared since the agent began.",
    |of, sink| sink.put(&[("namespace", &of.namespace)], Some(of.sandboxes_started)),
);
