//! The dashboards as files. In: `helm/kata-pulse/dashboards`. Out: panels with their queries.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub const DATASOURCE: &str = r#"{"type":"prometheus","uid":"${datasource}"}"#;

pub struct Dashboard {
    pub file: String,
    pub json: Value,
}

/// A query of a panel or of a variable.
#[derive(Clone, Debug)]
pub struct Query {
    /// Dashboard, row, panel: what people call it.
    pub place: String,
    pub expr: String,
    pub legend: String,
}

pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm/kata-pulse")
}

/// All of them.
pub fn read() -> Vec<Dashboard> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(chart().join("dashboards")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let dashboard = |path: PathBuf| {
        let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Dashboard { file, json }
    };
    files.into_iter().map(dashboard).collect()
}

impl Dashboard {
    pub fn panels(&self) -> &[Value] {
        self.json["panels"].as_array().unwrap()
    }

    pub fn variables(&self) -> &[Value] {
        self.json["templating"]["list"].as_array().unwrap()
    }

    pub fn variable_names(&self) -> BTreeSet<&str> {
        self.variables().iter().map(|variable| text(&variable["name"])).collect()
    }

    /// Every query of every panel.
    pub fn queries(&self) -> Vec<Query> {
        let (mut queries, mut row) = (Vec::new(), "");
        for panel in self.panels() {
            if panel["type"] == "row" {
                row = text(&panel["title"]);
            }
            for target in panel["targets"].as_array().into_iter().flatten() {
                queries.push(Query {
                    place: format!("{} / {row} / {}", self.file, text(&panel["title"])),
                    expr: text(&target["expr"]).to_owned(),
                    legend: target["legendFormat"].as_str().unwrap_or_default().to_owned(),
                });
            }
        }
        queries
    }

    /// What the variables ask: `label_values(SELECTOR, LABEL)` as selector and label.
    pub fn variable_queries(&self) -> Vec<(String, Query)> {
        let asked = self.variables().iter().filter(|variable| variable["type"] == "query");
        let query = |variable: &Value| {
            let asked = text(&variable["query"]["query"]);
            let inside = asked.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (selector, label) = inside.and_then(|inside| inside.rsplit_once(", ")).unwrap();
            let place = format!("{} / variable {}", self.file, text(&variable["name"]));
            (label.to_owned(), Query { place, expr: selector.to_owned(), legend: String::new() })
        };
        asked.map(query).collect()
    }
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// With the variables' values and every range replaced, as Grafana and the pace of the test would.
pub fn bound(expr: &str, sandbox: &str, window: &str) -> String {
    let expr = expr.replace("$sandbox", sandbox);
    let expr = ["cluster", "node", "namespace", "pod"]
        .iter()
        .fold(expr, |expr, variable| expr.replace(&format!("\"${variable}\""), "\".*\""));
    let mut parts = expr.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |expr, part| format!("{expr}[{window}]{}", part.split_once(']').unwrap().1))
}

#[test]
fn variables_and_windows_are_bound() {
    let expr = r#"rate(a{node=~"$node", sandbox_id="$sandbox"}[$__rate_interval]) + increase(b[1h])"#;
    let right = r#"rate(a{node=~".*", sandbox_id="x"}[9s]) + increase(b[9s])"#;
    assert_eq!(bound(expr, "x", "9s"), right);
}
