//! What a shim's Stats answers. In: the [`Truth`] of a container and where it runs. Out: the message of the shim, with
//! the defects of Kata 4.1. In two steps, as in a real sandbox: [`agent`] is the guest's side, `go` and `rs` are
//! what each shim makes of the guest's answer.

use prost::Message;
use prost_types::Any;

use crate::{
    container::{CgroupMode, ContainerLimits, Truth},
    kind::Runtime,
};

pub mod agent;
mod go;
mod rs;

/// The generated messages of a node with cgroup v1.
pub mod v1 {
    tonic::include_proto!("io.containerd.cgroups.v1");
}

/// The generated messages of a node with cgroup v2.
pub mod v2 {
    tonic::include_proto!("io.containerd.cgroups.v2");
}

/// The type of [`v1::Metrics`], bare as containerd has it.
pub const V1_TYPE: &str = "io.containerd.cgroups.v1.Metrics";
/// The type of [`v2::Metrics`], bare as containerd has it.
pub const V2_TYPE: &str = "io.containerd.cgroups.v2.Metrics";

/// Who reports what to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reporter {
    pub runtime: Runtime,
    pub guest: CgroupMode,
    pub host: CgroupMode,
}

/// The message of a shim.
#[derive(Debug, Clone, PartialEq)]
pub enum Metrics {
    V1(Box<v1::Metrics>),
    V2(Box<v2::Metrics>),
}

impl Metrics {
    /// What `reporter` says of a container: the Go shim goes by the host's cgroups, runtime-rs always says v1.
    pub fn report(reporter: Reporter, truth: &Truth, limits: &ContainerLimits) -> Self {
        let answer = agent::Answer::of(reporter.guest, truth, limits);
        match (reporter.runtime, reporter.host) {
            (Runtime::Go, CgroupMode::V1) => Self::V1(Box::new(go::metrics_v1(&answer))),
            (Runtime::Go, CgroupMode::V2) => Self::V2(Box::new(go::metrics_v2(&answer))),
            (Runtime::Rs, _) => Self::V1(Box::new(rs::metrics(&answer))),
        }
    }

    /// As it travels: the type without the usual prefix.
    pub fn to_any(&self) -> Any {
        match self {
            Self::V1(metrics) => Any { type_url: V1_TYPE.to_owned(), value: metrics.encode_to_vec() },
            Self::V2(metrics) => Any { type_url: V2_TYPE.to_owned(), value: metrics.encode_to_vec() },
        }
    }
}

#[cfg(test)]
mod tests;
