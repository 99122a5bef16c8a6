//! The agent's eBPF module, compiled on its own.

#[path = "../../../kata-pulse/src/discover/ebpf/mod.rs"]
pub mod ebpf;
