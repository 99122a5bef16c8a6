//! The guest's part of a page → the pod's [`Stats`] and the guest's own, by the table of docs/metrics.md.

use super::history::{ConvertDropped, Devices, GuestHistory};
use crate::collect::shim::types::{CPU, FILESYSTEM, Filesystem, Items, LOAD, MEMORY, NETWORK, ShimSample, TASKS, VM};
use crate::model::{
    CPU_MODES, CpuStats, DiskStats, FilesystemStats, GuestDiskStats, GuestStats, InterfaceStats, LOAD_PERIODS,
    MEMORY_TYPES, MemoryStats, ProcessStats, SIZE_TYPES, Stats, TrafficStats,
};

const SECTOR_BYTES: f64 = 512.0;
const MILLISECONDS: f64 = 1e-3;

// Both sides have the same order, so that no name is looked up.
const _: () = assert!(CPU.len() == CPU_MODES.len() && LOAD.len() == LOAD_PERIODS.len());
const _: () = assert!(FILESYSTEM.len() == SIZE_TYPES.len() && NETWORK.len() == 8);

/// When a page was taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// On any steady clock.
    pub now_seconds: f64,
    /// How long the VMM has been running.
    pub vmm_age_seconds: Option<f64>,
}

/// What one page says: of the pod in cAdvisor's words, and of the guest as a machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Converted {
    pub pod: Stats,
    pub guest: GuestStats,
    pub dropped: ConvertDropped,
}

pub fn convert(sample: &ShimSample, history: &mut GuestHistory, moment: Moment) -> Converted {
    let mut dropped = ConvertDropped::default();
    let time = cpu_time(sample, history, moment).unwrap_or(([None; 8], 1.0));
    let counters = &mut history.counters;
    let cpu = cpu(time, |at, value| counters.pass(at, value, &mut dropped));
    let cpu_seconds = time.0.map(|value| value.map(|value| value / time.1));
    let vm = |name| sample.vm.get(&VM, name);
    let (faults, major, ooms) = (vm("pgfault"), vm("pgmajfault"), vm("oom_kill"));
    let memory = MemoryStats {
        page_faults: counters.pass(2, faults, &mut dropped),
        major_page_faults: counters.pass(3, major, &mut dropped),
        ..memory(&sample.memory)
    };
    let oom_kills = counters.pass(4, ooms, &mut dropped);
    let task = |name| sample.tasks.get(&TASKS, name);
    let guest = GuestStats {
        // Modes that the kernel may let fall a little (idle, iowait) wait until they are back.
        cpu_seconds: std::array::from_fn(|at| history.modes.pass(at, cpu_seconds[at], &mut dropped)),
        memory_bytes: memory_types(&sample.memory, &memory),
        load: sample.load.0,
        tasks_runnable: task("cur"),
        tasks_total: task("max"),
        disks: disks(sample, &mut history.disks, &mut dropped),
        filesystems: filesystems(&sample.filesystems, &mut history.mounts, &mut dropped),
        page_faults: memory.page_faults,
        major_page_faults: memory.major_page_faults,
        oom_kills,
    };
    let pod = Stats {
        cpu,
        memory,
        // The guest's kernel counts its own threads too.
        processes: ProcessStats { threads: task("max"), guest_tasks: task("max"), threads_max: None },
        oom_events: oom_kills,
        interfaces: interfaces(sample, &mut history.interfaces, &mut dropped),
        disks: guest.disks.iter().map(pod_disk).collect(),
        ..Stats::default()
    };
    Converted { pod, guest, dropped }
}

/// The guest's own numbers in the order of the modes, and how many of them are a second; nothing while it is not known
/// in which unit this guest counts.
fn cpu_time(sample: &ShimSample, history: &mut GuestHistory, moment: Moment) -> Option<([Option<f64>; 8], f64)> {
    let zero: Option<f64> = sample.cpu_zero.0.iter().copied().sum();
    let unit = history.unit.observe(zero?, moment.now_seconds, moment.vmm_age_seconds)?;
    // A negative time is no time.
    Some((sample.cpu_total.0.map(|value| value.filter(|&value| value >= 0.0)), unit.per_second()))
}

/// Steal is left out: the VM did not run then.
fn cpu(
    (times, per_second): ([Option<f64>; 8], f64),
    mut pass: impl FnMut(usize, Option<f64>) -> Option<f64>,
) -> CpuStats {
    let total = |names: &[&str]| {
        let of = |name: &&str| CPU.iter().position(|known| known == name).and_then(|at| times[at]);
        let sum: Option<f64> = names.iter().map(of).sum();
        Some(sum? / per_second)
    };
    let user_seconds = pass(0, total(&["user", "nice"]));
    let system_seconds = pass(1, total(&["system", "irq", "softirq"]));
    let usage_seconds = user_seconds.zip(system_seconds).map(|(user, system)| user + system);
    CpuStats { usage_seconds, user_seconds, system_seconds }
}

