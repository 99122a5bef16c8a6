//! The host's accounting of a real QEMU machine under emulation, child of a shim, in a pod's network namespace: bytes on
//! its disk and its interfaces, time for which its vCPUs had to wait, and how it ended.
//!
//! Each test says first what the kernel itself counted, and panics if its machine did not do what it should; what the
//! page gets wrong is gathered and told at the end.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod ends;
#[path = "../support/host.rs"]
mod host;
mod rig;
mod starved;
#[path = "../support/mod.rs"]
mod support;
mod traffic;
