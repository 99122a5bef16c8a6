//! A Kata node made of nothing but this machine: sandbox directories, shim sockets, a CRI server, faults on command.
//! It never depends on kata-pulse, so it cannot share its bugs.

pub mod cri;
pub mod kind;
pub mod launch;
pub mod node;
pub mod page;
pub mod role;
mod shim;
pub mod storm;

pub use cri::{CriFault, CriFlavour, CriServer};
pub use kind::{Fault, Kind, Runtime, SimError, Vmm};
pub use node::{Node, Pod, Sandbox, SandboxSpec};
pub use page::{CpuUnit, GuestLoad};
