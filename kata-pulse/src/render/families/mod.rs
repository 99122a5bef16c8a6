//! The table of all families that describe sandboxes: what is rendered, documented and tested is this.
//!
//! A new family is one row in one file of this folder. The agent's own families are in `telemetry/table.rs`.

mod cpu;
mod disk;
mod guest;
mod guest_devices;
mod host;
mod host_cgroup;
mod host_cost;
mod host_kernel;
mod host_network;
mod huge_pages;
mod memory;
mod network;
mod process;
mod sandbox;
mod spec;

use crate::model::{ContainerPage, GuestStats, HostStats, MetricKind, NamespaceStats, SandboxPage, Stats};

pub use super::text::Sink;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Gauge,
    Counter,
    Histogram,
}

impl Type {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// Which labels a family's series have besides its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The six standard labels, for pods as a whole and for containers.
    Cadvisor,
    /// `sandbox_id`, `namespace`, `pod`.
    Sandbox,
    /// None: about all sandboxes together.
    Agent,
}

/// A family's own labels, in alphabetical order.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

/// How a family's samples are had.
#[derive(Clone, Copy)]
pub enum Write {
    /// One of each pod or container.
    Value(fn(&Stats) -> Option<f64>),
    /// Several of each pod or container.
    Series(fn(&Stats, &mut Sink<'_>)),
    /// What is known of a container without its numbers.
    Container(fn(&ContainerPage, &mut Sink<'_>)),
    Guest(fn(&GuestStats, &mut Sink<'_>)),
    Host(fn(&HostStats, &mut Sink<'_>)),
    /// Several of each namespace.
    Namespace(fn(&NamespaceStats, &mut Sink<'_>)),
    Sandbox(fn(&SandboxPage, &mut Sink<'_>)),
    All(fn(&[SandboxPage], &mut Sink<'_>)),
}

impl std::fmt::Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Write")
    }
}

/// One family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub of_type: Type,
    pub unit: &'static str,
    /// The family's own labels, comma separated, for the documentation.
    pub labels: &'static str,
    /// Where a pod's numbers come from; empty: pods have no such series.
    pub of_pod: &'static str,
    /// Where a container's numbers come from; empty: containers have no such series.
    pub of_container: &'static str,
    pub scope: Scope,
    /// What switches it off; `None`: nothing.
    pub kind: Option<MetricKind>,
    pub write: Write,
}

impl Family {
    /// Whether the family still says something of a sandbox that is no more: what it has used, and what it was.
    pub fn outlives_its_sandbox(&self) -> bool {
        let says_what_was = [sandbox::INFO.name, host_kernel::ENDED.name, host::MEMORY_PEAK.name];
        self.of_type != Type::Gauge || says_what_was.contains(&self.name)
    }
}

/// In name order.
pub const ALL: &[Family] = &[
    disk::BLKIO,
    cpu::CFS_PERIODS,
    cpu::CFS_THROTTLED_PERIODS,
    cpu::CFS_THROTTLED_SECONDS,
    cpu::SYSTEM,
    cpu::USAGE,
    cpu::USER,
    spec::CREATION_TIME,
    disk::READ_BYTES,
    disk::READS,
    disk::USAGE,
    disk::WRITTEN_BYTES,
    disk::WRITES,
    huge_pages::FAILCNT,
    huge_pages::MAX_USAGE,
    huge_pages::USAGE,
    spec::LAST_SEEN,
    memory::CACHE,
    memory::FAILCNT,
    memory::FAILURES,
    memory::FILE_DIRTY,
    memory::FILE_WRITEBACK,
    memory::KERNEL,
    memory::MAPPED_FILE,
    memory::MAX_USAGE,
    memory::PGSCAN,
    memory::PGSTEAL,
    memory::RSS,
    memory::SWAP,
    memory::ACTIVE_FILE,
    memory::INACTIVE_FILE,
    memory::USAGE,
    memory::WORKING_SET,
    network::RECEIVE_BYTES,
    network::RECEIVE_ERRORS,
    network::RECEIVE_DROPPED,
    network::RECEIVE_PACKETS,
    network::TRANSMIT_BYTES,
    network::TRANSMIT_ERRORS,
    network::TRANSMIT_DROPPED,
    network::TRANSMIT_PACKETS,
    process::OOM_EVENTS,
    process::PROCESSES_COUNT,
    spec::CPU_PERIOD,
    spec::CPU_QUOTA,
    spec::CPU_SHARES,
    spec::MEMORY_LIMIT,
    spec::MEMORY_SWAP_LIMIT,
    spec::START_TIME,
    process::THREADS,
    process::THREADS_MAX,
    spec::ULIMITS,
    host_cost::NAMESPACE_CPU,
    host_cost::NAMESPACE_IO,
    host_cost::NAMESPACE_BYTE_SECONDS,
    host_cost::NAMESPACE_NETWORK,
    host_cost::NAMESPACE_STARTED,
    sandbox::LAST_COLLECT,
    sandbox::SOURCE,
    sandbox::SANDBOXES,
    host_kernel::BLOCK_BYTES,
    host_kernel::BLOCK_SECONDS,
    host_cgroup::PERIODS,
    host_cgroup::CPU,
    host_cgroup::THROTTLED_PERIODS,
    host_cgroup::THROTTLED_SECONDS,
    host_cgroup::MEMORY,
    host_cgroup::MEMORY_LIMIT,
    host_cgroup::MEMORY_PEAK,
    host_cgroup::OOM_KILLS,
    host_cgroup::PRESSURE,
    host::CONTEXT_SWITCHES,
    host::CPU,
    host_kernel::ENDED,
    guest::CPU,
    guest_devices::DISCARDED_BYTES,
    guest_devices::DISCARDS,
    guest_devices::FLUSHES,
    guest_devices::IN_PROGRESS,
    guest_devices::IO_SECONDS,
    guest_devices::WEIGHTED_IO_SECONDS,
    guest_devices::READ_BYTES,
    guest_devices::READ_SECONDS,
    guest_devices::READS_MERGED,
    guest_devices::READS,
    guest_devices::WRITE_SECONDS,
    guest_devices::WRITES_MERGED,
    guest_devices::WRITES,
    guest_devices::WRITTEN_BYTES,
    guest::FILESYSTEM_BYTES,
    guest::FILESYSTEM_INODES,
    guest::LOAD,
    guest::MEMORY,
    guest_devices::RECEIVE_BYTES,
    guest_devices::RECEIVE_DROPS,
    guest_devices::RECEIVE_ERRORS,
    guest_devices::RECEIVE_PACKETS,
    guest_devices::TRANSMIT_BYTES,
    guest_devices::TRANSMIT_DROPS,
    guest_devices::TRANSMIT_ERRORS,
    guest_devices::TRANSMIT_PACKETS,
    guest::OOM_KILLS,
    guest::PAGE_FAULTS,
    guest::TASKS,
    host_network::BYTES,
    host_network::DROPS,
    host_network::ERRORS,
    host_network::PACKETS,
    host_network::QDISC_DROPS,
    sandbox::INFO,
    host::IO_BLOCKED,
    host::IO_BYTES,
    host::IO_OPERATIONS,
    host_kernel::KVM_EXITS,
    host::MAX_FDS,
    host_cost::BYTE_SECONDS,
    host::MEMORY,
    host::MEMORY_NOMINAL,
    host::MEMORY_PEAK,
    host_cost::RECLAIMABLE,
    host_kernel::OOM_KILLS,
    host::OPEN_FDS,
    host_cost::OVERHEAD_CPU,
    host_cost::DECLARED_MEMORY,
    host_cost::DECLARED_CPU,
    host_cost::OVERHEAD_MEMORY,
    host::PAGE_FAULTS,
    host_kernel::RUNQUEUE,
    host::THREAD_CPU,
    host::THREAD_RUN_DELAY,
    host::THREADS,
    host::RUN_DELAY,
    host::VCPUS,
];

/// A family with one series per pod and container.
const fn value(
    name: &'static str,
    of_type: Type,
    unit: &'static str,
    kind: MetricKind,
    help: &'static str,
    [of_pod, of_container]: [&'static str; 2],
    write: fn(&Stats) -> Option<f64>,
) -> Family {
    let (kind, write) = (Some(kind), Write::Value(write));
    Family { name, help, of_type, unit, labels: "", of_pod, of_container, scope: Scope::Cadvisor, kind, write }
}
