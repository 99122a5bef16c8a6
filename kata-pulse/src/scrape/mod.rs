//! Store and registry → a page, rendered once per change and shared by concurrent scrapes. Touches no sandbox.
//!
//! The agent's own metrics change with every scrape; that alone makes no new page before `OWN_AGE` has passed.

pub(crate) mod query;

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::watch;

pub use crate::render::{Format, Selection};
pub use query::{MetricsQuery, UnknownSandbox};

use crate::model::{ContainerPage, Limits, SandboxPage, SourcePage};
use crate::render::{self, ForeignFamily};
use crate::sandbox::{Container, Sandbox, SandboxState, Snapshot, Source, SourceState};
use crate::store::{Ended, PodSource, Reading, SourceReading, Store, index};
use crate::telemetry::Own;

/// How old the agent's own numbers on a page may be.
const OWN_AGE: Duration = Duration::from_secs(5);
/// Fast: a page is compressed for one scrape or few.
const GZIP_LEVEL: u32 = 1;

/// A sandbox whose name cannot be had for so long is shown without: a runtime that is not there tells none.
const PATIENCE_FOR_NAMES: Duration = Duration::from_secs(45);

/// What holds for all sandboxes of this node.
#[derive(Clone, Debug)]
pub struct HostView {
    /// `v1`, `v2`, or empty where the host's cgroups cannot be seen.
    pub cgroup_mode: &'static str,
    /// Whether the kernel's programs tell of processes: they may stop.
    pub ebpf: watch::Receiver<SourceState>,
    /// Whether the runtime is asked for containers' numbers.
    pub containers: bool,
}

/// Makes pages. Clones share what is made.
#[derive(Clone, Debug)]
pub struct Scraper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    snapshots: watch::Receiver<Snapshot>,
    store: Store,
    own: Own,
    selection: Selection,
    host: HostView,
    started: Instant,
    /// Of the last whole page.
    last_bytes: AtomicUsize,
    cached: Mutex<Option<Cached>>,
}

/// The page that everybody shares, in the forms in which it was asked for so far.
#[derive(Debug)]
struct Cached {
    snapshot: Snapshot,
    generation: u64,
    made: Instant,
    /// By format, plain and compressed.
    forms: [[Option<Bytes>; 2]; 2],
}

impl Scraper {
    pub fn new(
        snapshots: watch::Receiver<Snapshot>,
        store: Store,
        own: Own,
        selection: Selection,
        host: HostView,
    ) -> Self {
        let (started, last_bytes, cached) = (Instant::now(), AtomicUsize::new(0), Mutex::new(None));
        Self(Arc::new(Inner { snapshots, store, own, selection, host, started, last_bytes, cached }))
    }

    pub fn snapshot(&self) -> Snapshot {
        self.0.snapshots.borrow().clone()
    }

    /// How each source of a sandbox is doing.
    pub fn source_states(&self, sandbox: &Sandbox) -> Vec<(Source, SourceState)> {
        let reading = self.0.store.reading(&sandbox.id).unwrap_or_default();
        states(&reading, &self.0.host)
    }

    /// May take as long as a rendering; scrapes that come meanwhile wait for its result and share it.
    pub fn page(&self, query: &MetricsQuery, format: Format, gzip: bool) -> Result<Bytes, UnknownSandbox> {
        if !query.is_whole() {
            return self.filtered(query, format, gzip);
        }
        let snapshot = self.snapshot();
        let generation = self.0.store.generation();
        let mut cached = self.0.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = cached.take().filter(|page| {
            page.generation == generation && Arc::ptr_eq(&page.snapshot, &snapshot) && page.made.elapsed() < OWN_AGE
        });
        let page = cached.insert(fresh.unwrap_or_else(|| Cached {
            snapshot: snapshot.clone(),
            generation,
            made: Instant::now(),
            forms: Default::default(),
        }));
        let [plain, compressed] = &mut page.forms[usize::from(format == Format::OpenMetrics)];
        let plain = plain.get_or_insert_with(|| self.render(&snapshot, query, format).into()).clone();
        if !gzip {
            return Ok(plain);
        }
        Ok(compressed.get_or_insert_with(|| compress(&plain).into()).clone())
    }

    fn filtered(&self, query: &MetricsQuery, format: Format, gzip: bool) -> Result<Bytes, UnknownSandbox> {
        let mut snapshot = self.snapshot();
        if let Some(id) = &query.sandbox {
            let sandbox = snapshot.get(id).cloned().ok_or(UnknownSandbox)?;
            snapshot = Arc::new([(id.clone(), sandbox)].into());
        }
        let page = self.render(&snapshot, query, format);
        Ok(if gzip { compress(&page) } else { page }.into())
    }

