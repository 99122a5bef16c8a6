//! The accept loop: HTTP/1 by hyper, each connection bounded in time and memory, their number capped.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::metrics::Peer;
use super::stream::{Deadlines, TimedStream};
use crate::telemetry::Own;

/// What one client, and all of them, may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections beyond are closed at once and counted as `limit="connections"`.
    pub connections: usize,
    /// Request line and headers.
    pub header_bytes: usize,
    /// From the first byte of a request to its last.
    pub header: Duration,
    /// Between requests, and before the first.
    pub idle: Duration,
    /// Until the client has taken a whole answer.
    pub write: Duration,
    /// For answers under way when the agent stops.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            header_bytes: 16 * 1024,
            header: Duration::from_secs(10),
            idle: Duration::from_secs(180),
            write: Duration::from_secs(30),
            shutdown: Duration::from_millis(500),
        }
    }
}

/// Serves until cancelled; returns within [`Limits::shutdown`] after that.
pub async fn serve(listener: TcpListener, router: Router, own: Own, limits: Limits, cancelled: CancellationToken) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = cancelled.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    let connection = connection(stream, peer, router.clone(), limits, cancelled.clone());
                    connections.spawn(async move {
                        let _slot = slot;
                        connection.await;
                    });
                }
                Err(_) => own.limited("connections", 1),
            },
            Err(error) => wait_after(&error).await,
        }
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.shutdown, finished).await.is_err() {
        connections.shutdown().await;
    }
}

/// Out of descriptors is not cured by asking again at once; an aborted connection is nothing.
async fn wait_after(error: &io::Error) {
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        warn!(error = error as &dyn std::error::Error, "connection not accepted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    cancelled: CancellationToken,
) -> impl Future<Output = ()> {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.call(request)
    });
    async move {
        // A small answer must not wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let deadlines = Deadlines { header: limits.header, idle: limits.idle, write: limits.write };
        let io = TokioIo::new(TimedStream::new(stream, deadlines));
        let connection = http1::Builder::new()
            .max_header_size(limits.header_bytes)
            .max_buf_size(limits.header_bytes.max(8192))
            .max_headers(64)
            .header_read_timeout(None)
            .serve_connection(io, service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = cancelled.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            debug!(%peer, error = &error as &dyn std::error::Error, "connection ended early");
        }
    }
}
