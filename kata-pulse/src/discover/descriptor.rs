//! The one place where a descriptor is given to tokio's reactor.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches `descriptor` for being readable. Must be called inside the runtime.
#[expect(unsafe_code, reason = "tokio cannot know that a type keeps its descriptor")]
pub fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open descriptor from here until it is dropped, and `AsyncFd` deregisters it
    // before it drops it; nobody else can close or replace it.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(io::Error::from)
}
