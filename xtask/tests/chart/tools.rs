//! Runs Helm and the validators. A tool that is not there: a test prints `SKIPPED: why`, or fails where
//! `KATA_PULSE_REQUIRE_REAL` is set.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::tool_paths::{HELM_3, HELM_4, NPM, PYTHON, SCHEMAS_OF_1_20};

/// Kubernetes for which is rendered where it does not matter.
pub const KUBERNETES: &str = "1.37.0";
/// Of the release in all tests.
pub const RELEASE: &str = "kata-pulse";
const NAMESPACE: &str = "monitoring";

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn chart() -> PathBuf {
    root().join("helm/kata-pulse")
}

/// Whether all tools but Helm 3 are there.
pub fn are_there() -> bool {
    let missing: Vec<&str> =
        [HELM_4, NPM, PYTHON, SCHEMAS_OF_1_20].into_iter().filter(|path| !root().join(path).exists()).collect();
    if missing.is_empty() {
        return true;
    }
    let why = format!("{} missing; `cargo xtask setup` installs it", missing.join(", "));
    assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "{why}");
    println!("SKIPPED: {why}");
    false
}

/// Only machines with Go have it.
pub fn helm_3() -> Option<Helm> {
    let program = root().join(HELM_3);
    if program.exists() {
        return Some(Helm { program, chart: chart() });
    }
    println!("SKIPPED: no Helm 3, which `cargo xtask setup` builds where Go is");
    None
}

pub fn helm_4() -> Helm {
    Helm { program: root().join(HELM_4), chart: chart() }
}

/// One release of Helm, and the chart it is asked about.
pub struct Helm {
    pub program: PathBuf,
    pub chart: PathBuf,
}

impl Helm {
    /// Its output, or what it complained of.
    pub fn run(&self, arguments: &[&str], values: &str) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        // No configuration, plugins or clusters of whoever runs the tests.
        let home = root().join("target/tools/helm-home");
        command.env("HELM_CACHE_HOME", &home).env("HELM_CONFIG_HOME", &home).env("HELM_DATA_HOME", &home);
        command.env("KUBECONFIG", home.join("none")).args(arguments);
        feed(&mut command, values)
    }

    pub fn template(&self, values: &str, kubernetes: &str) -> Result<String, String> {
        let chart = self.chart.to_str().unwrap();
        let arguments = ["template", RELEASE, chart, "--namespace", NAMESPACE, "--kube-version", kubernetes];
        self.run(&[&arguments[..], &["--values", "-"]].concat(), values)
    }

    pub fn lint(&self, values: &str, kubernetes: &str) -> Result<String, String> {
        let chart = self.chart.to_str().unwrap();
        self.run(&["lint", "--strict", chart, "--kube-version", kubernetes, "--values", "-"], values)
    }

    /// What an installation says to its user.
    pub fn notes(&self, values: &str) -> String {
        let chart = self.chart.to_str().unwrap();
        let arguments = ["install", RELEASE, chart, "--namespace", NAMESPACE, "--dry-run=client", "--values", "-"];
        let output = self.run(&arguments, values).unwrap();
        output.split_once("\nNOTES:\n").unwrap_or_else(|| panic!("no notes in\n{output}")).1.to_owned()
    }

    pub fn manifests(&self, values: &str, kubernetes: &str) -> Vec<Value> {
        parse(&self.template(values, kubernetes).unwrap_or_else(|error| panic!("{values}\n{error}")))
    }
}

/// The one manifest of a kind.
pub fn of_kind<'m>(manifests: &'m [Value], kind: &str) -> &'m Value {
    let mut found = manifests.iter().filter(|manifest| manifest["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    first
}

/// The DaemonSet with Helm 4.
pub fn daemon_set(values: &str, kubernetes: &str) -> Value {
    of_kind(&helm_4().manifests(values, kubernetes), "DaemonSet").clone()
}

pub fn container(daemon_set: &Value) -> &Value {
    let containers = daemon_set["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    &containers[0]
}

/// Documents of YAML.
pub fn parse(yaml: &str) -> Vec<Value> {
    serde_json::from_str(&python(&["json"], yaml).unwrap()).unwrap()
}

/// How many of Kubernetes' own objects its schemas accept.
pub fn validate(yaml: &str, kubernetes: &str) -> Result<usize, String> {
    let release = kubernetes.rsplit_once('.').unwrap().0;
    let old = root().join(SCHEMAS_OF_1_20).join("kubernetes_validate/kubernetes-json-schema/v1.20.0-local-strict");
    let mut arguments = vec!["validate", release];
    if release == "1.20" {
        arguments.push(old.to_str().unwrap());
    }
    Ok(python(&arguments, yaml)?.trim().parse().unwrap())
}

/// How many of the operator's objects its schemas accept.
pub fn validate_operator(manifests: &[Value]) -> Result<usize, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/operator.mjs");
    let packages = root().join(NPM).canonicalize().unwrap();
    let output = feed(Command::new("node").arg(script).arg(packages), &serde_json::to_string(manifests).unwrap())?;
    Ok(output.trim().parse().unwrap())
}

fn python(arguments: &[&str], input: &str) -> Result<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/manifests.py");
    feed(Command::new(root().join(PYTHON)).arg(script).args(arguments), input)
}

fn feed(command: &mut Command, input: &str) -> Result<String, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // One that ends early does not read it all.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).is_ok());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(out.into_owned()) } else { Err(format!("{out}{err}")) }
}
