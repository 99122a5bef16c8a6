//! What several tests need: a node in a directory of its own, and a plain HTTP client.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use kata_pulse_sim::{Node, SandboxSpec};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

pub const ID: &str = "s1"; // a short path: a socket's is at most 107 bytes

/// A sandbox of this kind, not yet made.
pub fn spec(kind: &str) -> SandboxSpec {
    SandboxSpec { id: ID.to_owned(), ..SandboxSpec::numbered(1, kind.parse().unwrap()) }
}

pub async fn node_with(root: &Path, spec: SandboxSpec) -> Node {
    let node = Node::new(root);
    node.create(spec).await.unwrap();
    node
}

/// Where the only sandbox of this kind listens.
pub fn socket(root: &Path, kind: &str) -> PathBuf {
    let base = if kind.starts_with("go-") { "run/vc/sbs" } else { "run/kata" };
    root.join(base).join(ID).join("shim-monitor.sock")
}

/// Sends one request; the connection ends after its answer.
pub async fn ask(socket: &Path, path: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

pub async fn get(socket: &Path, path: &str) -> String {
    let mut text = Vec::new();
    ask(socket, path).await.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}
