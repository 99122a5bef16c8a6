//! Wiring only: the one place that knows every module.

mod containers;
mod guest;
mod host;
mod kernel;
mod memory;
mod page;
mod rights;
mod suspects;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::collect::cri::{self, Client, CriUpdate};
use crate::collect::host::{HostOptions, HostReader};
use crate::collect::schedule;
use crate::collect::shim::client::Limits;
use crate::config::{Config, HostPaths, Level};
use crate::discover::ebpf::EbpfWatch;
use crate::discover::{self, Batch, DiscoveryCounters, boot_now, shim_version};
use crate::registry::Registry;
use crate::sandbox::{Change, DiscoveryEvent, SandboxState, Snapshot, Source, SourceState};
use crate::scrape::{HostView, Scraper, Selection};
use crate::store::{Store, index};
use crate::tasks::Tasks;
use crate::telemetry::{self, Own};
use crate::{serve, version};
use containers::{ContainerCollector, CriOTurn, OomCounts};
use guest::GuestCollector;
use host::{Accountant, Endings, News};
use kernel::{attached_programs, count_run_time, ebpf_state, show_lost_kernel, start_ebpf};
use page::{Pages, Readiness};
use rights::Rights;
use suspects::Suspects;

/// Longer than the first collection of everything may take before the agent calls itself ready without it.
const FIRST_COLLECTION_PATIENCE: Duration = Duration::from_millis(1500);
/// Looking through a node's cgroups takes some 20 ms, and a tenth of a CPU may be all there is.
const CGROUP_PATIENCE: Duration = Duration::from_secs(3);
/// Of the second that a stop may take.
const STOP_PATIENCE: Duration = Duration::from_millis(800);

/// Runs until a signal to stop comes, or a task panics.
pub async fn run(mut config: Config) -> anyhow::Result<()> {
    memory::keep_pages_apart();
    let signals = Signals::listen()?;
    if let Err(error) = discover::raise_descriptor_limit() {
        warn!(error = &error as &dyn std::error::Error, "the limit of open files stays as it is");
    }
    // Before anything else, so that a port that is taken ends the agent before it has done anything.
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listen on {}; choose another address with --listen-address", config.listen))?;
    info!(
        version = version::VERSION,
        revision = version::REVISION,
        ebpf = version::EBPF,
        address = %listener.local_addr()?,
        "kata-pulse starts"
    );
    let (tasks, own, registry, store) = (Tasks::default(), Own::new(), Registry::default(), Store::default());
    let readiness = Arc::new(Readiness::default());
    let (scrapes, [for_guests, for_containers]) = broadcast_scrapes();
    let (connected, runtime) = watch::channel(None);
    let ooms = OomCounts::default();

    let suspects = Suspects::default();

    let rights = Rights::read(&config.host);
    rights.report(&config);
    find_cgroup_namespace(&mut config.host).await;
    let kernel = start_ebpf(&config, &rights, &own).await?;
    let _counted = kernel.as_ref().and_then(|_| count_run_time());
    let containers = config.levels.contains(&Level::Container);
    let (shown, ebpf) = watch::channel(ebpf_state(&config, kernel.as_ref()));
    let host = HostView { cgroup_mode: cgroup_mode(&config.host.sysfs), ebpf, containers };
    let discovery = DiscoveryCounters::default();
    let showing = show_lost_kernel(discovery.kernel_lost(), attached_programs(kernel.as_ref()), own.clone(), shown);
    tasks.spawn("kernel programs", showing);
    let news = start_accounting(&tasks, &config, &own, &registry, &store, suspects.clone(), runtime.clone());
    start_discovery(&tasks, &config, &own, &registry, &store, &readiness, kernel, discovery.clone(), news);
    start_guest_collection(&tasks, &config, &own, &registry, &store, for_guests, suspects.clone());
    if containers {
        let collector = ContainerCollector {
            registry: registry.clone(),
            store: store.clone(),
            own: own.clone(),
            runtime,
            ooms: ooms.clone(),
            cri_o: CriOTurn::default(),
            suspects: suspects.clone(),
        };
        let interval = config.metrics_interval;
        let collector = Arc::new(collector);
        let scheduling = schedule::run(registry.subscribe(), for_containers, interval, containers::RULES, collector);
        tasks.spawn("container collection", scheduling);
    }
    start_naming(&tasks, &config, &registry, &store, connected, ooms);
    tasks.spawn("readiness", watch_first_collection(registry.subscribe(), store.clone(), readiness.clone()));
    tasks.spawn("own process", telemetry::process::run(own.clone(), tasks.stopping()));

    let selection = Selection { levels: config.levels.clone(), disabled: config.disabled.clone() };
    let scraper = Scraper::new(registry.subscribe(), store, own.clone(), selection, host);
    let pages = Arc::new(Pages { scraper, readiness: readiness.clone(), discovery, scrapes });
    let router = serve::router(pages, own.clone());
    let serving = serve::serve(listener, router, own, serve::Limits::default(), tasks.stopping());
    let stop = tasks.stopping();
    tasks.spawn_until_done("http", serving);
    wait_for_stop(signals, stop).await?;
    readiness.stopping.store(true, Ordering::Relaxed);
    tasks.stop(STOP_PATIENCE).await;
    info!("kata-pulse stopped");
    Ok(())
}

