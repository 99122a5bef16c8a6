use super::*;
use crate::model::{
    BlockReading, CgroupReading, ContainerPage, CostStats, DiskStats, EndPage, FilesystemStats, GuestDiskStats,
    GuestStats, Histogram, HostReading, HostStats, HugePageStats, InterfaceReading, InterfaceStats, KernelReading,
    Limits, MemoryNow, NamespaceStats, NetworkReading, RoleReading, SourcePage, Stats, ThreadReading, TrafficReading,
    TrafficStats,
};
use crate::sandbox::{CpuTimes, HostRole, IoTotals};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

fn everything() -> Selection {
    Selection { levels: BTreeSet::from([Level::Pod, Level::Container]), disabled: BTreeSet::new() }
}

fn disk(numbers: Option<(u64, u64)>) -> DiskStats {
    let some = Some(1.0);
    let device = "/dev/vda".into();
    DiskStats { device, numbers, read_bytes: some, written_bytes: some, reads: some, writes: some }
}

fn pod_stats() -> Stats {
    let traffic = TrafficStats { bytes: Some(468.0), packets: Some(5.0), errors: Some(0.0), dropped: Some(0.0) };
    let mut stats = Stats {
        oom_events: Some(0.0),
        interfaces: vec![InterfaceStats { name: "eth0".into(), receive: traffic, transmit: traffic }],
        disks: vec![disk(None)],
        ..Stats::default()
    };
    stats.cpu.usage_seconds = Some(8.36);
    stats.cpu.user_seconds = Some(4.89);
    stats.cpu.system_seconds = Some(3.47);
    stats.memory.usage_bytes = Some(123_456_789.0);
    stats.memory.working_set_bytes = Some(100_000_000.0);
    stats.memory.page_faults = Some(10.0);
    stats.memory.major_page_faults = Some(2.0);
    stats.processes.threads = Some(56.0);
    stats.processes.guest_tasks = Some(56.0);
    stats
}

/// Every number there is.
fn container_stats() -> Stats {
    let some = Some(2.0);
    let mut stats = pod_stats();
    stats.interfaces.clear();
    stats.disks = vec![disk(Some((254, 0)))];
    stats.processes.guest_tasks = None;
    stats.processes.threads_max = Some(0.0);
    let pages = HugePageStats { page_size: "2MB".into(), usage_bytes: some, max_usage_bytes: some, limit_hits: some };
    stats.huge_pages = vec![pages];
    stats.writable_layer_bytes = some;
    stats.throttling.periods = some;
    stats.throttling.throttled_periods = some;
    stats.throttling.throttled_seconds = some;
    let memory = &mut stats.memory;
    for slot in [
        &mut memory.rss_bytes,
        &mut memory.cache_bytes,
        &mut memory.mapped_file_bytes,
        &mut memory.swap_bytes,
        &mut memory.active_file_bytes,
        &mut memory.inactive_file_bytes,
        &mut memory.file_dirty_bytes,
        &mut memory.file_writeback_bytes,
        &mut memory.max_usage_bytes,
        &mut memory.kernel_bytes,
        &mut memory.limit_hits,
        &mut memory.pages_scanned,
        &mut memory.pages_stolen,
    ] {
        *slot = some;
    }
    stats
}

fn guest_stats() -> GuestStats {
    let some = Some(3.0);
    let disk = GuestDiskStats {
        device: "vda".into(),
        reads: some,
        reads_merged: some,
        read_bytes: some,
        read_seconds: some,
        writes: some,
        writes_merged: some,
        written_bytes: some,
        write_seconds: some,
        in_progress: some,
        io_seconds: some,
        weighted_io_seconds: some,
        discards: some,
        discarded_bytes: some,
        flushes: some,
    };
    let filesystem =
        FilesystemStats { mount: "/data".into(), device: "vda".into(), bytes: [some; 3], inodes: [some; 3] };
    GuestStats {
        cpu_seconds: [some; 8],
        memory_bytes: [some; 15],
        load: [Some(0.25); 3],
        tasks_runnable: some,
        tasks_total: some,
        disks: vec![disk],
        filesystems: vec![filesystem],
        page_faults: some,
        major_page_faults: some,
        oom_kills: some,
    }
}

