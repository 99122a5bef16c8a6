//! The host's own numbers of a sandbox: processes by role, cgroups, the pod's network.

mod types;

pub use types::{
    CgroupReading, Counted, HostReading, InterfaceReading, MemoryNow, NetworkReading, RoleReading, ThreadReading,
    TrafficReading,
};