/// SIGTERM and SIGINT, from the moment this is made.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }
}

async fn wait_for_stop(mut signals: Signals, stop: tokio_util::sync::CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        _ = signals.terminate.recv() => Ok(()),
        _ = signals.interrupt.recv() => Ok(()),
        () = stop.cancelled() => anyhow::bail!("a part of the agent failed, see the log"),
    }
}

#[expect(clippy::too_many_arguments, reason = "wiring")]
fn start_discovery(
    tasks: &Tasks,
    config: &Config,
    own: &Own,
    registry: &Registry,
    store: &Store,
    readiness: &Arc<Readiness>,
    kernel: Option<EbpfWatch>,
    counters: DiscoveryCounters,
    news: Option<mpsc::Sender<News>>,
) {
    let (sender, batches) = mpsc::channel(256);
    tasks.spawn("discovery", discover::run(config.host.clone(), kernel, counters.clone(), sender));
    let publishing = publish(batches, registry.clone(), store.clone(), own.clone(), counters, readiness.clone(), news);
    tasks.spawn("registry", publishing);
}

/// `None` when the host's files cannot be read at all: then there is no accounting, and the log says why.
fn start_accounting(
    tasks: &Tasks,
    config: &Config,
    own: &Own,
    registry: &Registry,
    store: &Store,
    suspects: Suspects,
    runtime: watch::Receiver<Option<Client>>,
) -> Option<mpsc::Sender<News>> {
    let options =
        HostOptions { thread_detail: config.thread_detail, qdisc: config.qdisc, ..HostOptions::new(&config.host) };
    let reader = match HostReader::new(options) {
        Ok(reader) => reader,
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "no numbers of the host");
            return None;
        }
    };
    let (sender, news) = mpsc::channel(1024);
    let began = SystemTime::now();
    let (config, own, registry, store) = (config.clone(), own.clone(), registry.clone(), store.clone());
    tasks.spawn("host accounting", async move {
        let endings = Endings::new(config.ended_retention, began);
        let accountant = Accountant::new(registry, store, own.clone(), suspects, reader, config.host_interval, endings);
        accountant.hearing(runtime).run(news, host::start_kernel(&config, &own)).await;
    });
    Some(sender)
}