    fn render(&self, snapshot: &Snapshot, query: &MetricsQuery, format: Format) -> Vec<u8> {
        let started = Instant::now();
        let readings = self.0.store.readings(snapshot);
        let sandboxes: Vec<SandboxPage> = snapshot
            .values()
            .zip(readings)
            .map(|(sandbox, reading)| sandbox_page(sandbox, reading, &self.0.host, self.0.started.elapsed()))
            .collect();
        let mut sandboxes = one_per_pod(sandboxes, snapshot);
        // A page about one sandbox is about one that lives.
        let (ended, namespaces) = match query.sandbox {
            Some(_) => Default::default(),
            None => (self.0.store.ended(), self.0.store.namespaces()),
        };
        // An id that lives again is told of once.
        let gone = ended.iter().filter(|ended| !snapshot.contains_key(&ended.sandbox.id));
        sandboxes.extend(gone.map(|ended| ended_page(ended, &self.0.host)));
        // A page about one sandbox is about that sandbox.
        let own = if query.sandbox.is_some() { Vec::new() } else { self.0.own.families() };
        let own = own.into_iter().map(|family| ForeignFamily {
            name: family.name,
            lines: if format == Format::Text { family.text } else { family.openmetrics },
        });
        let mut foreign = render::raw_families(&sandboxes, format);
        foreign.extend(own);
        foreign.sort_by(|one, other| one.name.cmp(&other.name));
        let expected = if query.is_whole() { self.0.last_bytes.load(Ordering::Relaxed) } else { 0 };
        let wants = |name: &str| query.wants(name);
        let page = render::render(&sandboxes, &namespaces, &foreign, &self.0.selection, format, expected, wants);
        if query.is_whole() {
            self.0.last_bytes.store(page.len(), Ordering::Relaxed);
        }
        self.0.own.rendered(started.elapsed());
        page
    }
}

