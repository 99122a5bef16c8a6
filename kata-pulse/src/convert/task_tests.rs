//! Messages built field by field, one for each row of the quirk table, and the real ones.

use super::*;
use crate::convert::quirks::QUIRKS;

const GO: TaskContext = TaskContext {
    runtime: Some(Runtime::Go),
    version: Some(Version::new(4, 1, 0)),
    has_cpu_quota: true,
    guest_disks: None,
    guest_cpu_seconds: None,
};
const RUST: TaskContext = TaskContext { runtime: Some(Runtime::Rust), ..GO };
const MB: u64 = 1 << 20;

fn stats(metrics: TaskMetrics, context: TaskContext) -> Stats {
    convert_task(&metrics, context, &mut ContainerHistory::default()).0
}

fn v1_message(memory: v1::MemoryStat) -> v1::Metrics {
    v1::Metrics { memory: Some(memory), ..Default::default() }
}

fn v1(metrics: v1::Metrics) -> TaskMetrics {
    TaskMetrics::V1(Box::new(metrics))
}

fn v2(metrics: v2::Metrics) -> TaskMetrics {
    TaskMetrics::V2(Box::new(metrics))
}

fn entry(limit: u64, usage: u64, max: u64) -> Option<v1::MemoryEntry> {
    Some(v1::MemoryEntry { limit, usage, max, failcnt: 0 })
}

/// A cgroup v1 guest through any shim.
fn memory_of_v1_guest() -> v1::MemoryStat {
    v1::MemoryStat {
        cache: 20 * MB,
        rss: 30 * MB,
        mapped_file: MB,
        pg_fault: 100,
        pg_maj_fault: 10,
        total_inactive_file: 5 * MB,
        usage: entry(UNLIMITED_V1, 60 * MB, 70 * MB),
        swap: entry(UNLIMITED_V1, 61 * MB, 0),
        kernel: entry(UNLIMITED_V1, 2 * MB, 0),
        ..Default::default()
    }
}

fn memory_v2(limit: u64) -> v2::MemoryStat {
    v2::MemoryStat {
        anon: 30 * MB,
        file: 20 * MB,
        file_mapped: MB,
        inactive_file: 5 * MB,
        active_file: 6 * MB,
        usage: 60 * MB,
        usage_limit: limit,
        swap_usage: 0,
        ..Default::default()
    }
}

fn mb(value: Option<f64>) -> Option<f64> {
    value.map(|bytes| bytes / MB as f64)
}

#[test]
fn a_cgroup_v1_guest_through_the_go_shim_is_complete() {
    let memory = stats(v1(v1_message(memory_of_v1_guest())), GO).memory;
    assert_eq!((mb(memory.usage_bytes), mb(memory.working_set_bytes)), (Some(60.0), Some(55.0)));
    assert_eq!((mb(memory.rss_bytes), mb(memory.cache_bytes)), (Some(30.0), Some(20.0)));
    assert_eq!((memory.page_faults, memory.major_page_faults), (Some(100.0), Some(10.0)));
    assert_eq!((mb(memory.max_usage_bytes), mb(memory.kernel_bytes)), (Some(70.0), Some(2.0)));
    assert_eq!((mb(memory.swap_bytes), memory.limit_hits), (Some(1.0), Some(0.0)), "memsw holds memory too");
    assert_eq!(memory.active_file_bytes, None, "which this shim does not pass on");
}

#[test]
fn hierarchical_numbers_come_first() {
    let memory = v1::MemoryStat { total_rss: 31 * MB, total_cache: 21 * MB, ..memory_of_v1_guest() };
    let memory = stats(v1(v1_message(memory)), RUST).memory;
    assert_eq!((mb(memory.rss_bytes), mb(memory.cache_bytes)), (Some(31.0), Some(21.0)));
}

