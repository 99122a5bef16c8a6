//! The host's own numbers of a sandbox: processes by role, cgroups, the pod's network.

pub use crate::model::{
    CgroupReading, Counted, HostReading, InterfaceReading, MemoryNow, NetworkReading, RoleReading, ThreadReading,
    TrafficReading,
};
