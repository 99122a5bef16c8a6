//! `container_fs_*` and `container_blkio_*`, per disk as the guest sees it. Traffic through virtiofs is none of these.

use super::{Family, Sink, Type, Write, value};
use crate::model::MetricKind::{Disk, DiskIo};
use crate::model::{DiskStats, Stats};

const fn disk(
    name: &'static str,
    help: &'static str,
    sources: [&'static str; 2],
    write: fn(&Stats, &mut Sink<'_>),
) -> Family {
    let family = value(name, Type::Counter, "", DiskIo, help, sources, |_| None);
    Family { labels: "device", write: Write::Series(write), ..family }
}

fn each(stats: &Stats, sink: &mut Sink<'_>, value: fn(&DiskStats) -> Option<f64>) {
    for disk in &stats.disks {
        sink.put(&[("device", &disk.device)], value(disk));
    }
}

pub(super) const READ_BYTES: Family = disk(
    "container_fs_reads_bytes_total",
    "Bytes read, cumulative.",
    ["guest: kata_guest_diskstat, sectors_read * 512", "task: block I/O, bytes of reads"],
    |stats, sink| each(stats, sink, |disk| disk.read_bytes),
);

pub(super) const READS: Family = disk(
    "container_fs_reads_total",
    "Reads completed, cumulative.",
    ["guest: kata_guest_diskstat, reads", "task: block I/O, reads"],
    |stats, sink| each(stats, sink, |disk| disk.reads),
);

pub(super) const WRITTEN_BYTES: Family = disk(
    "container_fs_writes_bytes_total",
    "Bytes written, cumulative.",
    ["guest: kata_guest_diskstat, sectors_written * 512", "task: block I/O, bytes of writes"],
    |stats, sink| each(stats, sink, |disk| disk.written_bytes),
);

pub(super) const WRITES: Family = disk(
    "container_fs_writes_total",
    "Writes completed, cumulative.",
    ["guest: kata_guest_diskstat, writes", "task: block I/O, writes"],
    |stats, sink| each(stats, sink, |disk| disk.writes),
);

pub(super) const BLKIO: Family = Family {
    labels: "device, major, minor, operation",
    write: Write::Series(|stats, sink| {
        for disk in &stats.disks {
            let Some((major, minor)) = disk.numbers else { continue };
            let (major, minor) = (major.to_string(), minor.to_string());
            for (operation, value) in [("Read", disk.read_bytes), ("Write", disk.written_bytes)] {
                let labels = [
                    ("device", &*disk.device),
                    ("major", major.as_str()),
                    ("minor", minor.as_str()),
                    ("operation", operation),
                ];
                sink.put(&labels, value);
            }
        }
    }),
    ..value(
        "container_blkio_device_usage_total",
        Type::Counter,
        "bytes",
        DiskIo,
        "Bytes read and written by device.",
        ["", "task: block I/O, with the guest's numbers of the device"],
        |_| None,
    )
};

/// cAdvisor has it of containers only where the runtime tells, which is CRI-O.
pub(super) const USAGE: Family = Family {
    labels: "device",
    write: Write::Series(|stats, sink| sink.put(&[("device", "")], stats.writable_layer_bytes)),
    ..value(
        "container_fs_usage_bytes",
        Type::Gauge,
        "bytes",
        Disk,
        "Bytes that the container has written into its root file system.",
        ["", "CRI, not containerd: writable layer on the host"],
        |_| None,
    )
};
