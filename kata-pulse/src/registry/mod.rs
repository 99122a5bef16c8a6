//! Who exists now?
//!
//! In: batches of discovery, names from the container runtime, what the shims' sockets answered. Out: an immutable
//! [`Snapshot`] of all sandboxes, published anew at each change. No IO. What a sandbox's state is, `record` decides.

mod record;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tracing::{debug, info};

pub use record::{AgentReply, Leftover};
use record::{Record, Stage};

use crate::sandbox::{Change, Containers, DiscoveryEvent, Identity, Process, Sandbox, SandboxId, Snapshot, Version};

/// Names that came before their sandbox are kept, but not without bound.
const MAX_EARLY_NAMES: usize = 10_000;

/// The one place that says which sandboxes exist. Clones share it.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    published: watch::Sender<Snapshot>,
}

#[derive(Debug, Default)]
struct Inner {
    records: HashMap<SandboxId, Record>,
    /// Records that something happened to since they were last published.
    touched: BTreeSet<SandboxId>,
    /// The newest list of the container runtime.
    names: Arc<BTreeMap<SandboxId, Identity>>,
    /// The running containers of each sandbox.
    containers: Arc<Containers>,
}

/// Directories that are no sandboxes any more, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    pub directories: usize,
    pub sockets: usize,
}

impl Default for Registry {
    fn default() -> Self {
        Self(Arc::new(Shared { inner: Mutex::default(), published: watch::Sender::default() }))
    }
}

impl Registry {
    pub fn snapshot(&self) -> Snapshot {
        self.0.published.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<Snapshot> {
        self.0.published.subscribe()
    }

    /// Takes a batch and publishes what became of it before it returns.
    pub fn apply(&self, events: &[DiscoveryEvent], now: Instant) {
        self.change(now, |inner| {
            for event in events {
                inner.apply(&event.change, now);
            }
        });
    }

    /// The container runtime's whole list.
    pub fn name(&self, names: Arc<BTreeMap<SandboxId, Identity>>, now: Instant) {
        self.change(now, |inner| inner.name(names));
    }

    /// The running containers of all sandboxes: one that is missing has ended.
    pub fn contain(&self, containers: Arc<Containers>, now: Instant) {
        self.change(now, |inner| inner.contain(containers));
    }

    /// What the shim's socket said to the one harmless question. `inode` tells for which life of the id.
    pub fn agent_replied(&self, id: &SandboxId, inode: u64, reply: AgentReply, now: Instant) {
        self.change(now, |inner| {
            if inner.records.get(id).is_some_and(|record| record.inode() == inode) {
                inner.with(id, |record| record.agent_replied(reply));
            }
        });
    }

    /// What the program of a shim says of itself.
    pub fn shim_told(&self, id: &SandboxId, shim: &Process, version: Version, now: Instant) {
        self.change(now, |inner| inner.with(id, |record| record.shim_told(shim, version)));
    }

    /// Lets time pass: a directory in which nothing ever happened stops being a sandbox.
    pub fn expire(&self, now: Instant) {
        self.change(now, Inner::touch_what_time_changed(now));
    }

    /// What the container runtime called the sandbox last, listed or not.
    pub fn name_of(&self, id: &SandboxId) -> Option<Identity> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner).names.get(id).cloned()
    }

    pub fn leftovers(&self) -> Leftovers {
        let inner = self.0.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |kind| inner.records.values().filter(|record| record.leftover() == Some(kind)).count();
        Leftovers { directories: count(Leftover::Directory), sockets: count(Leftover::Socket) }
    }

    fn change(&self, now: Instant, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.0.inner.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut inner);
        self.0.published.send_if_modified(|snapshot| inner.publish(snapshot, now));
    }
}

impl Inner {
    fn apply(&mut self, change: &Change, now: Instant) {
        match change {
            Change::Appeared(appeared) => {
                let mut record = Record::new(appeared, now);
                record.identify(self.names.get(&appeared.id));
                record.contain(self.containers.get(&appeared.id).map_or(&[], Vec::as_slice));
                self.records.insert(appeared.id.clone(), record);
                self.touched.insert(appeared.id.clone());
            }
            Change::Removed(id) => self.with(id, Record::directory_removed),
            Change::Files(id, facts) => self.with(id, |record| record.take_files(facts)),
            Change::ProcessStarted(id, found) => self.with(id, |record| record.process_started(found)),
            Change::ProcessEnded(id, process, _) => self.with(id, |record| record.process_ended(process)),
        }
    }

    fn with(&mut self, id: &SandboxId, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.records.get_mut(id) {
            change(record);
            self.touched.insert(id.clone());
        }
    }

    fn touch_what_time_changed(now: Instant) -> impl FnOnce(&mut Self) {
        move |inner| {
            let changed = inner.records.iter().filter(|(_, record)| record.is_due(now)).map(|(id, _)| id.clone());
            inner.touched.extend(changed);
        }
    }

