//! The simulator against known truth.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use kata_pulse_sim::{Kind, Node, Runtime, SandboxSpec, Vmm};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

async fn get(node: &Node, runtime: Runtime, id: &str, path: &str) -> String {
    let socket = node.sandbox_dir(runtime, id).join("shim-monitor.sock");
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

async fn node_with(root: &std::path::Path, runtime: Runtime, vmm: Vmm) -> (Node, String) {
    let node = Node::new(root);
    let mut spec = SandboxSpec::numbered(1, Kind::new(runtime, vmm));
    spec.id = "s1".to_owned(); // a short path: a socket's is at most 107 bytes
    let id = spec.id.clone();
    node.create(spec).await.unwrap();
    (node, id)
}

#[tokio::test]
async fn a_runtime_rs_shim_with_qemu_dies_of_one_get() {
    let root = tempfile::tempdir().unwrap();
    let (node, id) = node_with(root.path(), Runtime::Rs, Vmm::Qemu).await;
    assert!(get(&node, Runtime::Rs, &id, "/agent-url").await.ends_with("vsock://3:1024"));
    assert_eq!(node.shims_killed(), 0);
    assert_eq!(get(&node, Runtime::Rs, &id, "/metrics").await, "");
    assert_eq!(node.shims_killed(), 1);
}

#[tokio::test]
async fn a_go_page_is_chunked_and_a_removed_sandbox_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (node, id) = node_with(root.path(), Runtime::Go, Vmm::Qemu).await;
    let page = get(&node, Runtime::Go, &id, "/metrics").await;
    assert!(page.contains("Transfer-Encoding: chunked") && page.contains("kata_guest_cpu_time"));
    assert_eq!(node.max_in_flight(&id).unwrap(), 1);
    node.remove(&id).await.unwrap();
    assert_eq!(std::fs::read_dir(node.base(Runtime::Go)).unwrap().count(), 0);
}