fn compress(page: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(page.len() / 8), Compression::new(GZIP_LEVEL));
    // Writing to a vector cannot fail; if it did, an empty body would be told from a page by everyone.
    match encoder.write_all(page) {
        Ok(()) => encoder.finish().unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

/// Every source has a state: what was not asked yet is booting, what this agent does not use is off.
fn states(reading: &Reading, host: &HostView) -> Vec<(Source, SourceState)> {
    let unasked = |source| match source {
        Source::Shim | Source::Cri => SourceState::Booting,
        Source::Runtime if host.containers => SourceState::Booting,
        // The door beside the shim is opened only where the shim must not be asked.
        Source::Agent | Source::Runtime | Source::Host => SourceState::Off,
        Source::Ebpf => *host.ebpf.borrow(),
    };
    let state = |(source, reading): (Source, SourceReading)| (source, reading.state.unwrap_or_else(|| unasked(source)));
    Source::ALL.into_iter().zip(reading.sources).map(state).collect()
}

/// Of two sandboxes of one pod, an earlier one and the one that was made in its place, one has the pod's series.
fn one_per_pod(mut pages: Vec<SandboxPage>, snapshot: &Snapshot) -> Vec<SandboxPage> {
    let rank = |sandbox: &Sandbox| {
        let identity = sandbox.identity.as_ref();
        (identity.is_some_and(|identity| identity.ready), identity.and_then(|identity| identity.created_unix_ns))
    };
    let mut newest: HashMap<String, (usize, _)> = HashMap::with_capacity(pages.len());
    let mut older = Vec::new();
    for (at, (page, sandbox)) in pages.iter().zip(snapshot.values()).enumerate() {
        match newest.get_mut(&page.pod_level_id) {
            None => drop(newest.insert(page.pod_level_id.clone(), (at, rank(sandbox)))),
            Some(known) if known.1 < rank(sandbox) => {
                older.push(std::mem::replace(known, (at, rank(sandbox))).0);
            }
            Some(_) => older.push(at),
        }
    }
    older.into_iter().for_each(|at| pages[at].stats = None);
    pages
}

fn sandbox_page(sandbox: &Sandbox, reading: Reading, host: &HostView, since_start: Duration) -> SandboxPage {
    let sources = states(&reading, host).into_iter().map(|(source, state)| SourcePage {
        source: source.as_str(),
        state: state.as_str(),
        collected_unix_seconds: reading.sources[index(source)].collected.and_then(unix_seconds),
    });
    // Series whose labels would change a moment later are better not begun.
    let cri = reading.sources[index(Source::Cri)].state;
    let named = match cri {
        _ if sandbox.identity.is_some() => true,
        Some(SourceState::Unsupported) => true,
        Some(SourceState::Booting) | None => false,
        Some(_) => since_start >= PATIENCE_FOR_NAMES,
    };
    // What is not asked any more has nothing new to say, and its last words would look like fresh ones.
    let ends = sandbox.identity.as_ref().is_some_and(|identity| !identity.ready);
    let is_asked = sandbox.state != SandboxState::Stopping && !ends;
    let shown = named && is_asked;
    let identity = sandbox.identity.clone().unwrap_or_default();
    SandboxPage {
        sandbox_id: sandbox.id.to_string(),
        pod_level_id: pod_level_id(sandbox),
        namespace: identity.namespace,
        pod: identity.pod_name,
        uid: identity.uid,
        runtime: sandbox.runtime.map_or("", crate::sandbox::Runtime::as_str),
        vmm: sandbox.vmm.map_or("", crate::sandbox::Vmm::as_str),
        state: sandbox.state.as_str(),
        runtime_handler: identity.runtime_handler,
        shim_version: sandbox.shim_version.map(|version| version.to_string()).unwrap_or_default(),
        pod_source: reading.pod_source.map_or("", PodSource::as_str),
        cgroup_mode: host.cgroup_mode,
        sources: sources.collect(),
        containers: sandbox.containers.iter().filter(|_| is_asked).map(|one| container_page(one, &reading)).collect(),
        raw: if shown { reading.raw } else { Arc::default() },
        stats: match reading.pod_source {
            Some(PodSource::Host) => reading.host_stats.filter(|_| named),
            _ => reading.stats.filter(|_| shown),
        },
        guest: reading.guest.filter(|_| shown),
        host: reading.host.filter(|_| named),
        end: None,
    }
}

/// What stays of a sandbox that is no more.
fn ended_page(ended: &Ended, host: &HostView) -> SandboxPage {
    let reading = ended.reading.clone();
    let (guest, numbers) = (reading.guest.clone(), reading.host.clone());
    let page = sandbox_page(&ended.sandbox, reading, host, Duration::ZERO);
    SandboxPage {
        stats: None,
        containers: Vec::new(),
        raw: Arc::default(),
        guest,
        host: numbers,
        end: Some(ended.end.clone()),
        ..page
    }
}

fn unix_seconds(at: SystemTime) -> Option<f64> {
    at.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
}

fn container_page(container: &Container, reading: &Reading) -> ContainerPage {
    let said = reading.containers.get(&container.id);
    // Whole seconds, as cAdvisor has them.
    let seconds = |ns: Option<i64>| ns.map(|ns| (ns / 1_000_000_000) as f64);
    ContainerPage {
        container: container.name.clone(),
        cgroup: container.cgroup.clone(),
        image: container.image.clone(),
        name: container.label_name.clone(),
        created_unix_seconds: seconds(container.created_unix_ns),
        started_unix_seconds: seconds(container.started_unix_ns),
        // As cAdvisor has it: now, of those that gave numbers when they were last asked.
        seen_unix_seconds: said.and_then(|_| unix_seconds(SystemTime::now())).map(f64::floor),
        limits: limits(&container.limits, said.and_then(|said| said.stats.memory.limit_bytes)),
        stats: said.map(|said| said.stats.clone()),
    }
}

/// Numbers that stand for "unlimited", and those that were never set, are no limit, which cAdvisor shows as 0.
fn limits(known: &crate::sandbox::Limits, guests_memory: Option<f64>) -> Limits {
    const UNLIMITED: i64 = 1 << 62;
    let positive = |value: Option<i64>| value.filter(|&value| value > 0).map(|value| value as f64);
    let bytes =
        |value: Option<i64>| value.map(|value| if (1..UNLIMITED).contains(&value) { value as f64 } else { 0.0 });
    Limits {
        cpu_period_us: positive(known.cpu_period_us),
        cpu_quota_us: positive(known.cpu_quota_us),
        cpu_shares: positive(known.cpu_shares),
        memory_bytes: bytes(known.memory_bytes).or(guests_memory).or(Some(0.0)),
        memory_swap_bytes: bytes(known.memory_swap_bytes).or(Some(0.0)),
        open_files: known.open_files.map(|files| if files >= 1 << 62 { -1.0 } else { files as f64 }),
    }
}

/// The pod's cgroup with an element of our own; without a pod, or before its cgroup is known, one by sandbox.
fn pod_level_id(sandbox: &Sandbox) -> String {
    match sandbox.identity.as_ref().and_then(|identity| identity.cgroup_parent.as_deref()) {
        Some(parent) => format!("{}/kata-pulse", parent.trim_end_matches('/')),
        None => format!("/kata/{}", sandbox.id),
    }
}

#[cfg(test)]
mod tests;
