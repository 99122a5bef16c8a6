//! Where the tools of the chart's tests are, below the workspace's root: `chart_tools` puts them there, `tests/chart`
//! runs them.

/// npm's packages: the schemas of Prometheus' operator.
pub const NPM: &str = "target/tools/npm";
pub const HELM_4: &str = "target/tools/npm/helm";
pub const HELM_3: &str = "target/tools/helm-3/helm";
/// With kubernetes-validate and a YAML parser.
pub const PYTHON: &str = "target/tools/python/bin/python";
/// The schemas of Kubernetes 1.20, which newer packages have no more.
pub const SCHEMAS_OF_1_20: &str = "target/tools/kubernetes-1.20";
