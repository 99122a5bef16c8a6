//! Kata's own state files: `persist.json` of the Go runtime, `state.json` of runtime-rs, pid files of VMMs.
//!
//! In: a sandbox directory. Out: [`DirectoryFacts`]. Cost: two or three small files when something changed.
//! Only files that root owns and nobody else may write are believed; links are not followed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use super::cgroup;
use crate::sandbox::{DirectoryFacts, NamedPid, Runtime, SHIM_SOCKET, SandboxId, Vmm};

/// Real ones hold a few KiB; a larger one is not Kata's.
const STATE_BYTES: u64 = 1 << 20;

/// Reads everything a sandbox directory tells. A file that is missing or not believed adds nothing.
pub fn read_directory(directory: &Path, id: &SandboxId, runtime: Option<Runtime>) -> DirectoryFacts {
    let has_socket =
        std::fs::symlink_metadata(directory.join(SHIM_SOCKET)).is_ok_and(|metadata| metadata.file_type().is_socket());
    // Also where the base says otherwise: a sign that does not fit is one.
    let (go_state, rust_state) =
        (is_trusted(&directory.join("persist.json")), is_trusted(&directory.join("state.json")));
    let mut facts = DirectoryFacts { has_socket, go_state, rust_state, ..DirectoryFacts::default() };
    if runtime != Some(Runtime::Rust) {
        read_go(directory, id, &mut facts);
    }
    if runtime != Some(Runtime::Go) {
        read_rust(directory, id, &mut facts);
    }
    facts
}

fn read_go(directory: &Path, id: &SandboxId, facts: &mut DirectoryFacts) {
    if let Ok((bytes, written)) = read_dated(&directory.join("persist.json")) {
        facts.has_state = true;
        if let Some(state) = parse_go(&bytes) {
            facts.vmm = state.vmm;
            facts.vmm_pid = state.vmm_pid.map(|pid| NamedPid { pid, written });
            facts.virtiofsd_pid = state.virtiofsd_pid.map(|pid| NamedPid { pid, written });
            facts.stopped = state.stopped;
            facts.cgroups = cgroup::candidates(&state.cgroups, id);
        }
    }
    let Some(state_root) = directory.parent().and_then(Path::parent) else { return };
    let machine = std::fs::read_link(state_root.join("vm").join(id.as_str())).ok();
    let machine = machine.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    facts.machine = machine.and_then(|name| SandboxId::parse(name).ok());
    let pid_files = [
        state_root.join("vm").join(id.as_str()).join("pid"),
        state_root.join("firecracker").join(id.firecracker_prefix()).join("root/firecracker.pid"),
    ];
    // The pid file of a jailed Firecracker is right where older releases wrote the jailer's pid into persist.json.
    for path in pid_files {
        let Ok((bytes, written)) = read_dated(&path) else { continue };
        if let Some(pid) = parse_pid(&bytes) {
            facts.vmm_pid = Some(NamedPid { pid, written });
        }
    }
}

fn read_rust(directory: &Path, id: &SandboxId, facts: &mut DirectoryFacts) {
    let jailed = directory.parent().map(|base| base.join("firecracker").join(id.as_str()).join("root/state.json"));
    let candidates = std::iter::once(directory.join("state.json")).chain(jailed);
    for bytes in candidates.filter_map(|path| read_trusted(&path).ok()) {
        facts.has_state = true;
        if let Some(state) = parse_rust(&bytes) {
            facts.vmm = facts.vmm.or(state.vmm);
            facts.cgroups.extend(cgroup::candidates(&state.cgroups, id));
        }
    }
}

/// What `persist.json` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoState {
    pub vmm: Option<Vmm>,
    pub vmm_pid: Option<u32>,
    pub virtiofsd_pid: Option<u32>,
    pub stopped: bool,
    pub cgroups: Vec<String>,
}

/// What `state.json` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RustState {
    pub vmm: Option<Vmm>,
    pub cgroups: Vec<String>,
}

pub fn parse_go(bytes: &[u8]) -> Option<GoState> {
    #[derive(Deserialize)]
    struct Persist {
        #[serde(rename = "State", default)]
        state: String,
        #[serde(rename = "HypervisorState", default)]
        hypervisor: Hypervisor,
        #[serde(rename = "SandboxCgroupPath", default)]
        sandbox_cgroup: String,
        #[serde(rename = "OverheadCgroupPath", default)]
        overhead_cgroup: String,
    }
    #[derive(Default, Deserialize)]
    struct Hypervisor {
        #[serde(rename = "Type", default)]
        kind: String,
        #[serde(rename = "Pid", default)]
        pid: i64,
        #[serde(rename = "VirtiofsDaemonPid", default)]
        virtiofsd_pid: i64,
    }
    let persist: Persist = serde_json::from_slice(bytes).ok()?;
    let pid = |raw: i64| u32::try_from(raw).ok().filter(|&pid| pid > 1);
    Some(GoState {
        vmm: Vmm::from_kata_name(&persist.hypervisor.kind),
        vmm_pid: pid(persist.hypervisor.pid),
        virtiofsd_pid: pid(persist.hypervisor.virtiofsd_pid),
        stopped: persist.state == "stopped",
        cgroups: vec![persist.sandbox_cgroup, persist.overhead_cgroup],
    })
}

