//! The Go shim's messages: complete where guest and host have cgroup v1, full of gaps where they differ.

use super::{
    agent::{Answer, Block, Memory},
    v1, v2,
};

/// On a host with cgroup v1. Hierarchical values stand in the plain fields; of the `total_*` only inactive file.
pub(super) fn metrics_v1(answer: &Answer) -> v1::Metrics {
    v1::Metrics {
        hugetlb: answer.hugetlb.iter().map(|size| hugetlb_v1(size)).collect(),
        pids: Some(v1::PidsStat { current: answer.pids, limit: 0 }),
        cpu: Some(cpu_v1(answer)),
        memory: Some(memory_v1(answer)),
        blkio: Some(v1::BlkIoStat {
            io_service_bytes_recursive: answer.service_bytes.iter().map(block_v1).collect(),
            io_serviced_recursive: answer.serviced.iter().map(block_v1).collect(),
        }),
    }
}

pub(super) fn hugetlb_v1(size: &str) -> v1::HugetlbStat {
    v1::HugetlbStat { pagesize: size.to_owned(), ..Default::default() }
}

pub(super) fn cpu_v1(answer: &Answer) -> v1::CpuStat {
    v1::CpuStat {
        usage: Some(v1::CpuUsage {
            total: answer.total_ns,
            kernel: answer.kernel_ns,
            user: answer.user_ns,
            per_cpu: answer.per_cpu_ns.clone(),
        }),
        throttling: Some(v1::Throttle {
            periods: answer.periods,
            throttled_periods: answer.throttled_periods,
            throttled_time: answer.throttled_ns,
        }),
    }
}

pub(super) fn entry_v1(memory: Memory) -> v1::MemoryEntry {
    v1::MemoryEntry { limit: memory.limit, usage: memory.usage, max: memory.max, failcnt: memory.failcnt }
}

pub(super) fn block_v1(block: &Block) -> v1::BlkIoEntry {
    v1::BlkIoEntry {
        op: block.op.to_owned(),
        device: String::new(),
        major: block.major,
        minor: block.minor,
        value: block.value,
    }
}

fn memory_v1(answer: &Answer) -> v1::MemoryStat {
    let keys = if answer.use_hierarchy {
        ["total_cache", "total_rss", "total_mapped_file"]
    } else {
        ["cache", "rss", "mapped_file"]
    };
    let [cache, rss, mapped_file] = keys.map(|key| answer.stat_or_zero(key));
    v1::MemoryStat {
        cache,
        rss,
        mapped_file,
        pg_fault: answer.stat_or_zero("pgfault"),
        pg_maj_fault: answer.stat_or_zero("pgmajfault"),
        total_inactive_file: answer.stat_or_zero("total_inactive_file"),
        usage: Some(entry_v1(answer.usage)),
        swap: Some(entry_v1(answer.swap)),
        kernel: Some(entry_v1(answer.kernel)),
        kernel_tcp: Some(v1::MemoryEntry::default()),
        ..Default::default()
    }
}

/// On a host with cgroup v2: user and system time swapped, block devices folded into one, no peak.
pub(super) fn metrics_v2(answer: &Answer) -> v2::Metrics {
    v2::Metrics {
        pids: Some(v2::PidsStat { current: answer.pids, limit: 0 }),
        cpu: Some(v2::CpuStat {
            usage_usec: answer.total_ns / 1000,
            user_usec: answer.kernel_ns / 1000,
            system_usec: answer.user_ns / 1000,
            nr_periods: answer.periods,
            nr_throttled: answer.throttled_periods,
            throttled_usec: answer.throttled_ns / 1000,
        }),
        memory: Some(memory_v2(answer)),
        io: Some(v2::IoStat { usage: vec![last_device(&answer.service_bytes)] }),
        hugetlb: answer
            .hugetlb
            .iter()
            .map(|size| v2::HugeTlbStat { pagesize: (*size).to_owned(), ..Default::default() })
            .collect(),
    }
}

fn memory_v2(answer: &Answer) -> v2::MemoryStat {
    let stat = |key| answer.stat_or_zero(key);
    v2::MemoryStat {
        anon: stat("anon"),
        file: stat("file"),
        file_mapped: stat("file_mapped"),
        inactive_anon: stat("inactive_anon"),
        inactive_file: stat("inactive_file"),
        active_file: stat("active_file"),
        pgfault: stat("pgfault"),
        pgmajfault: stat("pgmajfault"),
        usage: answer.usage.usage,
        usage_limit: answer.usage.limit,
        swap_usage: answer.swap.usage,
        swap_limit: answer.swap.limit,
        ..Default::default()
    }
}

/// The last value of each kind under the last device's number; 0:0 and zeros without devices.
fn last_device(blocks: &[Block]) -> v2::IoEntry {
    let mut entry = v2::IoEntry::default();
    for block in blocks {
        (entry.major, entry.minor) = (block.major, block.minor);
        match block.op {
            "read" => entry.rbytes = block.value,
            "write" => entry.wbytes = block.value,
            "rios" => entry.rios = block.value,
            "wios" => entry.wios = block.value,
            _ => {}
        }
    }
    entry
}
