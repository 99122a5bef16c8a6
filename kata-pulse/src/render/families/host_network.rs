//! The pod's network as the host counts it, in the pod's direction. A tap mirrors the pod interface: one of them, not both.

use super::host::host;
use super::{Family, Sink, Type};
use crate::model::{HostStats, TrafficReading};

const SOURCE: &str = "/proc/<vmm>/net/dev";

fn each(host: &HostStats, sink: &mut Sink<'_>, value: fn(&TrafficReading) -> f64) {
    for interface in &host.reading.network.interfaces {
        for (direction, traffic) in [("receive", &interface.receive), ("transmit", &interface.transmit)] {
            sink.put(&[("direction", direction), ("interface", &interface.name)], Some(value(traffic)));
        }
    }
}

pub(super) const BYTES: Family = host(
    "kata_sandbox_host_network_bytes_total",
    Type::Counter,
    "bytes",
    "direction, interface",
    "Bytes on the interfaces of the pod's network, in the pod's direction.",
    SOURCE,
    |host, sink| each(host, sink, |traffic| traffic.bytes),
);

pub(super) const PACKETS: Family = host(
    "kata_sandbox_host_network_packets_total",
    Type::Counter,
    "",
    "direction, interface",
    "Packets on the interfaces of the pod's network, in the pod's direction.",
    SOURCE,
    |host, sink| each(host, sink, |traffic| traffic.packets),
);

pub(super) const DROPS: Family = host(
    "kata_sandbox_host_network_drops_total",
    Type::Counter,
    "",
    "direction, interface",
    "Packets dropped at the interfaces of the pod's network; received ones at a tap are those the guest did not fetch.",
    SOURCE,
    |host, sink| each(host, sink, |traffic| traffic.drops),
);

pub(super) const ERRORS: Family = host(
    "kata_sandbox_host_network_errors_total",
    Type::Counter,
    "",
    "direction, interface",
    "Errors at the interfaces of the pod's network.",
    SOURCE,
    |host, sink| each(host, sink, |traffic| traffic.errors),
);

pub(super) const QDISC_DROPS: Family = host(
    "kata_sandbox_host_qdisc_drops_total",
    Type::Counter,
    "",
    "interface",
    "Packets dropped by the queueing disciplines of the pod's network; only with --qdisc.",
    "netlink, inside the pod's network namespace",
    |host, sink| {
        for interface in &host.reading.network.interfaces {
            sink.put(&[("interface", &interface.name)], interface.qdisc_drops);
        }
    },
);
