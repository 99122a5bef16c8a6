//! What programs in the kernel count for a sandbox, and how it ended.

use super::host::kernel;
use super::{Family, Scope, Type, Write};
use crate::model::MetricKind::Host;

pub(super) const RUNQUEUE: Family = kernel(
    "kata_sandbox_runqueue_latency_seconds",
    Type::Histogram,
    "seconds",
    "role",
    "Time from runnable to running of the sandbox's threads.",
    "eBPF: sched_switch, sched_info",
    |host, sink| {
        for (role, histogram) in &host.kernel.runqueue {
            sink.put_histogram(&[("role", role.as_str())], histogram);
        }
    },
);

pub(super) const BLOCK_SECONDS: Family = kernel(
    "kata_sandbox_block_io_seconds",
    Type::Histogram,
    "seconds",
    "device, operation",
    "Time that block requests of the sandbox's processes took.",
    "eBPF: block_io_start, block_rq_complete",
    |host, sink| {
        for block in &host.kernel.block {
            sink.put_histogram(&[("device", &block.device), ("operation", block.operation)], &block.latency);
        }
    },
);

pub(super) const BLOCK_BYTES: Family = kernel(
    "kata_sandbox_block_io_bytes_total",
    Type::Counter,
    "bytes",
    "device, operation",
    "Bytes of block requests of the sandbox's processes; what the kernel writes back later is nobody's.",
    "eBPF: block_io_start",
    |host, sink| {
        for block in &host.kernel.block {
            let labels = [("device", block.device.as_str()), ("operation", block.operation)];
            sink.put(&labels, Some(block.bytes as f64));
        }
    },
);

pub(super) const KVM_EXITS: Family = kernel(
    "kata_sandbox_kvm_userspace_exits_total",
    Type::Counter,
    "",
    "reason",
    "Exits from the guest that the VMM had to handle.",
    "eBPF: kvm_userspace_exit",
    |host, sink| {
        for (reason, count) in &host.kernel.kvm_exits {
            sink.put(&[("reason", reason)], Some(*count as f64));
        }
    },
);

pub(super) const OOM_KILLS: Family = kernel(
    "kata_sandbox_oom_kills_total",
    Type::Counter,
    "",
    "role",
    "Processes of the sandbox that the host's kernel killed for lack of memory.",
    "eBPF: mark_victim",
    |host, sink| {
        for (role, count) in &host.kernel.oom_kills {
            sink.put(&[("role", role.as_str())], Some(*count as f64));
        }
    },
);

pub(super) const ENDED: Family = Family {
    name: "kata_sandbox_ended",
    help: "A sandbox that is no more, by what died first; its counters are final. 1 while --ended-retention-secs last.",
    of_type: Type::Gauge,
    unit: "",
    labels: "cause, exit_code, signal",
    of_pod: "discovery",
    of_container: "",
    scope: Scope::Sandbox,
    kind: Some(Host),
    write: Write::Sandbox(|sandbox, sink| {
        if let Some(end) = &sandbox.end {
            let labels = [("cause", end.cause), ("exit_code", &end.exit_code), ("signal", &end.signal)];
            sink.put(&labels, Some(1.0));
        }
    }),
};
