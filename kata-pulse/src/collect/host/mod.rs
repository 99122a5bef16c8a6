//! The host's own numbers of a sandbox: processes by role, cgroups, the pod's network.
//!
//! In: a sandbox's processes, as discovery proved them. Out: a [`HostReading`]. What counters had reached is kept in a
//! [`HostBook`], one for each sandbox, so that none falls when threads and processes end. All of it blocks, though for
//! no process's sake: what could wait for one is read on a thread of its own. Cost by tier: docs/overhead.md.

mod book;
pub mod cgroup;
pub mod cgroup_files;
mod counters;
mod files;
mod guarded;
pub mod network;
pub mod nominal;
pub mod parse;
mod process;
mod process_book;
mod qdisc;
mod reader;
mod threads;
mod tiers;
mod vhost;

pub use crate::model::{
    CgroupReading, Counted, HostReading, InterfaceReading, MemoryNow, NetworkReading, RoleReading, ThreadReading,
    TrafficReading,
};
pub use book::HostBook;
pub use reader::{HostError, HostOptions, HostReader, Target};
pub use tiers::Tiers;
