//! The guest's part of a shim's page → [`PodStats`], by the table of docs/metrics.md.

use super::history::{ConvertDropped, Devices, GuestHistory};
use crate::collect::shim::types::{CPU, Items, MEMORY, ShimSample, TASKS, VM};
use crate::model::{CpuStats, DiskStats, InterfaceStats, MemoryStats, PodStats, ProcessStats, TrafficStats};

const SECTOR_BYTES: f64 = 512.0;

/// When a page was taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// On any steady clock.
    pub now_seconds: f64,
    /// How long the VMM has been running.
    pub vmm_age_seconds: Option<f64>,
}

pub fn convert(sample: &ShimSample, history: &mut GuestHistory, moment: Moment) -> (PodStats, ConvertDropped) {
    let mut dropped = ConvertDropped::default();
    let (faults, major, ooms) = {
        let vm = |name| sample.vm.get(&VM, name);
        (vm("pgfault"), vm("pgmajfault"), vm("oom_kill"))
    };
    let cpu = cpu(sample, history, moment, &mut dropped);
    let counters = &mut history.counters;
    let memory = MemoryStats {
        page_faults: counters.pass(2, faults, &mut dropped),
        major_page_faults: counters.pass(3, major, &mut dropped),
        ..memory(&sample.memory)
    };
    let stats = PodStats {
        cpu,
        memory,
        // The guest's kernel counts its own threads too.
        processes: ProcessStats { threads: sample.tasks.get(&TASKS, "max") },
        oom_events: counters.pass(4, ooms, &mut dropped),
        interfaces: interfaces(sample, &mut history.interfaces, &mut dropped),
        disks: disks(sample, &mut history.disks, &mut dropped),
    };
    (stats, dropped)
}

/// Steal is left out: the VM did not run then. guest and guest_nice are contained in user and nice.
fn cpu(sample: &ShimSample, history: &mut GuestHistory, moment: Moment, dropped: &mut ConvertDropped) -> CpuStats {
    let zero: Option<f64> = sample.cpu_zero.0.iter().copied().sum();
    let Some(zero) = zero else { return CpuStats::default() };
    let unit = history.unit.observe(zero, moment.now_seconds, moment.vmm_age_seconds);
    let total = |names: &[&str]| {
        let parts: Option<f64> = names.iter().map(|name| sample.cpu_total.get(&CPU, name)).sum();
        Some(parts? / unit?.per_second())
    };
    let user_seconds = history.counters.pass(0, total(&["user", "nice"]), dropped);
    let system_seconds = history.counters.pass(1, total(&["system", "irq", "softirq"]), dropped);
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
        page_faults: None,
        major_page_faults: None,
    }
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
fn disks(sample: &ShimSample, history: &mut Devices<4>, dropped: &mut ConvertDropped) -> Vec<DiskStats> {
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
        disks.push(DiskStats {
            device: format!("/dev/{name}").into(),
            reads: get(0),
            read_bytes: get(1).map(|sectors| sectors * SECTOR_BYTES),
            writes: get(2),
            written_bytes: get(3).map(|sectors| sectors * SECTOR_BYTES),
        });
    }
    disks
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
        let (stats, dropped) = convert(&sample(GUEST), &mut GuestHistory::default(), young(12.0));
        assert_eq!(dropped, ConvertDropped::default());
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
            let (stats, _) = convert(&sample(&text), &mut GuestHistory::default(), young(12.0));
            assert!((stats.cpu.usage_seconds.unwrap() - 8.36).abs() < 1e-9, "{divisor}");
        }
    }

    #[test]
    fn without_a_unit_there_is_no_cpu_time_and_everything_else_is_there() {
        let moment = Moment { now_seconds: 0.0, vmm_age_seconds: None };
        let (stats, _) = convert(&sample(GUEST), &mut GuestHistory::default(), moment);
        assert_eq!(stats.cpu, CpuStats::default());
        assert!(stats.memory.usage_bytes.is_some());
    }

    #[test]
    fn a_counter_that_falls_is_not_shown_until_it_is_back() {
        let mut history = GuestHistory::default();
        let page =
            |bytes: u64| sample(&format!("kata_guest_netdev_stat{{interface=\"eth0\",item=\"recv_bytes\"}} {bytes}\n"));
        let mut show = |bytes| {
            let (stats, dropped) = convert(&page(bytes), &mut history, young(1.0));
            (stats.interfaces[0].receive.bytes, dropped.fallen)
        };
        assert_eq!(show(10), (Some(10.0), 0));
        assert_eq!(show(5), (None, 1));
        assert_eq!(show(10), (Some(10.0), 0));
    }

    #[test]
    fn an_empty_page_gives_nothing_and_no_zero() {
        let (stats, _) = convert(&sample(""), &mut GuestHistory::default(), young(5.0));
        assert_eq!(stats, PodStats::default());
    }

    #[test]
    fn partitions_are_told_from_disks() {
        assert!(is_partition_of("vda1", "vda") && is_partition_of("nvme0n1p2", "nvme0n1"));
        for (name, disk) in [("vdab", "vda"), ("pmem01", "pmem0"), ("vda", "vda"), ("sdb", "sda")] {
            assert!(!is_partition_of(name, disk), "{name} {disk}");
        }
    }
}
