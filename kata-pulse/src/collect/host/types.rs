//! The words of [`crate::model`] for what is read.

pub use crate::model::{
    CgroupReading, Counted, HostReading, InterfaceReading, MemoryNow, NetworkReading, RoleReading, ThreadReading,
    TrafficReading,
};
