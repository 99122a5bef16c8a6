//! `container_network_*`, per interface, in the pod's direction.

use super::{Family, Sink, Type, Write, pod};
use crate::model::MetricKind::Network;
use crate::model::{InterfaceStats, SandboxPage};

const fn network(name: &'static str, help: &'static str, write: fn(&SandboxPage, &mut Sink<'_>)) -> Family {
    let source = "guest: kata_guest_netdev_stat, all interfaces but loopback";
    let family = pod(name, Type::Counter, "", Network, help, source, write);
    Family { labels: "interface", write: Write::Each(write), ..family }
}

fn each(sandbox: &SandboxPage, sink: &mut Sink<'_>, value: fn(&InterfaceStats) -> Option<f64>) {
    for interface in sandbox.stats.iter().flat_map(|stats| &stats.interfaces) {
        sink.put(&[("interface", &interface.name)], value(interface));
    }
}

pub(super) const RECEIVE_BYTES: Family =
    network("container_network_receive_bytes_total", "Bytes received, cumulative.", |sandbox, sink| {
        each(sandbox, sink, |interface| interface.receive.bytes);
    });

pub(super) const RECEIVE_ERRORS: Family =
    network("container_network_receive_errors_total", "Errors while receiving, cumulative.", |sandbox, sink| {
        each(sandbox, sink, |interface| interface.receive.errors);
    });

pub(super) const RECEIVE_DROPPED: Family = network(
    "container_network_receive_packets_dropped_total",
    "Packets dropped while receiving, cumulative.",
    |sandbox, sink| {
        each(sandbox, sink, |interface| interface.receive.dropped);
    },
);

pub(super) const RECEIVE_PACKETS: Family =
    network("container_network_receive_packets_total", "Packets received, cumulative.", |sandbox, sink| {
        each(sandbox, sink, |interface| interface.receive.packets);
    });

pub(super) const TRANSMIT_BYTES: Family =
    network("container_network_transmit_bytes_total", "Bytes transmitted, cumulative.", |sandbox, sink| {
        each(sandbox, sink, |interface| interface.transmit.bytes);
    });

pub(super) const TRANSMIT_ERRORS: Family =
    network("container_network_transmit_errors_total", "Errors while transmitting, cumulative.", |sandbox, sink| {
        each(sandbox, sink, |interface| interface.transmit.errors);
    });

pub(super) const TRANSMIT_DROPPED: Family = network(
    "container_network_transmit_packets_dropped_total",
    "Packets dropped while transmitting, cumulative.",
    |sandbox, sink| {
        each(sandbox, sink, |interface| interface.transmit.dropped);
    },
);

pub(super) const TRANSMIT_PACKETS: Family =
    network("container_network_transmit_packets_total", "Packets transmitted, cumulative.", |sandbox, sink| {
        each(sandbox, sink, |interface| interface.transmit.packets);
    });
