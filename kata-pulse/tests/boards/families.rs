//! The tables of families, as a query may use them. In: a name from a query. Out: the labels it has.

use std::collections::BTreeSet;

use kata_pulse::render::families::{ALL, Scope};
use kata_pulse::telemetry::OWN_FAMILIES;

/// Families of the contract that no table has yet, with their labels: a query may name them, and may find nothing.
/// Delete it with the last of them; a row whose family is in a table does nothing.
pub const ANNOUNCED: &[(&str, &str)] = &[
    ("kata_namespace_cpu_seconds_total", "namespace"),
    ("kata_namespace_memory_byte_seconds_total", "namespace"),
    ("kata_namespace_sandboxes_started_total", "namespace"),
    ("kata_pulse_sandbox_startup_seconds", "runtime, stage, vmm"),
    ("kata_pulse_sandboxes_ended_total", "cause, vmm"),
    ("kata_sandbox_block_io_bytes_total", "device, namespace, operation, pod, sandbox_id"),
    ("kata_sandbox_block_io_seconds", "device, namespace, operation, pod, sandbox_id"),
    ("kata_sandbox_context_switches_total", "namespace, pod, role, sandbox_id, type"),
    ("kata_sandbox_cpu_seconds_total", "mode, namespace, pod, role, sandbox_id"),
    ("kata_sandbox_ended", "cause, exit_code, namespace, pod, sandbox_id, signal"),
    ("kata_sandbox_host_network_bytes_total", "direction, interface, namespace, pod, sandbox_id"),
    ("kata_sandbox_host_network_drops_total", "direction, interface, namespace, pod, sandbox_id"),
    ("kata_sandbox_host_network_errors_total", "direction, interface, namespace, pod, sandbox_id"),
    ("kata_sandbox_host_network_packets_total", "direction, interface, namespace, pod, sandbox_id"),
    ("kata_sandbox_io_blocked_seconds_total", "namespace, pod, role, sandbox_id"),
    ("kata_sandbox_io_bytes_total", "direction, namespace, pod, role, sandbox_id"),
    ("kata_sandbox_kvm_userspace_exits_total", "namespace, pod, reason, sandbox_id"),
    ("kata_sandbox_max_fds", "namespace, pod, role, sandbox_id"),
    ("kata_sandbox_memory_bytes", "namespace, pod, role, sandbox_id, type"),
    ("kata_sandbox_memory_nominal_bytes", "namespace, pod, sandbox_id"),
    ("kata_sandbox_memory_reclaimable_bytes", "namespace, pod, sandbox_id"),
    ("kata_sandbox_oom_kills_total", "namespace, pod, role, sandbox_id"),
    ("kata_sandbox_open_fds", "namespace, pod, role, sandbox_id"),
    ("kata_sandbox_overhead_cpu_seconds_total", "namespace, pod, sandbox_id"),
    ("kata_sandbox_overhead_declared_bytes", "namespace, pod, sandbox_id"),
    ("kata_sandbox_overhead_declared_cpu_cores", "namespace, pod, sandbox_id"),
    ("kata_sandbox_overhead_memory_bytes", "namespace, pod, sandbox_id"),
    ("kata_sandbox_page_faults_total", "namespace, pod, role, sandbox_id, type"),
    ("kata_sandbox_runqueue_latency_seconds", "namespace, pod, role, sandbox_id"),
    ("kata_sandbox_threads", "namespace, pod, role, sandbox_id"),
    ("kata_sandbox_vcpu_run_delay_seconds_total", "namespace, pod, sandbox_id"),
    ("kata_sandbox_vcpus", "namespace, pod, sandbox_id"),
];

/// What a scrape adds; `cluster` and `node` as docs/prometheus.md has them.
const TARGET: [&str; 4] = ["cluster", "instance", "job", "node"];

/// What Prometheus itself tells of a target.
const OF_SCRAPES: [&str; 3] = ["scrape_duration_seconds", "scrape_samples_scraped", "up"];

/// The parts of a histogram that are read.
const PARTS: [&str; 3] = ["_bucket", "_count", "_sum"];

/// `None`: there is no such metric.
pub fn labels(metric: &str) -> Option<BTreeSet<String>> {
    if OF_SCRAPES.contains(&metric) {
        return Some(set("", &TARGET));
    }
    let of_family = |name: &str| in_tables(name).or_else(|| announced(name));
    if let Some((_, labels)) = of_family(metric).filter(|(histogram, _)| !histogram) {
        return Some(set(&labels, &TARGET));
    }
    let part = PARTS.iter().find(|part| metric.ends_with(**part))?;
    let (_, labels) = of_family(metric.strip_suffix(part)?).filter(|(histogram, _)| *histogram)?;
    let le: &[&str] = if *part == "_bucket" { &["le"] } else { &[] };
    Some(set(&labels, &[&TARGET, le].concat()))
}

/// Whether a metric is of a family that is still to come.
pub fn is_to_come(metric: &str) -> bool {
    let family = PARTS.iter().find_map(|part| metric.strip_suffix(part)).unwrap_or(metric);
    in_tables(metric).is_none() && in_tables(family).is_none() && announced(family).is_some()
}

/// Whether it is a histogram, and its labels.
fn in_tables(name: &str) -> Option<(bool, String)> {
    let of_sandboxes = ALL.iter().find(|family| family.name == name).map(|family| {
        let standard = match family.scope {
            Scope::Cadvisor => "container, id, image, name, namespace, pod, ",
            Scope::Sandbox => "namespace, pod, sandbox_id, ",
            Scope::Agent => "",
        };
        // Some families show their label with the one value it has.
        let own = family.labels.split('=').next().unwrap_or_default();
        (family.of_type.as_str() == "histogram", format!("{standard}{own}"))
    });
    let own = || OWN_FAMILIES.iter().find(|row| row.name == name);
    of_sandboxes.or_else(|| own().map(|row| (row.kind.as_str() == "histogram", row.labels.to_owned())))
}

fn announced(name: &str) -> Option<(bool, String)> {
    let (_, labels) = ANNOUNCED.iter().find(|(announced, _)| *announced == name)?;
    let of_histogram = ["kata_pulse_sandbox_startup_seconds", "kata_sandbox_block_io_seconds"].contains(&name)
        || name == "kata_sandbox_runqueue_latency_seconds";
    Some((of_histogram, (*labels).to_owned()))
}

fn set(labels: &str, more: &[&str]) -> BTreeSet<String> {
    labels.split(", ").filter(|label| !label.is_empty()).chain(more.iter().copied()).map(str::to_owned).collect()
}

#[test]
fn histograms_are_read_by_their_parts_and_all_else_by_name() {
    assert!(labels("kata_pulse_render_duration_seconds").is_none());
    assert!(labels("kata_pulse_render_duration_seconds_bucket").unwrap().contains("le"));
    assert!(!labels("kata_pulse_collect_duration_seconds_count").unwrap().contains("le"));
    assert!(labels("kata_pulse_sandboxes_bucket").is_none());
    assert!(labels("container_cpu_usage_seconds_total").unwrap().is_superset(&set("container, cpu, id", &TARGET)));
    assert!(labels("kata_sandbox_made_up").is_none());
}