/// Takes batches to the registry and measures how late they are. Of a sandbox that began and ended within one batch, the
/// ledger sees both.
async fn publish(
    mut batches: mpsc::Receiver<Batch>,
    registry: Registry,
    store: Store,
    own: Own,
    counters: DiscoveryCounters,
    readiness: Arc<Readiness>,
    news: Option<mpsc::Sender<News>>,
) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    let (mut foreign, mut lost) = (0, 0);
    loop {
        tokio::select! {
            batch = batches.recv() => {
                let Some(batch) = batch else { return };
                for part in batch.events.chunk_by(|one, next| is_begin(one) == is_begin(next)) {
                    let is_first_scan = !readiness.scanned.load(Ordering::Relaxed);
                    let before = registry.snapshot();
                    registry.apply(part, Instant::now());
                    let published = boot_now();
                    part.iter().for_each(|event| count(&own, event, published));
                    let Some(news) = &news else { continue };
                    // The ledger has ended only when the agent does.
                    let _ = news.send(News { events: part.into(), before, is_first_scan }).await;
                }
                if batch.first_scan {
                    readiness.scanned.store(true, Ordering::Release);
                }
                store.retain(&registry.snapshot());
            }
            _ = every_second.tick() => {
                registry.expire(Instant::now());
                let leftovers = registry.leftovers();
                own.leftovers("directory", leftovers.directories);
                own.leftovers("socket", leftovers.sockets);
                let (now_foreign, now_lost) = (counters.foreign(), counters.lost());
                own.events_foreign(now_foreign.saturating_sub(std::mem::replace(&mut foreign, now_foreign)));
                own.events_lost(now_lost.saturating_sub(std::mem::replace(&mut lost, now_lost)));
                for program in counters.runs() {
                    if let (Some(runs), Some(seconds)) = (program.runs, program.run_seconds) {
                        own.ebpf_program_totals(program.name, runs, Duration::from_secs_f64(seconds.max(0.0)));
                    }
                }
            }
        }
    }
}

fn is_begin(event: &DiscoveryEvent) -> bool {
    !matches!(event.change, Change::Removed(_) | Change::ProcessEnded(..))
}

fn count(own: &Own, event: &DiscoveryEvent, published: Duration) {
    let name = match event.change {
        Change::Appeared(_) => "appeared",
        Change::Removed(_) => "gone",
        Change::ProcessStarted(..) => "process_start",
        Change::ProcessEnded(..) => "process_end",
        Change::Files(..) => return,
    };
    own.discovery_event(event.source.as_str(), name);
    if let Some(at) = event.at_boot {
        own.discovery_latency(name, published.saturating_sub(at));
    }
}

/// Every scheduler learns the scraper's rhythm.
fn broadcast_scrapes() -> (Vec<mpsc::Sender<schedule::Scraped>>, [mpsc::Receiver<schedule::Scraped>; 2]) {
    let (first, for_guests) = mpsc::channel(64);
    let (second, for_containers) = mpsc::channel(64);
    (vec![first, second], [for_guests, for_containers])
}

fn start_guest_collection(
    tasks: &Tasks,
    config: &Config,
    own: &Own,
    registry: &Registry,
    store: &Store,
    scraped: mpsc::Receiver<schedule::Scraped>,
    suspects: Suspects,
) {
    let collector = GuestCollector {
        registry: registry.clone(),
        store: store.clone(),
        own: own.clone(),
        policy: config.shim_metrics,
        limits: Limits::default(),
        ticks_per_second: procfs::ticks_per_second() as f64,
        started: Instant::now(),
        passthrough: config.passthrough.clone(),
        suspects,
    };
    let collector = Arc::new(collector);
    let scheduling = schedule::run(registry.subscribe(), scraped, config.metrics_interval, guest::RULES, collector);
    tasks.spawn("guest collection", scheduling);
}

fn start_naming(
    tasks: &Tasks,
    config: &Config,
    registry: &Registry,
    store: &Store,
    connected: watch::Sender<Option<Client>>,
    ooms: OomCounts,
) {
    let (sender, updates) = mpsc::channel(4);
    let naming = cri::run(config.runtime_endpoint.clone(), registry.subscribe(), sender, connected);
    tasks.spawn("container runtime", naming);
    let (shims, configured) = watch::channel(Arc::from([]));
    tasks.spawn("names", name_sandboxes(updates, registry.clone(), store.clone(), ooms, shims));
    let (sender, told) = mpsc::channel(64);
    let asking = shim_version::run(config.host.clone(), configured, registry.subscribe(), sender);
    tasks.spawn("shim versions", asking);
    tasks.spawn("versions", take_versions(told, registry.clone()));
}

async fn take_versions(mut told: mpsc::Receiver<shim_version::Told>, registry: Registry) {
    while let Some(told) = told.recv().await {
        registry.shim_told(&told.sandbox, &told.shim, told.version, Instant::now());
    }
}

