//! Prints metrics pages in Prometheus' text format. In: samples in any order. Out: the page, family by family.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::truth::{Container, Life, Pod};

/// A page that grows.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<&'static str, (&'static str, String)>,
}

impl Page {
    pub fn gauge(&mut self, family: &'static str, labels: &str, value: f64) {
        self.add(family, "gauge", labels, value);
    }

    pub fn counter(&mut self, family: &'static str, labels: &str, value: f64) {
        self.add(family, "counter", labels, value);
    }

    fn add(&mut self, family: &'static str, kind: &'static str, labels: &str, value: f64) {
        let (_, lines) = self.families.entry(family).or_insert_with(|| (kind, String::new()));
        let _ = writeln!(lines, "{family}{{{labels}}} {value}");
    }

    pub fn print(&self) -> String {
        let mut text = String::new();
        for (family, (kind, lines)) in &self.families {
            let _ = write!(text, "# HELP {family} A test's.\n# TYPE {family} {kind}\n{lines}");
        }
        text
    }
}

/// The six labels of cAdvisor, all printed, and more.
pub struct Standard<'a> {
    pub container: &'a str,
    pub id: &'a str,
    pub image: &'a str,
    pub name: &'a str,
    pub namespace: &'a str,
    pub pod: &'a str,
}

impl Standard<'_> {
    pub fn with(&self, more: &str) -> String {
        let Self { container, id, image, name, namespace, pod } = self;
        let comma = if more.is_empty() { "" } else { "," };
        format!(
            "container=\"{container}\",id=\"{id}\",image=\"{image}\",name=\"{name}\",namespace=\"{namespace}\",pod=\"{pod}\"{comma}{more}"
        )
    }
}

/// CPU and memory of anything that has a cgroup.
pub fn cpu_and_memory(page: &mut Page, of: &Standard<'_>, cpu_seconds: f64, working_set: f64) {
    page.counter("container_cpu_usage_seconds_total", &of.with("cpu=\"total\""), cpu_seconds);
    page.counter("container_cpu_user_seconds_total", &of.with(""), cpu_seconds * 0.75);
    page.counter("container_cpu_system_seconds_total", &of.with(""), cpu_seconds * 0.25);
    page.gauge("container_memory_working_set_bytes", &of.with(""), working_set);
    page.gauge("container_memory_usage_bytes", &of.with(""), working_set * 1.25);
}

/// What is known of how memory is used.
pub fn memory_by_use(page: &mut Page, labels: &str, container: &Container) {
    for (family, value) in [
        ("container_memory_rss", container.rss),
        ("container_memory_cache", container.cache),
        ("container_memory_swap", container.swap),
    ] {
        if let Some(value) = value {
            page.gauge(family, labels, value);
        }
    }
}

/// A workload container as cAdvisor shows one, and as the agent does.
pub fn workload(page: &mut Page, pod: &Pod, container: &Container, life: &Life, now: f64) {
    let (image, id) = (container.image(), pod.container_path(&life.id));
    let of = Standard {
        container: container.name,
        id: &id,
        image: &image,
        name: &life.id,
        namespace: pod.namespace,
        pod: pod.name,
    };
    let age = now - life.from;
    cpu_and_memory(page, &of, container.cpu * age, container.working_set);
    memory_by_use(page, &of.with(""), container);
    if let Some(throttle) = container.throttle {
        page.counter("container_cpu_cfs_periods_total", &of.with(""), throttle.periods * age);
        page.counter("container_cpu_cfs_throttled_periods_total", &of.with(""), throttle.throttled * age);
    }
    let device = if pod.runtime.is_kata() { "device=\"/dev/vda\"" } else { "device=\"/dev/sda\"" };
    for (family, rate) in container.io.iter().flat_map(|io| {
        [
            ("container_fs_reads_total", io.reads),
            ("container_fs_writes_total", io.writes),
            ("container_fs_reads_bytes_total", io.read_bytes),
            ("container_fs_writes_bytes_total", io.written_bytes),
        ]
    }) {
        page.counter(family, &of.with(device), rate * age);
    }
    page.gauge("container_start_time_seconds", &of.with(""), 1_700_000_000.0 + life.from.floor());
}

/// The network families of one interface.
pub fn network(page: &mut Page, labels: &str, interface: &str, rates: [f64; 6], age: f64) {
    let families = [
        "container_network_receive_bytes_total",
        "container_network_transmit_bytes_total",
        "container_network_receive_packets_total",
        "container_network_transmit_packets_total",
        "container_network_receive_packets_dropped_total",
        "container_network_transmit_packets_dropped_total",
    ];
    let labels = format!("{labels},interface=\"{interface}\"");
    for (family, rate) in families.into_iter().zip(rates) {
        page.counter(family, &labels, rate * age);
    }
    page.counter("container_network_receive_errors_total", &labels, 0.0);
    page.counter("container_network_transmit_errors_total", &labels, 0.0);
}
