//! Sandboxes that live shorter than the time between two readings, and an agent that is restarted under load: what a
//! namespace used is what its processes really used, and nothing is ever counted twice or taken back.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod clock;
#[path = "../support/host.rs"]
mod host;
mod restart;
mod storm;
#[path = "../support/mod.rs"]
mod support;
mod watcher;

/// What this process has waited for is counted for all its threads together.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