#[test]
fn user_and_system_time_of_gos_v2_message_are_swapped_and_of_no_other() {
    let cpu = v2::CpuStat { usage_usec: 5_000_000, user_usec: 1_000_000, system_usec: 4_000_000, ..Default::default() };
    let message = v2::Metrics { cpu: Some(cpu), memory: Some(memory_v2(UNLIMITED_V2)), ..Default::default() };
    let cpu = stats(v2(message.clone()), GO).cpu;
    assert_eq!((cpu.usage_seconds, cpu.user_seconds, cpu.system_seconds), (Some(5.0), Some(4.0), Some(1.0)));
    let unknown = TaskContext { runtime: None, ..GO };
    assert_eq!(stats(v2(message), unknown).cpu.user_seconds, Some(4.0), "no other shim speaks these words");
    let usage = v1::CpuUsage { total: 5_000_000_000, user: 4_000_000_000, kernel: 1_000_000_000, per_cpu: Vec::new() };
    let cpu = v1::CpuStat { usage: Some(usage), throttling: None };
    let cpu = stats(v1(v1::Metrics { cpu: Some(cpu), ..Default::default() }), GO).cpu;
    assert_eq!((cpu.user_seconds, cpu.system_seconds), (Some(4.0), Some(1.0)));
}

#[test]
fn microseconds_taken_for_nanoseconds_are_told_by_what_the_guest_used() {
    let usage = v1::CpuUsage { total: 5_000_000, user: 4_000_000, kernel: 1_000_000, per_cpu: Vec::new() };
    let message = || {
        let cpu = Some(v1::CpuStat { usage: Some(usage.clone()), throttling: None });
        v1(v1::Metrics { cpu, ..v1_message(memory_of_v2_guest()) })
    };
    let old = |guest| TaskContext { version: Some(Version::new(3, 8, 0)), guest_cpu_seconds: guest, ..GO };
    assert_eq!(stats(message(), old(Some(6.0))).cpu.usage_seconds, Some(5.0));
    assert_eq!(stats(message(), old(Some(0.1))).cpu.usage_seconds, Some(0.005), "a newer guest image");
    assert_eq!(stats(message(), old(None)).cpu.usage_seconds, None, "not known yet");
    assert_eq!(stats(message(), GO).cpu.usage_seconds, Some(0.005));
    let unknown = TaskContext { version: None, ..GO };
    assert_eq!(stats(message(), unknown).cpu.usage_seconds, Some(0.005));
}

#[test]
fn a_unit_once_shown_stays_or_nothing_is_shown() {
    let message = |total| {
        let usage = v1::CpuUsage { total, ..Default::default() };
        let cpu = Some(v1::CpuStat { usage: Some(usage), throttling: None });
        v1(v1::Metrics { cpu, ..v1_message(memory_of_v2_guest()) })
    };
    let old = |guest| TaskContext { version: Some(Version::new(3, 8, 0)), guest_cpu_seconds: Some(guest), ..GO };
    let show = |history: &mut ContainerHistory, total, context| {
        convert_task(&message(total), context, history).0.cpu.usage_seconds
    };
    // Several CPUs were busy since the guest's own page was taken.
    let mut history = ContainerHistory::default();
    assert_eq!(show(&mut history, 5_000_000, old(5.0)), Some(5.0));
    assert_eq!(show(&mut history, 9_000_000, old(5.0)), Some(9.0));
    // An idle container of a newer guest looked like an old one until it worked.
    assert_eq!(show(&mut history, 900_000_000, old(6.0)), None);
    assert_eq!(show(&mut history, 990_000_000, old(900.0)), None);
    // The release became known when times were shown already.
    let mut history = ContainerHistory::default();
    assert_eq!(show(&mut history, 5_000_000, TaskContext { version: None, ..GO }), Some(0.005));
    assert_eq!(show(&mut history, 6_000_000, old(6.0)), Some(0.006));
}

#[test]
fn zero_cpu_and_zero_tasks_of_a_container_that_runs_are_unknown() {
    let usage = v1::CpuUsage { total: 0, user: 0, kernel: 0, per_cpu: Vec::new() };
    let cpu = Some(v1::CpuStat { usage: Some(usage), throttling: None });
    let pids = Some(v1::PidsStat { current: 0, limit: 0 });
    let stats = stats(v1(v1::Metrics { cpu, pids, ..Default::default() }), GO);
    assert_eq!((stats.cpu, stats.processes.threads), (CpuStats::default(), None));
}

/// A cgroup v2 guest through the Go shim's v1 message: nothing of `memory.stat` comes through.
fn memory_of_v2_guest() -> v1::MemoryStat {
    v1::MemoryStat {
        pg_fault: 284,
        pg_maj_fault: 42,
        usage: entry(268_435_456, 1_904_640, 2_031_616),
        swap: entry(268_435_456, 0, 0),
        kernel: entry(UNLIMITED_V2, 0, 0),
        ..Default::default()
    }
}

