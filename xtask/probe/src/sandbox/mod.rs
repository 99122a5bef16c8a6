//! Those words of the agent's that its eBPF modules use.

#[path = "../../../../kata-pulse/src/sandbox/host.rs"]
pub mod host;
#[path = "../../../../kata-pulse/src/sandbox/process.rs"]
pub mod process;

pub use host::{CpuTimes, HostRole, IoTotals};
pub use process::{Pid, ProcessRole};
