//! `kata_sandbox_*`: what a VM's processes use on the host, by role.

use super::{Family, Scope, Sink, Type, Write};
use crate::model::MetricKind::{Ebpf, Host};
use crate::model::{HostStats, RoleReading};
use crate::sandbox::{CpuTimes, HostRole};

/// A family that the host's files tell.
pub(super) const fn host(
    name: &'static str,
    of_type: Type,
    unit: &'static str,
    labels: &'static str,
    help: &'static str,
    source: &'static str,
    write: fn(&HostStats, &mut Sink<'_>),
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
        kind: Some(Host),
        write: Write::Host(write),
    }
}

/// A family that programs in the kernel count.
pub(super) const fn kernel(
    name: &'static str,
    of_type: Type,
    unit: &'static str,
    labels: &'static str,
    help: &'static str,
    source: &'static str,
    write: fn(&HostStats, &mut Sink<'_>),
) -> Family {
    Family { kind: Some(Ebpf), ..host(name, of_type, unit, labels, help, source, write) }
}

/// One sample by role.
fn by_role(host: &HostStats, sink: &mut Sink<'_>, value: fn(&RoleReading) -> Option<f64>) {
    for role in &host.reading.roles {
        sink.put(&[("role", role.role.as_str())], value(role));
    }
}

/// Two samples by role and one more label.
fn by_role_and(
    host: &HostStats,
    sink: &mut Sink<'_>,
    label: &'static str,
    names: [&str; 2],
    values: fn(&RoleReading) -> [Option<f64>; 2],
) {
    for role in &host.reading.roles {
        for (name, value) in names.into_iter().zip(values(role)) {
            sink.put(&[("role", role.role.as_str()), (label, name)], value);
        }
    }
}

/// By mode of CPU time.
pub(super) fn by_mode(cpu: CpuTimes) -> [(&'static str, f64); 3] {
    [("guest", cpu.guest), ("system", cpu.system), ("user", cpu.user)]
}

pub(super) const CPU: Family = host(
    "kata_sandbox_cpu_seconds_total",
    Type::Counter,
    "seconds",
    "mode, role",
    "CPU time that the sandbox's processes used on the host; time inside the guest is in no other mode.",
    "/proc/<pid>/stat, /proc/<pid>/task/*/stat; at the end the kernel's own account",
    |host, sink| {
        for role in &host.reading.roles {
            let runs_guests = matches!(role.role, HostRole::Vcpu | HostRole::Vmm);
            let modes = role.cpu.map(by_mode).into_iter().flatten();
            for (mode, value) in modes.filter(|(mode, _)| runs_guests || *mode != "guest") {
                sink.put(&[("mode", mode), ("role", role.role.as_str())], Some(value));
            }
        }
    },
);

pub(super) const MEMORY: Family = host(
    "kata_sandbox_memory_bytes",
    Type::Gauge,
    "bytes",
    "role, type",
    "Memory of the sandbox's processes on the host; rss counts memory shared between them in each, pss once.",
    "/proc/<pid>/stat, /proc/<pid>/status; pss and private: /proc/<pid>/smaps_rollup",
    |host, sink| {
        for role in &host.reading.roles {
            let memory = role.memory;
            for (of_type, value) in [
                ("page_tables", memory.page_tables_bytes),
                ("private", memory.private_bytes),
                ("pss", memory.pss_bytes),
                ("rss", memory.rss_bytes),
                ("swap", memory.swap_bytes),
            ] {
                sink.put(&[("role", role.role.as_str()), ("type", of_type)], value);
            }
        }
    },
);

pub(super) const MEMORY_PEAK: Family = host(
    "kata_sandbox_memory_peak_bytes",
    Type::Gauge,
    "bytes",
    "role",
    "Highest resident memory of the sandbox's processes so far.",
    "/proc/<pid>/status, VmHWM; at the end the kernel's own account",
    |host, sink| by_role(host, sink, |role| role.peak_rss_bytes),
);

pub(super) const IO_BYTES: Family = host(
    "kata_sandbox_io_bytes_total",
    Type::Counter,
    "bytes",
    "direction, role",
    "Bytes that the sandbox's processes caused to be read from and written to storage.",
    "/proc/<pid>/io, read_bytes and write_bytes; at the end the kernel's own account",
    |host, sink| {
        by_role_and(host, sink, "direction", ["read", "write"], |role| {
            [role.io.map(|io| io.read_bytes), role.io.map(|io| io.written_bytes)]
        });
    },
);

pub(super) const IO_OPERATIONS: Family = host(
    "kata_sandbox_io_operations_total",
    Type::Counter,
    "",
    "direction, role",
    "Read and write system calls of the sandbox's processes.",
    "/proc/<pid>/io, syscr and syscw; at the end the kernel's own account",
    |host, sink| {
        by_role_and(host, sink, "direction", ["read", "write"], |role| {
            [role.io.map(|io| io.read_calls), role.io.map(|io| io.write_calls)]
        });
    },
);

pub(super) const IO_BLOCKED: Family = host(
    "kata_sandbox_io_blocked_seconds_total",
    Type::Counter,
    "seconds",
    "role",
    "Time for which the sandbox's processes waited for block I/O; the kernel counts it only with delay accounting on.",
    "/proc/<pid>/stat, delayacct_blkio_ticks",
    |host, sink| by_role(host, sink, |role| role.io_blocked_seconds),
);

pub(super) const CONTEXT_SWITCHES: Family = host(
    "kata_sandbox_context_switches_total",
    Type::Counter,
    "",
    "role, type",
    "Context switches of the sandbox's threads.",
    "/proc/<pid>/task/*/status; at the end the kernel's own account",
    |host, sink| {
        by_role_and(host, sink, "type", ["involuntary", "voluntary"], |role| {
            [role.involuntary_switches, role.voluntary_switches]
        });
    },
);

pub(super) const PAGE_FAULTS: Family = host(
    "kata_sandbox_page_faults_total",
    Type::Counter,
    "",
    "role, type",
    "Page faults of the sandbox's processes on the host.",
    "/proc/<pid>/stat; at the end the kernel's own account",
    |host, sink| {
        by_role_and(host, sink, "type", ["major", "minor"], |role| [role.major_faults, role.minor_faults]);
    },
);

pub(super) const THREADS: Family = host(
    "kata_sandbox_threads",
    Type::Gauge,
    "",
    "role",
    "Threads of the sandbox's processes.",
    "/proc/<pid>/stat, /proc/<pid>/task",
    |host, sink| by_role(host, sink, |role| role.threads),
);

pub(super) const OPEN_FDS: Family = host(
    "kata_sandbox_open_fds",
    Type::Gauge,
    "",
    "role",
    "Open file descriptors of the sandbox's processes; of several processes of a role, of the one closest to its limit.",
    "/proc/<pid>/fd",
    |host, sink| by_role(host, sink, |role| role.open_fds),
);

pub(super) const MAX_FDS: Family = host(
    "kata_sandbox_max_fds",
    Type::Gauge,
    "",
    "role",
    "Soft limit of open file descriptors of the same process.",
    "/proc/<pid>/limits",
    |host, sink| by_role(host, sink, |role| role.max_fds),
);

pub(super) const RUN_DELAY: Family = host(
    "kata_sandbox_vcpu_run_delay_seconds_total",
    Type::Counter,
    "seconds",
    "",
    "Time for which virtual CPUs wanted to run and the host had no CPU for them, summed over them.",
    "/proc/<pid>/task/<tid>/schedstat of the threads that run the guest",
    |host, sink| sink.put(&[], host.reading.vcpu_run_delay_seconds),
);

pub(super) const VCPUS: Family = host(
    "kata_sandbox_vcpus",
    Type::Gauge,
    "",
    "",
    "Virtual CPUs of the VM.",
    "/proc/<pid>/fd, kvm-vcpu; else threads that run the guest",
    |host, sink| sink.put(&[], host.reading.vcpus),
);

pub(super) const MEMORY_NOMINAL: Family = host(
    "kata_sandbox_memory_nominal_bytes",
    Type::Gauge,
    "bytes",
    "",
    "Memory that the VM was given when it started.",
    "the VMM's command line",
    |host, sink| sink.put(&[], host.reading.memory_nominal_bytes),
);

pub(super) const THREAD_CPU: Family = host(
    "kata_sandbox_thread_cpu_seconds_total",
    Type::Counter,
    "seconds",
    "mode, name, role, tid",
    "CPU time of each thread of the VMM; only with --thread-detail.",
    "/proc/<pid>/task/<tid>/stat",
    |host, sink| {
        for thread in &host.reading.threads {
            let tid = thread.tid.to_string();
            for (mode, value) in by_mode(thread.cpu) {
                let labels = [("mode", mode), ("name", &thread.name), ("role", thread.role.as_str()), ("tid", &tid)];
                sink.put(&labels, Some(value));
            }
        }
    },
);

pub(super) const THREAD_RUN_DELAY: Family = host(
    "kata_sandbox_thread_run_delay_seconds_total",
    Type::Counter,
    "seconds",
    "name, role, tid",
    "Time for which each thread of the VMM wanted to run and did not; only with --thread-detail.",
    "/proc/<pid>/task/<tid>/schedstat",
    |host, sink| {
        for thread in &host.reading.threads {
            let tid = thread.tid.to_string();
            let labels = [("name", thread.name.as_str()), ("role", thread.role.as_str()), ("tid", &tid)];
            sink.put(&labels, thread.run_delay_seconds);
        }
    },
);