#[test]
fn a_cgroup_v2_guest_through_gos_v1_message_has_no_memory_split() {
    let memory = stats(v1(v1_message(memory_of_v2_guest())), GO).memory;
    assert_eq!((memory.rss_bytes, memory.cache_bytes, memory.mapped_file_bytes), (None, None, None));
    assert_eq!((memory.inactive_file_bytes, memory.active_file_bytes), (None, None));
    assert_eq!((memory.usage_bytes, memory.working_set_bytes), (Some(1_904_640.0), Some(1_904_640.0)));
    assert_eq!((memory.limit_hits, memory.kernel_bytes, memory.swap_bytes), (None, None, Some(0.0)));
    assert_eq!((memory.page_faults, memory.max_usage_bytes), (Some(284.0), Some(2_031_616.0)));
}

#[test]
fn a_cgroup_v2_guest_through_runtime_rs_has_its_inactive_page_cache() {
    let memory = v1::MemoryStat {
        inactive_file: 1_544_192,
        usage: entry(268_435_456, 2_027_520, 2_031_616),
        swap: entry(268_435_456, 0, 0),
        kernel: entry(UNLIMITED_V2, 0, 0),
        ..Default::default()
    };
    let memory = stats(v1(v1_message(memory)), RUST).memory;
    assert_eq!(memory.working_set_bytes, Some(483_328.0));
    assert_eq!((memory.inactive_file_bytes, memory.rss_bytes), (Some(1_544_192.0), None));
    assert_eq!((memory.page_faults, memory.major_page_faults), (None, None), "keys that no kernel has");
    assert_eq!(memory.file_writeback_bytes, None);
}

#[test]
fn a_cgroup_v2_guest_through_gos_v2_message_has_complete_memory() {
    let message = v2::Metrics { memory: Some(memory_v2(UNLIMITED_V2)), ..Default::default() };
    let memory = stats(v2(message), GO).memory;
    assert_eq!((mb(memory.rss_bytes), mb(memory.cache_bytes)), (Some(30.0), Some(20.0)));
    assert_eq!((mb(memory.working_set_bytes), mb(memory.active_file_bytes)), (Some(55.0), Some(6.0)));
    assert_eq!((memory.max_usage_bytes, memory.limit_hits), (None, None), "never sent");
}

#[test]
fn a_cgroup_v1_guest_through_gos_v2_message_lacks_the_split_and_counts_memory_as_swap() {
    let memory = v2::MemoryStat { anon: 0, file: 0, file_mapped: 0, swap_usage: 62 * MB, ..memory_v2(UNLIMITED_V1) };
    let message = v2::Metrics { memory: Some(memory), ..Default::default() };
    let memory = stats(v2(message), GO).memory;
    assert_eq!((memory.rss_bytes, memory.cache_bytes, memory.mapped_file_bytes), (None, None, None));
    assert_eq!((mb(memory.swap_bytes), mb(memory.working_set_bytes)), (Some(2.0), Some(55.0)));
}

#[test]
fn memory_of_0_is_unknown() {
    let memory = v2::MemoryStat { usage: 0, max_usage: 0, ..memory_v2(UNLIMITED_V2) };
    let old = TaskContext { version: Some(Version::new(3, 8, 0)), ..GO };
    for context in [old, GO] {
        let message = v2::Metrics { memory: Some(memory), ..Default::default() };
        let memory = stats(v2(message), context).memory;
        assert_eq!((memory.usage_bytes, memory.working_set_bytes), (None, None), "{context:?}");
        let lost = v2::MemoryStat { anon: 0, file: 0, file_mapped: 0, usage: 0, usage_limit: 0, ..Default::default() };
        let message = v2::Metrics { memory: Some(lost), ..Default::default() };
        let memory = stats(v2(message), context).memory;
        assert_eq!((memory.rss_bytes, memory.cache_bytes, memory.mapped_file_bytes), (None, None, None));
    }
}

#[test]
fn neither_cache_nor_anonymous_memory_is_not_reported_rather_than_zero() {
    // per-CPU times show that the guest has cgroup v1; its use_hierarchy is off and rss was lost.
    let usage = v1::CpuUsage { per_cpu: vec![1, 2], ..Default::default() };
    let cpu = Some(v1::CpuStat { usage: Some(usage), throttling: None });
    let memory = v1::MemoryStat { usage: entry(UNLIMITED_V1, 2 * MB, 0), ..Default::default() };
    let memory = stats(v1(v1::Metrics { cpu, ..v1_message(memory) }), GO).memory;
    assert_eq!((memory.rss_bytes, memory.cache_bytes), (None, None));
    assert_eq!(memory.max_usage_bytes, None);
}

