//! What the container runtime says of each container: the guest's own cgroups, through containerd and the shim.
//!
//! In: the running containers of one pod. Out: [`TaskSample`]s. Cost: one call per pod, which the shim passes on to its
//! guest; so one at a time per pod, a deadline for each, and long pauses after one that did not answer.

mod client;
mod parse;
pub mod types;

pub use client::{RuntimeError, ask};
pub use parse::parse_metrics;
pub use types::{TaskMetrics, TaskSample};
