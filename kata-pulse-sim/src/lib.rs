//! A Kata node made of nothing but this machine: sandbox directories, shim sockets, a CRI server, faults on command.
//! It never depends on kata-pulse, so it cannot share its bugs.

mod agent;
pub mod burn;
mod channel;
pub mod commands;
pub mod control;
pub mod cri;
pub mod fault;
mod inspect;
pub mod kind;
pub mod launch;
pub mod layout;
pub mod node;
mod order;
pub mod page;
pub mod process;
pub mod role;
mod shim;
mod state;
pub mod storm;
mod ttrpc;
mod vm;
mod watchdog;

pub use burn::{Burn, BurnTruth};
pub use cri::{CriFault, CriFlavour, CriServer};
pub use fault::{AgentFault, AnyFault, Fault};
pub use kind::{Kind, Runtime, SimError, Vmm};
pub use launch::Processes;
pub use layout::Variant;
pub use node::{Node, Pod, Sandbox, SandboxSpec};
pub use page::{CpuUnit, GuestLoad};
