//! What the host knows of one sandbox. `None` is what could not be read, or was not yet.

use crate::sandbox::{CpuTimes, HostRole, IoTotals};

/// All of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostStats {
    pub reading: HostReading,
    pub kernel: KernelReading,
    pub cost: CostStats,
}

/// One reading of the host's files about one sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostReading {
    /// One entry for each role that the sandbox has or had.
    pub roles: Vec<RoleReading>,
    /// All roles together, without what was used before the agent began.
    pub counted: Counted,
    /// Virtual CPUs that the VM has now.
    pub vcpus: Option<f64>,
    /// Memory that the VM was given.
    pub memory_nominal_bytes: Option<f64>,
    /// Time for which the vCPU threads were runnable and did not run. Cumulative.
    pub vcpu_run_delay_seconds: Option<f64>,
    /// Only where detail is wanted.
    pub threads: Vec<ThreadReading>,
    pub cgroups: Vec<CgroupReading>,
    pub network: NetworkReading,
}

/// Never falls while the sandbox lives.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counted {
    pub cpu_seconds: f64,
    pub read_bytes: f64,
    pub written_bytes: f64,
}

/// One role: counters never fall while the sandbox lives, whatever becomes of its threads and processes.
#[derive(Clone, Debug, PartialEq)]
pub struct RoleReading {
    pub role: HostRole,
    pub cpu: Option<CpuTimes>,
    pub voluntary_switches: Option<f64>,
    pub involuntary_switches: Option<f64>,
    pub minor_faults: Option<f64>,
    pub major_faults: Option<f64>,
    pub io: Option<IoTotals>,
    pub io_blocked_seconds: Option<f64>,
    /// Highest resident memory so far of its processes together, where known.
    pub peak_rss_bytes: Option<f64>,
    /// Of what lives now.
    pub memory: MemoryNow,
    pub threads: Option<f64>,
    pub open_fds: Option<f64>,
    /// The lowest soft limit among its processes.
    pub max_fds: Option<f64>,
}

impl RoleReading {
    /// Nothing is known of it yet.
    pub fn of(role: HostRole) -> Self {
        Self {
            role,
            cpu: None,
            voluntary_switches: None,
            involuntary_switches: None,
            minor_faults: None,
            major_faults: None,
            io: None,
            io_blocked_seconds: None,
            peak_rss_bytes: None,
            memory: MemoryNow::default(),
            threads: None,
            open_fds: None,
            max_fds: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryNow {
    pub rss_bytes: Option<f64>,
    /// As it was when it was read last, which is dear.
    pub pss_bytes: Option<f64>,
    /// The same with what resident memory has grown by since.
    pub held_bytes: Option<f64>,
    pub private_bytes: Option<f64>,
    pub swap_bytes: Option<f64>,
    pub page_tables_bytes: Option<f64>,
}

/// One thread of the VMM.
#[derive(Clone, Debug, PartialEq)]
pub struct ThreadReading {
    pub role: HostRole,
    pub tid: u32,
    pub name: String,
    pub cpu: CpuTimes,
    pub run_delay_seconds: Option<f64>,
}

/// One cgroup in which processes of the sandbox sit and nobody else's.
#[derive(Clone, Debug, PartialEq)]
pub struct CgroupReading {
    /// `sandbox` or `overhead`: which of Kata's two.
    pub kind: &'static str,
    pub path: String,
    /// The guest's time is within user time: cgroups do not tell it apart.
    pub cpu: Option<CpuTimes>,
    pub throttled_seconds: Option<f64>,
    pub throttled_periods: Option<f64>,
    pub periods: Option<f64>,
    pub memory_bytes: Option<f64>,
    pub memory_peak_bytes: Option<f64>,
    pub memory_limit_bytes: Option<f64>,
    pub oom_kills: Option<f64>,
    /// Resource (`cpu`, `memory`, `io`), `some` or `full`, seconds. Cumulative.
    pub pressure: Vec<(&'static str, &'static str, f64)>,
}

/// The pod's network as the host sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkReading {
    /// The VMM runs in the host's own network: what it counts is not the pod's.
    pub is_hosts: bool,
    pub interfaces: Vec<InterfaceReading>,
}

/// In the pod's direction: what a tap transmits, the pod receives. Cumulative.
#[derive(Clone, Debug, PartialEq)]
pub struct InterfaceReading {
    pub name: String,
    /// Mirrors the bytes of a pod interface: not to be added to them.
    pub is_tap: bool,
    pub receive: TrafficReading,
    pub transmit: TrafficReading,
    /// Dropped by queueing disciplines; only where asked for.
    pub qdisc_drops: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrafficReading {
    pub bytes: f64,
    pub packets: f64,
    pub errors: f64,
    pub drops: f64,
}

/// What programs in the kernel counted for one sandbox. Cumulative; empty is what no program counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelReading {
    /// Time from runnable to running.
    pub runqueue: Vec<(HostRole, Histogram)>,
    /// Exits from the guest that the VMM had to handle, by the kernel's reason.
    pub kvm_exits: Vec<(&'static str, u64)>,
    pub block: Vec<BlockReading>,
    pub oom_kills: Vec<(HostRole, u64)>,
}

/// Requests to one device, by what was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockReading {
    /// As the host names it: `vda`.
    pub device: String,
    /// `read`, `write`, `discard`, `flush`.
    pub operation: &'static str,
    pub bytes: u64,
    /// Begun; those in `latency` are done.
    pub requests: u64,
    pub latency: Histogram,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bounds in seconds, ascending.
    pub bounds: &'static [f64],
    /// Of each bucket alone; one more than bounds, the last for what is above them all.
    pub counts: Vec<u64>,
    pub sum_seconds: f64,
}

impl Histogram {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// One with the same bounds.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.sum_seconds += other.sum_seconds;
    }
}

/// What the sandbox costs beyond its workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CostStats {
    /// Host CPU that was not the workload's. Cumulative.
    pub overhead_cpu_seconds: Option<f64>,
    pub overhead_memory_bytes: Option<f64>,
    /// What the RuntimeClass declares.
    pub declared_memory_bytes: Option<f64>,
    pub declared_cpu_cores: Option<f64>,
    /// Resident memory over time. Cumulative.
    pub memory_byte_seconds: Option<f64>,
    /// Freed by the guest, still held by the host.
    pub reclaimable_bytes: Option<f64>,
}

/// Totals of one namespace since the agent began. They never fall; `None` is what was read of no sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamespaceStats {
    pub namespace: String,
    pub cpu_seconds: Option<f64>,
    pub memory_byte_seconds: Option<f64>,
    pub received_bytes: Option<f64>,
    pub transmitted_bytes: Option<f64>,
    pub read_bytes: Option<f64>,
    pub written_bytes: Option<f64>,
    pub sandboxes_started: f64,
}

/// How a sandbox ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndPage {
    /// What died first: `orderly`, `vmm`, `shim`, `virtiofsd`, `guest`, `oom`, `unknown`.
    pub cause: &'static str,
    /// Of what died first; empty: none, or nobody saw it.
    pub signal: String,
    pub exit_code: String,
}
