//! Every flag of the agent has a value, every value makes its flag, and the agent accepts what the chart writes.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::CommandFactory;
use kata_pulse::config::{Args, Config};
use serde_json::Value;

use crate::tools::{self, KUBERNETES, container, daemon_set};

/// A value, and the argument that it makes.
const VALUES: &[(&str, &str)] = &[
    ("config: {listenAddress: \"[::]:9100\"}", "--listen-address=[::]:9100"),
    ("config: {runtimeEndpoint: /run/crio/crio.sock}", "--runtime-endpoint=/run/crio/crio.sock"),
    ("config: {metricsIntervalSecs: 86400}", "--metrics-interval-secs=86400"),
    ("config: {hostIntervalSecs: 1}", "--host-interval-secs=1"),
    ("config: {logLevel: \"info,kata_pulse::serve=debug\"}", "--log-level=info,kata_pulse::serve=debug"),
    ("config: {logFormat: json}", "--log-format=json"),
    ("config: {sandboxDirs: [\"rust:/a/b\"]}", "--sandbox-dir=rust:/a/b"),
    ("config: {procfs: /host/proc}", "--procfs=/host/proc"),
    ("config: {sysfs: /host/sys}", "--sysfs=/host/sys"),
    ("config: {ebpf: \"off\"}", "--ebpf=off"),
    ("config: {ebpfDirectories: syscalls}", "--ebpf-directories=syscalls"),
    ("config: {ebpfPrograms: [kvm, oom]}", "--ebpf-programs=kvm,oom"),
    ("config: {ebpfPrograms: []}", "--ebpf-programs=none"),
    ("config: {threadDetail: true}", "--thread-detail"),
    ("config: {qdisc: true}", "--qdisc"),
    ("config: {shimMetrics: force}", "--shim-metrics=force"),
    ("config: {levels: [pod]}", "--levels=pod"),
    ("config: {disableMetrics: [diskIO, oom_event]}", "--disable-metrics=diskIO,oom_event"),
    ("config: {passthrough: [kata_shim_, kata_guest_]}", "--passthrough=kata_shim_,kata_guest_"),
    ("config: {endedRetentionSecs: 0}", "--ended-retention-secs=0"),
    ("mode: dropIn", "--levels=container"),
    ("mode: dropIn", "--disable-metrics=network"),
    ("{mode: dropIn, config: {disableMetrics: [network, disk]}}", "--disable-metrics=network,disk"),
];

fn arguments(values: &str) -> Vec<String> {
    let daemon_set = daemon_set(values, KUBERNETES);
    let list = container(&daemon_set)["args"].as_array().unwrap().clone();
    list.iter().map(|argument| argument.as_str().unwrap_or_else(|| panic!("no text: {argument}")).to_owned()).collect()
}

fn flag(argument: &str) -> &str {
    argument.split('=').next().unwrap().trim_start_matches("--")
}

fn of_the_agent() -> BTreeSet<String> {
    let command = Args::command();
    command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
}

fn read(arguments: &[String]) -> Config {
    let line = std::iter::once("kata-pulse").chain(arguments.iter().map(String::as_str)).map(OsString::from);
    Args::read(line).unwrap_or_else(|error| panic!("{arguments:?}: {error}")).into()
}

#[test]
fn every_flag_of_the_agent_has_a_value() {
    let with_value: BTreeSet<String> = VALUES.iter().map(|(_, argument)| flag(argument).to_owned()).collect();
    let known = of_the_agent();
    assert_eq!(known.difference(&with_value).collect::<Vec<_>>(), Vec::<&String>::new(), "flags without a value");
    assert_eq!(with_value.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "no flags of the agent");
}

#[test]
fn every_value_makes_the_right_flag_and_the_agent_accepts_it() {
    if !tools::are_there() {
        return;
    }
    for (values, expected) in VALUES {
        let arguments = arguments(values);
        let count = arguments.iter().filter(|argument| argument == expected).count();
        assert_eq!(count, 1, "{values}: {arguments:?}");
        read(&arguments);
    }
}

/// What only a newer image knows can be said all the same.
#[test]
fn further_arguments_come_last() {
    if !tools::are_there() {
        return;
    }
    let arguments = arguments("extraArgs: [--one, --two=2]");
    assert_eq!(arguments[arguments.len() - 2..], ["--one", "--two=2"]);
}

#[test]
fn the_defaults_are_the_agents_own_but_for_address_and_endpoint() {
    if !tools::are_there() {
        return;
    }
    let own = ["--listen-address=0.0.0.0:8090", "--runtime-endpoint=/run/containerd/containerd.sock"];
    let own = read(&own.map(str::to_owned));
    assert_eq!(format!("{:?}", read(&arguments("{}"))), format!("{own:?}"));
}

#[test]
fn an_empty_endpoint_leaves_the_choice_to_the_agent() {
    if !tools::are_there() {
        return;
    }
    let arguments = arguments("config: {runtimeEndpoint: \"\"}");
    assert!(!arguments.iter().any(|argument| flag(argument) == "runtime-endpoint"), "{arguments:?}");
    assert_eq!(read(&arguments).runtime_endpoint, None);
}

#[test]
fn the_port_of_the_container_is_the_one_listened_on() {
    if !tools::are_there() {
        return;
    }
    let daemon_set = daemon_set("config: {listenAddress: \"[::]:9100\"}", KUBERNETES);
    let ports = &container(&daemon_set)["ports"];
    assert_eq!(ports, &serde_json::json!([{"name": "metrics", "containerPort": 9100, "protocol": "TCP"}]));
    for (probe, path) in [("startupProbe", "/readyz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        let get: &Value = &container(&daemon_set)[probe]["httpGet"];
        assert_eq!(get, &serde_json::json!({"path": path, "port": "metrics"}), "{probe}");
    }
}
