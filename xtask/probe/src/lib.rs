//! The agent's eBPF modules, compiled on their own.

#[path = "../../../kata-pulse/src/discover/ebpf/mod.rs"]
pub mod ebpf;
#[path = "../../../kata-pulse/src/kernel/mod.rs"]
pub mod kernel;
