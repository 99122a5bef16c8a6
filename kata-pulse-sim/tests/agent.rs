//! The guest's agent behind its hybrid-vsock socket, asked by the ttrpc crate, which has no code in common with it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_pulse_sim::{AgentFault, Fault, Node, SandboxSpec, Variant};
use prost::Message;
use support::{ID, get, node_with, socket, spec};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use ttrpc::Code;
use ttrpc::r#async::{Client, transport::Socket};

#[derive(Clone, PartialEq, Message)]
struct Metrics {
    #[prost(string, tag = "1")]
    metrics: String,
}

fn with_agent(kind: &str) -> SandboxSpec {
    SandboxSpec { agent: true, ..spec(kind) }
}

/// After the text handshake, as a host does it; `None`: the VMM closed instead.
async fn connect(socket: &Path) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(b"CONNECT 1024\n").await.unwrap();
    let mut line = String::new();
    BufReader::with_capacity(1, &mut stream).read_line(&mut line).await.unwrap();
    line.starts_with("OK ").then_some(stream)
}

async fn call(client: &Client, service: &str, method: &str, limit: Duration) -> ttrpc::Result<Vec<u8>> {
    let request = ttrpc::Request {
        service: service.to_owned(),
        method: method.to_owned(),
        timeout_nano: i64::try_from(limit.as_nanos()).unwrap(),
        ..ttrpc::Request::default()
    };
    client.request(request).await.map(|response| response.payload)
}

async fn get_metrics(client: &Client) -> ttrpc::Result<String> {
    let payload = call(client, "grpc.AgentService", "GetMetrics", Duration::from_secs(30)).await?;
    Ok(Metrics::decode(&payload[..]).unwrap().metrics)
}

async fn client(node: &Node) -> Client {
    let socket = node.agent_socket(ID).unwrap().unwrap();
    Client::new(Socket::from(connect(&socket).await.unwrap()))
}

fn code(error: &ttrpc::Error) -> Code {
    match error {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("no status: {other:?}"),
    }
}

#[tokio::test]
async fn the_agent_says_the_guest_s_part_of_the_page() {
    for kind in ["rs-dragonball", "go-clh", "rs-clh", "rs-openvmm", "go-firecracker", "rs-firecracker", "go-qemu"] {
        let root = tempfile::tempdir().unwrap();
        let node = node_with(root.path(), with_agent(kind)).await;
        let client = client(&node).await;
        let text = get_metrics(&client).await.unwrap();
        assert!(text.contains("kata_guest_cpu_time{") && text.contains("kata_agent_threads"), "{kind}");
        assert!(!text.contains("kata_shim_") && !text.contains("go_"), "{kind}");
        let unknown = call(&client, "grpc.AgentService", "Nothing", Duration::from_secs(30)).await.unwrap_err();
        assert_eq!(code(&unknown), Code::UNIMPLEMENTED, "{kind}");
        let healthy = call(&client, "grpc.Health", "Check", Duration::from_secs(30)).await.unwrap();
        assert_eq!(healthy, [8, 1], "{kind}");
        assert_eq!((node.agent_calls(ID).unwrap(), node.agent_max_in_flight(ID).unwrap()), (1, 1), "{kind}");
        node.remove(ID).await.unwrap();
    }
}

#[tokio::test]
async fn the_url_leads_to_the_socket_and_is_the_real_one_where_there_is_none() {
    let root = tempfile::tempdir().unwrap();
    let jailed = Variant { jailed: true, ..Variant::default() };
    let node = node_with(root.path(), SandboxSpec { variant: jailed, ..with_agent("rs-firecracker") }).await;
    let answer = get(&socket(root.path(), "rs-firecracker"), "/agent-url").await;
    let url = answer.rsplit_once("\r\n\r\n").unwrap().1;
    let path = PathBuf::from(url.strip_prefix("hvsock://").unwrap().strip_suffix(":1024").unwrap());
    assert_eq!(path, root.path().join("run/kata/firecracker/s1/root/kata.hvsock"));
    assert!(connect(&path).await.is_some());
    node.remove(ID).await.unwrap();
    assert!(!path.exists(), "it lay in the jail");

    let other = tempfile::tempdir().unwrap();
    let node = node_with(other.path(), spec("rs-dragonball")).await;
    let answer = get(&socket(other.path(), "rs-dragonball"), "/agent-url").await;
    assert!(answer.ends_with("\r\n\r\nhvsock:///run/kata/s1/root/kata.hvsock:1024"), "{answer}");
    assert!(node.agent_calls(ID).is_err());
}