fn memory(items: &Items<14>) -> MemoryStats {
    let get = |name| items.get(&MEMORY, name);
    // A guest's kernel that lacks a field shows it as 0; total and free it always has.
    let total = get("mem_total").filter(|&total| total > 0.0);
    let usage_bytes = total.zip(get("mem_free")).map(|(total, free)| (total - free).max(0.0));
    let inactive_file_bytes = get("inactive_file");
    MemoryStats {
        usage_bytes,
        working_set_bytes: usage_bytes.zip(inactive_file_bytes).map(|(usage, inactive)| (usage - inactive).max(0.0)),
        rss_bytes: get("anon_pages"),
        cache_bytes: get("cached").zip(get("buffers")).map(|(cached, buffers)| cached + buffers),
        mapped_file_bytes: get("mapped"),
        swap_bytes: get("swap_total").zip(get("swap_free")).map(|(total, free)| (total - free).max(0.0)),
        active_file_bytes: get("active_file"),
        inactive_file_bytes,
        ..MemoryStats::default()
    }
}

/// In the order of the types.
fn memory_types(items: &Items<14>, memory: &MemoryStats) -> [Option<f64>; MEMORY_TYPES.len()] {
    let get = |name| items.get(&MEMORY, name);
    let total = get("mem_total").filter(|&total| total > 0.0);
    let free = total.and(get("mem_free"));
    [
        total,
        free,
        // An old kernel that cannot tell has 0 here.
        get("mem_available").filter(|&available| available > 0.0 || free == Some(0.0)),
        memory.working_set_bytes,
        memory.cache_bytes,
        get("buffers"),
        memory.active_file_bytes,
        memory.inactive_file_bytes,
        memory.rss_bytes,
        memory.mapped_file_bytes,
        get("shmem"),
        get("slab"),
        get("s_reclaimable"),
        get("swap_total"),
        get("swap_free"),
    ]
}

/// Positions are those of the names in `types`.
fn interfaces(sample: &ShimSample, history: &mut Devices<8>, dropped: &mut ConvertDropped) -> Vec<InterfaceStats> {
    let real = sample.interfaces.iter().filter(|(name, _)| !name.starts_with("lo"));
    let mut interfaces = Vec::new();
    for (name, items) in real {
        let Some(highest) = history.get(name, dropped) else { continue };
        let mut get = |at: usize| highest.pass(at, items.0[at], dropped);
        let mut traffic = |first: usize| TrafficStats {
            bytes: get(first),
            packets: get(first + 1),
            errors: get(first + 2),
            dropped: get(first + 3),
        };
        let (receive, transmit) = (traffic(0), traffic(4));
        interfaces.push(InterfaceStats { name: name.clone(), receive, transmit });
    }
    interfaces
}

/// Positions are those of the names in `types`.
fn disks(sample: &ShimSample, history: &mut Devices<14>, dropped: &mut ConvertDropped) -> Vec<GuestDiskStats> {
    let is_disk = |name: &str| {
        let memory_backed = ["loop", "ram", "zram"].iter().any(|prefix| name.starts_with(prefix));
        // A partition's traffic is its disk's traffic.
        let partition = sample.disks.iter().any(|(disk, _)| &**disk != name && is_partition_of(name, disk));
        !memory_backed && !partition
    };
    let mut disks = Vec::new();
    for (name, items) in sample.disks.iter().filter(|(name, _)| is_disk(name)) {
        let Some(highest) = history.get(name, dropped) else { continue };
        let mut get = |at: usize| highest.pass(at, items.0[at], dropped);
        let (bytes, seconds) = (|value| value * SECTOR_BYTES, |value| value * MILLISECONDS);
        disks.push(GuestDiskStats {
            device: name.clone(),
            reads: get(0),
            read_bytes: get(1).map(bytes),
            writes: get(2),
            written_bytes: get(3).map(bytes),
            reads_merged: get(4),
            read_seconds: get(5).map(seconds),
            writes_merged: get(6),
            write_seconds: get(7).map(seconds),
            io_seconds: get(9).map(seconds),
            weighted_io_seconds: get(10).map(seconds),
            discards: get(11),
            discarded_bytes: get(12).map(bytes),
            flushes: get(13),
            in_progress: items.0[8],
        });
    }
    disks
}

fn pod_disk(disk: &GuestDiskStats) -> DiskStats {
    DiskStats {
        device: format!("/dev/{}", disk.device).into(),
        numbers: None,
        read_bytes: disk.read_bytes,
        written_bytes: disk.written_bytes,
        reads: disk.reads,
        writes: disk.writes,
    }
}

fn filesystems(mounted: &[Filesystem], history: &mut Devices<0>, dropped: &mut ConvertDropped) -> Vec<FilesystemStats> {
    let mut filesystems = Vec::new();
    for one in mounted {
        if history.get(&format!("{} {}", one.device, one.mount), dropped).is_some() {
            filesystems.push(FilesystemStats {
                mount: one.mount.clone(),
                device: one.device.clone(),
                bytes: one.bytes.0,
                inodes: one.inodes.0,
            });
        }
    }
    filesystems
}

