//! One collection of one pod's containers: ask the runtime, understand, convert, store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tracing::info;

use super::suspects::Suspects;
use crate::collect::cri::Client;
use crate::collect::runtime::types::TaskSample;
use crate::collect::runtime::{self, RuntimeError};
use crate::collect::schedule::{Collect, Outcome, Rules};
use crate::convert::{ContainerHistory, ConvertDropped, TaskContext, convert_task};
use crate::model::Stats;
use crate::registry::Registry;
use crate::sandbox::{ContainerId, Sandbox, SandboxState, Source, SourceState};
use crate::store::{Reading, Store};
use crate::telemetry::Own;

/// A healthy guest answers within milliseconds.
const DEADLINE: Duration = Duration::from_secs(3);

/// CRI-O goes on with a question after nobody waits for the answer any more, and asks no other shim meanwhile.
const CRI_O_PATIENCE: Duration = Duration::from_secs(100);

/// A shim works on a question for up to a minute after nobody waits for the answer any more, and the Go shim does
/// nothing else for its pod meanwhile: the first pause is longer than that.
pub(super) const RULES: Rules = Rules {
    healthy_lane: 8,
    suspect_lane: 2,
    first_backoff: Duration::from_secs(75),
    second_turn_soon: false,
    news_is_urgent: true,
};

pub(super) struct ContainerCollector {
    pub registry: Registry,
    pub store: Store,
    pub own: Own,
    pub runtime: watch::Receiver<Option<Client>>,
    pub ooms: OomCounts,
    pub cri_o: CriOTurn,
    pub suspects: Suspects,
}

/// CRI-O asks one shim at a time, whoever wants it: a second call would only wait behind the first, and be blamed for it.
#[derive(Debug, Default)]
pub(super) struct CriOTurn(Arc<tokio::sync::Mutex<()>>);

/// How often the guest's kernel has killed in each container, since this agent listens.
#[derive(Clone, Debug, Default)]
pub(super) struct OomCounts(Arc<Mutex<HashMap<ContainerId, u64>>>);

impl OomCounts {
    /// Of a container that the registry knows, so that there is no end of them.
    pub fn count(&self, id: ContainerId) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default() += 1;
    }

    fn of(&self, id: &ContainerId) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied().unwrap_or(0)
    }

    pub fn retain(&self, keep: impl Fn(&ContainerId) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| keep(id));
    }
}

impl Collect for ContainerCollector {
    /// A container that starts is asked for at once.
    type Key = Vec<ContainerId>;

    /// A pod that stops is left alone: a question would hold up its end.
    fn key(&self, sandbox: &Sandbox) -> Option<Self::Key> {
        let ready = sandbox.identity.as_ref().is_some_and(|identity| identity.ready);
        let may_be_asked = ready && sandbox.state != SandboxState::Stopping && !sandbox.containers.is_empty();
        may_be_asked.then(|| sandbox.containers.iter().map(|container| container.id.clone()).collect())
    }

    async fn collect(&self, sandbox: Arc<Sandbox>) -> Outcome {
        let client = self.runtime.borrow().clone();
        let Some(client) = client else { return self.failed(&sandbox, &RuntimeError::NotConnected) };
        if self.suspects.is_held(&sandbox, Source::Runtime) {
            return Outcome::TimedOut;
        }
        let started = Instant::now();
        let answer = if client.is_containerd() {
            runtime::ask(&client, &sandbox, DEADLINE).await
        } else {
            match self.ask_cri_o(client.clone(), &sandbox).await {
                Some(answer) => answer,
                None => return Outcome::Failed,
            }
        };
        if answer.as_ref().is_err_and(|error| error.state() == SourceState::Timeout) {
            self.suspects.hold(&sandbox, Source::Runtime);
        }
        self.own.collected(Source::Runtime, started.elapsed());
        match answer {
            // The runtime leaves out what a shim did not give: nothing at all is no answer.
            Ok(samples) if samples.is_empty() => self.gave_nothing(&sandbox),
            Ok(samples) => {
                self.store_samples(&sandbox, &samples, client.is_containerd());
                Outcome::Collected
            }
            Err(error) => self.failed(&sandbox, &error),
        }
    }
}

