//! What the runtime says of one container → [`Stats`]. First the numbers as they came, then the corrections of
//! [`quirks`], then cAdvisor's formulas.

use super::history::{ConvertDropped, Devices, Highest};
use super::quirks::{self, Facts, GuestCgroup, UNLIMITED_V1, UNLIMITED_V2, Words};
use crate::collect::runtime::types::{CriStats, TaskMetrics, v1, v2};
use crate::model::{CpuStats, DiskStats, HugePageStats, MemoryStats, ProcessStats, Stats, ThrottlingStats};
use crate::sandbox::{Runtime, Version};

const NS: f64 = 1e9;
/// Sizes of huge pages that a kernel has, at the most.
const MAX_PAGE_SIZES: usize = 8;

/// What is known of the container's surroundings.
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskContext {
    pub runtime: Option<Runtime>,
    /// Of the shim.
    pub version: Option<Version>,
    pub has_cpu_quota: bool,
    /// Block devices on the guest's own page, and CPU seconds of the whole guest.
    pub guest_disks: Option<usize>,
    pub guest_cpu_seconds: Option<f64>,
}

/// The highest values so far, for the container's whole life.
#[derive(Clone, Debug, Default)]
pub struct ContainerHistory {
    /// In the order of their use below.
    counters: Highest<11>,
    disks: Devices<4>,
    pages: Devices<1>,
    cpu_unit: CpuUnit,
}

/// In what an agent of before 3.9 counts the CPU time of a cgroup v2 guest's containers. Decided once: a counter whose
/// unit changed would jump.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum CpuUnit {
    #[default]
    Undecided,
    Nanoseconds,
    Microseconds,
    /// What was shown before and what is known now do not agree.
    Unknowable,
}

impl CpuUnit {
    /// The guest's image may be newer than its shim: then a thousand times as much is more than the whole guest has used.
    fn decide(&mut self, total: Option<u64>, is_old: Option<bool>, guest_cpu_seconds: Option<f64>) -> Option<bool> {
        let if_micro = total.filter(|&total| total > 0)? as f64 / 1e6;
        *self = match (*self, is_old) {
            // Without a release nothing is corrected, and what was shown so stays so.
            (Self::Undecided, None | Some(false)) => Self::Nanoseconds,
            (Self::Undecided, Some(true)) => match guest_cpu_seconds {
                Some(all) if if_micro <= all * 1.1 + 1.0 => Self::Microseconds,
                Some(_) => Self::Nanoseconds,
                None => Self::Undecided,
            },
            (Self::Microseconds, _) if guest_cpu_seconds.is_some_and(|all| if_micro > all * 4.0 + 60.0) => {
                Self::Unknowable
            }
            (decided, _) => decided,
        };
        match self {
            Self::Microseconds => Some(true),
            Self::Nanoseconds => Some(false),
            Self::Undecided | Self::Unknowable => None,
        }
    }
}

