//! What is known of sandboxes and of the sources of their numbers.

use std::collections::BTreeMap;

use super::{Family, Scope, Type, Write};

pub(super) const INFO: Family = Family {
    name: "kata_sandbox_info",
    help: "What is known of a sandbox; always 1.",
    of_type: Type::Gauge,
    unit: "",
    labels: "cgroup_mode, pod_source, runtime, runtime_handler, shim_version, uid, vmm",
    of_pod: "discovery and the container runtime",
    of_container: "",
    scope: Scope::Sandbox,
    kind: None,
    write: Write::Sandbox(|sandbox, sink| {
        let labels = [
            ("cgroup_mode", sandbox.cgroup_mode),
            ("pod_source", sandbox.pod_source),
            ("runtime", sandbox.runtime),
            ("runtime_handler", sandbox.runtime_handler.as_str()),
            ("shim_version", sandbox.shim_version.as_str()),
            ("uid", sandbox.uid.as_str()),
            ("vmm", sandbox.vmm),
        ];
        sink.put(&labels, Some(1.0));
    }),
};

pub(super) const SANDBOXES: Family = Family {
    name: "kata_pulse_sandboxes",
    help: "Sandboxes on this node.",
    of_type: Type::Gauge,
    unit: "",
    labels: "runtime, state, vmm",
    of_pod: "discovery",
    of_container: "",
    scope: Scope::Agent,
    kind: None,
    write: Write::All(|sandboxes, sink| {
        let mut counts: BTreeMap<[&str; 3], f64> = BTreeMap::new();
        for sandbox in sandboxes.iter().filter(|sandbox| sandbox.end.is_none()) {
            *counts.entry([sandbox.runtime, sandbox.state, sandbox.vmm]).or_default() += 1.0;
        }
        for ([runtime, state, vmm], count) in counts {
            sink.put(&[("runtime", runtime), ("state", state), ("vmm", vmm)], Some(count));
        }
    }),
};

pub(super) const SOURCE: Family = Family {
    name: "kata_pulse_sandbox_source",
    help: "How each source of a sandbox's numbers is doing: 1 for the state that holds.",
    of_type: Type::Gauge,
    unit: "",
    labels: "source, state",
    of_pod: "collection",
    of_container: "",
    scope: Scope::Sandbox,
    kind: None,
    write: Write::Sandbox(|sandbox, sink| {
        for source in &sandbox.sources {
            sink.put(&[("source", source.source), ("state", source.state)], Some(1.0));
        }
    }),
};

pub(super) const LAST_COLLECT: Family = Family {
    name: "kata_pulse_sandbox_last_collect_timestamp_seconds",
    help: "When a source last gave numbers of a sandbox, in seconds since 1970.",
    of_type: Type::Gauge,
    unit: "seconds",
    labels: "source",
    of_pod: "collection",
    of_container: "",
    scope: Scope::Sandbox,
    kind: None,
    write: Write::Sandbox(|sandbox, sink| {
        for source in &sandbox.sources {
            sink.put(&[("source", source.source)], source.collected_unix_seconds);
        }
    }),
};
