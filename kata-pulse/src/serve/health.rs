//! `/healthz` and `/readyz`: 200, or 503 with one line of reason.

use axum::extract::State;
use axum::http::StatusCode;

use super::Shared;

pub(super) async fn healthz(State(shared): State<Shared>) -> (StatusCode, String) {
    answer(shared.source.health())
}

pub(super) async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    answer(shared.source.ready())
}

fn answer(state: Result<(), String>) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, reason.lines().next().unwrap_or("not ready").to_owned() + "\n")
        }
    }
}