pub fn parse_rust(bytes: &[u8]) -> Option<RustState> {
    #[derive(Deserialize)]
    struct State {
        #[serde(default)]
        hypervisor: Option<Hypervisor>,
        #[serde(default)]
        resource: Option<Resource>,
    }
    #[derive(Deserialize)]
    struct Resource {
        #[serde(default)]
        cgroup_state: Option<Cgroups>,
    }
    #[derive(Deserialize)]
    struct Cgroups {
        #[serde(default)]
        path: Option<String>,
        #[serde(default)]
        overhead_path: Option<String>,
    }
    #[derive(Deserialize)]
    struct Hypervisor {
        #[serde(default)]
        hypervisor_type: String,
    }
    let state: State = serde_json::from_slice(bytes).ok()?;
    let cgroups = state.resource.and_then(|resource| resource.cgroup_state);
    Some(RustState {
        vmm: state.hypervisor.and_then(|hypervisor| Vmm::from_kata_name(&hypervisor.hypervisor_type)),
        cgroups: cgroups.into_iter().flat_map(|named| [named.path, named.overhead_path]).flatten().collect(),
    })
}

fn parse_pid(bytes: &[u8]) -> Option<u32> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok().filter(|&pid| pid > 1)
}

fn is_trusted(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| is_roots(&metadata))
}

fn is_roots(metadata: &std::fs::Metadata) -> bool {
    metadata.is_file() && metadata.uid() == 0 && metadata.mode() & 0o022 == 0
}

/// Reads a regular file of root's that nobody else may write; the last component is not followed if it is a link.
pub(super) fn read_trusted(path: &Path) -> io::Result<Vec<u8>> {
    read_dated(path).map(|(bytes, _)| bytes)
}

/// The same, with the time of the last change.
fn read_dated(path: &Path) -> io::Result<(Vec<u8>, SystemTime)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !is_roots(&metadata) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not a file that only root can write"));
    }
    let mut bytes = Vec::with_capacity(metadata.len().min(STATE_BYTES) as usize);
    file.take(STATE_BYTES).read_to_end(&mut bytes)?;
    Ok((bytes, metadata.modified()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn go_state_is_read_by_its_field_names() {
        let text = br#"{"Version":2,"State":"running","SandboxContainer":"x","AgentState":{"URL":"vsock://1:1024"},
            "HypervisorState":{"Type":"qemu","Pid":4242,"VirtiofsDaemonPid":4240,"APISocket":""},
            "SandboxCgroupPath":"/kubepods/pod1/kata_x"}"#;
        let expected = GoState {
            vmm: Some(Vmm::Qemu),
            vmm_pid: Some(4242),
            virtiofsd_pid: Some(4240),
            stopped: false,
            cgroups: vec!["/kubepods/pod1/kata_x".into(), String::new()],
        };
        assert_eq!(parse_go(text), Some(expected));
        let stopped = parse_go(br#"{"State":"stopped","HypervisorState":{"Pid":0}}"#).unwrap();
        assert_eq!((stopped.stopped, stopped.vmm, stopped.vmm_pid), (true, None, None));
        assert_eq!(parse_go(b"{"), None);
    }

    #[test]
    fn rust_state_names_the_vmm_and_no_pid() {
        let text = br#"{"sandbox_type":"virt_container","hypervisor":{"hypervisor_type":"dragonball","pid":null},
            "resource":{"cgroup_state":{"path":"/kubepods/pod1/x","overhead_path":null,"sandbox_cgroup_only":true}}}"#;
        let expected = RustState { vmm: Some(Vmm::Dragonball), cgroups: vec!["/kubepods/pod1/x".into()] };
        assert_eq!(parse_rust(text), Some(expected));
        assert_eq!(parse_rust(br#"{"hypervisor":null,"resource":null}"#), Some(RustState::default()));
    }

    #[test]
    fn a_link_or_a_file_that_others_may_write_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        std::fs::write(&path, r#"{"hypervisor":{"hypervisor_type":"qemu"}}"#).unwrap();
        assert!(read_trusted(&path).is_ok());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read_trusted(&path).is_err());
        let link = folder.path().join("persist.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read_trusted(&link).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let _ = (parse_go(&bytes), parse_rust(&bytes), parse_pid(&bytes));
        }
    }
}
