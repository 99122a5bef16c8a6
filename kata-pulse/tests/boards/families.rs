//! The tables of families, as a query may use them. In: a name from a query. Out: the labels it has.

use std::collections::BTreeSet;

use kata_pulse::render::families::{ALL, Scope};
use kata_pulse::telemetry::OWN_FAMILIES;

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
    if let Some((_, labels)) = in_tables(metric).filter(|(histogram, _)| !histogram) {
        return Some(set(&labels, &TARGET));
    }
    let part = PARTS.iter().find(|part| metric.ends_with(**part))?;
    let (_, labels) = in_tables(metric.strip_suffix(part)?).filter(|(histogram, _)| *histogram)?;
    let le: &[&str] = if *part == "_bucket" { &["le"] } else { &[] };
    Some(set(&labels, &[&TARGET, le].concat()))
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
