//! The agent's own metrics. In: one method call per thing that happened, cheap and without allocation worth naming.
//! Out: [`Own::families`]. Handles are clones of one registry.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use super::exposition::{OwnFamily, parse_families};
use super::process::ProcessSample;
use super::table::OWN_FAMILIES;
use crate::sandbox::{Source, SourceState};
use crate::version;

type Labels = Vec<(&'static str, Cow<'static, str>)>;
type Counters = Family<Labels, Counter>;
type Seconds = Counter<f64, AtomicU64>;
type Histograms = Family<Labels, Histogram, Buckets>;

/// Upper bounds in seconds: 0.5 ms to 10 s.
const BUCKETS_SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Of a sandbox's start, in seconds: an image may have to come first, and a confidential guest's memory be taken.
const STARTUP_BUCKETS_SECONDS: [f64; 14] =
    [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 300.0];

#[derive(Clone, Copy, Debug)]
struct StartupBuckets;

impl MetricConstructor<Histogram> for StartupBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(STARTUP_BUCKETS_SECONDS)
    }
}

#[derive(Clone, Copy, Debug)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS_SECONDS)
    }
}

/// Handle to the agent's own metrics; clones share the numbers.
#[derive(Clone, Debug)]
pub struct Own(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    discovery_events: Counters,
    discovery_latency: Histograms,
    events_lost: Counter,
    events_foreign: Counter,
    collect_duration: Histograms,
    collect_failures: Counters,
    limited: Counters,
    http_requests: Counters,
    http_bytes: Counters,
    render_duration: Histogram,
    ebpf_attached: Family<Labels, Gauge>,
    /// Reason last shown for each program: a new one replaces it.
    ebpf_reasons: Mutex<HashMap<String, Labels>>,
    ebpf_events: Counters,
    ebpf_run: Family<Labels, Seconds>,
    leftovers: Family<Labels, Gauge>,
    orphans: Family<Labels, Gauge>,
    startup: Family<Labels, Histogram, StartupBuckets>,
    ended: Counters,
    process: ProcessGauges,
}

#[derive(Clone, Debug, Default)]
struct ProcessGauges {
    cpu: Family<Labels, Seconds>,
    start: Family<Labels, Gauge<f64, AtomicU64>>,
    others: [Family<Labels, Gauge>; 5],
}

/// Registers under the table's help. A counter's name is given as the page shows it.
fn register<M: Metric + Clone>(registry: &mut Registry, name: &'static str, metric: M) -> M {
    let help = OWN_FAMILIES.iter().find(|row| row.name == name).map_or("", |row| row.help);
    debug_assert!(!help.is_empty(), "{name} is not in the table");
    registry.register(name.trim_end_matches("_total"), help.trim_end_matches('.'), metric.clone());
    metric
}

