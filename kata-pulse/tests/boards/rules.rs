//! The rules as a file. In: `helm/kata-pulse/rules`, written in the one style that [`read`] knows. Out: [`Rule`]s.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::dashboards::chart;

/// One rule: the lines from its dash to the next.
#[derive(Debug)]
pub struct Rule {
    pub name: String,
    pub is_alert: bool,
    pub expr: String,
    pub lines: Vec<String>,
}

pub fn file() -> PathBuf {
    chart().join("rules/kata-pulse.yaml")
}

pub fn text() -> String {
    std::fs::read_to_string(file()).unwrap()
}

pub fn read() -> Vec<Rule> {
    let text = text();
    let starts = |line: &str| line.starts_with("      - alert: ") || line.starts_with("      - record: ");
    let mut rules: Vec<Rule> = Vec::new();
    for line in text.lines() {
        if starts(line) {
            let (kind, name) = line.trim().trim_start_matches("- ").split_once(": ").unwrap();
            let (name, is_alert) = (name.to_owned(), kind == "alert");
            rules.push(Rule { name, is_alert, expr: String::new(), lines: Vec::new() });
        } else if line.starts_with("        ") {
            rules.last_mut().unwrap().lines.push(line.trim_start_matches("        ").to_owned());
        }
    }
    rules.iter_mut().for_each(|rule| rule.expr = expr(&rule.lines));
    rules
}

fn expr(lines: &[String]) -> String {
    let (at, first) = lines.iter().enumerate().find_map(|(at, line)| Some((at, line.strip_prefix("expr: ")?))).unwrap();
    if first != "|" {
        return first.to_owned();
    }
    lines[at + 1..].iter().take_while(|line| line.starts_with("  ")).map(|line| format!("{}\n", line.trim())).collect()
}

impl Rule {
    pub fn has(&self, key: &str) -> bool {
        self.lines.iter().any(|line| line.trim_start().starts_with(&format!("{key}: ")))
    }

    pub fn value(&self, key: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.trim_start().strip_prefix(&format!("{key}: ")))
    }
}

/// How often the unit tests expect each alert: silent, firing.
pub fn expectations() -> BTreeMap<String, [usize; 2]> {
    let mut counts: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for file in tests() {
        let text = std::fs::read_to_string(file).unwrap();
        for part in text.split("alertname: ").skip(1) {
            let (name, rest) = part.split_once('\n').unwrap();
            let expected = rest.trim_start().strip_prefix("exp_alerts:").expect("exp_alerts follow");
            counts.entry(name.to_owned()).or_default()[usize::from(!expected.starts_with(" []"))] += 1;
        }
    }
    counts
}

/// The files of promtool's unit tests.
pub fn tests() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(chart().join("rules/tests")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}
