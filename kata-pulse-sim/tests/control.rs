//! The program's `ctl` against a node that runs in this process.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use kata_pulse_sim::Node;
use kata_pulse_sim::control::ControlServer;
use support::{ID, get, node_with, socket, spec};

const SIMULATOR: &str = env!("CARGO_BIN_EXE_kata-pulse-sim");

async fn ctl(root: &Path, words: &[&str]) -> Output {
    tokio::process::Command::new(SIMULATOR).arg("ctl").arg("--root").arg(root).args(words).output().await.unwrap()
}

/// The output of a command that works.
async fn told(root: &Path, words: &[&str]) -> String {
    let output = ctl(root, words).await;
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

async fn refused(root: &Path, words: &[&str]) -> String {
    let output = ctl(root, words).await;
    assert!(!output.status.success(), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

async fn commanded(root: &Path) -> (Arc<Node>, ControlServer) {
    let node = Arc::new(node_with(root, spec("go-qemu")).await);
    let server = ControlServer::start(Arc::clone(&node), SIMULATOR.into(), 7).unwrap();
    (node, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_are_made_broken_healed_and_removed_by_command() {
    let root = tempfile::tempdir().unwrap();
    let (node, _server) = commanded(root.path()).await;
    let root = root.path();
    assert!(told(root, &["create", "rs-clh", "--agent"]).await.ends_with("07"));
    assert_eq!(told(root, &["create", "rs-dragonball", "--id", "mine", "--no-pod"]).await, "mine");
    let list = told(root, &["list"]).await;
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(list.contains(" rs-clh pod-7 0") && list.contains("mine rs-dragonball - 0"), "{list}");

    assert_eq!(told(root, &["fault", ID, "garbage"]).await, "it fails");
    assert!(!get(&socket(root, "go-qemu"), "/metrics").await.contains("kata_guest_"));
    assert_eq!(told(root, &["heal", "pod-1"]).await, "healed");
    assert!(get(&socket(root, "go-qemu"), "/metrics").await.contains("kata_guest_"));
    assert_eq!(told(root, &["fault", "pod-7", "agent-denied"]).await, "it fails");

    assert_eq!(told(root, &["crash", "mine"]).await, "crashed");
    assert!(told(root, &["list"]).await.contains("mine leftover"));
    for sandbox in ["mine", "pod-7", ID] {
        assert_eq!(told(root, &["remove", sandbox]).await, "removed");
    }
    assert!(node.ids().is_empty() && told(root, &["list"]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_burns_and_a_storm_blows_by_command() {
    let root = tempfile::tempdir().unwrap();
    let (node, _server) = commanded(root.path()).await;
    let root = root.path();
    told(root, &["create", "rs-clh", "--processes", "--id", "vm"]).await;
    assert!(told(root, &["list"]).await.contains("virtiofsd-worker="));
    assert_eq!(told(root, &["burn", "vm", "--cpus", "0.1", "--resident-bytes", "4096"]).await, "it burns");
    assert!(told(root, &["rest", "vm"]).await.ends_with("0 bytes written, 4096 bytes resident"));
    assert!(refused(root, &["rest", "vm"]).await.contains("nothing burns"));
    assert!(refused(root, &["usage", "vm"]).await.contains("does not exist"), "it lives");
    assert_eq!(told(root, &["remove", "vm"]).await, "removed");
    let usage = told(root, &["usage", "vm"]).await;
    assert!(usage.starts_with("vmm ") && usage.contains("\nvirtiofsd-worker ") && usage.contains("\nshim "), "{usage}");
    let folder = root.to_str().unwrap();
    assert!(told(root, &["storm", "mkdir", "--count", "3", "--folder", folder]).await.starts_with("3 in "));
    node.remove_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_says_why() {
    let root = tempfile::tempdir().unwrap();
    let nobody = refused(root.path(), &["list"]).await;
    assert!(nobody.contains("no node listens at") && nobody.contains("kata-pulse-sim run --root"), "{nobody}");
    let (node, _server) = commanded(root.path()).await;
    let root = root.path();
    for (words, why) in [
        (&["remove", "nobody"][..], "sandbox \"nobody\" does not exist"),
        (&["create", "go-dragonball"], "unknown kind of sandbox \"go-dragonball\"; there are go-qemu"),
        (&["create", "go-qemu", "--id", "../up"], "is no id for a new sandbox"),
        (&["create", "go-qemu", "--id", ID], "is no id for a new sandbox: it is taken"),
        (&["fault", ID, "sad"], "unknown fault \"sad\"; there are hung"),
        (&["fault", ID, "agent-hung"], "has no socket of an agent"),
        (&["burn", ID], "has no processes"),
    ] {
        let told = refused(root, words).await;
        assert!(told.contains(why), "{words:?}: {told}");
    }
    assert!(ControlServer::start(node, SIMULATOR.into(), 1).is_err(), "one node for one root");
}
