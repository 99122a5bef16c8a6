//! What do the sources say? Raw samples in each source's own units, and when which sandbox is asked.

pub mod agent;
pub mod cri;
pub mod host;
pub mod kernel;
pub mod pace;
pub mod runtime;
pub mod schedule;
pub mod shim;
