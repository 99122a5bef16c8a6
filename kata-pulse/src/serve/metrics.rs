//! `/metrics`: the page in the format and encoding that the scraper accepts.

use std::net::SocketAddr;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::accept::{self, Offer};
use crate::scrape::{Format, MetricsQuery};

pub(super) const OFFERS: [Offer; 2] = [
    Offer { name: "text/plain", version: Some("0.0.4") },
    Offer { name: "application/openmetrics-text", version: Some("1.0.0") },
];

/// The connection's other end, put into each request by the listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub SocketAddr);

pub(super) async fn metrics(
    State(shared): State<Shared>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let unknown = || (StatusCode::NOT_FOUND, "unknown sandbox\n").into_response();
    let Ok(query) = MetricsQuery::parse(&pairs) else { return unknown() };
    if let (true, Some(Extension(Peer(peer)))) = (query.is_whole(), peer) {
        shared.source.note_scrape(peer);
    }
    let (format, content_type) = match accept::choose(&headers, &OFFERS) {
        1 => (Format::OpenMetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        _ => (Format::Text, "text/plain; version=0.0.4; charset=utf-8"),
    };
    let gzip = accept::gzip(&headers);
    let source = shared.source;
    // The semaphore is never closed; a client that goes away gives up its place.
    let Ok(_turn) = shared.renders.acquire_owned().await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    };
    let page = match tokio::task::spawn_blocking(move || source.metrics(&query, format, gzip)).await {
        Ok(Ok(page)) => page,
        Ok(Err(_)) => return unknown(),
        Err(_) => return (StatusCode::INTERNAL_SERVER_ERROR, "rendering was aborted\n").into_response(),
    };
    let vary = (header::VARY, "Accept, Accept-Encoding");
    let content_type = (header::CONTENT_TYPE, content_type);
    if gzip {
        ([content_type, vary, (header::CONTENT_ENCODING, "gzip")], page).into_response()
    } else {
        ([content_type, vary], page).into_response()
    }
}
