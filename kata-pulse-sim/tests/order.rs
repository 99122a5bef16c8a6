//! What a watcher of the directories sees, in which order, as kata.md 1.3, 1.4 and 12 have it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use kata_pulse_sim::{Node, Runtime, SandboxSpec, Variant};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use support::{ID, get, node_with, socket, spec};

/// An inotify instance with its watches by name.
struct Watcher {
    instance: OwnedFd,
    names: HashMap<i32, String>,
}

impl Watcher {
    /// Watches these directories below `root`, made if they do not exist; an inner one comes before its outer.
    fn on(root: &Path, directories: &[&str]) -> Self {
        let instance = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let mut names = HashMap::new();
        for directory in directories {
            let path = root.join(directory);
            fs::create_dir_all(&path).unwrap();
            let wanted = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::CLOSE_WRITE;
            let watch = inotify::add_watch(&instance, &path, wanted).unwrap();
            names.insert(watch, directory.rsplit('/').next().unwrap().to_owned());
        }
        Self { instance, names }
    }

    /// `+` made, `-` removed, `~` written; the kernel has queued all of it by now.
    fn seen(&self) -> Vec<String> {
        let mut seen = Vec::new();
        let mut space = [MaybeUninit::uninit(); 16_384];
        let mut reader = Reader::new(&self.instance, &mut space);
        while let Ok(event) = reader.next() {
            let (Some(directory), Some(name)) = (self.names.get(&event.wd()), event.file_name()) else { continue };
            let sign = match event.events() {
                flags if flags.contains(ReadFlags::CREATE) => '+',
                flags if flags.contains(ReadFlags::DELETE) => '-',
                _ => '~',
            };
            seen.push(format!("{sign}{directory}/{}", name.to_str().unwrap()));
        }
        seen
    }
}

const BASES: [&str; 4] = ["run/vc/sbs", "run/vc/vm", "run/kata", "run/kata-containers/shared/sandboxes"];

