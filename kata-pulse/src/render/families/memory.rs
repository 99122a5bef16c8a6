//! `container_memory_*`

use super::{Family, Type, Write, pod};
use crate::model::MetricKind::Memory;

pub(super) const CACHE: Family = pod(
    "container_memory_cache",
    Type::Gauge,
    "bytes",
    Memory,
    "Page cache memory.",
    "guest: kata_guest_meminfo, cached + buffers",
    |sandbox, sink| sink.put(&[], sandbox.stats.as_ref().and_then(|stats| stats.memory.cache_bytes)),
);

pub(super) const MAPPED_FILE: Family = pod(
    "container_memory_mapped_file",
    Type::Gauge,
    "bytes",
    Memory,
    "Memory of mapped files.",
    "guest: kata_guest_meminfo, mapped",
    |sandbox, sink| sink.put(&[], sandbox.stats.as_ref().and_then(|stats| stats.memory.mapped_file_bytes)),
);

pub(super) const RSS: Family = pod(
    "container_memory_rss",
    Type::Gauge,
    "bytes",
    Memory,
    "Anonymous memory.",
    "guest: kata_guest_meminfo, anon_pages",
    |sandbox, sink| sink.put(&[], sandbox.stats.as_ref().and_then(|stats| stats.memory.rss_bytes)),
);

pub(super) const SWAP: Family = pod(
    "container_memory_swap",
    Type::Gauge,
    "bytes",
    Memory,
    "Swap in use.",
    "guest: kata_guest_meminfo, swap_total - swap_free",
    |sandbox, sink| sink.put(&[], sandbox.stats.as_ref().and_then(|stats| stats.memory.swap_bytes)),
);

pub(super) const ACTIVE_FILE: Family = pod(
    "container_memory_total_active_file_bytes",
    Type::Gauge,
    "bytes",
    Memory,
    "Page cache used lately.",
    "guest: kata_guest_meminfo, active_file",
    |sandbox, sink| sink.put(&[], sandbox.stats.as_ref().and_then(|stats| stats.memory.active_file_bytes)),
);

pub(super) const INACTIVE_FILE: Family = pod(
    "container_memory_total_inactive_file_bytes",
    Type::Gauge,
    "bytes",
    Memory,
    "Page cache not used lately.",
    "guest: kata_guest_meminfo, inactive_file",
    |sandbox, sink| sink.put(&[], sandbox.stats.as_ref().and_then(|stats| stats.memory.inactive_file_bytes)),
);

pub(super) const USAGE: Family = pod(
    "container_memory_usage_bytes",
    Type::Gauge,
    "bytes",
    Memory,
    "Memory in use, page cache included.",
    "guest: kata_guest_meminfo, mem_total - mem_free",
    |sandbox, sink| sink.put(&[], sandbox.stats.as_ref().and_then(|stats| stats.memory.usage_bytes)),
);

pub(super) const WORKING_SET: Family = pod(
    "container_memory_working_set_bytes",
    Type::Gauge,
    "bytes",
    Memory,
    "Memory in use without page cache that was not used lately.",
    "guest: kata_guest_meminfo, usage - inactive_file",
    |sandbox, sink| sink.put(&[], sandbox.stats.as_ref().and_then(|stats| stats.memory.working_set_bytes)),
);

/// Both scopes hold the same number, as cAdvisor's do; major faults are among the faults.
pub(super) const FAILURES: Family = Family {
    labels: "failure_type, scope",
    write: Write::Each(|sandbox, sink| {
        let Some(stats) = &sandbox.stats else { return };
        let faults = [("pgfault", stats.memory.page_faults), ("pgmajfault", stats.memory.major_page_faults)];
        for (failure_type, value) in faults {
            for scope in ["container", "hierarchy"] {
                sink.put(&[("failure_type", failure_type), ("scope", scope)], value);
            }
        }
    }),
    ..pod(
        "container_memory_failures_total",
        Type::Counter,
        "",
        Memory,
        "Cumulative page faults.",
        "guest: kata_guest_vm_stat, pgfault and pgmajfault",
        |_, _| {},
    )
};
