//! The pages of docs/runbooks. In: nothing. Out: their texts, and the queries that they advise.

use std::collections::BTreeMap;

use crate::dashboards::{Query, chart};

/// By file name.
pub fn read() -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(chart().join("../../docs/runbooks")).unwrap();
    let page = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    entries.map(|entry| page(entry.unwrap().path())).collect()
}

/// Each block of PromQL is one query.
pub fn queries() -> Vec<Query> {
    let of_page = |(page, text): (String, String)| {
        let blocks: Vec<&str> = text.split("```promql\n").skip(1).collect();
        let query = |block: &&str| Query {
            place: page.clone(),
            expr: block.split("```").next().unwrap().to_owned(),
            legend: String::new(),
        };
        blocks.iter().map(query).collect::<Vec<_>>()
    };
    read().into_iter().flat_map(of_page).collect()
}
