//! The chart helm/kata-pulse against Helm itself, and what it renders against the schemas of Kubernetes and of
//! Prometheus' operator, the agent's own command line and docs/prometheus.md. `cargo xtask setup` installs the tools.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod confined;
mod documented;
mod files;
mod flags;
mod golden;
mod node;
mod package;
mod refusals;
mod scenarios;
#[path = "../../src/tool_paths.rs"]
mod tool_paths;
mod tools;
mod validity;
