//! The guest's page by another door: the guest agent itself, for sandboxes whose shim must not be asked.
//!
//! In: the agent's address, which the shim told. Out: the text that the shim's page would have held. Cost: one
//! connection and one message of at most 4 MiB; the agent answers several clients. AF_VSOCK or, where the VMM offers
//! it, a Unix socket with a handshake of one line.

mod address;
mod client;

pub use address::Door;
pub use client::{AgentError, ask};