    fn name(&mut self, names: Arc<BTreeMap<SandboxId, Identity>>) {
        if names.len() > MAX_EARLY_NAMES {
            debug!(names = names.len(), "the container runtime lists more sandboxes than can be real");
            return;
        }
        for (id, record) in &mut self.records {
            if record.identify(names.get(id)) {
                self.touched.insert(id.clone());
            }
        }
        self.names = names;
    }

    fn contain(&mut self, containers: Arc<Containers>) {
        for (id, record) in &mut self.records {
            if record.contain(containers.get(id).map_or(&[], Vec::as_slice)) {
                self.touched.insert(id.clone());
            }
        }
        self.containers = containers;
    }

    /// Brings `snapshot` up to date; says whether anything differs.
    fn publish(&mut self, snapshot: &mut Snapshot, now: Instant) -> bool {
        let mut changes: Vec<(SandboxId, Option<Sandbox>)> = Vec::new();
        for id in std::mem::take(&mut self.touched) {
            let Some(record) = self.records.get_mut(&id) else { continue };
            let stage = record.settle(now);
            if stage == Stage::Ended {
                self.records.remove(&id);
            }
            let sandbox = match stage {
                Stage::Listed(state) => self.records.get(&id).map(|record| record.publish(state)),
                Stage::Hidden(_) | Stage::Ended => None,
            };
            if snapshot.get(&id).map(AsRef::as_ref) != sandbox.as_ref() {
                changes.push((id, sandbox));
            }
        }
        if changes.is_empty() {
            return false;
        }
        let map = Arc::make_mut(snapshot);
        for (id, sandbox) in changes {
            log_transition(&id, map.get(&id).map(AsRef::as_ref), sandbox.as_ref());
            match sandbox {
                Some(sandbox) => map.insert(id, Arc::new(sandbox)),
                None => map.remove(&id),
            };
        }
        true
    }
}

fn log_transition(id: &SandboxId, before: Option<&Sandbox>, after: Option<&Sandbox>) {
    let state = |sandbox: Option<&Sandbox>| sandbox.map(|sandbox| sandbox.state.as_str());
    match (state(before), state(after)) {
        (None, Some(state)) => info!(sandbox_id = %id, state, "sandbox appeared"),
        (Some(_), None) => info!(sandbox_id = %id, "sandbox ended"),
        (Some(old), Some(new)) if old != new => info!(sandbox_id = %id, state = new, "sandbox changed state"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Appeared, EventSource, Runtime};

    fn id(text: &str) -> SandboxId {
        SandboxId::parse(text).unwrap()
    }

    fn appeared(text: &str, inode: u64) -> DiscoveryEvent {
        let change = Change::Appeared(Appeared {
            id: id(text),
            directory: format!("/run/vc/sbs/{text}").into(),
            inode,
            runtime: Some(Runtime::Go),
            created_unix_ms: Some(1),
        });
        DiscoveryEvent { source: EventSource::Inotify, at_boot: None, change }
    }

    fn removed(text: &str) -> DiscoveryEvent {
        DiscoveryEvent { source: EventSource::Inotify, at_boot: None, change: Change::Removed(id(text)) }
    }

    #[test]
    fn a_batch_is_published_before_apply_returns() {
        let registry = Registry::default();
        registry.apply(&[appeared("aa", 1), appeared("bb", 2), removed("aa")], Instant::now());
        assert_eq!(registry.snapshot().keys().cloned().collect::<Vec<_>>(), [id("bb")]);
    }

    #[test]
    fn names_may_come_before_and_after_the_sandbox() {
        let registry = Registry::default();
        let now = Instant::now();
        let names = |pod: &str| {
            let identity = Identity { pod_name: pod.into(), ..Identity::default() };
            Arc::new(BTreeMap::from([(id("aa"), identity.clone()), (id("bb"), identity)]))
        };
        registry.apply(&[appeared("aa", 1)], now);
        registry.name(names("pod"), now);
        registry.apply(&[appeared("bb", 2)], now);
        let snapshot = registry.snapshot();
        for sandbox in snapshot.values() {
            assert_eq!(sandbox.identity.as_ref().unwrap().pod_name, "pod");
        }
        // A list without the sandbox is no reason to forget a name.
        registry.name(Arc::default(), now);
        assert!(registry.snapshot()[&id("aa")].identity.is_some());
    }

    #[test]
    fn subscribers_hear_of_changes_only() {
        let registry = Registry::default();
        let mut receiver = registry.subscribe();
        registry.apply(&[appeared("aa", 1)], Instant::now());
        assert!(receiver.has_changed().unwrap());
        receiver.mark_unchanged();
        registry.apply(&[appeared("aa", 1)], Instant::now());
        registry.expire(Instant::now());
        assert!(!receiver.has_changed().unwrap());
    }

    #[test]
    fn a_reply_for_an_earlier_life_of_the_id_changes_nothing() {
        let registry = Registry::default();
        let now = Instant::now();
        registry.apply(&[appeared("aa", 1), removed("aa"), appeared("aa", 2)], now);
        registry.agent_replied(&id("aa"), 1, AgentReply::Address("vsock://3:1024".into()), now);
        assert_eq!(registry.snapshot()[&id("aa")].agent_address, None);
    }
}
