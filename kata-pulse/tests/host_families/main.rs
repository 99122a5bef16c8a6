//! The families of the host's accounting against real processes that use a known amount, as the roles of a sandbox: what
//! is held while it is held, what was used when it is over, and the final account of a sandbox that has ended.
//!
//! The truth is what the processes count themselves, what the kernel says of the living, and `wait4` of the ended.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod amounts;
mod closed;
#[path = "../support/host.rs"]
mod host;
mod living;
mod replaced;
#[path = "../support/mod.rs"]
mod support;

/// Processes of one program share its pages: another test's would change what each has of them.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
