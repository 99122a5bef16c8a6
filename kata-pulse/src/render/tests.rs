use super::*;
use crate::model::{DiskStats, InterfaceStats, PodStats, SourcePage, TrafficStats};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

fn everything() -> Selection {
    Selection { levels: BTreeSet::from([Level::Pod, Level::Container]), disabled: BTreeSet::new() }
}

fn sandbox(id: &str, pod: &str) -> SandboxPage {
    let some = Some(1.0);
    let traffic = TrafficStats { bytes: Some(468.0), packets: Some(5.0), errors: Some(0.0), dropped: Some(0.0) };
    let disk =
        DiskStats { device: "/dev/vda".into(), read_bytes: some, written_bytes: some, reads: some, writes: some };
    let mut stats = PodStats {
        oom_events: Some(0.0),
        interfaces: vec![InterfaceStats { name: "eth0".into(), receive: traffic, transmit: traffic }],
        disks: vec![disk],
        ..PodStats::default()
    };
    stats.cpu.usage_seconds = Some(8.36);
    stats.cpu.user_seconds = Some(4.89);
    stats.cpu.system_seconds = Some(3.47);
    stats.memory.usage_bytes = Some(123_456_789.0);
    stats.memory.working_set_bytes = Some(100_000_000.0);
    stats.memory.page_faults = Some(10.0);
    stats.memory.major_page_faults = Some(2.0);
    stats.processes.threads = Some(56.0);
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
        stats: Some(Arc::new(stats)),
    }
}

fn page(sandboxes: &[SandboxPage], selection: &Selection, format: Format) -> String {
    let own = ForeignFamily {
        name: "kata_pulse_build_info".into(),
        text: "# HELP kata_pulse_build_info Own.\n# TYPE kata_pulse_build_info gauge\nkata_pulse_build_info 1\n".into(),
        openmetrics: "# HELP kata_pulse_build_info Own.\n# TYPE kata_pulse_build_info gauge\nkata_pulse_build_info 1\n"
            .into(),
    };
    String::from_utf8(render(sandboxes, &[own], selection, format, |_| true)).unwrap()
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
fn families_of_many_sandboxes_come_once_and_in_order() {
    let page = page(&[sandbox("aa", "a"), sandbox("bb", "b")], &everything(), Format::Text);
    let names = names(&page);
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
    assert_eq!(page.matches("\ncontainer_threads{").count(), 2);
}

#[test]
fn absent_is_not_zero() {
    let silent = SandboxPage { stats: None, ..sandbox("aa", "a") };
    let page = page(&[silent], &everything(), Format::Text);
    assert!(!page.contains("container_") && page.contains("kata_sandbox_info{"));
}

#[test]
fn kinds_and_levels_can_be_switched_off() {
    let mut selection = everything();
    selection.disabled = BTreeSet::from([MetricKind::Network]);
    assert!(!page(&[sandbox("aa", "a")], &selection, Format::Text).contains("container_network_"));
    selection.levels = BTreeSet::from([Level::Container]);
    assert!(!page(&[sandbox("aa", "a")], &selection, Format::Text).contains("container_"));
}

#[test]
fn openmetrics_has_its_own_names_and_an_end() {
    let page = page(&[sandbox("aa", "a")], &everything(), Format::OpenMetrics);
    assert!(page.contains("# TYPE container_cpu_usage_seconds counter\ncontainer_cpu_usage_seconds_total{"));
    assert!(page.ends_with("# EOF\n"));
}

/// Names that cAdvisor or the first generation fixed, and that promtool's lint would have otherwise.
const FIXED_NAMES: &[&str] = &["container_processes_count", "container_memory_total_active_file_bytes"];

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
