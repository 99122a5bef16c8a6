//! `container_memory_*`

use super::{Family, Type, Write, value};
use crate::model::MetricKind::Memory;
use crate::model::Stats;

const fn gauge(
    name: &'static str,
    help: &'static str,
    sources: [&'static str; 2],
    write: fn(&Stats) -> Option<f64>,
) -> Family {
    value(name, Type::Gauge, "bytes", Memory, help, sources, write)
}

const fn counter(
    name: &'static str,
    help: &'static str,
    source: &'static str,
    write: fn(&Stats) -> Option<f64>,
) -> Family {
    value(name, Type::Counter, "", Memory, help, ["", source], write)
}

pub(super) const CACHE: Family = gauge(
    "container_memory_cache",
    "Page cache memory.",
    ["guest: kata_guest_meminfo, cached + buffers", "task: memory cache or file"],
    |stats| stats.memory.cache_bytes,
);

pub(super) const MAPPED_FILE: Family = gauge(
    "container_memory_mapped_file",
    "Memory of mapped files.",
    ["guest: kata_guest_meminfo, mapped", "task: memory mapped_file or file_mapped"],
    |stats| stats.memory.mapped_file_bytes,
);

pub(super) const RSS: Family = gauge(
    "container_memory_rss",
    "Anonymous memory.",
    ["guest: kata_guest_meminfo, anon_pages", "task: memory rss or anon"],
    |stats| stats.memory.rss_bytes,
);

pub(super) const SWAP: Family = gauge(
    "container_memory_swap",
    "Swap in use.",
    ["guest: kata_guest_meminfo, swap_total - swap_free", "task: memory swap usage, without memory"],
    |stats| stats.memory.swap_bytes,
);

pub(super) const ACTIVE_FILE: Family = gauge(
    "container_memory_total_active_file_bytes",
    "Page cache used lately.",
    ["guest: kata_guest_meminfo, active_file", "task: memory active_file"],
    |stats| stats.memory.active_file_bytes,
);

pub(super) const INACTIVE_FILE: Family = gauge(
    "container_memory_total_inactive_file_bytes",
    "Page cache not used lately.",
    ["guest: kata_guest_meminfo, inactive_file", "task: memory inactive_file"],
    |stats| stats.memory.inactive_file_bytes,
);

pub(super) const USAGE: Family = gauge(
    "container_memory_usage_bytes",
    "Memory in use, page cache included.",
    ["guest: kata_guest_meminfo, mem_total - mem_free", "task: memory usage"],
    |stats| stats.memory.usage_bytes,
);

pub(super) const WORKING_SET: Family = gauge(
    "container_memory_working_set_bytes",
    "Memory in use without page cache that was not used lately.",
    [
        "guest: kata_guest_meminfo, usage - inactive_file",
        "task: memory usage - inactive_file; usage where the shim does not pass inactive_file on",
    ],
    |stats| stats.memory.working_set_bytes,
);

pub(super) const MAX_USAGE: Family = gauge(
    "container_memory_max_usage_bytes",
    "The most memory that was in use so far.",
    ["", "task: memory usage max"],
    |stats| stats.memory.max_usage_bytes,
);

pub(super) const KERNEL: Family = gauge(
    "container_memory_kernel_usage",
    "Memory that the kernel uses for the container.",
    ["", "task: memory kernel usage, of guests with cgroup v1"],
    |stats| stats.memory.kernel_bytes,
);

pub(super) const FILE_DIRTY: Family = gauge(
    "container_memory_file_dirty_bytes",
    "Page cache that has to be written to disk.",
    ["", "task: memory dirty or file_dirty"],
    |stats| stats.memory.file_dirty_bytes,
);

pub(super) const FILE_WRITEBACK: Family = gauge(
    "container_memory_file_writeback_bytes",
    "Page cache that is being written to disk.",
    ["", "task: memory writeback or file_writeback"],
    |stats| stats.memory.file_writeback_bytes,
);

pub(super) const FAILCNT: Family = counter(
    "container_memory_failcnt",
    "How often the memory limit was hit.",
    "task: memory usage failcnt, of guests with cgroup v1",
    |stats| stats.memory.limit_hits,
);

pub(super) const PGSCAN: Family = counter(
    "container_memory_pgscan_total",
    "Pages looked at while memory was reclaimed.",
    "task: memory pgscan",
    |stats| stats.memory.pages_scanned,
);

pub(super) const PGSTEAL: Family =
    counter("container_memory_pgsteal_total", "Pages reclaimed.", "task: memory pgsteal", |stats| {
        stats.memory.pages_stolen
    });

/// Both scopes hold the same number, as cAdvisor's do; major faults are among the faults.
pub(super) const FAILURES: Family = Family {
    labels: "failure_type, scope",
    write: Write::Series(|stats, sink| {
        let faults = [("pgfault", stats.memory.page_faults), ("pgmajfault", stats.memory.major_page_faults)];
        for (failure_type, value) in faults {
            for scope in ["container", "hierarchy"] {
                sink.put(&[("failure_type", failure_type), ("scope", scope)], value);
            }
        }
    }),
    ..value(
        "container_memory_failures_total",
        Type::Counter,
        "",
        Memory,
        "Cumulative page faults.",
        ["guest: kata_guest_vm_stat, pgfault and pgmajfault", "task: memory pgfault and pgmajfault"],
        |_| None,
    )
};
