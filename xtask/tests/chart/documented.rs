//! docs/prometheus.md is the one place where relabelings and drop rules are written: what the chart renders and prints
//! is what stands there.

use std::fs;

use serde_json::{Value, json};

use crate::tools::{self, KUBERNETES, RELEASE, helm_4, of_kind, root};

/// The block behind `<!-- run: NAME -->`.
fn block(name: &str) -> String {
    let page = fs::read_to_string(root().join("docs/prometheus.md")).unwrap();
    let (_, rest) = page.split_once(&format!("<!-- run: {name} -->\n```yaml\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// The mode that is written in the block, as a whole; the chart's selector also names the release.
fn check_pod_monitor(mode: &str, name: &str) {
    let documented = &tools::parse(&block(name))[0];
    let manifests = helm_4().manifests(&format!("mode: {mode}"), KUBERNETES);
    let mut spec = of_kind(&manifests, "PodMonitor")["spec"].clone();
    let labels = spec["selector"]["matchLabels"].as_object_mut().unwrap();
    assert_eq!(labels.remove("app.kubernetes.io/instance"), Some(json!(RELEASE)));
    assert_eq!(spec, documented["spec"], "{mode}");
}

#[test]
fn standalone_is_the_job_of_our_own() {
    if tools::are_there() {
        check_pod_monitor("standalone", "podmonitor-own");
    }
}

#[test]
fn drop_in_is_the_kubelets_job() {
    if tools::are_there() {
        check_pod_monitor("dropIn", "podmonitor-kubelet");
    }
}

#[test]
fn a_service_monitor_has_the_same_words() {
    if !tools::are_there() {
        return;
    }
    for mode in ["standalone", "dropIn"] {
        let of = |monitors: &str| helm_4().manifests(&format!("{{mode: {mode}, {monitors}}}"), KUBERNETES);
        let pods = of("podMonitor: {enabled: true}");
        let services = of("podMonitor: {enabled: false}, serviceMonitor: {enabled: true}");
        let (pods, services) = (&of_kind(&pods, "PodMonitor")["spec"], &of_kind(&services, "ServiceMonitor")["spec"]);
        assert_eq!(services["endpoints"], pods["podMetricsEndpoints"], "{mode}");
        assert_eq!(services.get("jobLabel"), pods.get("jobLabel"), "{mode}");
    }
}

#[test]
fn relabelings_of_a_user_come_after_the_documented_ones() {
    if !tools::are_there() {
        return;
    }
    let more = json!([{"targetLabel": "cluster", "replacement": "east"}]);
    let values = json!({"mode": "dropIn", "podMonitor": {"relabelings": more, "metricRelabelings": more}});
    let manifests = helm_4().manifests(&values.to_string(), KUBERNETES);
    let endpoint = &of_kind(&manifests, "PodMonitor")["spec"]["podMetricsEndpoints"][0];
    let documented = &tools::parse(&block("podmonitor-kubelet"))[0]["spec"]["podMetricsEndpoints"][0];
    for key in ["relabelings", "metricRelabelings"] {
        let both: Vec<Value> =
            [&documented[key], &more].iter().flat_map(|list| list.as_array().unwrap().clone()).collect();
        assert_eq!(endpoint[key], json!(both));
    }
}

/// The pods bear what the documented selector and job label ask for, whatever their names.
#[test]
fn pods_are_found_by_the_documented_labels() {
    if !tools::are_there() {
        return;
    }
    for values in ["{}", "nameOverride: other", "fullnameOverride: other"] {
        let manifests = helm_4().manifests(values, KUBERNETES);
        let labels = &of_kind(&manifests, "DaemonSet")["spec"]["template"]["metadata"]["labels"];
        for name in ["podmonitor-own", "podmonitor-kubelet"] {
            let documented = &tools::parse(&block(name))[0]["spec"]["selector"]["matchLabels"];
            for (key, value) in documented.as_object().unwrap() {
                assert_eq!(&labels[key], value, "{values}");
            }
        }
    }
}

/// With Helm 4 alone: the other asks a cluster even for a dry run.
#[test]
fn an_installation_prints_the_rules_for_the_kubelet_ready_to_paste() {
    if !tools::are_there() {
        return;
    }
    for mode in ["standalone", "dropIn"] {
        let notes = helm_4().notes(&format!("mode: {mode}"));
        for name in ["kubelet-drop", "kubelet-drop-chart"] {
            assert!(notes.contains(&block(name)), "{name} is not in\n{notes}");
        }
        assert!(notes.contains("root on the node") && notes.contains(mode), "{notes}");
    }
}
