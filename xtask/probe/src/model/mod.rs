//! Those words of the agent's model that its eBPF modules use.

#[path = "../../../../kata-pulse/src/model/host.rs"]
pub mod host;

pub use host::{BlockReading, Histogram, KernelReading};
