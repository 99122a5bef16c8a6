//! The guest agent's answer to StatsContainer, by the guest's cgroups: which keys are there, which unit, which value
//! means "unlimited".

use std::collections::BTreeMap;

use crate::container::{CgroupMode, ContainerLimits, DeviceTruth, Truth};

/// What cgroup v1 says when there is no limit.
pub const UNLIMITED_V1: u64 = 9_223_372_036_854_771_712;
/// What the agent makes of `max` in cgroup v2.
pub const UNLIMITED_V2: u64 = u64::MAX;
/// `cpuacct.stat` counts hundredths of a second.
const TICK_NS: u64 = 10_000_000;
/// The guest's vCPUs, all of which are in per-CPU usage.
const VCPUS: usize = 2;

/// Use of one kind of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    pub usage: u64,
    pub max: u64,
    pub limit: u64,
    pub failcnt: u64,
}

/// One number of one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub major: u64,
    pub minor: u64,
    pub op: &'static str,
    pub value: u64,
}

/// The agent's answer. It has no network statistics and no kernel TCP memory, in any version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub total_ns: u64,
    pub user_ns: u64,
    pub kernel_ns: u64,
    pub per_cpu_ns: Vec<u64>,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
    pub pids: u64,
    pub cache: u64,
    pub usage: Memory,
    pub swap: Memory,
    pub kernel: Memory,
    pub use_hierarchy: bool,
    /// The lines of `memory.stat`.
    pub stat: BTreeMap<&'static str, u64>,
    pub service_bytes: Vec<Block>,
    pub serviced: Vec<Block>,
    pub hugetlb: Vec<&'static str>,
}

impl Answer {
    /// What the agent of a guest with these cgroups says.
    pub fn of(guest: CgroupMode, truth: &Truth, limits: &ContainerLimits) -> Self {
        match guest {
            CgroupMode::V1 => of_v1(truth, limits),
            CgroupMode::V2 => of_v2(truth, limits),
        }
    }

    /// A line of `memory.stat`; zero if it is not there, which is all that the shims' messages can say.
    pub fn stat_or_zero(&self, key: &str) -> u64 {
        self.stat.get(key).copied().unwrap_or_default()
    }
}

fn limit(asked: i64, unlimited: u64) -> u64 {
    u64::try_from(asked).ok().filter(|limit| *limit > 0).unwrap_or(unlimited)
}

fn ticks(ns: u64) -> u64 {
    ns / TICK_NS * TICK_NS
}

fn of_v1(truth: &Truth, limits: &ContainerLimits) -> Answer {
    let swap_limit = limit(limits.memory_swap_limit, UNLIMITED_V1);
    let both = truth.memory_bytes + truth.swap_bytes;
    let (serviced, service_bytes) = (
        truth.devices.iter().flat_map(|d| by_op(d, d.reads, d.writes)).collect(),
        truth.devices.iter().flat_map(|d| by_op(d, d.read_bytes, d.written_bytes)).collect(),
    );
    Answer {
        total_ns: truth.usage_ns,
        user_ns: ticks(truth.user_ns),
        kernel_ns: ticks(truth.system_ns),
        per_cpu_ns: per_cpu(truth.usage_ns),
        periods: truth.periods,
        throttled_periods: truth.throttled_periods,
        throttled_ns: truth.throttled_ns,
        pids: truth.threads,
        cache: truth.cache,
        usage: Memory {
            usage: truth.memory_bytes,
            max: truth.memory_max_bytes,
            limit: limit(limits.memory_limit, UNLIMITED_V1),
            failcnt: 0,
        },
        swap: Memory { usage: both, max: truth.memory_max_bytes.max(both), limit: swap_limit, failcnt: 0 },
        kernel: Memory { limit: UNLIMITED_V1, ..Memory::default() },
        use_hierarchy: true,
        stat: stat_v1(truth),
        service_bytes,
        serviced,
        hugetlb: vec!["1GB", "2MB"],
    }
}

/// All but the rest of the division on the first vCPU's account.
fn per_cpu(total_ns: u64) -> Vec<u64> {
    let mut shares = vec![total_ns / VCPUS as u64; VCPUS];
    shares[0] += total_ns % VCPUS as u64;
    shares
}

fn stat_v1(truth: &Truth) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("cache", truth.cache),
        ("rss", truth.rss),
        ("mapped_file", truth.mapped_file),
        ("pgfault", truth.page_faults),
        ("pgmajfault", truth.major_page_faults),
        ("inactive_anon", truth.inactive_anon_bytes),
        ("inactive_file", truth.inactive_file_bytes),
        ("active_file", truth.active_file_bytes),
        ("total_cache", truth.cache),
        ("total_rss", truth.rss),
        ("total_mapped_file", truth.mapped_file),
        ("total_pgfault", truth.page_faults),
        ("total_pgmajfault", truth.major_page_faults),
        ("total_inactive_anon", truth.inactive_anon_bytes),
        ("total_inactive_file", truth.inactive_file_bytes),
        ("total_active_file", truth.active_file_bytes),
    ])
}

fn by_op(device: &DeviceTruth, read: u64, write: u64) -> [Block; 5] {
    [("read", read), ("write", write), ("sync", read + write), ("async", 0), ("total", read + write)]
        .map(|(op, value)| Block { major: device.major, minor: device.minor, op, value })
}

/// `throttled_usec` is not the key the agent looks for, so throttled time is always 0.
fn of_v2(truth: &Truth, limits: &ContainerLimits) -> Answer {
    let micro = |ns: u64| ns / 1000 * 1000;
    Answer {
        total_ns: micro(truth.usage_ns),
        user_ns: micro(truth.user_ns),
        kernel_ns: micro(truth.system_ns),
        per_cpu_ns: Vec::new(),
        periods: truth.periods,
        throttled_periods: truth.throttled_periods,
        throttled_ns: 0,
        pids: truth.threads,
        cache: 0,
        usage: Memory {
            usage: truth.memory_bytes,
            max: truth.memory_max_bytes,
            limit: limit(limits.memory_limit, UNLIMITED_V2),
            failcnt: 0,
        },
        swap: Memory { usage: truth.swap_bytes, limit: limit(limits.memory_swap_limit, 0), ..Memory::default() },
        kernel: Memory { limit: UNLIMITED_V2, ..Memory::default() },
        use_hierarchy: false,
        stat: stat_v2(truth),
        service_bytes: truth.devices.iter().flat_map(all_ops).collect(),
        serviced: Vec::new(),
        hugetlb: vec!["1GB", "2MB"],
    }
}

fn stat_v2(truth: &Truth) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("anon", truth.rss),
        ("file", truth.cache),
        ("file_mapped", truth.mapped_file),
        ("inactive_anon", truth.inactive_anon_bytes),
        ("inactive_file", truth.inactive_file_bytes),
        ("active_file", truth.active_file_bytes),
        ("pgfault", truth.page_faults),
        ("pgmajfault", truth.major_page_faults),
    ])
}

/// Operations lie beside the bytes, all as "bytes".
fn all_ops(device: &DeviceTruth) -> [Block; 6] {
    [
        ("read", device.read_bytes),
        ("write", device.written_bytes),
        ("rios", device.reads),
        ("wios", device.writes),
        ("dbytes", 0),
        ("dios", 0),
    ]
    .map(|(op, value)| Block { major: device.major, minor: device.minor, op, value })
}
