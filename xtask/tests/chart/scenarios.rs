//! The values in helm/kata-pulse/tests/values: one file is one set-up, its first line names the Kubernetes.

use std::fs;

use crate::tools::chart;

pub struct Scenario {
    pub name: String,
    pub kubernetes: String,
    pub values: String,
}

pub fn all() -> Vec<Scenario> {
    let folder = chart().join("tests/values");
    let mut scenarios: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| read(&entry.unwrap().path())).collect();
    scenarios.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(scenarios.len() >= 10, "no scenarios in {}", folder.display());
    scenarios
}

fn read(path: &std::path::Path) -> Scenario {
    let values = fs::read_to_string(path).unwrap();
    let kubernetes = values.lines().next().and_then(|line| line.strip_prefix("# kubernetes: "));
    let kubernetes = kubernetes.unwrap_or_else(|| panic!("{}: no Kubernetes in its first line", path.display()));
    Scenario {
        name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
        kubernetes: kubernetes.to_owned(),
        values: values.clone(),
    }
}