#[tokio::test]
async fn directories_come_and_go_in_the_order_of_their_runtime() {
    for (kind, made, removed) in [
        ("go-qemu", "+sbs/s1 +sandboxes/s1 +vm/s1", "-vm/s1 -sandboxes/s1 -sbs/s1"),
        ("go-clh", "+sandboxes/s1 +vm/s1 +sbs/s1", "-vm/s1 -sandboxes/s1 -sbs/s1"),
        ("go-remote", "+sandboxes/s1 +sbs/s1", "-sbs/s1 -sandboxes/s1"),
        ("rs-qemu", "+kata/s1 +sandboxes/s1", "-kata/s1 -sandboxes/s1"),
        ("rs-dragonball", "+kata/s1 +sandboxes/s1", "-kata/s1 -sandboxes/s1"),
        // Its teardown does nothing to the sandbox's directory.
        ("rs-openvmm", "+kata/s1 +sandboxes/s1", "-sandboxes/s1"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let watcher = Watcher::on(root.path(), &BASES);
        let node = node_with(root.path(), spec(kind)).await;
        assert_eq!(watcher.seen().join(" "), made, "{kind}");
        node.remove(ID).await.unwrap();
        assert_eq!(watcher.seen().join(" "), removed, "{kind}");
    }
}

#[tokio::test]
async fn go_s_socket_comes_last_and_its_directory_goes_last() {
    let root = tempfile::tempdir().unwrap();
    // Made beforehand to be watched: the runtime takes a directory that exists.
    let watcher = Watcher::on(root.path(), &["run/vc/sbs/s1", "run/vc/sbs"]);
    let node = node_with(root.path(), spec("go-qemu")).await;
    let made = watcher.seen().join(" ");
    assert_eq!(made, "+s1/persist.json ~s1/persist.json +s1/s1 +s1/shim-monitor.sock");
    node.remove(ID).await.unwrap();
    let removed = watcher.seen().join(" ");
    assert_eq!(removed, "~s1/persist.json -s1/s1 -s1/persist.json -s1/shim-monitor.sock -sbs/s1");
}

#[tokio::test]
async fn runtime_rs_has_its_socket_before_there_is_a_vm() {
    let root = tempfile::tempdir().unwrap();
    let watcher = Watcher::on(root.path(), &["run/kata/s1", "run/kata", "run/kata-containers/shared/sandboxes"]);
    let node = node_with(root.path(), SandboxSpec { agent: true, ..spec("rs-clh") }).await;
    let made = watcher.seen().join(" ");
    let expected = "+s1/shim-monitor.sock +s1/root +sandboxes/s1 +s1/ch-vm.sock +s1/state.json ~s1/state.json";
    assert_eq!(made, expected);
    node.remove(ID).await.unwrap();
    let removed = watcher.seen();
    let at =
        |event: &str| removed.iter().position(|seen| seen == event).unwrap_or_else(|| panic!("{event}: {removed:?}"));
    assert!(at("-s1/shim-monitor.sock") < at("-kata/s1") && at("-kata/s1") < at("-sandboxes/s1"));
}

#[tokio::test]
async fn a_dead_socket_that_a_teardown_left_refuses_until_it_is_swept() {
    let root = tempfile::tempdir().unwrap();
    for kind in ["rs-remote", "rs-openvmm"] {
        let node = node_with(root.path(), spec(kind)).await;
        node.remove(ID).await.unwrap();
        let refused = tokio::net::UnixStream::connect(socket(root.path(), kind)).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{kind}");
        assert!(node.ids().is_empty());
        node.remove_all().await.unwrap();
        assert!(!root.path().join("run/kata/s1").exists());
    }
}

#[tokio::test]
async fn state_and_socket_part_where_the_vmm_is_rootless_or_the_shim_is_go_3_1_0() {
    for (kind, variant, state, monitor) in [
        (
            "go-qemu",
            Variant { rootless: Some(99), ..Variant::default() },
            "run/user/99/run/vc/sbs/s1/persist.json",
            "run/vc/sbs/s1",
        ),
        (
            "rs-clh",
            Variant { rootless: Some(99), ..Variant::default() },
            "run/user/99/run/kata/s1/state.json",
            "run/kata/s1",
        ),
        ("go-clh", Variant { go_3_1_0: true, ..Variant::default() }, "run/vc/sbs/s1/persist.json", "run/kata/s1"),
        (
            "rs-firecracker",
            Variant { jailed: true, ..Variant::default() },
            "run/kata/firecracker/s1/root/state.json",
            "run/kata/s1",
        ),
    ] {
        let root = tempfile::tempdir().unwrap();
        let node = node_with(root.path(), SandboxSpec { variant, ..spec(kind) }).await;
        let text = fs::read_to_string(root.path().join(state)).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_object());
        assert!(
            get(&root.path().join(monitor).join("shim-monitor.sock"), "/agent-url").await.contains("200 OK"),
            "{kind}"
        );
        node.remove_all().await.unwrap();
        assert!(!root.path().join(state).exists() && !root.path().join(monitor).exists(), "{kind}");
    }
}

#[tokio::test]
async fn a_factory_s_vm_is_no_sandbox_and_a_sandbox_with_one_has_a_link() {
    const UUID: &str = "0d1c2b3a-1111-4222-8333-444455556666";
    let root = tempfile::tempdir().unwrap();
    let node = Node::new(root.path());
    node.make_factory_vm(UUID).unwrap();
    assert!(node.ids().is_empty() && node.sandbox_dir(Runtime::Go, UUID).is_dir());
    let variant = Variant { factory: Some(UUID.to_owned()), ..Variant::default() };
    node.create(SandboxSpec { variant, ..spec("go-qemu") }).await.unwrap();
    let link = root.path().join("run/vc/vm/s1");
    assert_eq!(fs::read_link(&link).unwrap(), root.path().join("run/vc/vm").join(UUID));
    node.remove(ID).await.unwrap();
    assert!(!link.is_symlink());
    node.leave_dead_socket(Runtime::Rs, "dead").unwrap();
    let refused =
        tokio::net::UnixStream::connect(root.path().join("run/kata/dead/shim-monitor.sock")).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
