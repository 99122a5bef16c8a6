//! `container_fs_*`, per disk of the guest. Traffic through virtiofs is none of these.

use super::{Family, Sink, Type, Write, pod};
use crate::model::MetricKind::DiskIo;
use crate::model::{DiskStats, SandboxPage};

const fn disk(
    name: &'static str,
    help: &'static str,
    source: &'static str,
    write: fn(&SandboxPage, &mut Sink<'_>),
) -> Family {
    let family = pod(name, Type::Counter, "", DiskIo, help, source, write);
    Family { labels: "device", write: Write::Each(write), ..family }
}

fn each(sandbox: &SandboxPage, sink: &mut Sink<'_>, value: fn(&DiskStats) -> Option<f64>) {
    for disk in sandbox.stats.iter().flat_map(|stats| &stats.disks) {
        sink.put(&[("device", &disk.device)], value(disk));
    }
}

pub(super) const READ_BYTES: Family = disk(
    "container_fs_reads_bytes_total",
    "Bytes read, cumulative.",
    "guest: kata_guest_diskstat, sectors_read * 512",
    |sandbox, sink| {
        each(sandbox, sink, |disk| disk.read_bytes);
    },
);

pub(super) const READS: Family = disk(
    "container_fs_reads_total",
    "Reads completed, cumulative.",
    "guest: kata_guest_diskstat, reads",
    |sandbox, sink| {
        each(sandbox, sink, |disk| disk.reads);
    },
);

pub(super) const WRITTEN_BYTES: Family = disk(
    "container_fs_writes_bytes_total",
    "Bytes written, cumulative.",
    "guest: kata_guest_diskstat, sectors_written * 512",
    |sandbox, sink| {
        each(sandbox, sink, |disk| disk.written_bytes);
    },
);

pub(super) const WRITES: Family = disk(
    "container_fs_writes_total",
    "Writes completed, cumulative.",
    "guest: kata_guest_diskstat, writes",
    |sandbox, sink| {
        each(sandbox, sink, |disk| disk.writes);
    },
);
