//! A Kata node made of nothing but this machine: sandbox directories, shim sockets, a CRI server, faults on command.
//! It never depends on kata-pulse, so it cannot share its bugs.

mod cgroup;
pub mod container;
pub mod containerd;
pub mod cri;
pub mod kind;
pub mod launch;
pub mod metrics;
pub mod node;
pub mod page;
pub mod rig;
pub mod role;
mod shim;
mod spec;
mod stats;
pub mod storm;
pub mod taskshim;
mod workload;

pub use container::{
    CgroupDriver, CgroupMode, ContainerLimits, ContainerLoad, ContainerSpec, DeviceLoad, DeviceTruth, QosClass, Truth,
};
pub use cri::{CriFault, CriFlavour, CriServer};
pub use kind::{Fault, Kind, Runtime, SimError, Vmm};
pub use metrics::{Metrics, Reporter};
pub use node::{Node, Overhead, Pod, Sandbox, SandboxSpec};
pub use page::{CpuUnit, GuestLoad};
pub use spec::SECRET;
pub use stats::StatsFault;
pub use workload::{Container, ContainerState};