/// `vda1` of `vda`, `nvme0n1p1` of `nvme0n1`.
fn is_partition_of(name: &str, disk: &str) -> bool {
    let Some(rest) = name.strip_prefix(disk) else { return false };
    let digits = rest.strip_prefix('p').filter(|_| disk.ends_with(|last: char| last.is_ascii_digit())).unwrap_or(rest);
    let ends_in_digit = disk.ends_with(|last: char| last.is_ascii_digit());
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && (!ends_in_digit || rest.starts_with('p'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::shim::parse::{ParseLimits, parse};

    const GUEST: &str = include_str!("../../testdata/shim/agent-4.1.0-2vcpu.prom");

    fn sample(text: &str) -> ShimSample {
        parse(text.as_bytes(), true, ParseLimits::default())
    }

    fn young(now_seconds: f64) -> Moment {
        Moment { now_seconds, vmm_age_seconds: Some(now_seconds) }
    }

    /// CPU 0 has counted 10.6 s.
    #[test]
    fn a_real_guest_in_cadvisors_words() {
        let Converted { pod: stats, guest, dropped } =
            convert(&sample(GUEST), &mut GuestHistory::default(), young(12.0));
        assert_eq!(dropped, ConvertDropped::default());
        assert_eq!(guest.cpu_seconds[3], Some(12.91));
        assert_eq!((guest.load[0].map(|load| (load * 100.0).round()), guest.tasks_runnable), (Some(8.0), Some(1.0)));
        assert_eq!(guest.filesystems[0].bytes, [Some(57_381_888.0), Some(6_567_936.0), Some(50_813_952.0)]);
        assert_eq!((&*guest.filesystems[0].mount, &*guest.disks[0].device), ("/data", "vda"));
        assert_eq!((stats.cpu.user_seconds, stats.cpu.system_seconds), (Some(4.89), Some(3.47)));
        assert!((stats.cpu.usage_seconds.unwrap() - 8.36).abs() < 1e-9);
        assert_eq!(stats.processes.threads, Some(56.0));
        let names: Vec<_> = stats.interfaces.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["eth0"], "the guest's loopback is nobody's traffic");
        assert_eq!(stats.interfaces[0].receive.bytes, Some(468.0));
        assert_eq!(stats.interfaces[0].transmit.packets, Some(11.0));
        assert_eq!(&*stats.disks[0].device, "/dev/vda");
        assert_eq!(stats.disks[0].written_bytes, Some(12846.0 * 512.0));
        let memory = stats.memory;
        assert!(memory.working_set_bytes.unwrap() < memory.usage_bytes.unwrap());
    }

    #[test]
    fn every_unit_gives_the_same_seconds() {
        for divisor in [1.0, 10.0, 1000.0] {
            let text: String = GUEST
                .lines()
                .map(|line| match line.strip_prefix("kata_guest_cpu_time").and_then(|rest| rest.split_once(' ')) {
                    Some((labels, value)) => {
                        format!("kata_guest_cpu_time{labels} {}\n", value.parse::<f64>().unwrap() / divisor)
                    }
                    None => format!("{line}\n"),
                })
                .collect();
            let stats = convert(&sample(&text), &mut GuestHistory::default(), young(12.0)).pod;
            assert!((stats.cpu.usage_seconds.unwrap() - 8.36).abs() < 1e-9, "{divisor}");
        }
    }

    #[test]
    fn without_a_unit_there_is_no_cpu_time_and_everything_else_is_there() {
        let moment = Moment { now_seconds: 0.0, vmm_age_seconds: None };
        let stats = convert(&sample(GUEST), &mut GuestHistory::default(), moment).pod;
        assert_eq!(stats.cpu, CpuStats::default());
        assert!(stats.memory.usage_bytes.is_some());
    }

    #[test]
    fn a_counter_that_falls_is_not_shown_until_it_is_back() {
        let mut history = GuestHistory::default();
        let page =
            |bytes: u64| sample(&format!("kata_guest_netdev_stat{{interface=\"eth0\",item=\"recv_bytes\"}} {bytes}\n"));
        let mut show = |bytes| {
            let Converted { pod: stats, dropped, .. } = convert(&page(bytes), &mut history, young(1.0));
            (stats.interfaces[0].receive.bytes, dropped.fallen)
        };
        assert_eq!(show(10), (Some(10.0), 0));
        assert_eq!(show(5), (None, 1));
        assert_eq!(show(10), (Some(10.0), 0));
    }

    #[test]
    fn an_empty_page_gives_nothing_and_no_zero() {
        let converted = convert(&sample(""), &mut GuestHistory::default(), young(5.0));
        assert_eq!(converted, Converted::default());
    }

    #[test]
    fn partitions_are_told_from_disks() {
        assert!(is_partition_of("vda1", "vda") && is_partition_of("nvme0n1p2", "nvme0n1"));
        for (name, disk) in [("vdab", "vda"), ("pmem01", "pmem0"), ("vda", "vda"), ("sdb", "sda")] {
            assert!(!is_partition_of(name, disk), "{name} {disk}");
        }
    }
}
