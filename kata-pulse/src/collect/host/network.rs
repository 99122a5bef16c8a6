//! The pod's network by the counters of the VMM's own network namespace, in the pod's direction.
//!
//! In: `net/dev` of the VMM, or of the thread that runs Dragonball in its shim. Out: [`NetworkReading`]. Cost: one file.
//! Kata mirrors a pod interface (`eth0`) to a tap (`tap0_kata`): what the tap transmits, the guest receives. A macvtap
//! is the guest's NIC itself and keeps its direction; its descriptor tells it from a tap. A namespace that is the
//! host's, or ours, is no pod's: nothing in it can be given to one sandbox.

use std::os::fd::BorrowedFd;

use procfs::FromBufRead;
use procfs::net::{DeviceStatus, InterfaceDeviceStatus};

use super::files::{self, Scratch};
use crate::model::{InterfaceReading, NetworkReading, TrafficReading};

/// A pod with more has the first of them by name, pod interfaces before taps.
const MAX_INTERFACES: usize = 32;

/// Namespaces that are no pod's.
#[derive(Clone, Debug, Default)]
pub(super) struct HostNetworks(Vec<u64>);

impl HostNetworks {
    /// That of process 1; where that may not be looked at, that of kthreadd, which the kernel itself started. And ours.
    pub(super) fn read(procfs: BorrowedFd<'_>) -> Self {
        let of = |process: &str| files::read_namespace(procfs, &format!("{process}/ns/net"));
        let kthreadd = || {
            let comm = Scratch::default().read(procfs, "2/comm").is_ok_and(|comm| comm == b"kthreadd\n");
            comm.then(|| of("2")).flatten()
        };
        Self([of("1").or_else(kthreadd), of("self")].into_iter().flatten().collect())
    }
}

/// What the interfaces have counted, which never falls, whatever becomes of them.
#[derive(Clone, Debug, Default)]
pub(super) struct NetworkBook {
    is_hosts: bool,
    interfaces: Vec<Interface>,
}

#[derive(Clone, Debug)]
struct Interface {
    /// What it said last.
    last: InterfaceReading,
    /// What earlier ones of that name had counted.
    before: [TrafficReading; 2],
}

impl NetworkBook {
    pub(super) fn reading(&self) -> NetworkReading {
        let sum = |interface: &Interface| InterfaceReading {
            receive: plus(interface.last.receive, interface.before[0]),
            transmit: plus(interface.last.transmit, interface.before[1]),
            ..interface.last.clone()
        };
        NetworkReading { is_hosts: self.is_hosts, interfaces: self.interfaces.iter().map(sum).collect() }
    }

    /// Packets dropped by queueing disciplines, by interface.
    pub(super) fn take_qdisc_drops(&mut self, drops: &[(String, u64)]) {
        for interface in &mut self.interfaces {
            let known = drops.iter().find(|(name, _)| *name == interface.last.name);
            interface.last.qdisc_drops = known.map(|&(_, drops)| drops as f64);
        }
    }

    pub(super) fn take(&mut self, reading: NetworkReading) {
        self.is_hosts = reading.is_hosts;
        let mut interfaces = Vec::with_capacity(reading.interfaces.len());
        for mut now in reading.interfaces {
            let known = self.interfaces.iter().find(|known| known.last.name == now.name);
            // These are not read each time.
            now.qdisc_drops = now.qdisc_drops.or(known.and_then(|known| known.last.qdisc_drops));
            let before = known.map_or_else(Default::default, |known| {
                let began_anew = fell(known.last.receive, now.receive) || fell(known.last.transmit, now.transmit);
                let last = [known.last.receive, known.last.transmit];
                let add = |at: usize| if began_anew { plus(known.before[at], last[at]) } else { known.before[at] };
                [add(0), add(1)]
            });
            interfaces.push(Interface { last: now, before });
        }
        self.interfaces = interfaces;
    }
}

fn fell(before: TrafficReading, now: TrafficReading) -> bool {
    now.bytes < before.bytes || now.packets < before.packets
}

fn plus(one: TrafficReading, other: TrafficReading) -> TrafficReading {
    TrafficReading {
        bytes: one.bytes + other.bytes,
        packets: one.packets + other.packets,
        errors: one.errors + other.errors,
        drops: one.drops + other.drops,
    }
}

/// Reads the namespace of a process, or of one of its threads. `None`: it cannot be read, or not told whose it is.
pub(super) fn read(
    scratch: &mut Scratch,
    process: BorrowedFd<'_>,
    thread: Option<u32>,
    hosts: &HostNetworks,
    has_macvtap: bool,
) -> Option<NetworkReading> {
    let namespace = match thread {
        Some(tid) => files::read_namespace(process, &format!("task/{tid}/ns/net")),
        None => files::read_namespace(process, "ns/net"),
    }?;
    if hosts.0.contains(&namespace) {
        return Some(NetworkReading { is_hosts: true, interfaces: Vec::new() });
    }
    let text = match thread {
        Some(tid) => scratch.read_task(process, tid, "net/dev"),
        None => scratch.read(process, "net/dev"),
    };
    Some(NetworkReading { is_hosts: false, interfaces: parse(text.ok()?, has_macvtap)? })
}

