//! `container_network_*`, per interface, in the pod's direction; of pods only.

use super::{Family, Sink, Type, Write, value};
use crate::model::MetricKind::Network;
use crate::model::{InterfaceStats, Stats};

const fn network(name: &'static str, help: &'static str, write: fn(&Stats, &mut Sink<'_>)) -> Family {
    let sources = ["guest: kata_guest_netdev_stat, all interfaces but loopback", ""];
    let family = value(name, Type::Counter, "", Network, help, sources, |_| None);
    Family { labels: "interface", write: Write::Series(write), ..family }
}

fn each(stats: &Stats, sink: &mut Sink<'_>, value: fn(&InterfaceStats) -> Option<f64>) {
    for interface in &stats.interfaces {
        sink.put(&[("interface", &interface.name)], value(interface));
    }
}

pub(super) const RECEIVE_BYTES: Family =
    network("container_network_receive_bytes_total", "Bytes received, cumulative.", |stats, sink| {
        each(stats, sink, |interface| interface.receive.bytes);
    });

pub(super) const RECEIVE_ERRORS: Family =
    network("container_network_receive_errors_total", "Errors while receiving, cumulative.", |stats, sink| {
        each(stats, sink, |interface| interface.receive.errors);
    });

pub(super) const RECEIVE_DROPPED: Family = network(
    "container_network_receive_packets_dropped_total",
    "Packets dropped while receiving, cumulative.",
    |stats, sink| each(stats, sink, |interface| interface.receive.dropped),
);

pub(super) const RECEIVE_PACKETS: Family =
    network("container_network_receive_packets_total", "Packets received, cumulative.", |stats, sink| {
        each(stats, sink, |interface| interface.receive.packets);
    });

pub(super) const TRANSMIT_BYTES: Family =
    network("container_network_transmit_bytes_total", "Bytes transmitted, cumulative.", |stats, sink| {
        each(stats, sink, |interface| interface.transmit.bytes);
    });

pub(super) const TRANSMIT_ERRORS: Family =
    network("container_network_transmit_errors_total", "Errors while transmitting, cumulative.", |stats, sink| {
        each(stats, sink, |interface| interface.transmit.errors);
    });

pub(super) const TRANSMIT_DROPPED: Family = network(
    "container_network_transmit_packets_dropped_total",
    "Packets dropped while transmitting, cumulative.",
    |stats, sink| each(stats, sink, |interface| interface.transmit.dropped),
);

pub(super) const TRANSMIT_PACKETS: Family =
    network("container_network_transmit_packets_total", "Packets transmitted, cumulative.", |stats, sink| {
        each(stats, sink, |interface| interface.transmit.packets);
    });
