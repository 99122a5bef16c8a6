//! `/`: what is here, as text or HTML.

use axum::http::{HeaderMap, header};
use axum::response::{Html, IntoResponse, Response};

use super::accept::{self, Offer};
use crate::version;

const OFFERS: [Offer; 2] = [Offer::plain("text/plain"), Offer::plain("text/html")];

const LINKS: [(&str, &str); 6] = [
    ("/metrics", "metrics of all sandboxes for Prometheus"),
    ("/metrics?filter_family=kata_pulse_", "only families with this prefix; several with commas"),
    ("/sandboxes", "the sandboxes: JSON, text/plain or text/html by Accept; ?sandbox=ID on /metrics for one"),
    ("/agent-url?sandbox=ID", "address of a sandbox's agent"),
    ("/healthz", "is the agent alive"),
    ("/readyz", "has it looked at everything once"),
];

pub(super) async fn index(headers: HeaderMap) -> Response {
    let vary = [(header::VARY, "Accept")];
    if accept::choose(&headers, &OFFERS) == 1 {
        let link = |(path, text)| format!("<li><a href=\"{path}\">{path}</a> {text}</li>\n");
        let list: String = LINKS.map(link).concat();
        (vary, Html(document("kata-pulse", &format!("<p>{}</p>\n<ul>\n{list}</ul>\n", version::LONG)))).into_response()
    } else {
        let list: String = LINKS.map(|(path, text)| format!("{path}\n    {text}\n")).concat();
        (vary, format!("kata-pulse {}\n\n{list}", version::LONG)).into_response()
    }
}

/// A whole page around a body that is escaped already.
pub(super) fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>body{{font-family:sans-serif;margin:2em}}td,th{{text-align:left;padding:.2em .8em}}</style></head>\n\
         <body><h1>{title}</h1>\n{body}</body></html>\n"
    )
}

/// For text and attribute values.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
