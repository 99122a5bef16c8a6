//! Values that cannot work are refused, with the name of what is wrong.

use crate::tools::{self, Helm, KUBERNETES, helm_3, helm_4};

/// Values, and what the complaint must name.
const BAD: &[(&str, &str)] = &[
    ("unheard: 1", "unheard"),
    ("config: {runtimeEndpoints: /run/x/y.sock}", "runtimeEndpoints"),
    ("mode: both", "mode"),
    ("image: {pullPolicy: Sometimes}", "pullPolicy"),
    ("image: {tag: \"a b\"}", "tag"),
    ("image: {digest: \"sha256:12\"}", "digest"),
    ("config: {listenAddress: \":8090\"}", "listenAddress"),
    ("config: {listenAddress: 0.0.0.0}", "listenAddress"),
    ("config: {runtimeEndpoint: \"tcp://127.0.0.1:1\"}", "runtimeEndpoint"),
    ("config: {runtimeEndpoint: relative/x.sock}", "runtimeEndpoint"),
    ("config: {runtimeEndpoint: /x.sock}", "runtimeEndpoint"),
    ("config: {metricsIntervalSecs: 0}", "metricsIntervalSecs"),
    ("config: {metricsIntervalSecs: \"60\"}", "metricsIntervalSecs"),
    ("config: {endedRetentionSecs: 86401}", "endedRetentionSecs"),
    ("config: {logLevel: \"\"}", "logLevel"),
    ("config: {logFormat: xml}", "logFormat"),
    ("config: {sandboxDirs: [\"java:/run/x\"]}", "sandboxDirs"),
    ("config: {sandboxDirs: [\"/run/x,/run/y\"]}", "sandboxDirs"),
    ("config: {ebpf: maybe}", "ebpf"),
    ("config: {ebpfPrograms: [net]}", "ebpfPrograms"),
    ("config: {threadDetail: \"yes\"}", "threadDetail"),
    ("config: {levels: []}", "levels"),
    ("config: {levels: [node]}", "levels"),
    ("config: {disableMetrics: [cpus]}", "disableMetrics"),
    ("config: {passthrough: [\"a,b\"]}", "passthrough"),
    ("hostPaths: {run: [run]}", "run"),
    ("hostPaths: {mountPropagation: Bidirectional}", "mountPropagation"),
    ("security: {profile: root}", "profile"),
    ("security: {extraCapabilities: [CAP_SYSLOG]}", "extraCapabilities"),
    ("security: {seccompProfile: /absolute.json}", "seccompProfile"),
    ("security: {appArmorProfile: {type: Localhost}}", "localhostProfile"),
    ("nodeSelector: {a: true}", "nodeSelector"),
    ("probes: {liveness: {httpGet: {path: /x}}}", "httpGet"),
    ("podMonitor: {interval: 30}", "interval"),
    ("podMonitor: {interval: 30 seconds}", "interval"),
    ("service: {port: 0}", "port"),
    ("serviceMonitor: {enabled: true}", "podMonitor.enabled and serviceMonitor.enabled are both true"),
];

fn check(helm: &Helm) {
    for (values, named) in BAD {
        match helm.template(values, KUBERNETES) {
            Ok(_) => panic!("accepted: {values}"),
            Err(error) => assert!(error.contains(named), "{values}: {error}"),
        }
    }
}

#[test]
fn helm_4_refuses_what_cannot_work() {
    if tools::are_there() {
        check(&helm_4());
    }
}

#[test]
fn helm_3_refuses_what_cannot_work() {
    helm_3().iter().for_each(check);
}

#[test]
fn a_parent_chart_may_pass_its_globals() {
    if tools::are_there() {
        helm_4().manifests("global: {imageRegistry: x}", KUBERNETES);
    }
}