/// Every number there is.
fn host_stats() -> HostStats {
    let some = Some(4.0);
    let cpu = CpuTimes { user: 1.0, system: 2.0, guest: 4.0 };
    let histogram = Histogram { bounds: &[0.001, 0.1], counts: vec![3, 0, 1], sum_seconds: 0.5 };
    let memory = MemoryNow {
        rss_bytes: some,
        pss_bytes: some,
        held_bytes: some,
        private_bytes: some,
        swap_bytes: some,
        page_tables_bytes: some,
    };
    let role = RoleReading {
        role: HostRole::Vmm,
        cpu: Some(cpu),
        voluntary_switches: some,
        involuntary_switches: some,
        minor_faults: some,
        major_faults: some,
        io: Some(IoTotals { read_calls: 1.0, write_calls: 2.0, read_bytes: 3.0, written_bytes: 4.0 }),
        io_blocked_seconds: some,
        peak_rss_bytes: some,
        memory,
        threads: some,
        open_fds: some,
        max_fds: some,
    };
    let thread = ThreadReading { role: HostRole::Vcpu, tid: 7, name: "CPU 0/KVM".into(), cpu, run_delay_seconds: some };
    let cgroup = CgroupReading {
        kind: "sandbox",
        path: "/kata_aa".into(),
        cpu: Some(cpu),
        throttled_seconds: some,
        throttled_periods: some,
        periods: some,
        memory_bytes: some,
        memory_peak_bytes: some,
        memory_limit_bytes: some,
        oom_kills: some,
        pressure: vec![("cpu", "some", 1.5)],
    };
    let traffic = TrafficReading { bytes: 468.0, packets: 5.0, errors: 0.0, drops: 1.0 };
    let interface = InterfaceReading {
        name: "eth0".into(),
        is_tap: false,
        receive: traffic,
        transmit: traffic,
        qdisc_drops: Some(0.0),
    };
    let block =
        BlockReading { device: "vda".into(), operation: "write", bytes: 4096, requests: 1, latency: histogram.clone() };
    HostStats {
        reading: HostReading {
            roles: vec![role],
            vcpus: some,
            memory_nominal_bytes: some,
            vcpu_run_delay_seconds: some,
            threads: vec![thread],
            cgroups: vec![cgroup],
            network: NetworkReading { is_hosts: false, interfaces: vec![interface] },
            ..HostReading::default()
        },
        kernel: KernelReading {
            runqueue: vec![(HostRole::Vmm, histogram)],
            kvm_exits: vec![("io", 9)],
            block: vec![block],
            oom_kills: vec![(HostRole::Vmm, 1)],
        },
        cost: CostStats {
            overhead_cpu_seconds: some,
            overhead_memory_bytes: some,
            declared_memory_bytes: some,
            declared_cpu_cores: some,
            memory_byte_seconds: some,
            reclaimable_bytes: some,
        },
    }
}

fn ended(id: &str, pod: &str) -> SandboxPage {
    let end = EndPage { cause: "oom", signal: "9".into(), exit_code: String::new() };
    SandboxPage { stats: None, containers: Vec::new(), end: Some(end), ..sandbox(id, pod) }
}

fn container(name: &str) -> ContainerPage {
    let some = Some(1_795_346_714.0);
    ContainerPage {
        container: name.into(),
        cgroup: format!("/kubepods/burstable/pod1/{name}-id"),
        image: "docker.io/library/app:1".into(),
        name: format!("{name}-id"),
        created_unix_seconds: some,
        started_unix_seconds: some,
        seen_unix_seconds: some,
        limits: Limits {
            cpu_period_us: Some(100_000.0),
            cpu_quota_us: Some(50_000.0),
            cpu_shares: Some(512.0),
            memory_bytes: Some(268_435_456.0),
            memory_swap_bytes: Some(0.0),
            open_files: Some(1024.0),
        },
        stats: Some(Arc::new(container_stats())),
    }
}

