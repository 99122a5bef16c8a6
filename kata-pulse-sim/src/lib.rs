//! A Kata node made of nothing but this machine: sandbox directories, shim sockets, a CRI server, faults on command.
//! It never depends on kata-pulse, so it cannot share its bugs.

mod account;
mod agent;
pub mod burn;
mod cgroup;
mod channel;
mod children;
mod chores;
pub mod commands;
pub mod container;
pub mod containerd;
pub mod control;
pub mod cri;
pub mod fault;
mod inspect;
pub mod judge;
pub mod kind;
pub mod launch;
pub mod layout;
pub mod machine;
pub mod metrics;
pub mod node;
mod order;
pub mod page;
pub mod process;
pub mod rig;
pub mod role;
mod shim;
mod spec;
mod state;
mod stats;
pub mod storm;
pub mod taskshim;
mod traffic;
mod ttrpc;
mod usage;
pub mod version;
mod vm;
mod watchdog;
mod workload;

pub use burn::{Burn, BurnTruth};
pub use chores::{Chores, ChoresTruth};
pub use container::{
    CgroupDriver, CgroupMode, ContainerLimits, ContainerLoad, ContainerSpec, DeviceLoad, DeviceTruth, QosClass, Truth,
};
pub use cri::{CriFault, CriFlavour, CriServer};
pub use fault::{AgentFault, AnyFault, Fault};
pub use kind::{Kind, Runtime, SimError, Vmm};
pub use launch::Processes;
pub use layout::Variant;
pub use metrics::{Metrics, Reporter};
pub use node::{Node, Overhead, Pod, Sandbox, SandboxSpec};
pub use page::{CpuUnit, GuestLoad};
pub use spec::SECRET;
pub use stats::StatsFault;
pub use usage::{IoUsage, ProcessUsage};
pub use workload::{Container, ContainerState};
