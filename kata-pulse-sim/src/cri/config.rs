//! The runtime handlers of the simulated node and the configuration that tells of them.

use serde_json::{Map, Value, json};

/// A handler, and how kata-deploy would have configured it.
struct Handler {
    name: &'static str,
    runtime_type: &'static str,
    /// Path of the shim and of its configuration; `None` for a hand-made entry.
    paths: Option<(&'static str, &'static str)>,
}

const HANDLERS: &[Handler] = &[
    Handler { name: "runc", runtime_type: "io.containerd.runc.v2", paths: None },
    Handler { name: "kata", runtime_type: "io.containerd.kata.v2", paths: None },
    Handler {
        name: "kata-qemu",
        runtime_type: "io.containerd.kata-qemu.v2",
        paths: Some((
            "/opt/kata/bin/containerd-shim-kata-v2",
            "/opt/kata/share/defaults/kata-containers/configuration-qemu.toml",
        )),
    },
    Handler {
        name: "kata-clh",
        runtime_type: "io.containerd.kata-clh.v2",
        paths: Some((
            "/opt/kata/bin/containerd-shim-kata-v2",
            "/opt/kata/share/defaults/kata-containers/configuration-clh.toml",
        )),
    },
    Handler {
        name: "kata-qemu-runtime-rs",
        runtime_type: "io.containerd.kata-qemu-runtime-rs.v2",
        paths: Some((
            "/opt/kata/runtime-rs/bin/containerd-shim-kata-v2",
            "/opt/kata/share/defaults/kata-containers/runtime-rs/configuration-qemu-runtime-rs.toml",
        )),
    },
];

/// Names of all handlers.
pub(super) fn handlers() -> impl Iterator<Item = String> {
    HANDLERS.iter().map(|handler| handler.name.to_owned())
}

/// `info["config"]` of a verbose Status, as containerd 2 has it.
pub(super) fn containerd_config(default_handler: &str) -> String {
    let runtimes: Map<String, Value> = HANDLERS
        .iter()
        .map(|handler| {
            let (path, config) = handler.paths.unwrap_or_default();
            let options = handler.paths.map_or(Value::Null, |_| json!({"ConfigPath": config}));
            let entry = json!({"runtimeType": handler.runtime_type, "runtimePath": path, "options": options,
                "sandboxer": "podsandbox"});
            (handler.name.to_owned(), entry)
        })
        .collect();
    json!({
        "containerd": {"defaultRuntimeName": default_handler, "runtimes": runtimes},
        "containerdEndpoint": "/run/containerd/containerd.sock",
        "stateDir": "/run/containerd/io.containerd.grpc.v1.cri",
        "rootDir": "/var/lib/containerd/io.containerd.grpc.v1.cri",
    })
    .to_string()
}