/// One container's numbers in the message's own words; `None`: the message has no place for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reported {
    pub cpu_total_ns: Option<u64>,
    pub cpu_user_ns: Option<u64>,
    pub cpu_system_ns: Option<u64>,
    pub periods: Option<u64>,
    pub throttled_periods: Option<u64>,
    pub throttled_ns: Option<u64>,
    pub usage: Option<u64>,
    pub limit: Option<u64>,
    pub max_usage: Option<u64>,
    pub failcnt: Option<u64>,
    pub kernel_usage: Option<u64>,
    pub swap: Option<u64>,
    pub rss: Option<u64>,
    pub cache: Option<u64>,
    pub mapped_file: Option<u64>,
    pub inactive_file: Option<u64>,
    pub active_file: Option<u64>,
    pub file_dirty: Option<u64>,
    pub file_writeback: Option<u64>,
    /// Computed by somebody else, from numbers that did not come with it.
    pub working_set: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    pub pages_scanned: Option<u64>,
    pub pages_stolen: Option<u64>,
    pub tasks: Option<u64>,
    pub tasks_limit: Option<u64>,
    pub writable_layer: Option<u64>,
    pub disks: Vec<ReportedDisk>,
    pub huge_pages: Vec<ReportedPages>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ReportedDisk {
    pub major: u64,
    pub minor: u64,
    pub read_bytes: Option<u64>,
    pub written_bytes: Option<u64>,
    pub reads: Option<u64>,
    pub writes: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ReportedPages {
    pub page_size: String,
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
}

pub fn convert_task(
    metrics: &TaskMetrics,
    context: TaskContext,
    history: &mut ContainerHistory,
) -> (Stats, ConvertDropped) {
    let (mut reported, words, guest) = match metrics {
        TaskMetrics::V1(metrics) => (of_v1(metrics), Words::V1, guest_of_v1(metrics)),
        TaskMetrics::V2(metrics) => (of_v2(metrics), Words::V2, guest_of_v2(metrics)),
        TaskMetrics::Cri(stats) => (of_cri(stats), Words::Cri, GuestCgroup::Unknown),
    };
    let facts = Facts {
        runtime: context.runtime,
        version: context.version,
        words,
        guest,
        guest_disks: context.guest_disks,
        in_microseconds: history.cpu_unit.decide(
            reported.cpu_total_ns,
            context.version.map(|version| version < quirks::IN_NANOSECONDS),
            context.guest_cpu_seconds,
        ),
    };
    quirks::correct(&mut reported, &facts);
    let mut dropped = ConvertDropped::default();
    let stats = to_stats(&reported, context, history, &mut dropped);
    (stats, dropped)
}

fn of_v1(metrics: &v1::Metrics) -> Reported {
    let mut reported = Reported::default();
    if let Some(cpu) = &metrics.cpu {
        if let Some(usage) = &cpu.usage {
            reported.cpu_total_ns = Some(usage.total);
            reported.cpu_user_ns = Some(usage.user);
            reported.cpu_system_ns = Some(usage.kernel);
        }
        if let Some(throttling) = &cpu.throttling {
            reported.periods = Some(throttling.periods);
            reported.throttled_periods = Some(throttling.throttled_periods);
            reported.throttled_ns = Some(throttling.throttled_time);
        }
    }
    if let Some(memory) = &metrics.memory {
        memory_of_v1(memory, &mut reported);
    }
    if let Some(pids) = &metrics.pids {
        (reported.tasks, reported.tasks_limit) = (Some(pids.current), Some(pids.limit));
    }
    if let Some(blkio) = &metrics.blkio {
        reported.disks = disks_of_v1(blkio);
    }
    let pages = |one: &v1::HugetlbStat| ReportedPages {
        page_size: one.pagesize.clone(),
        usage: one.usage,
        max: one.max,
        failcnt: one.failcnt,
    };
    reported.huge_pages = metrics.hugetlb.iter().take(MAX_PAGE_SIZES).map(pages).collect();
    reported
}

/// Hierarchical numbers where there are any.
fn memory_of_v1(memory: &v1::MemoryStat, reported: &mut Reported) {
    let either = |total: u64, own: u64| Some(if total > 0 { total } else { own });
    if let Some(usage) = &memory.usage {
        reported.usage = Some(usage.usage);
        reported.limit = Some(usage.limit);
        reported.max_usage = Some(usage.max);
        reported.failcnt = Some(usage.failcnt);
    }
    reported.kernel_usage = memory.kernel.as_ref().map(|kernel| kernel.usage);
    reported.swap = memory.swap.as_ref().map(|swap| swap.usage);
    reported.rss = either(memory.total_rss, memory.rss);
    reported.cache = either(memory.total_cache, memory.cache);
    reported.mapped_file = either(memory.total_mapped_file, memory.mapped_file);
    reported.inactive_file = either(memory.total_inactive_file, memory.inactive_file);
    reported.active_file = either(memory.total_active_file, memory.active_file);
    reported.file_dirty = either(memory.total_dirty, memory.dirty);
    reported.file_writeback = either(memory.total_writeback, memory.writeback);
    reported.page_faults = either(memory.total_pg_fault, memory.pg_fault);
    reported.major_page_faults = either(memory.total_pg_maj_fault, memory.pg_maj_fault);
}

/// A cgroup v2 guest puts operations among the bytes; sums and kinds other than reads and writes count nothing twice.
fn disks_of_v1(blkio: &v1::BlkIoStat) -> Vec<ReportedDisk> {
    let mut disks: Vec<ReportedDisk> = Vec::new();
    let lists = [(&blkio.io_service_bytes_recursive, false), (&blkio.io_serviced_recursive, true)];
    for (entry, counts) in lists.into_iter().flat_map(|(list, counts)| list.iter().map(move |entry| (entry, counts))) {
        let op = entry.op.to_ascii_lowercase();
        if !matches!(op.as_str(), "read" | "write" | "rios" | "wios") {
            continue;
        }
        let at = disks.iter().position(|disk| (disk.major, disk.minor) == (entry.major, entry.minor));
        let at = at.unwrap_or_else(|| {
            disks.push(ReportedDisk { major: entry.major, minor: entry.minor, ..ReportedDisk::default() });
            disks.len() - 1
        });
        let disk = &mut disks[at];
        let slot = match (op.as_str(), counts) {
            ("read", false) => &mut disk.read_bytes,
            ("write", false) => &mut disk.written_bytes,
            ("read", true) | ("rios", _) => &mut disk.reads,
            _ => &mut disk.writes,
        };
        *slot = Some(slot.unwrap_or(0).saturating_add(entry.value));
    }
    disks
}

fn of_v2(metrics: &v2::Metrics) -> Reported {
    let mut reported = Reported::default();
    if let Some(cpu) = &metrics.cpu {
        let ns = |usec: u64| usec.checked_mul(1000);
        reported.cpu_total_ns = ns(cpu.usage_usec);
        reported.cpu_user_ns = ns(cpu.user_usec);
        reported.cpu_system_ns = ns(cpu.system_usec);
        reported.periods = Some(cpu.nr_periods);
        reported.throttled_periods = Some(cpu.nr_throttled);
        reported.throttled_ns = ns(cpu.throttled_usec);
    }
    if let Some(memory) = &metrics.memory {
        reported.usage = Some(memory.usage);
        reported.limit = Some(memory.usage_limit);
        reported.max_usage = Some(memory.max_usage);
        reported.swap = Some(memory.swap_usage);
        reported.rss = Some(memory.anon);
        reported.cache = Some(memory.file);
        reported.mapped_file = Some(memory.file_mapped);
        reported.inactive_file = Some(memory.inactive_file);
        reported.active_file = Some(memory.active_file);
        reported.file_dirty = Some(memory.file_dirty);
        reported.file_writeback = Some(memory.file_writeback);
        reported.page_faults = Some(memory.pgfault);
        reported.major_page_faults = Some(memory.pgmajfault);
        reported.pages_scanned = Some(memory.pgscan);
        reported.pages_stolen = Some(memory.pgsteal);
    }
    if let Some(pids) = &metrics.pids {
        (reported.tasks, reported.tasks_limit) = (Some(pids.current), Some(pids.limit));
    }
    let disk = |entry: &v2::IoEntry| ReportedDisk {
        major: entry.major,
        minor: entry.minor,
        read_bytes: Some(entry.rbytes),
        written_bytes: Some(entry.wbytes),
        reads: Some(entry.rios),
        writes: Some(entry.wios),
    };
    reported.disks = metrics.io.iter().flat_map(|io| &io.usage).map(disk).collect();
    let pages = |one: &v2::HugeTlbStat| ReportedPages {
        page_size: one.pagesize.clone(),
        usage: one.current,
        max: one.max,
        failcnt: one.failcnt,
    };
    reported.huge_pages = metrics.hugetlb.iter().take(MAX_PAGE_SIZES).map(pages).collect();
    reported
}

fn of_cri(stats: &CriStats) -> Reported {
    Reported {
        cpu_total_ns: stats.cpu_usage_ns,
        usage: stats.usage_bytes,
        working_set: stats.working_set_bytes,
        rss: stats.rss_bytes,
        page_faults: stats.page_faults,
        major_page_faults: stats.major_page_faults,
        writable_layer: stats.writable_layer_bytes,
        ..Reported::default()
    }
}

fn guest_of_v1(metrics: &v1::Metrics) -> GuestCgroup {
    let per_cpu = metrics.cpu.iter().flat_map(|cpu| &cpu.usage).any(|usage| !usage.per_cpu.is_empty());
    let Some(memory) = &metrics.memory else { return GuestCgroup::Unknown };
    let limits: Vec<u64> =
        [&memory.usage, &memory.swap, &memory.kernel].into_iter().flatten().map(|entry| entry.limit).collect();
    let hierarchical = memory.total_inactive_file > 0 || memory.total_rss > 0 || memory.total_cache > 0;
    if per_cpu || limits.contains(&UNLIMITED_V1) || hierarchical || memory.rss > 0 || memory.cache > 0 {
        return GuestCgroup::V1;
    }
    let used = memory.usage.as_ref().is_some_and(|usage| usage.usage > 0);
    if limits.contains(&UNLIMITED_V2) || used { GuestCgroup::V2 } else { GuestCgroup::Unknown }
}

fn guest_of_v2(metrics: &v2::Metrics) -> GuestCgroup {
    let Some(memory) = &metrics.memory else { return GuestCgroup::Unknown };
    match memory.usage_limit {
        UNLIMITED_V1 => GuestCgroup::V1,
        UNLIMITED_V2 => GuestCgroup::V2,
        _ if memory.anon > 0 || memory.file > 0 => GuestCgroup::V2,
        _ if memory.usage > 0 => GuestCgroup::V1,
        _ => GuestCgroup::Unknown,
    }
}

fn to_stats(
    reported: &Reported,
    context: TaskContext,
    history: &mut ContainerHistory,
    dropped: &mut ConvertDropped,
) -> Stats {
    let ContainerHistory { counters, disks, pages, .. } = history;
    let mut pass = |at: usize, value: Option<f64>| counters.pass(at, value, dropped);
    let count = |value: Option<u64>| value.map(|value| value as f64);
    let seconds = |value: Option<u64>| value.map(|ns| ns as f64 / NS);
    let cpu = CpuStats {
        usage_seconds: pass(0, seconds(reported.cpu_total_ns)),
        user_seconds: pass(1, seconds(reported.cpu_user_ns)),
        system_seconds: pass(2, seconds(reported.cpu_system_ns)),
    };
    let mut throttling = ThrottlingStats::default();
    if context.has_cpu_quota {
        throttling.periods = pass(3, count(reported.periods));
        throttling.throttled_periods = pass(4, count(reported.throttled_periods));
        throttling.throttled_seconds = pass(5, seconds(reported.throttled_ns));
    }
    let memory = MemoryStats {
        limit_hits: pass(6, count(reported.failcnt)),
        page_faults: pass(7, count(reported.page_faults)),
        major_page_faults: pass(8, count(reported.major_page_faults)),
        pages_scanned: pass(9, count(reported.pages_scanned)),
        pages_stolen: pass(10, count(reported.pages_stolen)),
        ..memory(reported)
    };
    Stats {
        cpu,
        throttling,
        memory,
        // What the kernel calls pids are tasks.
        processes: ProcessStats {
            threads: count(reported.tasks),
            threads_max: reported.tasks_limit.map(|limit| if limit >= 1 << 62 { 0.0 } else { limit as f64 }),
            guest_tasks: None,
        },
        disks: reported.disks.iter().filter_map(|disk| to_disk(disk, disks, dropped)).collect(),
        huge_pages: to_pages(&reported.huge_pages, pages, dropped),
        writable_layer_bytes: count(reported.writable_layer),
        ..Stats::default()
    }
}

fn memory(reported: &Reported) -> MemoryStats {
    let bytes = |value: Option<u64>| value.map(|value| value as f64);
    // Where inactive page cache is not told, usage is the closest bound there is, and what the runtime itself shows.
    let own = reported.usage.map(|usage| usage.saturating_sub(reported.inactive_file.unwrap_or(0)));
    MemoryStats {
        usage_bytes: bytes(reported.usage),
        limit_bytes: bytes(reported.limit),
        working_set_bytes: bytes(reported.working_set.or(own)),
        rss_bytes: bytes(reported.rss),
        cache_bytes: bytes(reported.cache),
        mapped_file_bytes: bytes(reported.mapped_file),
        swap_bytes: bytes(reported.swap),
        active_file_bytes: bytes(reported.active_file),
        inactive_file_bytes: bytes(reported.inactive_file),
        file_dirty_bytes: bytes(reported.file_dirty),
        file_writeback_bytes: bytes(reported.file_writeback),
        max_usage_bytes: bytes(reported.max_usage),
        kernel_bytes: bytes(reported.kernel_usage),
        ..MemoryStats::default()
    }
}

fn to_disk(disk: &ReportedDisk, history: &mut Devices<4>, dropped: &mut ConvertDropped) -> Option<DiskStats> {
    let device = device_name(disk.major, disk.minor);
    let highest = history.get(&device, dropped)?;
    let mut pass = |at: usize, value: Option<u64>| highest.pass(at, value.map(|value| value as f64), dropped);
    Some(DiskStats {
        read_bytes: pass(0, disk.read_bytes),
        written_bytes: pass(1, disk.written_bytes),
        reads: pass(2, disk.reads),
        writes: pass(3, disk.writes),
        numbers: Some((disk.major, disk.minor)),
        device: device.into(),
    })
}

/// As Kata's guest kernels number them: virtio disks have the first dynamic major, SCSI its own; 16 minors a disk.
/// What is neither keeps its numbers, so that two devices never have one name.
fn device_name(major: u64, minor: u64) -> String {
    let prefix = match major {
        254 => "vd",
        8 => "sd",
        _ => return format!("{major}:{minor}"),
    };
    let Some(letter) = u8::try_from(minor / 16).ok().filter(|&disk| disk < 26).map(|disk| char::from(b'a' + disk))
    else {
        return format!("{major}:{minor}");
    };
    match minor % 16 {
        0 => format!("/dev/{prefix}{letter}"),
        partition => format!("/dev/{prefix}{letter}{partition}"),
    }
}

/// Sizes that the guest's kernel offers and nobody ever used say nothing.
fn was_used(pages: &ReportedPages) -> bool {
    pages.usage > 0 || pages.max > 0 || pages.failcnt > 0
}

/// Sizes are words of the guest: only those that a kernel writes are taken, each once.
fn to_pages(reported: &[ReportedPages], history: &mut Devices<1>, dropped: &mut ConvertDropped) -> Vec<HugePageStats> {
    let is_size = |size: &str| {
        let number = size.strip_suffix('B').and_then(|size| size.strip_suffix(['K', 'M', 'G']));
        number.is_some_and(|number| (1..=4).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut shown: Vec<HugePageStats> = Vec::new();
    for pages in reported.iter().filter(|pages| was_used(pages) && is_size(&pages.page_size)) {
        if shown.iter().any(|known| *known.page_size == *pages.page_size) {
            continue;
        }
        let Some(highest) = history.get(&pages.page_size, dropped) else { continue };
        shown.push(HugePageStats {
            page_size: pages.page_size.as_str().into(),
            usage_bytes: Some(pages.usage as f64),
            max_usage_bytes: Some(pages.max as f64),
            limit_hits: highest.pass(0, Some(pages.failcnt as f64), dropped),
        });
    }
    shown
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