#[test]
fn throttling_is_shown_with_a_quota_only_and_its_time_only_where_it_is_told() {
    let throttling = v1::Throttle { periods: 7, throttled_periods: 3, throttled_time: 0 };
    let cpu = || Some(v1::CpuStat { usage: None, throttling: Some(throttling) });
    let v2_guest = v1::Metrics { cpu: cpu(), ..v1_message(memory_of_v2_guest()) };
    let shown = stats(v1(v2_guest.clone()), GO).throttling;
    assert_eq!((shown.periods, shown.throttled_periods, shown.throttled_seconds), (Some(7.0), Some(3.0), None));
    let without = TaskContext { has_cpu_quota: false, ..GO };
    assert_eq!(stats(v1(v2_guest), without).throttling, ThrottlingStats::default());
    let v1_guest = v1::Metrics { cpu: cpu(), ..v1_message(memory_of_v1_guest()) };
    assert_eq!(stats(v1(v1_guest), GO).throttling.throttled_seconds, None, "0 while there are throttled periods");
    let throttling = v1::Throttle { throttled_time: 2_500_000_000, ..throttling };
    let cpu = Some(v1::CpuStat { usage: None, throttling: Some(throttling) });
    let v1_guest = v1::Metrics { cpu, ..v1_message(memory_of_v1_guest()) };
    assert_eq!(stats(v1(v1_guest), GO).throttling.throttled_seconds, Some(2.5));
}

fn blkio(op: &str, minor: u64, value: u64) -> v1::BlkIoEntry {
    v1::BlkIoEntry { op: op.into(), major: 254, minor, value, device: String::new() }
}

#[test]
fn operations_among_the_bytes_are_operations() {
    let list = vec![
        blkio("read", 0, 4096),
        blkio("write", 0, 8192),
        blkio("rios", 0, 1),
        blkio("wios", 0, 2),
        blkio("dbytes", 0, 77),
        blkio("dios", 0, 7),
        blkio("read", 16, 1),
    ];
    let blkio = v1::BlkIoStat { io_service_bytes_recursive: list, io_serviced_recursive: Vec::new() };
    let disks = stats(v1(v1::Metrics { blkio: Some(blkio), ..Default::default() }), RUST).disks;
    let first = &disks[0];
    assert_eq!((&*first.device, first.read_bytes, first.written_bytes), ("/dev/vda", Some(4096.0), Some(8192.0)));
    assert_eq!((first.reads, first.writes), (Some(1.0), Some(2.0)));
    assert_eq!((&*disks[1].device, disks[1].read_bytes, disks[1].writes), ("/dev/vdb", Some(1.0), None));
}

#[test]
fn sums_of_a_cgroup_v1_guest_are_not_counted_twice() {
    let bytes = ["Read", "Write", "Sync", "Async", "Total"].map(|op| blkio(op, 0, 512)).to_vec();
    let counts = ["read", "write", "total"].map(|op| blkio(op, 0, 3)).to_vec();
    let blkio = v1::BlkIoStat { io_service_bytes_recursive: bytes, io_serviced_recursive: counts };
    let disks = stats(v1(v1::Metrics { blkio: Some(blkio), ..Default::default() }), GO).disks;
    assert_eq!((disks[0].read_bytes, disks[0].written_bytes), (Some(512.0), Some(512.0)));
    assert_eq!((disks[0].reads, disks[0].writes), (Some(3.0), Some(3.0)));
}

