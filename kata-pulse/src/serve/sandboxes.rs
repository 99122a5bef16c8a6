//! `/sandboxes` and `/agent-url`, from the registry's published view.

use std::collections::BTreeMap;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;

use super::accept::{self, Offer};
use super::index::{document, escape};
use super::{PageSource, Shared};
use crate::sandbox::{Identity, Sandbox};
use crate::scrape::query;

const OFFERS: [Offer; 3] = [Offer::plain("application/json"), Offer::plain("text/plain"), Offer::plain("text/html")];

/// One element of the list: unknown strings are empty, unknown numbers null.
#[derive(Serialize)]
struct Listed<'a> {
    sandbox_id: &'a str,
    pod_name: &'a str,
    namespace: &'a str,
    uid: &'a str,
    runtime: &'static str,
    vmm: &'static str,
    state: &'static str,
    runtime_handler: &'a str,
    shim_version: String,
    created_unix_ms: Option<u64>,
    processes: Vec<ListedProcess>,
    sources: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
struct ListedProcess {
    role: &'static str,
    pid: u32,
    start_ticks: u64,
}

pub(super) async fn sandboxes(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let sandboxes = shared.source.sandboxes();
    let listed = || sandboxes.values().map(|sandbox| listed(sandbox, &*shared.source));
    let mut response = match accept::choose(&headers, &OFFERS) {
        1 => sandboxes.keys().map(|id| format!("{id}\n")).collect::<String>().into_response(),
        2 => Html(page(listed())).into_response(),
        _ => json(&listed().collect::<Vec<_>>()),
    };
    response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("Accept"));
    response
}

pub(super) async fn agent_url(
    State(shared): State<Shared>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> (StatusCode, String) {
    let sandboxes = shared.source.sandboxes();
    let Some(sandbox) = query::sandbox(&pairs).and_then(|id| sandboxes.get(id)) else {
        return (StatusCode::NOT_FOUND, "unknown sandbox\n".to_owned());
    };
    match &sandbox.agent_address {
        Some(address) => (StatusCode::OK, address.0.clone()),
        None => (StatusCode::SERVICE_UNAVAILABLE, "address not known yet\n".to_owned()),
    }
}

fn listed<'a>(sandbox: &'a Sandbox, source: &dyn PageSource) -> Listed<'a> {
    let named = |part: fn(&Identity) -> &String| sandbox.identity.as_ref().map_or("", |identity| part(identity));
    let processes = sandbox.processes.iter();
    Listed {
        sandbox_id: sandbox.id.as_str(),
        pod_name: named(|identity| &identity.pod_name),
        namespace: named(|identity| &identity.namespace),
        uid: named(|identity| &identity.uid),
        runtime: sandbox.runtime.map_or("", |runtime| runtime.as_str()),
        vmm: sandbox.vmm.map_or("", |vmm| vmm.as_str()),
        state: sandbox.state.as_str(),
        runtime_handler: named(|identity| &identity.runtime_handler),
        shim_version: sandbox.shim_version.map(|version| version.to_string()).unwrap_or_default(),
        created_unix_ms: sandbox.created_unix_ms,
        processes: processes
            .map(|p| ListedProcess { role: p.role.as_str(), pid: p.pid.0, start_ticks: p.start_ticks })
            .collect(),
        sources: source
            .source_states(&sandbox.id)
            .iter()
            .map(|(name, state)| (name.as_str(), state.as_str()))
            .collect(),
    }
}

fn json(list: &[Listed<'_>]) -> Response {
    match serde_json::to_vec(list) {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(), // plain strings and numbers: cannot happen
    }
}

fn page<'a>(sandboxes: impl Iterator<Item = Listed<'a>>) -> String {
    let mut rows = String::new();
    for sandbox in sandboxes {
        let id = escape(sandbox.sandbox_id);
        let sources = sandbox.sources.iter().map(|(name, state)| format!("{name}: {state}"));
        let sources = sources.collect::<Vec<_>>().join(", ");
        let cells = [sandbox.namespace, sandbox.pod_name, sandbox.runtime, sandbox.vmm, sandbox.state, &sources];
        let cells: String = cells.map(|cell| format!("<td>{}</td>", escape(cell))).concat();
        rows += &format!("<tr><td><a href=\"/metrics?sandbox={id}\">{id}</a></td>{cells}</tr>\n");
    }
    let head = "<tr><th>sandbox</th><th>namespace</th><th>pod</th><th>runtime</th><th>VMM</th><th>state</th>\
                <th>sources</th></tr>\n";
    document("Sandboxes", &format!("<table>\n{head}{rows}</table>\n<p><a href=\"/\">index</a></p>\n"))
}
