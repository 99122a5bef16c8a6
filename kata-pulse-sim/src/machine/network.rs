//! A pod's network as Kata makes it (kata.md 6.2, tcfilter): a namespace with the pod's `eth0` and the VM's tap, each
//! mirrored to the other; the far end of `eth0` is in a second namespace, the outside. Nothing touches the host's own.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What the guest is to call its own.
pub const GUEST_ADDRESS: &str = "10.77.0.2";
pub const OUTSIDE_ADDRESS: &str = "10.77.0.1";
const POD_INTERFACE: &str = "eth0";
const TAP: &str = "tap0_kata";
const QUIET: &str = "for one in all default; do echo 1 >/proc/sys/net/ipv6/conf/$one/disable_ipv6; done";

/// Both namespaces; they go with it.
#[derive(Debug)]
pub struct PodNetwork {
    name: String,
    mac: String,
}

impl PodNetwork {
    /// `name` must be new on this machine.
    pub fn make(name: &str) -> io::Result<Self> {
        let mut network = Self { name: name.to_owned(), mac: String::new() };
        let (pod, outside) = (network.pod_name(), network.outside_name());
        for namespace in [&pod, &outside] {
            run("ip", &["netns", "add", namespace])?;
            let path = format!("--net={}", place(namespace).display());
            // Neighbours are not to talk of themselves.
            run("nsenter", &[&path, "--", "sh", "-c", QUIET])?;
            run("ip", &["-n", namespace, "link", "set", "lo", "up"])?;
        }
        let veth = ["-n", &pod, "link", "add", POD_INTERFACE, "type", "veth", "peer", "name", "far", "netns", &outside];
        run("ip", &veth)?;
        run("ip", &["-n", &pod, "tuntap", "add", "dev", TAP, "mode", "tap"])?;
        run("ip", &["-n", &outside, "address", "add", &format!("{OUTSIDE_ADDRESS}/24"), "dev", "far"])?;
        run("ip", &["-n", &outside, "link", "set", "far", "up"])?;
        for (interface, other) in [(POD_INTERFACE, TAP), (TAP, POD_INTERFACE)] {
            run("ip", &["-n", &pod, "link", "set", interface, "up"])?;
            run("tc", &["-n", &pod, "qdisc", "add", "dev", interface, "ingress"])?;
            let filter = ["-n", &pod, "filter", "add", "dev", interface, "parent", "ffff:", "protocol", "all"];
            let mirror = ["u32", "match", "u8", "0", "0", "action", "mirred", "egress", "redirect", "dev", other];
            run("tc", &[&filter[..], &mirror[..]].concat())?;
        }
        let address = Command::new("nsenter")
            .args([&format!("--net={}", network.pod().display()), "--", "ip", "-brief", "link", "show", POD_INTERFACE])
            .output()?;
        let line = String::from_utf8_lossy(&address.stdout).into_owned();
        network.mac = line.split_ascii_whitespace().nth(2).unwrap_or_default().to_owned();
        if network.mac.is_empty() { Err(io::Error::other(format!("no address in {line:?}"))) } else { Ok(network) }
    }

    fn pod_name(&self) -> String {
        format!("{}-pod", self.name)
    }

    fn outside_name(&self) -> String {
        format!("{}-out", self.name)
    }

    /// The namespace that the VMM belongs into.
    pub fn pod(&self) -> PathBuf {
        place(&self.pod_name())
    }

    /// Of the pod's interface, and so of the guest's.
    pub fn mac(&self) -> &str {
        &self.mac
    }

    pub fn tap(&self) -> &'static str {
        TAP
    }

    pub fn interface(&self) -> &'static str {
        POD_INTERFACE
    }

    /// A socket outside, which the guest can connect to.
    pub fn listen_outside(&self, port: u16) -> io::Result<TcpListener> {
        let namespace = File::open(place(&self.outside_name()))?;
        let listening = std::thread::spawn(move || {
            // Of this thread only, which ends at once; the socket stays where it was made.
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpListener::bind((OUTSIDE_ADDRESS, port))
        });
        listening.join().map_err(|_| io::Error::other("the listening thread panicked"))?
    }
}

impl Drop for PodNetwork {
    fn drop(&mut self) {
        for namespace in [self.pod_name(), self.outside_name()] {
            // One that was never made cannot be removed.
            let _ = run("ip", &["netns", "delete", &namespace]);
        }
    }
}

fn place(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}

fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{program} {}: {}: {why}", arguments.join(" "), output.status)))
}