#[test]
fn where_the_last_device_wins_numbers_are_shown_only_if_there_is_but_one() {
    let usage = vec![v2::IoEntry { major: 254, minor: 0, rbytes: 1, wbytes: 2, rios: 3, wios: 4 }];
    let message = |limit| {
        let io = Some(v2::IoStat { usage: usage.clone() });
        v2(v2::Metrics { io, memory: Some(memory_v2(limit)), ..Default::default() })
    };
    let with = |guest_disks| TaskContext { guest_disks, ..GO };
    assert_eq!(stats(message(UNLIMITED_V2), with(Some(1))).disks[0].reads, Some(3.0));
    assert!(stats(message(UNLIMITED_V2), with(Some(2))).disks.is_empty());
    assert!(stats(message(UNLIMITED_V2), with(None)).disks.is_empty());
    let of_v1_guest = stats(message(UNLIMITED_V1), with(Some(1)));
    assert_eq!((of_v1_guest.disks[0].reads, of_v1_guest.disks[0].read_bytes), (None, Some(1.0)));
    let empty = v2::IoStat { usage: vec![v2::IoEntry::default()] };
    let message = v2::Metrics { io: Some(empty), ..Default::default() };
    assert!(stats(v2(message), with(Some(1))).disks.is_empty(), "0:0 is no device");
}

#[test]
fn huge_pages_without_size_or_use_are_left_out() {
    let pages = |pagesize: &str, usage| v1::HugetlbStat { pagesize: pagesize.into(), usage, max: usage, failcnt: 0 };
    let hugetlb = vec![pages("2MB", 4 * MB), pages("1GB", 0), pages("", MB), pages("2MB", MB), pages("x\"yMB", MB)];
    let shown = stats(v1(v1::Metrics { hugetlb, ..Default::default() }), GO).huge_pages;
    assert_eq!(shown.len(), 1);
    assert_eq!((&*shown[0].page_size, shown[0].usage_bytes), ("2MB", Some(4.0 * MB as f64)));
}

#[test]
fn tasks_are_threads_and_no_limit_is_0() {
    for limit in [0, UNLIMITED_V2] {
        let pids = Some(v1::PidsStat { current: 3, limit });
        let processes = stats(v1(v1::Metrics { pids, ..Default::default() }), GO).processes;
        assert_eq!((processes.threads, processes.threads_max), (Some(3.0), Some(0.0)));
    }
}

#[test]
fn cri_stats_are_taken_as_far_as_they_say_something() {
    let cri = CriStats {
        cpu_usage_ns: Some(1_500_000_000),
        usage_bytes: Some(10 * MB),
        working_set_bytes: Some(8 * MB),
        rss_bytes: Some(0),
        page_faults: Some(0),
        major_page_faults: Some(0),
        writable_layer_bytes: Some(4096),
    };
    let stats = stats(TaskMetrics::Cri(cri), GO);
    assert_eq!((stats.cpu.usage_seconds, mb(stats.memory.working_set_bytes)), (Some(1.5), Some(8.0)));
    assert_eq!((stats.memory.rss_bytes, stats.memory.page_faults), (None, None));
    assert_eq!((stats.cpu.user_seconds, stats.writable_layer_bytes), (None, Some(4096.0)));
}

#[test]
fn an_empty_message_gives_nothing_and_no_zero() {
    for context in [GO, RUST] {
        assert_eq!(stats(v1(v1::Metrics::default()), context), Stats::default());
        assert_eq!(stats(v2(v2::Metrics::default()), context), Stats::default());
    }
}

#[test]
fn a_counter_that_falls_is_not_shown_until_it_is_back() {
    let mut history = ContainerHistory::default();
    let mut show = |total| {
        let usage = v1::CpuUsage { total, ..Default::default() };
        let cpu = Some(v1::CpuStat { usage: Some(usage), throttling: None });
        let message = v1(v1::Metrics { cpu, ..Default::default() });
        convert_task(&message, GO, &mut history).0.cpu.usage_seconds
    };
    assert_eq!(show(2_000_000_000), Some(2.0));
    assert_eq!(show(1_000_000_000), None);
    assert_eq!(show(3_000_000_000), Some(3.0));
}

#[test]
fn devices_that_differ_have_names_that_differ() {
    let names: Vec<String> = [(254, 0), (254, 1), (254, 16), (8, 0), (253, 0), (259, 1)]
        .map(|(major, minor)| device_name(major, minor))
        .into();
    assert_eq!(names, ["/dev/vda", "/dev/vda1", "/dev/vdb", "/dev/sda", "253:0", "259:1"]);
}

/// Every row says what it is about, and applies to something.
#[test]
fn the_table_of_quirks_is_whole() {
    let mut names: Vec<&str> = QUIRKS.iter().map(|quirk| quirk.name).collect();
    assert!(names.iter().all(|name| !name.is_empty()));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), QUIRKS.len());
}
