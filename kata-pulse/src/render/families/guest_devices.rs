//! `kata_sandbox_guest_disk_*` and `kata_sandbox_guest_network_*`: devices as the guest sees them.

use super::guest::guest;
use super::{Family, Sink, Type, Write};
use crate::model::MetricKind::Guest;
use crate::model::{GuestDiskStats, GuestStats, InterfaceStats, Stats};

fn each_disk(guest: &GuestStats, sink: &mut Sink<'_>, value: fn(&GuestDiskStats) -> Option<f64>) {
    for disk in &guest.disks {
        sink.put(&[("device", &disk.device)], value(disk));
    }
}

const fn disk(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    source: &'static str,
    write: fn(&GuestStats, &mut Sink<'_>),
) -> Family {
    guest(name, Type::Counter, unit, "device", help, source, write)
}

pub(super) const DISCARDED_BYTES: Family = disk(
    "kata_sandbox_guest_disk_discarded_bytes_total",
    "bytes",
    "Bytes discarded by device.",
    "guest: kata_guest_diskstat, sectors_discarded * 512",
    |guest, sink| each_disk(guest, sink, |disk| disk.discarded_bytes),
);

pub(super) const DISCARDS: Family = disk(
    "kata_sandbox_guest_disk_discards_total",
    "",
    "Discards completed by device.",
    "guest: kata_guest_diskstat, discards",
    |guest, sink| each_disk(guest, sink, |disk| disk.discards),
);

pub(super) const FLUSHES: Family = disk(
    "kata_sandbox_guest_disk_flushes_total",
    "",
    "Flushes completed by device.",
    "guest: kata_guest_diskstat, flushes",
    |guest, sink| each_disk(guest, sink, |disk| disk.flushes),
);

pub(super) const IO_SECONDS: Family = disk(
    "kata_sandbox_guest_disk_io_seconds_total",
    "seconds",
    "Time for which the device had work.",
    "guest: kata_guest_diskstat, time_in_progress / 1000",
    |guest, sink| each_disk(guest, sink, |disk| disk.io_seconds),
);

pub(super) const WEIGHTED_IO_SECONDS: Family = disk(
    "kata_sandbox_guest_disk_io_weighted_seconds_total",
    "seconds",
    "Time that requests spent in the device's queue, all of them added.",
    "guest: kata_guest_diskstat, weighted_time_in_progress / 1000",
    |guest, sink| each_disk(guest, sink, |disk| disk.weighted_io_seconds),
);

pub(super) const READ_BYTES: Family = disk(
    "kata_sandbox_guest_disk_read_bytes_total",
    "bytes",
    "Bytes read by device.",
    "guest: kata_guest_diskstat, sectors_read * 512",
    |guest, sink| each_disk(guest, sink, |disk| disk.read_bytes),
);

pub(super) const READ_SECONDS: Family = disk(
    "kata_sandbox_guest_disk_read_seconds_total",
    "seconds",
    "Time that reads took, all of them added.",
    "guest: kata_guest_diskstat, time_reading / 1000",
    |guest, sink| each_disk(guest, sink, |disk| disk.read_seconds),
);

pub(super) const READS_MERGED: Family = disk(
    "kata_sandbox_guest_disk_reads_merged_total",
    "",
    "Reads merged with others.",
    "guest: kata_guest_diskstat, merged",
    |guest, sink| each_disk(guest, sink, |disk| disk.reads_merged),
);

pub(super) const READS: Family = disk(
    "kata_sandbox_guest_disk_reads_total",
    "",
    "Reads completed by device.",
    "guest: kata_guest_diskstat, reads",
    |guest, sink| each_disk(guest, sink, |disk| disk.reads),
);

pub(super) const WRITE_SECONDS: Family = disk(
    "kata_sandbox_guest_disk_write_seconds_total",
    "seconds",
    "Time that writes took, all of them added.",
    "guest: kata_guest_diskstat, time_writing / 1000",
    |guest, sink| each_disk(guest, sink, |disk| disk.write_seconds),
);

pub(super) const WRITES_MERGED: Family = disk(
    "kata_sandbox_guest_disk_writes_merged_total",
    "",
    "Writes merged with others.",
    "guest: kata_guest_diskstat, writes_merged",
    |guest, sink| each_disk(guest, sink, |disk| disk.writes_merged),
);

pub(super) const WRITES: Family = disk(
    "kata_sandbox_guest_disk_writes_total",
    "",
    "Writes completed by device.",
    "guest: kata_guest_diskstat, writes",
    |guest, sink| each_disk(guest, sink, |disk| disk.writes),
);

pub(super) const WRITTEN_BYTES: Family = disk(
    "kata_sandbox_guest_disk_written_bytes_total",
    "bytes",
    "Bytes written by device.",
    "guest: kata_guest_diskstat, sectors_written * 512",
    |guest, sink| each_disk(guest, sink, |disk| disk.written_bytes),
);

pub(super) const IN_PROGRESS: Family = Family {
    of_type: Type::Gauge,
    ..disk(
        "kata_sandbox_guest_disk_io_in_progress",
        "",
        "Requests that the device is working on.",
        "guest: kata_guest_diskstat, in_progress",
        |guest, sink| each_disk(guest, sink, |disk| disk.in_progress),
    )
};

fn each_interface(stats: &Stats, sink: &mut Sink<'_>, value: fn(&InterfaceStats) -> Option<f64>) {
    for interface in &stats.interfaces {
        sink.put(&[("interface", &interface.name)], value(interface));
    }
}

const fn network(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    source: &'static str,
    write: fn(&Stats, &mut Sink<'_>),
) -> Family {
    let family = guest(name, Type::Counter, unit, "interface", help, source, |_, _| {});
    // The same numbers as the pod's, whatever switches those off.
    Family { kind: Some(Guest), write: Write::Series(write), ..family }
}

pub(super) const RECEIVE_BYTES: Family = network(
    "kata_sandbox_guest_network_receive_bytes_total",
    "bytes",
    "Bytes received, loopback left out.",
    "guest: kata_guest_netdev_stat, recv_bytes",
    |stats, sink| each_interface(stats, sink, |interface| interface.receive.bytes),
);

pub(super) const RECEIVE_DROPS: Family = network(
    "kata_sandbox_guest_network_receive_drops_total",
    "",
    "Packets dropped while receiving.",
    "guest: kata_guest_netdev_stat, recv_drop",
    |stats, sink| each_interface(stats, sink, |interface| interface.receive.dropped),
);

pub(super) const RECEIVE_ERRORS: Family = network(
    "kata_sandbox_guest_network_receive_errors_total",
    "",
    "Errors while receiving.",
    "guest: kata_guest_netdev_stat, recv_errs",
    |stats, sink| each_interface(stats, sink, |interface| interface.receive.errors),
);

pub(super) const RECEIVE_PACKETS: Family = network(
    "kata_sandbox_guest_network_receive_packets_total",
    "",
    "Packets received.",
    "guest: kata_guest_netdev_stat, recv_packets",
    |stats, sink| each_interface(stats, sink, |interface| interface.receive.packets),
);

pub(super) const TRANSMIT_BYTES: Family = network(
    "kata_sandbox_guest_network_transmit_bytes_total",
    "bytes",
    "Bytes transmitted, loopback left out.",
    "guest: kata_guest_netdev_stat, sent_bytes",
    |stats, sink| each_interface(stats, sink, |interface| interface.transmit.bytes),
);

pub(super) const TRANSMIT_DROPS: Family = network(
    "kata_sandbox_guest_network_transmit_drops_total",
    "",
    "Packets dropped while transmitting.",
    "guest: kata_guest_netdev_stat, sent_drop",
    |stats, sink| each_interface(stats, sink, |interface| interface.transmit.dropped),
);

pub(super) const TRANSMIT_ERRORS: Family = network(
    "kata_sandbox_guest_network_transmit_errors_total",
    "",
    "Errors while transmitting.",
    "guest: kata_guest_netdev_stat, sent_errs",
    |stats, sink| each_interface(stats, sink, |interface| interface.transmit.errors),
);

pub(super) const TRANSMIT_PACKETS: Family = network(
    "kata_sandbox_guest_network_transmit_packets_total",
    "",
    "Packets transmitted.",
    "guest: kata_guest_netdev_stat, sent_packets",
    |stats, sink| each_interface(stats, sink, |interface| interface.transmit.packets),
);
