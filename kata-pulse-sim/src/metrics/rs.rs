//! runtime-rs's message: always v1. It looks for page faults under names no kernel has, so there are none; a cgroup v2
//! guest gives it no `total_*`, no rss and no cache.

use super::{
    agent::Answer,
    go::{block_v1, cpu_v1, entry_v1, hugetlb_v1},
    v1,
};

pub(super) fn metrics(answer: &Answer) -> v1::Metrics {
    v1::Metrics {
        hugetlb: answer.hugetlb.iter().rev().map(|size| hugetlb_v1(size)).collect(),
        pids: Some(v1::PidsStat { current: answer.pids, limit: 0 }),
        cpu: Some(cpu_v1(answer)),
        memory: Some(memory(answer)),
        blkio: Some(v1::BlkIoStat {
            io_service_bytes_recursive: answer.service_bytes.iter().map(block_v1).collect(),
            io_serviced_recursive: answer.serviced.iter().map(block_v1).collect(),
        }),
    }
}

fn memory(answer: &Answer) -> v1::MemoryStat {
    let stat = |key| answer.stat_or_zero(key);
    v1::MemoryStat {
        cache: answer.cache,
        rss: stat("rss"),
        mapped_file: stat("mapped_file"),
        inactive_anon: stat("inactive_anon"),
        inactive_file: stat("inactive_file"),
        active_file: stat("active_file"),
        total_cache: stat("total_cache"),
        total_rss: stat("total_rss"),
        total_mapped_file: stat("total_mapped_file"),
        total_inactive_anon: stat("total_inactive_anon"),
        total_inactive_file: stat("total_inactive_file"),
        total_active_file: stat("total_active_file"),
        usage: Some(entry_v1(answer.usage)),
        swap: Some(entry_v1(answer.swap)),
        kernel: Some(entry_v1(answer.kernel)),
        ..Default::default()
    }
}