impl ContainerCollector {
    /// The turn is given back when CRI-O has really done with the question. `None`: the pod was not to be asked any more
    /// when its turn came.
    async fn ask_cri_o(&self, client: Client, sandbox: &Sandbox) -> Option<Result<Vec<TaskSample>, RuntimeError>> {
        let waiting = tokio::time::timeout(DEADLINE, self.cri_o.0.clone().lock_owned());
        let Ok(turn) = waiting.await else {
            // Another pod's guest holds CRI-O up: old numbers go, and the next turn comes as it would have.
            self.own.collect_failed(Source::Runtime, SourceState::Timeout);
            self.put_state(sandbox, SourceState::Timeout);
            return None;
        };
        let now = self.registry.snapshot().get(&sandbox.id).cloned();
        let sandbox = now.filter(|now| now.directory_inode == sandbox.directory_inode && self.key(now).is_some())?;
        let (id, (answered, answer)) = (sandbox.id.to_string(), tokio::sync::oneshot::channel());
        tokio::spawn(async move {
            let answer = runtime::ask(&client, &sandbox, CRI_O_PATIENCE).await;
            drop(turn);
            // Nobody may wait for it any more.
            let _ = answered.send(answer);
        });
        let late = || RuntimeError::Deadline { call: "ListContainerStats", sandbox: id, deadline: DEADLINE };
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(Ok(answer)) => Some(answer),
            _ => Some(Err(late())),
        }
    }

    /// What was collected of an earlier life of the id is of no interest to the present one.
    fn lives(&self, sandbox: &Sandbox) -> bool {
        let snapshot = self.registry.snapshot();
        snapshot.get(&sandbox.id).is_some_and(|now| now.directory_inode == sandbox.directory_inode)
    }

    fn store_samples(&self, sandbox: &Sandbox, samples: &[TaskSample], ooms_are_told: bool) {
        if !self.lives(sandbox) {
            return;
        }
        let mut dropped = ConvertDropped::default();
        let convert = |histories: &mut HashMap<ContainerId, ContainerHistory>, reading: &Reading| {
            histories.retain(|id, _| sandbox.containers.iter().any(|container| container.id == *id));
            let mut converted = Vec::with_capacity(samples.len());
            for sample in samples {
                let context = context(sandbox, &sample.container, reading);
                let history = histories.entry(sample.container.clone()).or_default();
                let (mut stats, more) = convert_task(&sample.metrics, context, history);
                stats.oom_events = ooms_are_told.then(|| self.ooms.of(&sample.container) as f64);
                dropped.fallen += more.fallen;
                dropped.devices += more.devices;
                converted.push((sample.container.clone(), stats));
            }
            converted
        };
        self.store.put_containers(&sandbox.id, sandbox.directory_inode, SystemTime::now(), convert);
        for (limit, count) in [("fallen_counters", dropped.fallen), ("devices", dropped.devices)] {
            if count > 0 {
                self.own.limited(limit, count);
            }
        }
    }

    fn gave_nothing(&self, sandbox: &Sandbox) -> Outcome {
        self.own.collect_failed(Source::Runtime, SourceState::BadPage);
        if self.put_state(sandbox, SourceState::BadPage) {
            info!(sandbox_id = %sandbox.id, source = "runtime", "the runtime gave no numbers of any container");
        }
        Outcome::Failed
    }

    fn failed(&self, sandbox: &Sandbox, error: &RuntimeError) -> Outcome {
        let state = error.state();
        self.own.collect_failed(Source::Runtime, state);
        if self.put_state(sandbox, state) && state != SourceState::Refused {
            let error = error as &dyn std::error::Error;
            info!(sandbox_id = %sandbox.id, source = "runtime", state = state.as_str(), error, "no container numbers");
        }
        match state {
            SourceState::Timeout => Outcome::TimedOut,
            // The runtime is not there yet, or not any more: it costs nothing to try again soon.
            SourceState::Refused => Outcome::Booting,
            _ => Outcome::Failed,
        }
    }

    fn put_state(&self, sandbox: &Sandbox, state: SourceState) -> bool {
        self.lives(sandbox) && self.store.put_state(&sandbox.id, sandbox.directory_inode, Source::Runtime, state)
    }
}

fn context(sandbox: &Sandbox, id: &ContainerId, reading: &Reading) -> TaskContext {
    let container = sandbox.containers.iter().find(|container| container.id == *id);
    TaskContext {
        runtime: sandbox.runtime,
        version: sandbox.shim_version,
        has_cpu_quota: container.is_some_and(|container| container.limits.has_cpu_quota()),
        guest_disks: reading.guest.as_ref().map(|guest| guest.disks.len()),
        guest_cpu_seconds: reading.stats.as_ref().and_then(|stats: &Arc<Stats>| stats.cpu.usage_seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_by_container_and_forgotten_with_it() {
        let id = |text: &str| ContainerId::parse(text).unwrap();
        let ooms = OomCounts::default();
        for container in ["a", "a", "b"] {
            ooms.count(id(container));
        }
        assert_eq!((ooms.of(&id("a")), ooms.of(&id("b")), ooms.of(&id("c"))), (2, 1, 0));
        ooms.retain(|container| container.as_str() == "b");
        assert_eq!((ooms.of(&id("a")), ooms.of(&id("b"))), (0, 1));
    }
}