async fn name_sandboxes(
    mut updates: mpsc::Receiver<CriUpdate>,
    registry: Registry,
    store: Store,
    ooms: OomCounts,
    shims: watch::Sender<Arc<[PathBuf]>>,
) {
    while let Some(update) = updates.recv().await {
        match update {
            CriUpdate::Names { names, without_pod } => {
                registry.name(names.clone(), Instant::now());
                for (id, sandbox) in registry.snapshot().iter() {
                    let state = match &sandbox.identity {
                        _ if names.contains_key(id) => SourceState::Ok,
                        _ if without_pod.contains(id) => SourceState::Unsupported,
                        // The runtime knew it once and does not any more.
                        Some(_) => SourceState::Gone,
                        None => SourceState::Booting,
                    };
                    store.put_state(id, sandbox.directory_inode, Source::Cri, state);
                    if state == SourceState::Unsupported {
                        // Nobody will ever tell of its containers.
                        store.put_state(id, sandbox.directory_inode, Source::Runtime, state);
                    }
                }
            }
            CriUpdate::Listed(listed) => registry.hear(&listed),
            CriUpdate::Containers(containers) => {
                ooms.retain(|id| containers.values().flatten().any(|container| container.id == *id));
                registry.contain(containers, Instant::now());
            }
            CriUpdate::Handlers(handlers) => {
                let found: Arc<[PathBuf]> = handlers.kata_shims().into();
                if *shims.borrow() != found {
                    shims.send_replace(found);
                }
            }
            CriUpdate::OutOfMemory(container) => {
                let snapshot = registry.snapshot();
                let all = snapshot.values().flat_map(|sandbox| &sandbox.containers);
                if all.into_iter().any(|known| known.id == container) {
                    ooms.count(container);
                }
            }
            CriUpdate::Unreachable(state) => {
                for (id, sandbox) in registry.snapshot().iter() {
                    store.put_state(id, sandbox.directory_inode, Source::Cri, state);
                }
            }
        }
    }
}

/// Ready when every sandbox of the first scan has been asked once, or has no socket to ask.
async fn watch_first_collection(mut snapshots: watch::Receiver<Snapshot>, store: Store, readiness: Arc<Readiness>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let mut scanned = None;
    loop {
        ticks.tick().await;
        if !readiness.scanned.load(Ordering::Acquire) {
            continue;
        }
        let since = *scanned.get_or_insert_with(Instant::now);
        let snapshot = snapshots.borrow_and_update().clone();
        let readings = store.readings(&snapshot);
        let attempted = snapshot.values().zip(&readings).all(|(sandbox, reading)| {
            let askable = sandbox.has_socket && sandbox.state != SandboxState::Stopping;
            !askable || reading.sources[index(Source::Shim)].state.is_some()
        });
        if attempted || since.elapsed() >= FIRST_COLLECTION_PATIENCE {
            readiness.collected.store(true, Ordering::Release);
            return;
        }
    }
}

/// One line where it is not found.
async fn find_cgroup_namespace(host: &mut HostPaths) {
    let paths = host.clone();
    let reading = tokio::task::spawn_blocking(move || discover::cgroup_namespace::read(&paths));
    match tokio::time::timeout(CGROUP_PATIENCE, reading).await {
        Ok(Ok(Ok(namespace))) => host.cgroup_namespace = namespace,
        Ok(Ok(Err(error))) => warn!(
            error = &error as &dyn std::error::Error,
            "where this container's cgroup namespace begins on the node is not known: no kata_sandbox_cgroup_*, and no \
             cgroup proves which process is whose; mount the host's /sys at /sys, or set --procfs and --sysfs"
        ),
        Ok(Err(error)) => warn!(error = &error as &dyn std::error::Error, "the cgroup namespace was not looked for"),
        Err(_) => warn!("the node has too many cgroups to find this container's among them: no kata_sandbox_cgroup_*"),
    }
}

fn cgroup_mode(sysfs: &Path) -> &'static str {
    let root = sysfs.join("fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        "v2"
    } else if root.join("memory").exists() || root.join("cpu").exists() {
        "v1"
    } else {
        ""
    }
}