fn sandbox(id: &str, pod: &str) -> SandboxPage {
    let source = SourcePage { source: "shim", state: "ok", collected_unix_seconds: Some(1_795_346_714.5) };
    SandboxPage {
        sandbox_id: id.into(),
        namespace: "ns".into(),
        pod: pod.into(),
        uid: "uid-1".into(),
        pod_level_id: format!("/kubepods/burstable/pod1/{id}/kata-pulse"),
        runtime: "go",
        vmm: "qemu",
        state: "running",
        runtime_handler: "kata-qemu".into(),
        shim_version: "4.1.0".into(),
        pod_source: "guest",
        cgroup_mode: "",
        sources: vec![source],
        stats: Some(Arc::new(pod_stats())),
        guest: Some(Arc::new(guest_stats())),
        host: Some(Arc::new(host_stats())),
        end: None,
        containers: vec![container("app")],
        raw: Arc::default(),
    }
}

fn page(sandboxes: &[SandboxPage], selection: &Selection, format: Format) -> String {
    let own = ForeignFamily {
        name: "kata_pulse_build_info".into(),
        lines: "# HELP kata_pulse_build_info Own.\n# TYPE kata_pulse_build_info gauge\nkata_pulse_build_info 1\n"
            .into(),
    };
    let some = Some(1.5);
    let namespaces = [NamespaceStats {
        namespace: "ns".into(),
        cpu_seconds: some,
        memory_byte_seconds: some,
        received_bytes: some,
        transmitted_bytes: some,
        read_bytes: some,
        written_bytes: some,
        sandboxes_started: 1.0,
    }];
    String::from_utf8(render(sandboxes, &namespaces, &[own], selection, format, 0, |_| true)).unwrap()
}

fn names(page: &str) -> Vec<&str> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

#[test]
fn the_whole_page_of_one_sandbox() {
    insta::assert_snapshot!(page(&[sandbox("aa", "pod\"1\\")], &everything(), Format::Text));
}

#[test]
fn the_table_is_in_name_order_and_without_repetition() {
    assert!(families::ALL.windows(2).all(|pair| pair[0].name < pair[1].name));
    for family in families::ALL {
        assert!(family.help.ends_with('.') && !family.help.contains('\n'), "{}", family.name);
    }
}

#[test]
fn every_family_of_the_table_has_a_sample_on_a_full_page() {
    let page = page(&[sandbox("aa", "a"), ended("bb", "b")], &everything(), Format::Text);
    let names = names(&page);
    for family in families::ALL {
        assert!(names.contains(&family.name), "{}", family.name);
    }
}

#[test]
fn all_six_labels_are_on_every_series_of_cadvisors_in_alphabetical_order() {
    let page = page(&[sandbox("aa", "a")], &everything(), Format::Text);
    for line in page.lines().filter(|line| line.starts_with("container_")) {
        let labels = line.split_once('{').unwrap().1.split_once("} ").unwrap().0;
        let names: Vec<&str> = labels.split("\",").map(|label| label.split_once('=').unwrap().0).collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{line}");
        for standard in ["container", "id", "image", "name", "namespace", "pod"] {
            assert!(names.contains(&standard), "{standard} in {line}");
        }
    }
    let container = "container_memory_rss{container=\"app\",id=\"/kubepods/burstable/pod1/app-id\",\
                     image=\"docker.io/library/app:1\",name=\"app-id\",namespace=\"ns\",pod=\"a\"} 2";
    assert!(page.lines().any(|line| line == container));
}

#[test]
fn families_of_many_sandboxes_come_once_and_in_order() {
    let page = page(&[sandbox("aa", "a"), sandbox("bb", "b")], &everything(), Format::Text);
    let names = names(&page);
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
    assert_eq!(page.matches("\ncontainer_threads{").count(), 4);
}

