//! What the pod takes from its node: the defaults that were promised, the two profiles, the directories.

use serde_json::{Value, json};

use crate::tools::{self, KUBERNETES, container, daemon_set, helm_4, of_kind};

fn pod(daemon_set: &Value) -> &Value {
    &daemon_set["spec"]["template"]["spec"]
}

/// Mount path of every directory of the node, after a look at how it is mounted.
fn directories(values: &str) -> Vec<String> {
    let daemon_set = daemon_set(values, KUBERNETES);
    let mounts = container(&daemon_set)["volumeMounts"].as_array().unwrap();
    let volumes = pod(&daemon_set)["volumes"].as_array().unwrap();
    assert_eq!(mounts.len(), volumes.len());
    for mount in mounts {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        let kind = volume["hostPath"]["type"].as_str().unwrap();
        assert!(kind.starts_with("Directory"), "a file is another one when its owner has restarted: {volume}");
        assert_eq!(volume["hostPath"]["path"], mount["mountPath"], "paths must be valid on both sides");
        assert_eq!(mount["readOnly"], true, "{mount}");
        assert_eq!(mount["mountPropagation"], "HostToContainer", "{mount}");
    }
    mounts.iter().map(|mount| mount["mountPath"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_promised_defaults() {
    if !tools::are_there() {
        return;
    }
    let manifests = helm_4().manifests("{}", KUBERNETES);
    let daemon_set = of_kind(&manifests, "DaemonSet");
    let container = container(daemon_set);
    assert_eq!(container["imagePullPolicy"], "Always");
    let resources =
        json!({"requests": {"cpu": "50m", "memory": "100Mi"}, "limits": {"cpu": "100m", "memory": "200Mi"}});
    assert_eq!(container["resources"], resources);
    assert_eq!(of_kind(&manifests, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["interval"], "30s");
    let pod = pod(daemon_set);
    assert_eq!(pod["nodeSelector"], json!({"katacontainers.io/kata-runtime": "true"}));
    assert_eq!((&pod["hostPID"], &pod["hostNetwork"]), (&json!(true), &json!(false)));
}

#[test]
fn no_token_is_mounted() {
    if !tools::are_there() {
        return;
    }
    let manifests = helm_4().manifests("{}", KUBERNETES);
    let (daemon_set, account) = (of_kind(&manifests, "DaemonSet"), of_kind(&manifests, "ServiceAccount"));
    assert_eq!(pod(daemon_set)["automountServiceAccountToken"], false);
    assert_eq!(account["automountServiceAccountToken"], false);
    assert_eq!(pod(daemon_set)["serviceAccountName"], account["metadata"]["name"]);
    assert!(manifests.iter().all(|manifest| !manifest["kind"].as_str().unwrap().contains("Role")));
}

#[test]
fn least_privilege_is_named_capabilities_and_nothing_else() {
    if !tools::are_there() {
        return;
    }
    let expected = json!({
        "runAsUser": 0,
        "runAsGroup": 0,
        "readOnlyRootFilesystem": true,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"], "add": ["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH"]},
        "seccompProfile": {"type": "Unconfined"},
        "appArmorProfile": {"type": "Unconfined"},
    });
    assert_eq!(container(&daemon_set("{}", KUBERNETES))["securityContext"], expected);
}

/// It enters namespaces of pods, which nothing else does.
#[test]
fn only_queues_need_sys_admin() {
    if !tools::are_there() {
        return;
    }
    let context = container(&daemon_set("config: {qdisc: true}", KUBERNETES))["securityContext"].clone();
    let added = json!(["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "SYS_ADMIN"]);
    assert_eq!(context["capabilities"]["add"], added);
}

#[test]
fn selector_and_tolerations_can_be_taken_away() {
    if !tools::are_there() {
        return;
    }
    let daemon_set = daemon_set("{nodeSelector: null, tolerations: null, priorityClassName: null}", KUBERNETES);
    for key in ["nodeSelector", "tolerations", "priorityClassName"] {
        assert!(pod(&daemon_set).get(key).is_none(), "{key}");
    }
}

#[test]
fn privileged_is_not_half_of_the_other_profile() {
    if !tools::are_there() {
        return;
    }
    let context = container(&daemon_set("security: {profile: privileged}", KUBERNETES))["securityContext"].clone();
    assert_eq!(context["privileged"], true);
    // Kubernetes refuses a privileged container that may not escalate.
    for absent in ["allowPrivilegeEscalation", "capabilities", "seccompProfile"] {
        assert!(context.get(absent).is_none(), "{absent}");
    }
}

#[test]
fn app_armor_is_an_annotation_before_1_30() {
    if !tools::are_there() {
        return;
    }
    let key = "container.apparmor.security.beta.kubernetes.io/kata-pulse";
    for (values, word) in [
        ("{}", "unconfined"),
        ("security: {appArmorProfile: {type: RuntimeDefault}}", "runtime/default"),
        ("security: {appArmorProfile: {type: Localhost, localhostProfile: own}}", "localhost/own"),
    ] {
        for (kubernetes, old) in [
            ("1.20.0", true),
            ("1.29.4-eks-036c24b", true),
            ("1.30.0", false),
            ("1.30.1-gke.100", false),
            ("1.37.0", false),
        ] {
            let daemon_set = daemon_set(values, kubernetes);
            let annotation = &daemon_set["spec"]["template"]["metadata"]["annotations"][key];
            assert_eq!(annotation, &if old { json!(word) } else { Value::Null }, "{kubernetes}");
            let field = container(&daemon_set)["securityContext"].get("appArmorProfile");
            assert_eq!(field.is_some(), !old, "{kubernetes}");
        }
    }
}

#[test]
fn sockets_below_run_need_no_further_directory() {
    if !tools::are_there() {
        return;
    }
    for socket in
        ["containerd/containerd.sock", "k3s/containerd/containerd.sock", "k0s/containerd.sock", "crio/crio.sock"]
    {
        for scheme in ["", "unix://"] {
            let values = format!("config: {{runtimeEndpoint: \"{scheme}/run/{socket}\"}}");
            assert_eq!(directories(&values), ["/run", "/sys"], "{values}");
        }
    }
    assert_eq!(directories("config: {runtimeEndpoint: \"\"}"), ["/run", "/sys"]);
}

#[test]
fn directories_elsewhere_are_mounted_too() {
    if !tools::are_there() {
        return;
    }
    let snap = "/var/snap/microk8s/common/run";
    let values = format!("config: {{runtimeEndpoint: \"unix://{snap}/containerd.sock\"}}");
    assert_eq!(directories(&values), ["/run", snap, "/sys"]);
    let values = "config: {sandboxDirs: [\"go:/data/vc/sbs\", \"/run/kata\", \"rust:/data/vc/other\", /sbs]}";
    assert_eq!(directories(values), ["/run", "/data/vc", "/sbs", "/sys"], "the parent, where a base may be made later");
    // /running is not below /run.
    assert_eq!(directories("config: {runtimeEndpoint: /running/x.sock}"), ["/run", "/running", "/sys"]);
}

#[test]
fn narrow_directories_instead_of_run() {
    if !tools::are_there() {
        return;
    }
    let values = "{config: {runtimeEndpoint: /run/crio/crio.sock}, hostPaths: {run: [/run/vc, /run/kata]}}";
    assert_eq!(directories(values), ["/run/vc", "/run/kata", "/run/crio", "/sys"]);
}
