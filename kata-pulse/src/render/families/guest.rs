//! `kata_sandbox_guest_*`: the guest as a machine.

use super::{Family, Scope, Sink, Type, Write};
use crate::model::MetricKind::Guest;
use crate::model::{CPU_MODES, FilesystemStats, GuestStats, LOAD_PERIODS, MEMORY_TYPES, SIZE_TYPES};

/// A family of the guest; `source` is the shim's or the agent's page.
pub(super) const fn guest(
    name: &'static str,
    of_type: Type,
    unit: &'static str,
    labels: &'static str,
    help: &'static str,
    source: &'static str,
    write: fn(&GuestStats, &mut Sink<'_>),
) -> Family {
    Family {
        name,
        help,
        of_type,
        unit,
        labels,
        of_pod: source,
        of_container: "",
        scope: Scope::Sandbox,
        kind: Some(Guest),
        write: Write::Guest(write),
    }
}

fn each<const N: usize>(sink: &mut Sink<'_>, label: &'static str, names: &[&str; N], values: &[Option<f64>; N]) {
    for (name, value) in names.iter().zip(values) {
        sink.put(&[(label, name)], *value);
    }
}

pub(super) const CPU: Family = guest(
    "kata_sandbox_guest_cpu_seconds_total",
    Type::Counter,
    "seconds",
    "mode",
    "CPU time of the guest by mode.",
    "guest: kata_guest_cpu_time{cpu=\"total\"}, unit told at run time",
    |guest, sink| each(sink, "mode", &CPU_MODES, &guest.cpu_seconds),
);

pub(super) const MEMORY: Family = guest(
    "kata_sandbox_guest_memory_bytes",
    Type::Gauge,
    "bytes",
    "type",
    "Memory of the guest by type; types overlap.",
    "guest: kata_guest_meminfo; cache is cached + buffers, working_set is total - free - inactive_file",
    |guest, sink| each(sink, "type", &MEMORY_TYPES, &guest.memory_bytes),
);

pub(super) const LOAD: Family = guest(
    "kata_sandbox_guest_load",
    Type::Gauge,
    "",
    "period",
    "Load of the guest over the last 1, 5 and 15 minutes.",
    "guest: kata_guest_load",
    |guest, sink| each(sink, "period", &LOAD_PERIODS, &guest.load),
);

pub(super) const TASKS: Family = guest(
    "kata_sandbox_guest_tasks",
    Type::Gauge,
    "",
    "type",
    "Tasks of the guest, its kernel's threads included: all of them, and those that can run now.",
    "guest: kata_guest_tasks, max and cur",
    |guest, sink| each(sink, "type", &["runnable", "total"], &[guest.tasks_runnable, guest.tasks_total]),
);

pub(super) const PAGE_FAULTS: Family = guest(
    "kata_sandbox_guest_page_faults_total",
    Type::Counter,
    "",
    "type",
    "Page faults in the guest; major ones are among all.",
    "guest: kata_guest_vm_stat, pgfault and pgmajfault",
    |guest, sink| each(sink, "type", &["all", "major"], &[guest.page_faults, guest.major_page_faults]),
);

pub(super) const OOM_KILLS: Family = guest(
    "kata_sandbox_guest_oom_kills_total",
    Type::Counter,
    "",
    "",
    "Processes that the guest's kernel killed for want of memory.",
    "guest: kata_guest_vm_stat{item=\"oom_kill\"}",
    |guest, sink| sink.put(&[], guest.oom_kills),
);

fn each_filesystem(
    guest: &GuestStats,
    sink: &mut Sink<'_>,
    values: fn(&FilesystemStats) -> &[Option<f64>; SIZE_TYPES.len()],
) {
    for filesystem in &guest.filesystems {
        for (size, value) in SIZE_TYPES.iter().zip(values(filesystem)) {
            let labels = [("device", &*filesystem.device), ("mount", &*filesystem.mount), ("type", size)];
            sink.put(&labels, *value);
        }
    }
}

pub(super) const FILESYSTEM_BYTES: Family = guest(
    "kata_sandbox_guest_filesystem_bytes",
    Type::Gauge,
    "bytes",
    "device, mount, type",
    "Size of the guest's file systems; blocks reserved for root count as available.",
    "guest: kata_guest_filesystem_bytes, since Kata 3.32",
    |guest, sink| each_filesystem(guest, sink, |filesystem| &filesystem.bytes),
);

pub(super) const FILESYSTEM_INODES: Family = guest(
    "kata_sandbox_guest_filesystem_inodes",
    Type::Gauge,
    "",
    "device, mount, type",
    "Inodes of the guest's file systems.",
    "guest: kata_guest_filesystem_inodes, since Kata 3.32",
    |guest, sink| each_filesystem(guest, sink, |filesystem| &filesystem.inodes),
);