/// Interfaces of `net/dev` that are the pod's, in its direction.
pub fn parse(text: &[u8], has_macvtap: bool) -> Option<Vec<InterfaceReading>> {
    let devices = InterfaceDeviceStatus::from_buf_read(text).ok()?.0;
    let mut interfaces: Vec<_> = devices
        .into_values()
        // The bridge of old releases mirrors as taps do.
        .filter(|device| device.name != "lo" && !is_numbered(&device.name, "br", "_kata"))
        .map(|device| interface(device, has_macvtap))
        .collect();
    interfaces.sort_by(|one, other| (one.is_tap, &one.name).cmp(&(other.is_tap, &other.name)));
    interfaces.truncate(MAX_INTERFACES);
    Some(interfaces)
}

fn interface(device: DeviceStatus, has_macvtap: bool) -> InterfaceReading {
    let is_tap = is_numbered(&device.name, "tap", "_kata");
    let traffic = |bytes: u64, packets: u64, errors: u64, drops: u64| TrafficReading {
        bytes: bytes as f64,
        packets: packets as f64,
        errors: errors as f64,
        drops: drops as f64,
    };
    let received = traffic(device.recv_bytes, device.recv_packets, device.recv_errs, device.recv_drop);
    let sent = traffic(device.sent_bytes, device.sent_packets, device.sent_errs, device.sent_drop);
    let (receive, transmit) = if is_tap && !has_macvtap { (sent, received) } else { (received, sent) };
    InterfaceReading { name: device.name, is_tap, receive, transmit, qdisc_drops: None }
}

/// Kata's names: `tap0_kata`.
fn is_numbered(name: &str, prefix: &str, suffix: &str) -> bool {
    let number = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use proptest::prelude::*;

    const HEADER: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

    fn text(lines: &str) -> String {
        format!("{HEADER}{lines}")
    }

    fn traffic(bytes: f64, packets: f64, errors: f64, drops: f64) -> TrafficReading {
        TrafficReading { bytes, packets, errors, drops }
    }

    #[test]
    fn a_tap_is_turned_round_and_a_macvtap_is_not() {
        let text = text(
            "    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n tap0_kata: 70 7 1 2 0 0 0 0 900 9 3 4 0 0 0 0\n\
             br0_kata: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 900 9 5 6 0 0 0 0 70 7 0 8 0 0 0 0\n",
        );
        let interfaces = parse(text.as_bytes(), false).unwrap();
        let names: Vec<_> = interfaces.iter().map(|interface| (interface.name.as_str(), interface.is_tap)).collect();
        assert_eq!(names, [("eth0", false), ("tap0_kata", true)]);
        for interface in &interfaces {
            assert_eq!((interface.receive.bytes, interface.transmit.bytes), (900.0, 70.0), "{}", interface.name);
        }
        assert_eq!(interfaces[0].receive, traffic(900.0, 9.0, 5.0, 6.0));
        // Dropped on its way out of the tap: the guest did not fetch it.
        assert_eq!(interfaces[1].receive.drops, 4.0);
        let macvtap = parse(text.as_bytes(), true).unwrap();
        assert_eq!((macvtap[1].receive.bytes, macvtap[1].transmit.bytes), (70.0, 900.0));
    }

    #[test]
    fn many_interfaces_are_cut() {
        let lines: String =
            (0..100).map(|number| format!("tap{number}_kata: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n")).collect();
        let interfaces = parse(text(&(lines + "eth0: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n")).as_bytes(), false).unwrap();
        assert_eq!((interfaces.len(), interfaces[0].name.as_str()), (MAX_INTERFACES, "eth0"));
    }

    #[test]
    fn an_interface_that_began_anew_does_not_fall() {
        let reading = |bytes: u32| NetworkReading {
            is_hosts: false,
            interfaces: parse(text(&format!("eth0: {bytes} {bytes} 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n")).as_bytes(), false)
                .unwrap(),
        };
        let mut book = NetworkBook::default();
        let mut seen = Vec::new();
        for bytes in [10, 30, 5, 7] {
            book.take(reading(bytes));
            seen.push(book.reading().interfaces[0].receive.bytes);
        }
        assert_eq!(seen, [10.0, 30.0, 35.0, 37.0]);
    }

    #[test]
    fn the_host_s_network_is_noticed() {
        let procfs = files::open_directory(std::path::Path::new("/proc")).unwrap();
        let hosts = HostNetworks::read(procfs.as_fd());
        assert!(!hosts.0.is_empty());
        let mut scratch = Scratch::default();
        let own = scratch.open_process(procfs.as_fd(), std::process::id()).unwrap();
        let reading = read(&mut scratch, own.as_fd(), None, &hosts, false).unwrap();
        assert_eq!(reading, NetworkReading { is_hosts: true, interfaces: Vec::new() });
        assert!(!read(&mut scratch, own.as_fd(), None, &HostNetworks::default(), false).unwrap().is_hosts);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400), words in "[a-z0-9: \n]{0,300}") {
            let _ = (parse(&bytes, false), parse(text(&words).as_bytes(), true));
        }
    }
}
