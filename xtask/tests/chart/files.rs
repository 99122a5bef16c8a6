//! Dashboards and rules reach the cluster word for word, braces and all; without any, nothing is rendered.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::tools::{self, Helm, KUBERNETES, chart, helm_4, validate, validate_operator};

const DASHBOARD: &str =
    "{\n  \"title\": \"{{ .Values }} & <b> 'x'\",\n\n  \"expr\": \"sum by (pod) (x{a=~\\\"$a\\\"})\"\n}\n";
const RULES: &str = "# A file of Prometheus' own.\ngroups:\n  - name: own\n    rules:\n      - alert: Own\n        expr: x{a=\"b\"} > 0\n        annotations:\n          summary: 'of {{ $labels.pod }}: {{ $value | humanize }}'\n";

/// A copy of the chart with other dashboards and rules.
fn copy(dashboards: &[(&str, &str)], rules: &[(&str, &str)]) -> (TempDir, Helm) {
    let folder = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(chart()).arg(folder.path()).status().unwrap();
    assert!(copied.success());
    let copy = folder.path().join("kata-pulse");
    for (name, files) in [("dashboards", dashboards), ("rules", rules)] {
        let _ = fs::remove_dir_all(copy.join(name));
        fs::create_dir(copy.join(name)).unwrap();
        for (file, text) in files {
            fs::write(copy.join(name).join(file), text).unwrap();
        }
    }
    (folder, Helm { chart: copy, ..helm_4() })
}

fn count(manifests: &[Value], kind: &str) -> usize {
    manifests.iter().filter(|manifest| manifest["kind"] == kind).count()
}

#[test]
fn without_files_there_are_no_objects() {
    if !tools::are_there() {
        return;
    }
    let (_folder, helm) = copy(&[], &[]);
    let manifests = helm.manifests("{}", KUBERNETES);
    assert_eq!((count(&manifests, "ConfigMap"), count(&manifests, "PrometheusRule")), (0, 0));
    assert_eq!(count(&manifests, "DaemonSet"), 1);
}

#[test]
fn braces_of_dashboards_and_rules_are_their_own() {
    if !tools::are_there() {
        return;
    }
    let (_folder, helm) = copy(&[("one.json", DASHBOARD), ("kata-pulse-two.json", "{}\n")], &[("own.yaml", RULES)]);
    let yaml = helm.template("operatorLabels: {release: r}", KUBERNETES).unwrap();
    let manifests = tools::parse(&yaml);
    let named = |name: &str| manifests.iter().find(|manifest| manifest["metadata"]["name"] == name).unwrap();
    let one = named("kata-pulse-dashboard-one");
    assert_eq!(one["data"]["one.json"], DASHBOARD);
    assert_eq!(one["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(one["metadata"]["annotations"]["grafana_folder"], "Kata Containers");
    assert_eq!(named("kata-pulse-dashboard-two")["data"]["kata-pulse-two.json"], "{}\n");
    let rule = named("kata-pulse-own");
    assert_eq!(rule["spec"], tools::parse(RULES)[0]);
    assert_eq!(rule["metadata"]["labels"]["release"], "r");
    assert_eq!(validate(&yaml, KUBERNETES), Ok(4), "DaemonSet, ServiceAccount, two ConfigMaps");
    assert_eq!(validate_operator(&manifests), Ok(2), "PodMonitor and PrometheusRule");
}

#[test]
fn they_can_be_left_out_and_put_elsewhere() {
    if !tools::are_there() {
        return;
    }
    let (_folder, helm) = copy(&[("one.json", DASHBOARD)], &[("own.yaml", RULES)]);
    let without = helm.manifests("{dashboards: {enabled: false}, prometheusRule: {enabled: false}}", KUBERNETES);
    assert_eq!((count(&without, "ConfigMap"), count(&without, "PrometheusRule")), (0, 0));
    let values = "dashboards: {namespace: grafana, sidecarLabel: {grafana_dashboard: null, find: me}}";
    let elsewhere = helm.manifests(values, KUBERNETES);
    let map = tools::of_kind(&elsewhere, "ConfigMap");
    assert_eq!(map["metadata"]["namespace"], "grafana");
    assert_eq!(map["metadata"]["labels"]["find"], "me");
    assert!(map["metadata"]["labels"].get("grafana_dashboard").is_none());
}

/// Those of the chart itself: each file once, as it is.
#[test]
fn every_file_of_the_chart_is_rendered() {
    if !tools::are_there() {
        return;
    }
    let manifests = helm_4().manifests("{}", KUBERNETES);
    let (dashboards, rules) = (names(&chart().join("dashboards"), ".json"), names(&chart().join("rules"), ".yaml"));
    assert_eq!((count(&manifests, "ConfigMap"), count(&manifests, "PrometheusRule")), (dashboards.len(), rules.len()));
    for file in dashboards {
        let text = fs::read_to_string(chart().join("dashboards").join(&file)).unwrap();
        assert!(manifests.iter().any(|manifest| manifest["data"][&file] == text.as_str()), "{file}");
        assert!(text.len() < 1_000_000, "{file} is too large for a ConfigMap");
    }
    for file in rules {
        let text = fs::read_to_string(chart().join("rules").join(&file)).unwrap();
        let spec = &tools::parse(&text)[0];
        assert!(manifests.iter().any(|manifest| &manifest["spec"] == spec), "{file}");
    }
}

fn names(folder: &Path, end: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(end)).collect()
}
