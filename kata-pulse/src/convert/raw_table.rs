//! The families that Kata's shims and guests are known to have (kata.md 3), with their types: nothing else is passed
//! through. Names are Kata's.

/// Who may say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Guest,
    /// The Go shim alone.
    Go,
    /// Either shim.
    Both,
}

/// One family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub name: &'static str,
    pub kind: &'static str,
    pub side: Side,
}

/// Labels of all these families; `namespace`, `job` and their like are the host's to say.
const LABELS: [&str; 11] =
    ["action", "cpu", "cpu_id", "device", "disk", "interface", "item", "le", "mount", "quantile", "version"];

const fn row(name: &'static str, kind: &'static str, side: Side) -> Row {
    Row { name, kind, side }
}

const fn guest(name: &'static str) -> Row {
    row(name, "gauge", Side::Guest)
}

const fn go(name: &'static str) -> Row {
    row(name, "gauge", Side::Go)
}

const fn both(name: &'static str) -> Row {
    row(name, "gauge", Side::Both)
}

const fn go_counter(name: &'static str) -> Row {
    row(name, "counter", Side::Go)
}

const ROWS: &[Row] = &[
    guest("kata_guest_load"),
    guest("kata_guest_tasks"),
    guest("kata_guest_cpu_time"),
    guest("kata_guest_vm_stat"),
    guest("kata_guest_netdev_stat"),
    guest("kata_guest_diskstat"),
    guest("kata_guest_meminfo"),
    guest("kata_guest_filesystem_bytes"),
    guest("kata_guest_filesystem_inodes"),
    row("kata_agent_scrape_count", "counter", Side::Guest),
    guest("kata_agent_threads"),
    guest("kata_agent_total_time"),
    guest("kata_agent_total_vm"),
    guest("kata_agent_total_rss"),
    guest("kata_agent_proc_status"),
    guest("kata_agent_proc_stat"),
    guest("kata_agent_io_stat"),
    row("kata_agent_process_cpu_seconds_total", "counter", Side::Guest),
    guest("kata_agent_process_max_fds"),
    guest("kata_agent_process_open_fds"),
    guest("kata_agent_process_resident_memory_bytes"),
    guest("kata_agent_process_start_time_seconds"),
    guest("kata_agent_process_virtual_memory_bytes"),
    row("kata_shim_rpc_durations_histogram_milliseconds", "histogram", Side::Go),
    row("kata_shim_agent_rpc_durations_histogram_milliseconds", "histogram", Side::Go),
    both("kata_shim_threads"),
    both("kata_shim_fds"),
    both("kata_shim_proc_status"),
    both("kata_shim_proc_stat"),
    both("kata_shim_io_stat"),
    both("kata_shim_netdev"),
    go("kata_shim_pod_overhead_cpu"),
    go("kata_shim_pod_overhead_memory_in_bytes"),
    go("kata_hypervisor_threads"),
    go("kata_hypervisor_fds"),
    go("kata_hypervisor_proc_status"),
    go("kata_hypervisor_proc_stat"),
    go("kata_hypervisor_io_stat"),
    go("kata_hypervisor_netdev"),
    row("kata_hypervisor_scrape_count", "counter", Side::Both),
    both("kata_hypervisor_vcpu"),
    both("kata_hypervisor_seccomp"),
    both("kata_hypervisor_signals"),
    go("kata_virtiofsd_threads"),
    go("kata_virtiofsd_fds"),
    go("kata_virtiofsd_proc_status"),
    go("kata_virtiofsd_proc_stat"),
    go("kata_virtiofsd_io_stat"),
    go("kata_firecracker_api_server"),
    go("kata_firecracker_block"),
    go("kata_firecracker_get_api_requests"),
    go("kata_firecracker_i8042"),
    go("kata_firecracker_latencies_us"),
    go("kata_firecracker_logger"),
    go("kata_firecracker_mmds"),
    go("kata_firecracker_net"),
    go("kata_firecracker_patch_api_requests"),
    go("kata_firecracker_put_api_requests"),
    go("kata_firecracker_rtc"),
    go("kata_firecracker_seccomp"),
    go("kata_firecracker_signals"),
    go("kata_firecracker_uart"),
    go("kata_firecracker_vcpu"),
    go("kata_firecracker_vmm"),
    go("kata_firecracker_vsock"),
    row("go_gc_duration_seconds", "summary", Side::Go),
    go("go_gc_gogc_percent"),
    go("go_gc_gomemlimit_bytes"),
    go("go_goroutines"),
    go("go_info"),
    go("go_memstats_alloc_bytes"),
    go_counter("go_memstats_alloc_bytes_total"),
    go("go_memstats_buck_hash_sys_bytes"),
    go_counter("go_memstats_frees_total"),
    go("go_memstats_gc_cpu_fraction"),
    go("go_memstats_gc_sys_bytes"),
    go("go_memstats_heap_alloc_bytes"),
    go("go_memstats_heap_idle_bytes"),
    go("go_memstats_heap_inuse_bytes"),
    go("go_memstats_heap_objects"),
    go("go_memstats_heap_released_bytes"),
    go("go_memstats_heap_sys_bytes"),
    go("go_memstats_last_gc_time_seconds"),
    go_counter("go_memstats_lookups_total"),
    go_counter("go_memstats_mallocs_total"),
    go("go_memstats_mcache_inuse_bytes"),
    go("go_memstats_mcache_sys_bytes"),
    go("go_memstats_mspan_inuse_bytes"),
    go("go_memstats_mspan_sys_bytes"),
    go("go_memstats_next_gc_bytes"),
    go("go_memstats_other_sys_bytes"),
    go("go_memstats_stack_inuse_bytes"),
    go("go_memstats_stack_sys_bytes"),
    go("go_memstats_sys_bytes"),
    go("go_sched_gomaxprocs_threads"),
    go("go_threads"),
    go_counter("process_cpu_seconds_total"),
    go("process_max_fds"),
    go_counter("process_network_receive_bytes_total"),
    go_counter("process_network_transmit_bytes_total"),
    go("process_open_fds"),
    go("process_resident_memory_bytes"),
    go("process_start_time_seconds"),
    go("process_virtual_memory_bytes"),
    go("process_virtual_memory_max_bytes"),
];

pub(super) fn known(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

pub(super) fn is_label(name: &str) -> bool {
    LABELS.contains(&name)
}

/// The name on our page: kata-monitor renames the families of the shim's own process.
pub(super) fn shown(name: &str) -> String {
    let renamed = name.starts_with("go_") || name.starts_with("process_");
    if renamed { format!("kata_shim_{name}") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of real shims hold nothing that the table lacks.
    #[test]
    fn every_family_of_real_pages_is_in_the_table_with_its_type() {
        for page in [
            include_str!("../../testdata/shim/go-remote-4.1.0.prom"),
            include_str!("../../testdata/shim/rust-remote-4.1.0.prom"),
            include_str!("../../testdata/shim/agent-4.1.0-2vcpu.prom"),
        ] {
            for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
                let (name, kind) = line.split_once(' ').unwrap();
                let row = known(name).unwrap_or_else(|| panic!("{name} is missing"));
                assert_eq!(row.kind, kind, "{name}");
            }
        }
    }
}
