//! Processes of a sandbox, safe against pid reuse.

use std::fmt;

/// A process id of the host's pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pid(pub u32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProcessRole {
    Shim,
    Vmm,
    Virtiofsd,
}

impl ProcessRole {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shim => "shim",
            Self::Vmm => "vmm",
            Self::Virtiofsd => "virtiofsd",
        }
    }
}

/// One process: the start time tells it from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    pub role: ProcessRole,
    pub pid: Pid,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    pub start_ticks: u64,
}
