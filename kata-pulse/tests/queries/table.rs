//! The tables of testdata/queries: every use of cAdvisor's families that rules, dashboards, autoscalers and cost tools
//! make, as PromQL with what it should find. Rows are numbered as in the list of uses: 1 to 264.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// So many uses are listed.
pub const ROWS: u32 = 264;
const TABLES: [&str; 5] = ["rules.tsv", "resources.tsv", "network.tsv", "storage.tsv", "others.tsv"];

/// One query and the uses that it stands for.
#[derive(Debug, Clone)]
pub struct Use {
    pub rows: Vec<u32>,
    pub query: String,
    pub expect: String,
}

/// A use that no query can stand for.
#[derive(Debug)]
pub struct NotRun {
    pub rows: Vec<u32>,
    pub reason: String,
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/queries")
}

pub fn uses() -> Vec<Use> {
    TABLES.iter().flat_map(|table| read(table)).collect()
}

/// Of one table.
pub fn read(table: &str) -> Vec<Use> {
    lines(table, 3)
        .into_iter()
        .map(|columns| Use { rows: rows(&columns[0]), query: columns[1].clone(), expect: columns[2].clone() })
        .collect()
}

pub fn not_run() -> Vec<NotRun> {
    let lines = lines("not-run.tsv", 2).into_iter();
    lines.map(|columns| NotRun { rows: rows(&columns[0]), reason: columns[1].clone() }).collect()
}

fn lines(table: &str, columns: usize) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(folder().join(table)).unwrap();
    let split = |line: &str| {
        let found: Vec<String> = line.split('\t').map(str::to_owned).collect();
        assert_eq!(found.len(), columns, "{table}: {line}");
        found
    };
    text.lines().skip(1).filter(|line| !line.starts_with('#')).map(split).collect()
}

fn rows(text: &str) -> Vec<u32> {
    text.split(',').filter(|row| !row.is_empty()).map(|row| row.parse().unwrap()).collect()
}

#[test]
fn every_use_is_run_or_has_a_reason() {
    let run: BTreeSet<u32> = uses().iter().flat_map(|one| one.rows.clone()).collect();
    let not: BTreeSet<u32> = not_run().iter().flat_map(|one| one.rows.clone()).collect();
    assert!(run.is_disjoint(&not));
    assert_eq!(&run | &not, (1..=ROWS).collect());
    assert!(not_run().iter().all(|one| !one.reason.is_empty()));
}
