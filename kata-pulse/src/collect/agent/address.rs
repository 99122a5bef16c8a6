//! Where a guest agent listens. Pure.

use std::path::PathBuf;

use crate::sandbox::{AgentAddress, SandboxId};

/// Longer than any socket's path can be.
const PATH_BYTES: usize = 108;
/// The agent's, in every release.
const PORT: u32 = 1024;

/// A way to a guest's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// A Unix socket of the VMM; the port is named in a handshake.
    Hybrid {
        socket: PathBuf,
        port: u32,
    },
    Vsock {
        cid: u32,
        port: u32,
    },
}

impl Door {
    /// `None`: an address that is none of ours to call, as the tunnel of a remote VM, or not this sandbox's.
    pub fn of(address: &AgentAddress, sandbox: &SandboxId) -> Option<Self> {
        let (scheme, rest) = address.0.trim().split_once("://")?;
        let (place, port) = rest.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port == PORT)?;
        let is_ours = |part: &str| part == sandbox.as_str() || part == sandbox.firecracker_prefix();
        match scheme {
            // The first three name the hypervisor, nobody and the host itself.
            "vsock" => {
                place.parse().ok().filter(|&cid| cid > 2 && cid != u32::MAX).map(|cid| Self::Vsock { cid, port })
            }
            "hvsock" if place.starts_with('/') && place.len() < PATH_BYTES && place.split('/').any(is_ours) => {
                Some(Self::Hybrid { socket: place.into(), port })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(address: &str) -> Option<Door> {
        Door::of(&AgentAddress(address.into()), &SandboxId::parse("aa").unwrap())
    }

    #[test]
    fn addresses_of_every_vmm() {
        assert_eq!(door("vsock://3405691582:1024"), Some(Door::Vsock { cid: 3_405_691_582, port: 1024 }));
        let socket = PathBuf::from("/run/kata/aa/root/kata.hvsock");
        assert_eq!(door("hvsock:///run/kata/aa/root/kata.hvsock:1024\n"), Some(Door::Hybrid { socket, port: 1024 }));
    }

    #[test]
    fn what_leads_nowhere_or_to_the_host_itself_is_no_door() {
        let long = format!("hvsock:///{}:1024", "x".repeat(200));
        for address in ["", ":1024", "vsock://2:1024", "vsock://4294967295:1024", "vsock://x:1024", "hvsock://a:1024"] {
            assert_eq!(door(address), None, "{address}");
        }
        for address in ["remote:///run/peerpod/aa.sock:1024", "hvsock:///aa/x", "hvsock:///aa/x:1", &long] {
            assert_eq!(door(address), None, "{address}");
        }
        for address in ["hvsock:///run/kata/bb/root/kata.hvsock:1024", "vsock://3:22"] {
            assert_eq!(door(address), None, "{address}");
        }
    }
}
