//! Against two real answers of Kata 4.1, decoded, and against each known defect.

use serde_json::Value;

use super::*;
use crate::container::{ContainerSpec, DeviceLoad, DeviceTruth};

const GO_REAL: &str = include_str!("../../testdata/task-metrics-go-guest-cgroup2.txt");
const RS_REAL: &str = include_str!("../../testdata/task-metrics-rs-guest-cgroup2.txt");

/// Length on the wire and message of each task in a capture: the sandbox's, then the container's.
fn captured(text: &str) -> Vec<(usize, v1::Metrics)> {
    let one = |task: &str| {
        let (head, json) = task.split_once('\n').unwrap();
        assert!(head.contains(&format!("type_url={V1_TYPE} ")), "{head}");
        let length = head.rsplit_once("len=").unwrap().1.parse().unwrap();
        (length, decoded(&serde_json::from_str(json).unwrap()))
    };
    text.split("# id=").skip(1).map(one).collect()
}

fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or_default()
}

fn entry(value: &Value, name: &str) -> Option<v1::MemoryEntry> {
    let entry = value.get("memory")?.get(name)?;
    let of = |field: &str| number(entry, field);
    Some(v1::MemoryEntry { limit: of("/limit"), usage: of("/usage"), max: of("/max"), failcnt: of("/failcnt") })
}

fn decoded(value: &Value) -> v1::Metrics {
    let page =
        |h: &Value| v1::HugetlbStat { pagesize: h["pagesize"].as_str().unwrap().to_owned(), ..Default::default() };
    v1::Metrics {
        hugetlb: value["hugetlb"].as_array().unwrap().iter().map(page).collect(),
        pids: Some(v1::PidsStat { current: number(value, "/pids/current"), limit: number(value, "/pids/limit") }),
        cpu: Some(v1::CpuStat {
            usage: Some(v1::CpuUsage {
                total: number(value, "/cpu/usage/total"),
                kernel: number(value, "/cpu/usage/kernel"),
                user: number(value, "/cpu/usage/user"),
                per_cpu: Vec::new(),
            }),
            throttling: Some(v1::Throttle { periods: number(value, "/cpu/throttling/periods"), ..Default::default() }),
        }),
        memory: Some(v1::MemoryStat {
            pg_fault: number(value, "/memory/pg_fault"),
            pg_maj_fault: number(value, "/memory/pg_maj_fault"),
            inactive_anon: number(value, "/memory/inactive_anon"),
            inactive_file: number(value, "/memory/inactive_file"),
            usage: entry(value, "usage"),
            swap: entry(value, "swap"),
            kernel: entry(value, "kernel"),
            kernel_tcp: entry(value, "kernel_tcp"),
            ..Default::default()
        }),
        blkio: value.get("blkio").map(|_| v1::BlkIoStat::default()),
    }
}

fn reporter(runtime: Runtime, guest: CgroupMode, host: CgroupMode) -> Reporter {
    Reporter { runtime, guest, host }
}

fn v1_of(runtime: Runtime, guest: CgroupMode, truth: &Truth, limits: &ContainerLimits) -> v1::Metrics {
    match Metrics::report(reporter(runtime, guest, CgroupMode::V1), truth, limits) {
        Metrics::V1(metrics) => *metrics,
        Metrics::V2(metrics) => panic!("v2: {metrics:?}"),
    }
}

fn v2_of(guest: CgroupMode, truth: &Truth, limits: &ContainerLimits) -> v2::Metrics {
    match Metrics::report(reporter(Runtime::Go, guest, CgroupMode::V2), truth, limits) {
        Metrics::V2(metrics) => *metrics,
        Metrics::V1(metrics) => panic!("v1: {metrics:?}"),
    }
}

fn check(real: &[(usize, v1::Metrics)], runtime: Runtime, truths: [(Truth, ContainerLimits); 2]) {
    assert_eq!(real.len(), 2);
    for ((length, real), (truth, limits)) in real.iter().zip(truths) {
        let ours = v1_of(runtime, CgroupMode::V2, &truth, &limits);
        assert_eq!(&ours, real);
        assert_eq!(ours.encode_to_vec().len(), *length, "nothing in the capture is unknown to us");
    }
}

const MIB256: ContainerLimits = ContainerLimits {
    cpu_period: 0,
    cpu_quota: 0,
    cpu_shares: 0,
    memory_limit: 256 << 20,
    memory_swap_limit: 256 << 20,
};

#[test]
fn a_go_shim_with_a_v2_guest_answers_as_the_real_one_did() {
    let pause = Truth::of_pause();
    let container = Truth {
        usage_ns: 188_030_000,
        user_ns: 96_308_000,
        system_ns: 91_722_000,
        periods: 7,
        page_faults: 284,
        major_page_faults: 42,
        memory_bytes: 1_904_640,
        ..pause.clone()
    };
    check(&captured(GO_REAL), Runtime::Go, [(pause, ContainerLimits::default()), (container, MIB256)]);
}

#[test]
fn a_runtime_rs_shim_with_a_v2_guest_answers_as_the_real_one_did() {
    let pause = Truth { usage_ns: 106_894_000, user_ns: 31_177_000, system_ns: 75_716_000, ..Truth::of_pause() };
    let container = Truth {
        usage_ns: 77_775_000,
        user_ns: 53_470_000,
        system_ns: 24_304_000,
        periods: 4,
        memory_bytes: 2_027_520,
        ..pause.clone()
    };
    check(&captured(RS_REAL), Runtime::Rs, [(pause, ContainerLimits::default()), (container, MIB256)]);
}

