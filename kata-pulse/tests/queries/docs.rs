//! The blocks of docs/prometheus.md that have a marker, as Prometheus reads them. In: a marker's name. Out: its text,
//! in Prometheus' words.

use std::path::Path;

/// The block behind `<!-- run: NAME -->`.
pub fn block(name: &str) -> String {
    let marker = format!("<!-- run: {name} -->");
    let text = page();
    let (_, rest) = text.split_once(&marker).unwrap_or_else(|| panic!("docs/prometheus.md has no {marker}"));
    let (_, rest) = rest.split_once("```").unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// The names of all blocks that have a marker.
pub fn names() -> Vec<String> {
    let name = |line: &str| Some(line.strip_prefix("<!-- run: ")?.strip_suffix(" -->")?.to_owned());
    page().lines().filter_map(name).collect()
}

/// Markers that begin so.
pub fn names_with(prefix: &str) -> Vec<String> {
    names().into_iter().filter(|name| name.starts_with(prefix)).collect()
}

/// Blocks of code without a marker: none should be there. Those in jsonnet name a block that has one, and there is nothing
/// that could run them.
pub fn unmarked() -> usize {
    let blocks = page().matches("\n```").count() / 2;
    blocks - names().len() - page().matches("\n```jsonnet").count()
}

pub fn page() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/prometheus.md");
    std::fs::read_to_string(file).unwrap()
}

/// The lines below `key:` that stand deeper, without their common indentation.
pub fn below(yaml: &str, key: &str) -> String {
    let mut lines = yaml.lines().skip_while(|line| line.trim_start() != key);
    let head = lines.next().unwrap_or_else(|| panic!("no {key} in\n{yaml}"));
    let depth = indentation(head);
    let inner: Vec<&str> = lines.take_while(|line| indentation(line) > depth).collect();
    let common = inner.iter().map(|line| indentation(line)).min().unwrap_or(0);
    inner.iter().map(|line| format!("{}\n", &line[common..])).collect()
}

pub fn indent(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The operator's words for what Prometheus calls otherwise.
pub fn from_operator(yaml: &str) -> String {
    [
        ("metricRelabelings:", "metric_relabel_configs:"),
        ("relabelings:", "relabel_configs:"),
        ("sourceLabels:", "source_labels:"),
        ("targetLabel:", "target_label:"),
        ("honorLabels:", "honor_labels:"),
        ("interval:", "scrape_interval:"),
    ]
    .iter()
    .fold(yaml.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))
}
