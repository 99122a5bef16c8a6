//! The guest's agent behind a hybrid-vsock socket: `CONNECT 1024`, then ttrpc, service `grpc.AgentService`, method
//! `GetMetrics` (kata.md 0). What it answers is the guest's part of the shim's page. Cost of a call: that text, once.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fault::AgentFault;
use crate::kind::Runtime;
use crate::page::{self, GuestLoad};
use crate::traffic::{self, Traffic};
use crate::ttrpc::{self, Request, Response};

/// The port that Kata's agent listens on.
const PORT: &str = "1024";
/// A handshake's line is short.
const LINE_BYTES: usize = 64;

#[derive(Clone, PartialEq, Message)]
struct Metrics {
    #[prost(string, tag = "1")]
    metrics: String,
}

#[derive(Clone, PartialEq, Message)]
struct Healthy {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// What tests ask an agent about.
#[derive(Debug)]
pub(crate) struct AgentState {
    pub(crate) runtime: Runtime,
    pub(crate) load: GuestLoad,
    pub(crate) born: Instant,
    pub(crate) fault: Mutex<Option<AgentFault>>,
    pub(crate) traffic: Traffic,
    /// Cancelled when the VM ends.
    pub(crate) life: CancellationToken,
    host_port: AtomicU32,
}

impl AgentState {
    pub(crate) fn new(runtime: Runtime, load: GuestLoad, born: Instant) -> Self {
        Self {
            runtime,
            load,
            born,
            fault: Mutex::default(),
            traffic: Traffic::default(),
            life: CancellationToken::new(),
            host_port: AtomicU32::new(0x4000_0000),
        }
    }

    fn fault(&self) -> Option<AgentFault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves until the VM ends; then connecting is refused.
pub(crate) async fn serve(listener: UnixListener, state: Arc<AgentState>) {
    let life = state.life.clone();
    traffic::serve(listener, life, move |stream| connection(stream, Arc::clone(&state))).await;
}

async fn connection(mut stream: UnixStream, state: Arc<AgentState>) -> io::Result<()> {
    if !shake_hands(&mut stream, &state).await? {
        return Ok(());
    }
    let (mut requests, answers) = stream.into_split();
    let answers = Arc::new(tokio::sync::Mutex::new(answers));
    let mut calls = tokio::task::JoinSet::new();
    while let Some((number, request)) = ttrpc::read_request(&mut requests).await? {
        let (state, answers) = (Arc::clone(&state), Arc::clone(&answers));
        calls.spawn(async move { answer(number, &request, &state, &answers).await });
    }
    Ok(()) // calls that still hang end with their connection
}

/// The VMM's part: `false` when nothing listens at that port, or it refuses.
async fn shake_hands(stream: &mut UnixStream, state: &AgentState) -> io::Result<bool> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        if line.len() > LINE_BYTES {
            return Ok(false);
        }
        line.push(stream.read_u8().await?);
    }
    let wanted = line.strip_prefix(b"CONNECT ").map(|port| port.trim_ascii()) == Some(PORT.as_bytes());
    if !wanted || state.fault() == Some(AgentFault::RefusesHandshake) {
        return Ok(false);
    }
    let port = state.host_port.fetch_add(1, Ordering::Relaxed);
    stream.write_all(format!("OK {port}\n").as_bytes()).await?;
    Ok(true)
}

async fn answer(
    number: u32,
    request: &Request,
    state: &AgentState,
    answers: &tokio::sync::Mutex<OwnedWriteHalf>,
) -> io::Result<()> {
    let metrics = (request.service.as_str(), request.method.as_str()) == ("grpc.AgentService", "GetMetrics");
    let _call = metrics.then(|| state.traffic.start());
    let fault = state.fault();
    if fault == Some(AgentFault::Hung) {
        return std::future::pending().await;
    }
    let mut answers = answers.lock().await;
    match (request.service.as_str(), request.method.as_str(), fault) {
        (.., Some(AgentFault::Garbage)) => ttrpc::write_raw(&mut *answers, number, &[0xff; 300]).await,
        ("grpc.AgentService", "GetMetrics", fault) => get_metrics(number, fault, state, &mut answers).await,
        ("grpc.Health", "Check", _) => {
            ttrpc::write_response(&mut *answers, number, &Response::ok(&Healthy { status: 1 })).await
        }
        (service, method, _) => {
            let unknown = Response::error(ttrpc::UNIMPLEMENTED, format!("/{service}/{method} is not supported"));
            ttrpc::write_response(&mut *answers, number, &unknown).await
        }
    }
}

async fn get_metrics(
    number: u32,
    fault: Option<AgentFault>,
    state: &AgentState,
    answers: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let mut metrics = page::agent_text(state.runtime, state.load, state.born.elapsed());
    match fault {
        Some(AgentFault::Denied) => {
            let denied = Response::error(ttrpc::PERMISSION_DENIED, "GetMetricsRequest is blocked by policy");
            return ttrpc::write_response(answers, number, &denied).await;
        }
        Some(AgentFault::Huge) => {
            let line = "kata_guest_load{item=\"load1\"} 0\n";
            metrics.push_str(&line.repeat(ttrpc::MESSAGE_BYTES / line.len() + 1));
        }
        Some(AgentFault::Extra(lines)) => metrics.push_str(&lines),
        Some(AgentFault::Hung | AgentFault::Garbage | AgentFault::RefusesHandshake) | None => {}
    }
    ttrpc::write_response(answers, number, &Response::ok(&Metrics { metrics })).await
}