/// A container with two disks, throttled, one minute old.
fn busy() -> (Truth, ContainerLimits) {
    let mut spec = ContainerSpec::named("s", "app");
    let disk = |minor, read_bytes_per_second| DeviceLoad {
        major: 254,
        minor,
        read_bytes_per_second,
        written_bytes_per_second: 512.0,
        reads_per_second: 2.0,
        writes_per_second: 1.0,
    };
    spec.load.devices = vec![disk(0, 4096.0), disk(16, 8192.0)];
    (spec.truth(std::time::Duration::from_secs(60)), spec.limits)
}

#[test]
fn a_go_v2_message_swaps_user_and_system_and_keeps_the_last_disk_alone() {
    let (truth, limits) = busy();
    let metrics = v2_of(CgroupMode::V2, &truth, &limits);
    let cpu = metrics.cpu.unwrap();
    assert_eq!((cpu.user_usec, cpu.system_usec), (truth.system_ns / 1000, truth.user_ns / 1000));
    assert_eq!((cpu.usage_usec, cpu.nr_throttled, cpu.throttled_usec), (truth.usage_ns / 1000, 120, 0));
    let DeviceTruth { major, minor, read_bytes, written_bytes, reads, writes } = truth.devices[1];
    let last = v2::IoEntry { major, minor, rbytes: read_bytes, wbytes: written_bytes, rios: reads, wios: writes };
    assert_eq!(metrics.io.unwrap().usage, [last]);
    let memory = metrics.memory.unwrap();
    assert_eq!((memory.anon, memory.file, memory.inactive_file), (truth.rss, truth.cache, truth.inactive_file_bytes));
    assert_eq!(memory.max_usage, 0);
}

#[test]
fn a_go_v2_message_of_a_v1_guest_lacks_anon_file_and_operations() {
    let (truth, limits) = busy();
    let metrics = v2_of(CgroupMode::V1, &truth, &limits);
    let memory = metrics.memory.unwrap();
    assert_eq!((memory.anon, memory.file, memory.file_mapped), (0, 0, 0));
    assert_eq!((memory.inactive_file, memory.pgfault), (truth.inactive_file_bytes, truth.page_faults));
    let io = metrics.io.unwrap().usage[0];
    assert_eq!((io.rios, io.wios, io.rbytes), (0, 0, truth.devices[1].read_bytes));
    assert_eq!(metrics.cpu.unwrap().throttled_usec, truth.throttled_ns / 1000);
}

#[test]
fn a_v2_message_without_disks_has_one_entry_of_zeros() {
    let metrics = v2_of(CgroupMode::V2, &Truth::of_pause(), &ContainerLimits::default());
    assert_eq!(metrics.io.unwrap().usage, [v2::IoEntry::default()]);
    assert_eq!(metrics.memory.unwrap().usage_limit, u64::MAX);
}

#[test]
fn a_v1_guest_is_complete_in_v1_messages_but_for_total_values_from_go() {
    let (truth, _) = busy();
    for runtime in [Runtime::Go, Runtime::Rs] {
        let metrics = v1_of(runtime, CgroupMode::V1, &truth, &ContainerLimits::default());
        let memory = metrics.memory.unwrap();
        assert_eq!((memory.rss, memory.cache, memory.mapped_file), (truth.rss, truth.cache, truth.mapped_file));
        assert_eq!(memory.total_inactive_file, truth.inactive_file_bytes);
        assert_eq!(memory.usage.unwrap().limit, agent::UNLIMITED_V1);
        let go = runtime == Runtime::Go;
        assert_eq!(memory.total_rss, if go { 0 } else { truth.rss });
        assert_eq!(memory.pg_fault, if go { truth.page_faults } else { 0 });
        assert_eq!(memory.swap.unwrap().usage, truth.memory_bytes, "memory and swap together");
        let cpu = metrics.cpu.unwrap();
        assert_eq!(cpu.usage.unwrap().per_cpu.iter().sum::<u64>(), truth.usage_ns);
        assert_eq!(cpu.throttling.unwrap().throttled_time, truth.throttled_ns);
        let blkio = metrics.blkio.unwrap();
        let ops = |entries: &[v1::BlkIoEntry]| entries.iter().map(|e| e.op.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(ops(&blkio.io_serviced_recursive[..5]), "read write sync async total");
    }
}

#[test]
fn a_v2_guest_puts_operations_among_the_bytes_of_a_v1_message() {
    let (truth, limits) = busy();
    let metrics = v1_of(Runtime::Rs, CgroupMode::V2, &truth, &limits);
    let blkio = metrics.blkio.unwrap();
    assert!(blkio.io_serviced_recursive.is_empty());
    let ops: Vec<_> = blkio.io_service_bytes_recursive.iter().map(|entry| entry.op.as_str()).collect();
    assert_eq!(ops[..6], ["read", "write", "rios", "wios", "dbytes", "dios"]);
    assert_eq!(blkio.io_service_bytes_recursive[8].value, truth.devices[1].reads);
    let memory = metrics.memory.unwrap();
    assert_eq!((memory.rss, memory.cache, memory.total_inactive_file), (0, 0, 0));
    assert_eq!((memory.inactive_file, memory.active_file), (truth.inactive_file_bytes, truth.active_file_bytes));
    assert_eq!(metrics.cpu.unwrap().throttling.unwrap().throttled_time, 0);
}
