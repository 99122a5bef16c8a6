//! The simulator against known truth.

mod support;

use kata_pulse_sim::Runtime;
use support::{ID, get, node_with, socket, spec};

#[tokio::test]
async fn a_runtime_rs_shim_with_qemu_dies_of_one_get() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), spec("rs-qemu")).await;
    let socket = socket(root.path(), "rs-qemu");
    assert!(get(&socket, "/agent-url").await.ends_with("vsock://3:1024"));
    assert_eq!(node.shims_killed(), 0);
    assert_eq!(get(&socket, "/metrics").await, "");
    assert_eq!(node.shims_killed(), 1);
}

#[tokio::test]
async fn a_go_page_is_chunked_and_a_removed_sandbox_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), spec("go-qemu")).await;
    let page = get(&socket(root.path(), "go-qemu"), "/metrics").await;
    assert!(page.contains("Transfer-Encoding: chunked") && page.contains("kata_guest_cpu_time"));
    assert_eq!(node.max_in_flight(ID).unwrap(), 1);
    node.remove(ID).await.unwrap();
    assert_eq!(std::fs::read_dir(node.base(Runtime::Go)).unwrap().count(), 0);
}