#[tokio::test]
async fn a_policy_denies_and_the_shim_s_page_lacks_the_guest_too() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), with_agent("rs-clh")).await;
    node.set_fault(ID, Some(Fault::Denied)).unwrap();
    let client = client(&node).await;
    assert_eq!(code(&get_metrics(&client).await.unwrap_err()), Code::PERMISSION_DENIED);
    assert!(!get(&socket(root.path(), "rs-clh"), "/metrics").await.contains("kata_guest_"));
    node.set_fault(ID, None).unwrap();
    assert!(get_metrics(&client).await.unwrap().contains("kata_guest_"));
}

#[tokio::test]
async fn a_hung_agent_shakes_hands_and_never_answers() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), with_agent("rs-openvmm")).await;
    node.set_agent_fault(ID, Some(AgentFault::Hung)).unwrap();
    let client = client(&node).await;
    let short = Duration::from_millis(50);
    let (one, other) = tokio::join!(
        call(&client, "grpc.AgentService", "GetMetrics", short),
        call(&client, "grpc.AgentService", "GetMetrics", short),
    );
    assert!(one.is_err() && other.is_err());
    assert_eq!((node.agent_calls(ID).unwrap(), node.agent_max_in_flight(ID).unwrap()), (2, 2));
}

#[tokio::test]
async fn an_agent_that_lies_breaks_frames_or_limits() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), with_agent("rs-dragonball")).await;
    node.set_agent_fault(ID, Some(AgentFault::Garbage)).unwrap();
    assert!(get_metrics(&client(&node).await).await.is_err());
    node.set_agent_fault(ID, Some(AgentFault::Huge)).unwrap();
    assert!(get_metrics(&client(&node).await).await.is_err());
    // The crate throws away what is too long; so the bytes themselves are counted.
    let mut raw = connect(&node.agent_socket(ID).unwrap().unwrap()).await.unwrap();
    let request =
        ttrpc::Request { service: "grpc.AgentService".into(), method: "GetMetrics".into(), ..Default::default() };
    let body = ttrpc::proto::Codec::encode(&request).unwrap();
    let mut frame = [u32::try_from(body.len()).unwrap().to_be_bytes(), 1_u32.to_be_bytes()].concat();
    frame.extend_from_slice(&[1, 0]);
    frame.extend_from_slice(&body);
    raw.write_all(&frame).await.unwrap();
    let length = raw.read_u32().await.unwrap();
    assert!(length > 4 << 20, "{length}");
    node.set_agent_fault(ID, Some(AgentFault::Extra("kata_shim_fds 7\n".to_owned()))).unwrap();
    assert!(get_metrics(&client(&node).await).await.unwrap().ends_with("\nkata_shim_fds 7\n"));
}

#[tokio::test]
async fn a_vmm_closes_where_nobody_listens_or_it_refuses() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), with_agent("rs-clh")).await;
    let path = node.agent_socket(ID).unwrap().unwrap();
    for line in ["CONNECT 1025\n", "GET / HTTP/1.1\n"] {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "{line}");
    }
    node.set_agent_fault(ID, Some(AgentFault::RefusesHandshake)).unwrap();
    assert!(connect(&path).await.is_none());
    assert_eq!(node.agent_calls(ID).unwrap(), 0);
}

#[tokio::test]
async fn the_guest_survives_its_shim_and_not_its_vmm() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), with_agent("go-clh")).await;
    let path = node.agent_socket(ID).unwrap().unwrap();
    node.crash(ID).await.unwrap();
    assert!(connect(&path).await.is_some());
    node.remove(ID).await.unwrap();
    assert!(UnixStream::connect(&path).await.is_err());
}
