//! A Stats call as a shim answers it: for one task, of which there is one for each running container and one for the
//! sandbox itself; with faults on command. In: a [`Task`]. Out: the message, after as long as the shim takes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use prost_types::Any;
use tokio::time::sleep;

use crate::{
    Fault,
    container::{ContainerLimits, Truth},
    kind::Runtime,
    metrics::{Metrics, Reporter},
    node::{Node, Sandbox},
    shim::ShimState,
    workload::Container,
};

/// What a shim does wrong with Stats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsFault {
    /// An error at once.
    Error,
    /// The right answer, late.
    Slow(Duration),
    /// No answer while this fault lasts; the caller's own deadline is all there is.
    Never,
    /// An answer without a message, which ends containerd 1.6 and fails the whole list in later ones.
    Empty,
}

/// What a shim has been asked.
#[derive(Debug, Default)]
pub(crate) struct StatsState {
    fault: Mutex<Option<StatsFault>>,
    stopping: AtomicBool,
    calls: AtomicU64,
    in_flight: AtomicU64,
    max_in_flight: AtomicU64,
    calls_while_stopping: AtomicU64,
    /// The Go shim's global lock, held during Stats.
    lock: tokio::sync::Mutex<()>,
}

impl StatsState {
    pub(crate) fn set_fault(&self, fault: Option<StatsFault>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn fault(&self) -> Option<StatsFault> {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn max_in_flight(&self) -> u64 {
        self.max_in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn calls_while_stopping(&self) -> u64 {
        self.calls_while_stopping.load(Ordering::Relaxed)
    }
}

/// A call that is under way, until it is answered or given up.
struct Flight<'a>(&'a StatsState);

impl<'a> Flight<'a> {
    fn start(state: &'a StatsState) -> Self {
        state.calls.fetch_add(1, Ordering::Relaxed);
        let now = state.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        state.max_in_flight.fetch_max(now, Ordering::Relaxed);
        Self(state)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A task of a shim, as it was when somebody looked.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) namespace: &'static str,
    pub(crate) pid: u32,
    /// `None`: the sandbox's own.
    container: Option<Container>,
    reporter: Reporter,
    stats: Arc<StatsState>,
    shim: Arc<ShimState>,
}

/// The shim answered with an error, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StatsFailed;

impl Task {
    fn of(sandbox: &Sandbox, container: Option<&Container>) -> Self {
        let spec = &sandbox.spec;
        Self {
            id: container.map_or_else(|| spec.id.clone(), |container| container.spec.id.clone()),
            namespace: spec.namespace(),
            pid: spec.vmm_pid,
            container: container.cloned(),
            reporter: Reporter { runtime: spec.kind.runtime, guest: spec.guest_cgroup, host: spec.host_cgroup },
            stats: Arc::clone(&sandbox.workload.stats),
            shim: Arc::clone(&sandbox.shim),
        }
    }

    /// One Stats call, begun at `unix_ns`. `Ok(None)`: an answer without a message.
    pub(crate) async fn stats(&self, unix_ns: i64) -> Result<Option<Any>, StatsFailed> {
        self.stats_noted(unix_ns, || {}).await
    }

    /// Calls `note` as soon as the call is counted.
    pub(crate) async fn stats_noted(&self, unix_ns: i64, note: impl FnOnce()) -> Result<Option<Any>, StatsFailed> {
        let _flight = Flight::start(&self.stats);
        note();
        let _lock = match self.reporter.runtime {
            Runtime::Go => Some(self.stats.lock.lock().await),
            Runtime::Rs => None,
        };
        tokio::select! {
            () = self.shim.life.cancelled() => Err(StatsFailed),
            answer = self.answer(unix_ns) => answer,
        }
    }

    async fn answer(&self, unix_ns: i64) -> Result<Option<Any>, StatsFailed> {
        match self.stats.fault() {
            None if self.guest_hangs() => {
                let patience = if self.reporter.runtime == Runtime::Go { 33 } else { 60 };
                sleep(Duration::from_secs(patience)).await;
                Err(StatsFailed)
            }
            None => Ok(Some(self.message(unix_ns))),
            Some(StatsFault::Slow(delay)) => {
                sleep(delay).await;
                Ok(Some(self.message(unix_ns)))
            }
            Some(StatsFault::Error) => Err(StatsFailed),
            Some(StatsFault::Empty) => Ok(None),
            Some(StatsFault::Never) => std::future::pending().await,
        }
    }

    /// State is answered from the shim's memory, but by the Go shim under its lock.
    pub(crate) async fn state(&self) {
        if self.reporter.runtime == Runtime::Go {
            drop(self.stats.lock.lock().await);
        }
    }

    fn guest_hangs(&self) -> bool {
        *self.shim.fault.lock().unwrap_or_else(PoisonError::into_inner) == Some(Fault::HungGuest)
    }

    fn message(&self, unix_ns: i64) -> Any {
        let (truth, limits) = match &self.container {
            Some(container) => (container.truth_at(unix_ns), container.spec.limits),
            None => (Truth::of_pause(), ContainerLimits::default()),
        };
        Metrics::report(self.reporter, &truth, &limits).to_any()
    }
}

impl Node {
    /// The tasks whose id fits, in the order of sandbox ids: the sandbox's own, then those of its running containers.
    pub(crate) fn tasks(&self, fits: impl Fn(&str) -> bool) -> Vec<Task> {
        let sandboxes = self.lock();
        // containerd notices at once when a shim ends, and has no task of it any more.
        let alive = sandboxes.values().filter(|sandbox| !sandbox.shim.life.is_cancelled());
        let mut tasks = Vec::new();
        for sandbox in alive {
            let running = sandbox.workload.containers.iter().filter(|container| container.is_running());
            tasks.extend(fits(&sandbox.spec.id).then(|| Task::of(sandbox, None)));
            tasks.extend(running.filter(|c| fits(&c.spec.id)).map(|container| Task::of(sandbox, Some(container))));
        }
        tasks
    }

    /// Counts a request for stats against each stopping sandbox that has an id it is about, ended containers included.
    pub(crate) fn note_stats_of_stopping(&self, about: impl Fn(&str) -> bool) {
        for sandbox in self.lock().values().filter(|sandbox| sandbox.workload.stats.is_stopping()) {
            let containers = &sandbox.workload.containers;
            if about(&sandbox.spec.id) || containers.iter().any(|container| about(&container.spec.id)) {
                sandbox.workload.stats.calls_while_stopping.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