#[test]
fn histograms_are_cumulative() {
    let page = page(&[sandbox("aa", "a")], &everything(), Format::Text);
    let of = "namespace=\"ns\",pod=\"a\",role=\"vmm\",sandbox_id=\"aa\"}";
    let start = "kata_sandbox_runqueue_latency_seconds";
    let buckets = [("0.001", 3), ("0.1", 3), ("+Inf", 4)]
        .map(|(le, count)| format!("{start}_bucket{{le=\"{le}\",{of} {count}\n"))
        .concat();
    let right = format!("# TYPE {start} histogram\n{buckets}{start}_sum{{{of} 0.5\n{start}_count{{{of} 4\n");
    assert!(page.contains(&right), "{right}");
}

#[test]
fn of_a_sandbox_that_is_no_more_counters_stay() {
    let page = page(&[ended("bb", "b")], &everything(), Format::Text);
    for name in ["container_", "kata_sandbox_memory_bytes", "kata_sandbox_threads", "kata_pulse_sandbox"] {
        assert!(!page.contains(&format!("\n{name}")), "{name}");
    }
    for name in ["cpu_seconds_total", "memory_peak_bytes", "info", "guest_cpu_seconds_total", "io_bytes_total"] {
        assert!(page.contains(&format!("\nkata_sandbox_{name}{{")), "{name}");
    }
    let end = "kata_sandbox_ended{cause=\"oom\",exit_code=\"\",namespace=\"ns\",pod=\"b\",sandbox_id=\"bb\",signal=\"9\"} 1\n";
    assert!(page.contains(end));
}

#[test]
fn absent_is_not_zero() {
    let unheard = ContainerPage { container: "app".into(), ..ContainerPage::default() };
    let silent = SandboxPage { stats: None, guest: None, host: None, containers: vec![unheard], ..sandbox("aa", "a") };
    let page = page(&[silent], &everything(), Format::Text);
    assert!(!page.contains("container_") && !page.contains("_guest_") && page.contains("kata_sandbox_info{"));
}

#[test]
fn kinds_and_levels_can_be_switched_off() {
    let mut selection = everything();
    selection.disabled = BTreeSet::from([MetricKind::Network]);
    assert!(!page(&[sandbox("aa", "a")], &selection, Format::Text).contains("container_network_"));
    selection.levels = BTreeSet::from([Level::Container]);
    let containers = page(&[sandbox("aa", "a")], &selection, Format::Text);
    assert!(containers.contains("container=\"app\"") && !containers.contains("container=\"\""));
    selection.levels = BTreeSet::from([Level::Pod]);
    let pods = page(&[sandbox("aa", "a")], &selection, Format::Text);
    assert!(pods.contains("container=\"\"") && !pods.contains("container=\"app\""));
    selection.disabled = BTreeSet::from([MetricKind::Guest]);
    assert!(!page(&[sandbox("aa", "a")], &selection, Format::Text).contains("_guest_"));
}

#[test]
fn openmetrics_has_its_own_names_and_an_end() {
    let page = page(&[sandbox("aa", "a")], &everything(), Format::OpenMetrics);
    assert!(page.contains("# TYPE container_cpu_usage_seconds counter\ncontainer_cpu_usage_seconds_total{"));
    assert!(page.ends_with("# EOF\n"));
}

/// Names that cAdvisor or the first generation fixed, and that promtool's lint would have otherwise.
const FIXED_NAMES: &[&str] = &[
    "container_hugetlb_failcnt",
    "container_memory_failcnt",
    "container_memory_total_active_file_bytes",
    "container_processes_count",
];

#[test]
fn promtool_reads_the_page_and_complains_of_fixed_names_only() {
    let mut promtool = match Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    {
        Ok(promtool) => promtool,
        Err(error) => {
            assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "promtool is needed: {error}");
            println!("SKIPPED: promtool cannot be run: {error}");
            return;
        }
    };
    let page = page(&[sandbox("aa", "a"), sandbox("bb", "b")], &everything(), Format::Text);
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let unexpected: Vec<&str> =
        complaints.lines().filter(|line| !FIXED_NAMES.iter().any(|name| line.starts_with(name))).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
}
