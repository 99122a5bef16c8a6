//! What a sandbox costs its host: who of it used something, and what a process had used when it ended.

use super::ProcessRole;

/// Who of a sandbox used something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostRole {
    /// Threads that run the guest.
    Vcpu,
    /// The rest of the VMM's process.
    Vmm,
    Virtiofsd,
    Shim,
    /// The kernel's threads that move the VM's packets.
    Vhost,
}

impl HostRole {
    pub const ALL: [Self; 5] = [Self::Vcpu, Self::Vmm, Self::Virtiofsd, Self::Shim, Self::Vhost];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vcpu => "vcpu",
            Self::Vmm => "vmm",
            Self::Virtiofsd => "virtiofsd",
            Self::Shim => "shim",
            Self::Vhost => "vhost",
        }
    }
}

/// Whose a process's own use is.
impl From<ProcessRole> for HostRole {
    fn from(role: ProcessRole) -> Self {
        match role {
            ProcessRole::Shim => Self::Shim,
            ProcessRole::Vmm => Self::Vmm,
            ProcessRole::Virtiofsd => Self::Virtiofsd,
        }
    }
}

/// Seconds, cumulative. Time in the guest is in neither of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuTimes {
    pub user: f64,
    pub system: f64,
    pub guest: f64,
}

impl CpuTimes {
    pub fn total(&self) -> f64 {
        self.user + self.system + self.guest
    }
}

/// `/proc/<pid>/io`: calls, and bytes that reached storage. Cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IoTotals {
    pub read_calls: f64,
    pub write_calls: f64,
    pub read_bytes: f64,
    pub written_bytes: f64,
}

/// What all threads of a process together had used when it ended, by the kernel's own account.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExitAccount {
    pub cpu: CpuTimes,
    pub minor_faults: f64,
    pub major_faults: f64,
    pub voluntary_switches: f64,
    pub involuntary_switches: f64,
    /// `None` where the kernel does not account it.
    pub io: Option<IoTotals>,
    pub peak_rss_bytes: f64,
    /// Whose I/O the kernel adds this to when it is waited for; `None`: nobody told.
    pub parent: Option<u32>,
}
