//! The table of all families that describe sandboxes: what is rendered, documented and tested is this.
//!
//! A new family is one row in one file of this folder. The agent's own families are in `telemetry/table.rs`.

mod cpu;
mod disk;
mod memory;
mod network;
mod process;
mod sandbox;

use crate::model::{MetricKind, SandboxPage};

pub use super::text::Sink;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Gauge,
    Counter,
}

impl Type {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }
}

/// Which labels a family's series have besides its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The six standard labels, for the pod as a whole.
    Pod,
    /// `sandbox_id`, `namespace`, `pod`.
    Sandbox,
    /// None: about all sandboxes together.
    Agent,
}

/// A family's own labels, in alphabetical order.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

#[derive(Clone, Copy)]
pub enum Write {
    Each(fn(&SandboxPage, &mut Sink<'_>)),
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
    /// Where the numbers come from, for the documentation.
    pub source: &'static str,
    pub scope: Scope,
    /// What switches it off; `None`: nothing.
    pub kind: Option<MetricKind>,
    pub write: Write,
}

/// In name order.
pub const ALL: &[Family] = &[
    cpu::SYSTEM,
    cpu::USAGE,
    cpu::USER,
    disk::READ_BYTES,
    disk::READS,
    disk::WRITTEN_BYTES,
    disk::WRITES,
    memory::CACHE,
    memory::FAILURES,
    memory::MAPPED_FILE,
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
    process::THREADS,
    sandbox::LAST_COLLECT,
    sandbox::SOURCE,
    sandbox::SANDBOXES,
    sandbox::INFO,
];

/// A family of the pod level with one series per pod.
const fn pod(
    name: &'static str,
    of_type: Type,
    unit: &'static str,
    kind: MetricKind,
    help: &'static str,
    source: &'static str,
    write: fn(&SandboxPage, &mut Sink<'_>),
) -> Family {
    Family {
        name,
        help,
        of_type,
        unit,
        labels: "",
        source,
        scope: Scope::Pod,
        kind: Some(kind),
        write: Write::Each(write),
    }
}
