//! The package that a registry gets.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::tools::{self, Helm, chart, helm_3, helm_4};

fn read(file: &str) -> String {
    fs::read_to_string(chart().join(file)).unwrap()
}

#[test]
fn the_versions_are_the_workspaces() {
    if !tools::are_there() {
        return;
    }
    let chart = &tools::parse(&read("Chart.yaml"))[0];
    for key in ["version", "appVersion"] {
        assert_eq!(chart[key], env!("CARGO_PKG_VERSION"), "{key}");
    }
    assert_eq!((&chart["apiVersion"], &chart["type"]), (&"v2".into(), &"application".into()));
}

#[test]
fn a_package_holds_what_a_cluster_needs_and_installs_alike() {
    if !tools::are_there() {
        return;
    }
    let check = |helm: &Helm| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        helm.run(&["package", chart().to_str().unwrap(), "--destination", path], "").unwrap();
        let package = folder.path().join(format!("kata-pulse-{}.tgz", env!("CARGO_PKG_VERSION")));
        let listed = Command::new("tar").arg("-tzf").arg(&package).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let has = |name: &str| listed.lines().any(|line| line == format!("kata-pulse/{name}"));
        for wanted in ["README.md", "values.schema.json", "files/seccomp.json", "files/kubelet-drop.yaml"] {
            assert!(has(wanted), "{wanted} is not in\n{listed}");
        }
        assert!(!listed.contains("/tests/") && !listed.contains(".helmignore~"), "{listed}");
        let packaged = Helm { program: helm.program.clone(), chart: package };
        assert_eq!(packaged.template("{}", tools::KUBERNETES), helm.template("{}", tools::KUBERNETES));
    };
    check(&helm_4());
    helm_3().iter().for_each(check);
}

/// Paths of all values that are no objects, or that the schema leaves open.
fn leaves(value: &Value, schema: &Value, root: &Value, path: &str, out: &mut BTreeSet<String>) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    match (value.as_object(), schema["properties"].as_object()) {
        (Some(inner), Some(properties)) => {
            for (key, value) in inner {
                leaves(value, properties.get(key).unwrap_or(&Value::Null), root, &format!("{path}.{key}"), out);
            }
        }
        _ => {
            out.insert(path.to_owned());
        }
    }
}

/// `additionalProperties: false` shows that the schema knows every value; this, that it knows no others, but for optional
/// ones within a default.
#[test]
fn the_schema_knows_the_values_and_no_others() {
    if !tools::are_there() {
        return;
    }
    let values = &tools::parse(&read("values.yaml"))[0];
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut found = BTreeSet::new();
    leaves(values, &schema, &schema, "", &mut found);
    let mut wanted = BTreeSet::new();
    properties(&schema, &schema, "", &mut wanted);
    let optional = ["initialDelaySeconds", "successThreshold", "localhostProfile", "user", "role", "type", "level"];
    let missing: Vec<_> =
        wanted.difference(&found).filter(|path| !optional.iter().any(|name| path.ends_with(name))).collect();
    assert_eq!(missing, [".global"], "in the schema alone");
    assert!(found.len() > 60 && found.contains(".config.levels"), "{found:?}");
}

fn properties(schema: &Value, root: &Value, path: &str, out: &mut BTreeSet<String>) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    match schema["properties"].as_object() {
        Some(inner) => inner.iter().for_each(|(key, schema)| properties(schema, root, &format!("{path}.{key}"), out)),
        None => {
            out.insert(path.to_owned());
        }
    }
}