impl Own {
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        let build = register(r, "kata_pulse_build_info", Family::<Labels, Gauge>::default());
        let labels = [("ebpf", version::EBPF), ("revision", version::REVISION), ("version", version::VERSION)];
        build.get_or_create(&labels.map(|(name, value)| (name, value.into())).to_vec()).set(1);
        let process = ProcessGauges::default();
        register(r, "kata_pulse_process_cpu_seconds_total", process.cpu.clone());
        register(r, "kata_pulse_process_start_time_seconds", process.start.clone());
        for (name, gauge) in PROCESS_GAUGES.iter().zip(&process.others) {
            register(r, name, gauge.clone());
        }
        let histograms = || Histograms::new_with_constructor(Buckets);
        Self(Arc::new(Inner {
            discovery_events: register(r, "kata_pulse_discovery_events_total", Counters::default()),
            discovery_latency: register(r, "kata_pulse_discovery_latency_seconds", histograms()),
            events_lost: register(r, "kata_pulse_events_lost_total", Counter::default()),
            events_foreign: register(r, "kata_pulse_events_foreign_total", Counter::default()),
            collect_duration: register(r, "kata_pulse_collect_duration_seconds", histograms()),
            collect_failures: register(r, "kata_pulse_collect_failures_total", Counters::default()),
            limited: register(r, "kata_pulse_limited_total", Counters::default()),
            http_requests: register(r, "kata_pulse_http_requests_total", Counters::default()),
            http_bytes: register(r, "kata_pulse_http_response_bytes_total", Counters::default()),
            render_duration: register(r, "kata_pulse_render_duration_seconds", Histogram::new(BUCKETS_SECONDS)),
            ebpf_attached: register(r, "kata_pulse_ebpf_program_attached", Family::default()),
            ebpf_reasons: Mutex::default(),
            ebpf_events: register(r, "kata_pulse_ebpf_program_events_total", Counters::default()),
            ebpf_run: register(r, "kata_pulse_ebpf_program_run_seconds_total", Family::default()),
            leftovers: register(r, "kata_pulse_leftovers", Family::default()),
            orphans: register(r, "kata_pulse_orphans", Family::default()),
            startup: register(r, "kata_pulse_sandbox_startup_seconds", Family::new_with_constructor(StartupBuckets)),
            ended: register(r, "kata_pulse_sandboxes_ended_total", Counters::default()),
            process,
            registry,
        }))
    }

    /// `source`: ebpf, inotify, pidfd, scan; `event`: appeared, gone, process_start, process_end.
    pub fn discovery_event(&self, source: &'static str, event: &'static str) {
        self.0.discovery_events.get_or_create(&vec![("event", event.into()), ("source", source.into())]).inc();
    }

    /// From the kernel's timestamp to published in the registry.
    pub fn discovery_latency(&self, event: &'static str, latency: Duration) {
        self.0.discovery_latency.get_or_create(&vec![("event", event.into())]).observe(latency.as_secs_f64());
    }

    pub fn events_lost(&self, count: u64) {
        self.0.events_lost.inc_by(count);
    }

    pub fn events_foreign(&self, count: u64) {
        self.0.events_foreign.inc_by(count);
    }

    pub fn collected(&self, source: Source, took: Duration) {
        self.0.collect_duration.get_or_create(&vec![("source", source.as_str().into())]).observe(took.as_secs_f64());
    }

    pub fn collect_failed(&self, source: Source, reason: SourceState) {
        let labels = vec![("reason", reason.as_str().into()), ("source", source.as_str().into())];
        self.0.collect_failures.get_or_create(&labels).inc();
    }

    /// `limit` names what cut; `count` is what was cut, in the limit's unit.
    pub fn limited(&self, limit: &'static str, count: u64) {
        self.0.limited.get_or_create(&vec![("limit", limit.into())]).inc_by(count);
    }

    /// `path` is one of the router's own words, never the client's.
    pub fn http_response(&self, path: &'static str, code: u16, body_bytes: u64) {
        let labels = vec![("code", Cow::from(code.to_string())), ("path", path.into())];
        self.0.http_requests.get_or_create(&labels).inc();
        self.0.http_bytes.get_or_create(&labels).inc_by(body_bytes);
    }

    pub fn rendered(&self, took: Duration) {
        self.0.render_duration.observe(took.as_secs_f64());
    }

    /// Replaces what was said of this program before. `reason` is empty when attached.
    pub fn ebpf_program(&self, program: &str, attached: bool, reason: &str) {
        let labels = vec![("program", Cow::from(program.to_owned())), ("reason", reason.to_owned().into())];
        let mut reasons = self.0.ebpf_reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = reasons.insert(program.to_owned(), labels.clone())
            && old != labels
        {
            self.0.ebpf_attached.remove(&old);
        }
        self.0.ebpf_attached.get_or_create(&labels).set(attached.into());
    }

    /// The kernel's totals so far; smaller ones than before are ignored, so the counters never fall.
    pub fn ebpf_program_totals(&self, program: &str, events: u64, run: Duration) {
        let labels = vec![("program", Cow::from(program.to_owned()))];
        self.0.ebpf_events.get_or_create(&labels).inner().fetch_max(events, Ordering::Relaxed);
        raise(&self.0.ebpf_run.get_or_create(&labels), run.as_secs_f64());
    }

    /// What programs have counted so far, by their group where they count together.
    pub fn ebpf_events(&self, program: &'static str, events: u64) {
        self.0
            .ebpf_events
            .get_or_create(&vec![("program", program.into())])
            .inner()
            .fetch_max(events, Ordering::Relaxed);
    }

    pub fn leftovers(&self, kind: &'static str, count: usize) {
        set(&self.0.leftovers.get_or_create(&vec![("kind", kind.into())]), count as u64);
    }

    pub fn orphans(&self, kind: &'static str, count: usize) {
        set(&self.0.orphans.get_or_create(&vec![("kind", kind.into())]), count as u64);
    }

    /// `stage`: shim_exec, vmm_exec, socket, guest, first_container.
    pub fn sandbox_started(&self, stage: &'static str, runtime: &'static str, vmm: &'static str, took: Duration) {
        let labels = vec![("runtime", runtime.into()), ("stage", stage.into()), ("vmm", vmm.into())];
        self.0.startup.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Sandboxes of this VMM are there: none of them has ended by these causes yet, or the counters stay as they are.
    pub fn sandboxes_may_end(&self, vmm: &'static str, causes: &[&'static str]) {
        for cause in causes {
            drop(self.0.ended.get_or_create(&vec![("cause", (*cause).into()), ("vmm", vmm.into())]));
        }
    }

    /// `cause`: orderly, vmm, shim, virtiofsd, guest, oom, unknown.
    pub fn sandbox_ended(&self, vmm: &'static str, cause: &'static str) {
        self.0.ended.get_or_create(&vec![("cause", cause.into()), ("vmm", vmm.into())]).inc();
    }

    /// What was not read stays off the page.
    pub(super) fn process(&self, sample: &ProcessSample) {
        let process = &self.0.process;
        let none = Labels::new();
        if let Some(seconds) = sample.cpu_seconds {
            raise(&process.cpu.get_or_create(&none), seconds);
        }
        if let Some(seconds) = sample.start_time_seconds {
            process.start.get_or_create(&none).set(seconds);
        }
        let values = [
            sample.max_fds,
            sample.open_fds,
            sample.resident_memory_bytes,
            sample.threads,
            sample.virtual_memory_bytes,
        ];
        for (family, value) in process.others.iter().zip(values) {
            if let Some(value) = value {
                set(&family.get_or_create(&none), value);
            }
        }
    }

    /// Everything that has a sample, in name order. Costs an encoding of about 10 KB; no IO.
    pub fn families(&self) -> Vec<OwnFamily> {
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a String cannot fail; a metric that refused to encode would only be missing.
        let _ = encode_registry(&mut text, &self.0.registry);
        parse_families(&text)
    }
}

