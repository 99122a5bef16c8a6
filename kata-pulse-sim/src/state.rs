//! The contents of `persist.json` (Go) and `state.json` (runtime-rs), with the fields that a host agent may read
//! (kata.md 4.8).

use serde_json::{Value, json};

use crate::kind::{Runtime, Vmm};
use crate::layout::Places;
use crate::node::SandboxSpec;

/// Pids that Go writes down; 0 where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StatePids {
    pub(crate) vmm: u32,
    pub(crate) virtiofsd: u32,
}

/// Where the sandbox's processes are, as the OCI spec says it with the cgroupfs driver.
fn cgroup(spec: &SandboxSpec) -> String {
    let parent = spec.pod.as_ref().map_or("/vc".to_owned(), |pod| format!("/kubepods/burstable/pod{}", pod.uid));
    let prefix = if spec.kind.runtime == Runtime::Go { "kata_" } else { "" };
    format!("{parent}/{prefix}{}", spec.id)
}

/// Go's, while the sandbox runs.
pub(crate) fn persist(spec: &SandboxSpec, places: &Places, pids: StatePids, agent_url: &str) -> Value {
    let real = places.real();
    // The remote driver has no VMM of its own here.
    let pid = if spec.kind.vmm == Vmm::Remote { 0 } else { pids.vmm };
    let api = match spec.kind.vmm {
        Vmm::CloudHypervisor => real.vm().map(|vm| vm.join("clh-api.sock")),
        _ => None,
    };
    json!({
        "Version": 2,
        "SandboxContainer": spec.id,
        "State": "running",
        "GuestMemoryBlockSizeMB": 128,
        "CgroupPaths": null,
        "SandboxCgroupPath": cgroup(spec),
        "OverheadCgroupPath": format!("/kata_overhead/{}", spec.id),
        "HypervisorState": {
            "Type": spec.kind.hypervisor_type(),
            "Pid": pid,
            "VirtiofsDaemonPid": pids.virtiofsd,
            "APISocket": api.unwrap_or_default(),
            "UUID": real.factory().and_then(|vm| Some(vm.file_name()?.to_str()?.to_owned())).unwrap_or_default(),
        },
        "AgentState": {"URL": agent_url},
        "Network": {"NetworkID": netns(spec), "NetworkCreated": false},
    })
}

/// Go's, once the VM is gone: the same with state `stopped`; QEMU's driver has emptied its part.
pub(crate) fn persist_stopped(vmm: Vmm, mut running: Value) -> Value {
    running["State"] = "stopped".into();
    if vmm == Vmm::Qemu {
        running["HypervisorState"] = json!({"Type": "", "Pid": 0, "VirtiofsDaemonPid": 0, "APISocket": "", "UUID": ""});
    }
    running
}

/// runtime-rs': no pid, in any release.
pub(crate) fn state(spec: &SandboxSpec, places: &Places) -> Value {
    let real = places.real();
    let (run, jailed) = (real.state(), real.jail().is_some());
    json!({
        "sandbox_type": "virt_container",
        "resource": {
            "endpoint": [],
            "cgroup_state": {
                "path": cgroup(spec),
                "overhead_path": "",
                "sandbox_cgroup_only": true,
                "enable_vcpus_pinning": false,
            },
        },
        "hypervisor": {
            "hypervisor_type": spec.kind.hypervisor_type(),
            "pid": null,
            "id": spec.id,
            "vm_path": run,
            "jailed": jailed,
            "jailer_root": real.jail().unwrap_or_else(|| run.join("root")),
            "netns": netns(spec),
            "run_dir": run,
            "virtiofs_daemon_pid": 0,
            "passfd_listener_port": null,
            "guest_protection_to_use": "NoProtection",
        },
    })
}

fn netns(spec: &SandboxSpec) -> String {
    let pod = spec.pod.as_ref().map_or(spec.id.as_str(), |pod| pod.uid.as_str());
    format!("/var/run/netns/cni-{pod}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Variant;
    use std::path::Path;

    fn spec(kind: &str, variant: Variant) -> (SandboxSpec, Places) {
        let mut spec = SandboxSpec::numbered(7, kind.parse().expect("a kind"));
        spec.variant = variant;
        let places = Places::new(Path::new("/tmp/x"), &spec.id, spec.kind, &spec.variant);
        (spec, places)
    }

    #[test]
    fn persist_json_holds_what_go_writes() {
        let (spec, places) = spec("go-clh", Variant::default());
        let running = persist(&spec, &places, StatePids { vmm: 42, virtiofsd: 41 }, "hvsock:///x:1024");
        let hypervisor = &running["HypervisorState"];
        assert_eq!((hypervisor["Type"].as_str(), hypervisor["Pid"].as_u64()), (Some("clh"), Some(42)));
        assert_eq!(hypervisor["VirtiofsDaemonPid"], 41);
        assert_eq!(hypervisor["APISocket"], format!("/run/vc/vm/{}/clh-api.sock", spec.id));
        assert_eq!(running["AgentState"]["URL"], "hvsock:///x:1024");
        let uid = &spec.pod.as_ref().expect("a pod").uid;
        assert_eq!(running["SandboxCgroupPath"], format!("/kubepods/burstable/pod{uid}/kata_{}", spec.id));
        assert_eq!(running["OverheadCgroupPath"], format!("/kata_overhead/{}", spec.id));
        let stopped = persist_stopped(Vmm::CloudHypervisor, running.clone());
        assert_eq!((&stopped["State"], &stopped["HypervisorState"]["Pid"]), (&json!("stopped"), &json!(42)));
        assert_eq!(persist_stopped(Vmm::Qemu, running)["HypervisorState"]["Pid"], 0);
    }

    #[test]
    fn state_json_holds_what_runtime_rs_writes() {
        let (spec, places) = spec("rs-firecracker", Variant { jailed: true, ..Variant::default() });
        let state = state(&spec, &places);
        let hypervisor = &state["hypervisor"];
        assert!(hypervisor["pid"].is_null() && hypervisor["virtiofs_daemon_pid"] == 0);
        assert_eq!(
            (hypervisor["hypervisor_type"].as_str(), hypervisor["jailed"].as_bool()),
            (Some("firecracker"), Some(true))
        );
        assert_eq!(hypervisor["jailer_root"], format!("/run/kata/firecracker/{}/root", spec.id));
        for field in ["netns", "vm_path", "run_dir"] {
            assert!(hypervisor[field].is_string(), "{field}");
        }
        for field in ["path", "overhead_path", "sandbox_cgroup_only", "enable_vcpus_pinning"] {
            assert!(!state["resource"]["cgroup_state"][field].is_null(), "{field}");
        }
    }
}
