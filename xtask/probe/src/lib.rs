//! The agent's eBPF modules, compiled on their own.

#[path = "../../../kata-pulse/src/collect/kernel/mod.rs"]
pub mod account;
#[path = "../../../kata-pulse/src/discover/ebpf/mod.rs"]
pub mod ebpf;
#[path = "../../../kata-pulse/src/kernel/mod.rs"]
pub mod kernel;
pub mod model;
pub mod sandbox;
