//! HTTP: from a request to bytes that are in memory already. No request ever reaches a shim.
//!
//! In: a [`PageSource`]. Out: the endpoints below, served by [`serve`] within [`Limits`].
//! Rendering is `scrape`'s job; what is served here is a clone of what it has.

mod accept;
mod health;
mod index;
mod listener;
mod metrics;
mod sandboxes;
mod stream;

pub use listener::{Limits, serve};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::sandbox::{Sandbox, SandboxId, Source, SourceState};
use crate::scrape::{Format, MetricsQuery, UnknownSandbox};
use crate::telemetry::Own;

/// What the server shows. Every method answers from memory; only `metrics` may take as long as a rendering.
pub trait PageSource: Send + Sync + 'static {
    /// The page, already compressed if `gzip`. Called on a thread that may block.
    fn metrics(&self, query: &MetricsQuery, format: Format, gzip: bool) -> Result<Bytes, UnknownSandbox>;
    fn sandboxes(&self) -> Arc<BTreeMap<SandboxId, Arc<Sandbox>>>;
    fn source_states(&self, id: &SandboxId) -> Vec<(Source, SourceState)>;
    /// `Err` is one line of reason.
    fn health(&self) -> Result<(), String>;
    fn ready(&self) -> Result<(), String>;
    /// Somebody asked for the whole page: the scheduler learns the period from this.
    fn note_scrape(&self, peer: SocketAddr);
}

/// What every handler gets.
#[derive(Clone)]
struct Shared {
    source: Arc<dyn PageSource>,
    own: Own,
    /// Pages that are made at the same time: each takes a thread and a page's memory.
    renders: Arc<Semaphore>,
}

/// The shared page, and a few filtered ones beside it.
const PARALLEL_RENDERS: usize = 3;

/// Every path there is; also the words of the `path` label.
const PATHS: [&str; 6] = ["/", "/metrics", "/sandboxes", "/agent-url", "/healthz", "/readyz"];

/// All endpoints. HEAD works wherever GET does; other methods are answered 405 with Allow.
pub fn router(source: Arc<dyn PageSource>, own: Own) -> Router {
    let shared = Shared { source, own, renders: Arc::new(Semaphore::new(PARALLEL_RENDERS)) };
    Router::new()
        .route("/", get(index::index))
        .route("/metrics", get(metrics::metrics))
        .route("/sandboxes", get(sandboxes::sandboxes))
        .route("/agent-url", get(sandboxes::agent_url))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found\n") })
        .method_not_allowed_fallback(|| async { (StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n") })
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Refuses bodies, adds the headers every answer has, counts what was answered.
async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let path = PATHS.into_iter().find(|path| *path == request.uri().path()).unwrap_or("other");
    let head = request.method() == axum::http::Method::HEAD;
    let mut response = if has_body(&request) {
        let mut refused = (StatusCode::PAYLOAD_TOO_LARGE, "no request here has a body\n").into_response();
        refused.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        refused
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let bytes = if head { 0 } else { response.body().size_hint().exact().unwrap_or(0) };
    shared.own.http_response(path, response.status().as_u16(), bytes);
    response
}

fn has_body(request: &Request) -> bool {
    let headers = request.headers();
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}

#[cfg(test)]
mod tests;