impl Default for Own {
    fn default() -> Self {
        Self::new()
    }
}

const PROCESS_GAUGES: [&str; 5] = [
    "kata_pulse_process_max_fds",
    "kata_pulse_process_open_fds",
    "kata_pulse_process_resident_memory_bytes",
    "kata_pulse_process_threads",
    "kata_pulse_process_virtual_memory_bytes",
];

fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Bits of non-negative floats are in the order of the floats.
fn raise(counter: &Seconds, seconds: f64) {
    if seconds.is_finite() && seconds >= 0.0 {
        counter.inner().fetch_max(seconds.to_bits(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn everything() -> Own {
        let own = Own::new();
        own.discovery_event("ebpf", "appeared");
        own.discovery_latency("appeared", Duration::from_millis(3));
        own.discovery_latency("gone", Duration::from_millis(700));
        own.events_lost(2);
        own.events_foreign(3);
        own.collected(Source::Shim, Duration::from_millis(2));
        own.collect_failed(Source::Shim, SourceState::Timeout);
        own.limited("connections", 1);
        own.http_response("/metrics", 200, 1234);
        own.rendered(Duration::from_millis(1));
        own.ebpf_program("fexit_mkdir", false, "not \"supported\"");
        own.ebpf_program_totals("fexit_mkdir", 7, Duration::from_micros(1500));
        own.leftovers("stale", 4);
        own.sandbox_started("socket", "go", "qemu", Duration::from_millis(700));
        own.sandbox_ended("qemu", "orderly");
        own.orphans("vmm", 0);
        own.process(&super::super::process::read_process().unwrap());
        own
    }

    #[test]
    fn every_row_of_the_table_is_on_the_page_with_its_type_and_labels() {
        let families = everything().families();
        let names: Vec<_> = families.iter().map(|family| family.name.as_str()).collect();
        let expected: Vec<_> = OWN_FAMILIES.iter().map(|row| row.name).collect();
        assert_eq!(names, expected);
        for (family, row) in families.iter().zip(OWN_FAMILIES) {
            let head = format!("# HELP {0} {1}\n# TYPE {0} {2}\n", row.name, row.help, row.kind.as_str());
            assert!(family.text.starts_with(&head), "{}", family.text);
            for label in row.labels.split(", ").filter(|label| !label.is_empty()) {
                assert!(family.text.contains(&format!("{label}=\"")), "{label} in {}", family.text);
            }
        }
    }

    #[test]
    fn samples_are_as_expected_by_hand() {
        let page: String = everything().families().into_iter().map(|family| family.text).collect();
        for line in [
            "kata_pulse_discovery_events_total{event=\"appeared\",source=\"ebpf\"} 1",
            "kata_pulse_discovery_latency_seconds_bucket{event=\"appeared\",le=\"0.0025\"} 0",
            "kata_pulse_discovery_latency_seconds_bucket{event=\"appeared\",le=\"0.005\"} 1",
            "kata_pulse_discovery_latency_seconds_count{event=\"gone\"} 1",
            "kata_pulse_collect_failures_total{reason=\"timeout\",source=\"shim\"} 1",
            "kata_pulse_http_response_bytes_total{code=\"200\",path=\"/metrics\"} 1234",
            "kata_pulse_ebpf_program_attached{program=\"fexit_mkdir\",reason=\"not \\\"supported\\\"\"} 0",
            "kata_pulse_ebpf_program_run_seconds_total{program=\"fexit_mkdir\"} 0.0015",
            "kata_pulse_events_lost_total 2",
        ] {
            assert!(page.lines().any(|have| have == line), "{line}\n{page}");
        }
    }

    #[test]
    fn a_program_has_one_reason_at_a_time() {
        let own = everything();
        own.ebpf_program("fexit_mkdir", true, "");
        let page: String = own.families().into_iter().map(|family| family.text).collect();
        assert_eq!(page.matches("kata_pulse_ebpf_program_attached{").count(), 1);
        assert!(page.contains("kata_pulse_ebpf_program_attached{program=\"fexit_mkdir\",reason=\"\"} 1"));
    }

    #[test]
    fn kernel_totals_never_fall() {
        let own = everything();
        own.ebpf_program_totals("fexit_mkdir", 1, Duration::ZERO);
        let page: String = own.families().into_iter().map(|family| family.text).collect();
        assert!(page.contains("kata_pulse_ebpf_program_events_total{program=\"fexit_mkdir\"} 7"));
    }

    #[test]
    fn promtool_finds_nothing_to_say() {
        let mut child = match Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        {
            Ok(child) => child,
            Err(error) if std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none() => {
                println!("skipped: promtool: {error} (Debian package prometheus)");
                return;
            }
            Err(error) => panic!("promtool: {error} (Debian package prometheus)"),
        };
        let page: String = everything().families().into_iter().map(|family| family.text).collect();
        child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.trim().is_empty(), "{said}\n{page}");
    }
}
