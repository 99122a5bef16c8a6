//! The latest reading of every sandbox and source, with its age. Readers never wait for collection.
//!
//! In: outcomes of collection. Out: what a page needs. A sandbox that ends takes its readings with it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::convert::{ContainerHistory, ConvertDropped, Converted, GuestHistory};
use crate::model::{EndPage, GuestStats, HostStats, NamespaceStats, RawFamily, Stats};
use crate::sandbox::{ContainerId, Sandbox, SandboxId, Snapshot, Source, SourceState};

/// Shared by all; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Store(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    entries: Mutex<HashMap<SandboxId, Entry>>,
    ended: Mutex<Arc<Vec<Ended>>>,
    namespaces: Mutex<Arc<Vec<NamespaceStats>>>,
    /// Whose containers' numbers are new.
    counted: Mutex<HashSet<SandboxId>>,
    generation: AtomicU64,
}

/// The final account of a sandbox that is no more.
#[derive(Clone, Debug)]
pub struct Ended {
    pub sandbox: Arc<Sandbox>,
    pub reading: Reading,
    pub end: EndPage,
}

/// What the host says of one sandbox.
#[derive(Clone, Debug)]
pub struct HostNumbers {
    pub id: SandboxId,
    /// Tells lives of one id apart.
    pub inode: u64,
    pub stats: HostStats,
    /// The pod as a whole by these numbers.
    pub pod: Stats,
    /// Whether it is late enough to say that nobody else will give the pod's.
    pub decides: bool,
    /// It was never possible to ask the guest, and will not be.
    pub has_no_door: bool,
}

/// Who gives the series of a pod as a whole. Decided once: a source is never switched under a running series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodSource {
    Guest,
    Host,
}

impl PodSource {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Host => "host",
        }
    }
}

/// What is kept of one sandbox.
#[derive(Debug)]
struct Entry {
    /// Tells lives of one id apart.
    inode: u64,
    history: GuestHistory,
    containers: HashMap<ContainerId, ContainerHistory>,
    reading: Reading,
}

/// What was last read of one sandbox.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    pub stats: Option<Arc<Stats>>,
    pub guest: Option<Arc<GuestStats>>,
    /// What is passed through of the page that they came with.
    pub raw: Arc<Vec<RawFamily>>,
    /// Which door the guest's numbers came by.
    pub guest_from: Option<Source>,
    pub host: Option<Arc<HostStats>>,
    /// The pod as a whole by the host's numbers.
    pub host_stats: Option<Arc<Stats>>,
    pub pod_source: Option<PodSource>,
    pub containers: Arc<HashMap<ContainerId, ContainerReading>>,
    pub sources: [SourceReading; Source::ALL.len()],
}

/// What one container last said, and when.
#[derive(Clone, Debug)]
pub struct ContainerReading {
    pub stats: Arc<Stats>,
    pub at: SystemTime,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SourceReading {
    /// `None`: never asked, or not that far yet.
    pub state: Option<SourceState>,
    /// When it last gave numbers.
    pub collected: Option<SystemTime>,
}

impl Reading {
    /// Whether no door leads to the guest's numbers: asking its shim could kill it and its agent does not answer us, its
    /// policy denies it, or it runs elsewhere.
    fn guest_cannot_be_had(&self) -> bool {
        use SourceState::{Denied, Off, Unsafe, Unsupported};
        let state = |source| self.sources[index(source)].state;
        matches!(
            (state(Source::Shim), state(Source::Agent)),
            (Some(Denied | Unsupported | Off), _) | (Some(Unsafe), Some(Denied | Unsupported))
        )
    }
}

impl Store {
    /// Takes new numbers of the guest, by `source`. `convert` turns them into stats with the sandbox's own history.
    pub fn put_guest(
        &self,
        id: &SandboxId,
        inode: u64,
        source: Source,
        at: SystemTime,
        convert: impl FnOnce(&mut GuestHistory) -> Converted,
    ) -> ConvertDropped {
        let mut entries = self.lock();
        let entry = entry(&mut entries, id, inode);
        let Converted { pod, guest, dropped } = convert(&mut entry.history);
        entry.reading.stats = Some(Arc::new(pod));
        entry.reading.guest = Some(Arc::new(guest));
        entry.reading.guest_from = Some(source);
        entry.reading.pod_source.get_or_insert(PodSource::Guest);
        if source == Source::Shim {
            // The other door was for as long as the shim was not to be asked.
            entry.reading.sources[index(Source::Agent)] = SourceReading::default();
        }
        entry.reading.sources[index(source)] = SourceReading { state: Some(SourceState::Ok), collected: Some(at) };
        self.changed();
        dropped
    }

    /// Takes new numbers of a sandbox's containers: those that are missing in `convert`'s answer have none any more.
    /// `convert` gets each container's own history.
    pub fn put_containers(
        &self,
        id: &SandboxId,
        inode: u64,
        at: SystemTime,
        convert: impl FnOnce(&mut HashMap<ContainerId, ContainerHistory>, &Reading) -> Vec<(ContainerId, Stats)>,
    ) {
        let mut entries = self.lock();
        let entry = entry(&mut entries, id, inode);
        let stats = convert(&mut entry.containers, &entry.reading);
        let readings = stats.into_iter().map(|(id, stats)| (id, ContainerReading { stats: Arc::new(stats), at }));
        entry.reading.containers = Arc::new(readings.collect());
        entry.reading.sources[index(Source::Runtime)] =
            SourceReading { state: Some(SourceState::Ok), collected: Some(at) };
        self.counted().insert(id.clone());
        self.changed();
    }

    /// Sandboxes whose containers gave numbers since this was asked last.
    pub fn take_counted(&self) -> HashSet<SandboxId> {
        std::mem::take(&mut *self.counted())
    }

    fn counted(&self) -> MutexGuard<'_, HashSet<SandboxId>> {
        self.0.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes new numbers of the host about several sandboxes: one change.
    pub fn put_host(&self, all: Vec<HostNumbers>, at: SystemTime) {
        if all.is_empty() {
            return;
        }
        let mut entries = self.lock();
        for HostNumbers { id, inode, stats, pod, decides, has_no_door } in all {
            let reading = &mut entry(&mut entries, &id, inode).reading;
            reading.host = Some(Arc::new(stats));
            reading.host_stats = Some(Arc::new(pod));
            reading.sources[index(Source::Host)] = SourceReading { state: Some(SourceState::Ok), collected: Some(at) };
            let cannot_be_had = decides && (has_no_door || reading.guest_cannot_be_had());
            if cannot_be_had && reading.pod_source.is_none() {
                reading.pod_source = Some(PodSource::Host);
            }
        }
        drop(entries);
        self.changed();
    }

    /// The totals of all namespaces, and the sandboxes whose final account is still shown.
    pub fn put_ledger(&self, namespaces: Vec<NamespaceStats>, ended: Arc<Vec<Ended>>) {
        let replace = |old: &Mutex<Arc<Vec<NamespaceStats>>>| {
            let mut old = old.lock().unwrap_or_else(PoisonError::into_inner);
            let is_news = **old != namespaces;
            if is_news {
                *old = Arc::new(namespaces);
            }
            is_news
        };
        let mut is_news = replace(&self.0.namespaces);
        let mut old = self.0.ended.lock().unwrap_or_else(PoisonError::into_inner);
        is_news |= !Arc::ptr_eq(&old, &ended);
        *old = ended;
        drop(old);
        if is_news {
            self.changed();
        }
    }

    pub fn namespaces(&self) -> Arc<Vec<NamespaceStats>> {
        self.0.namespaces.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn ended(&self) -> Arc<Vec<Ended>> {
        self.0.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what is passed through of a page.
    pub fn put_raw(&self, id: &SandboxId, inode: u64, families: Vec<RawFamily>) {
        entry(&mut self.lock(), id, inode).reading.raw = Arc::new(families);
        self.changed();
    }

    /// A source gave no numbers, and why. Numbers that are not renewed are taken off the page: old ones would look
    /// like fresh ones. Says whether this is news.
    pub fn put_state(&self, id: &SandboxId, inode: u64, source: Source, state: SourceState) -> bool {
        let mut entries = self.lock();
        let entry = entry(&mut entries, id, inode);
        let reading = &mut entry.reading;
        let slot = &mut reading.sources[index(source)].state;
        let is_news = *slot != Some(state);
        *slot = Some(state);
        // An unsafe shim is why the other door is tried; any other end of either is the end of the numbers.
        let is_door = matches!(source, Source::Shim | Source::Agent);
        let of_other_door =
            source == Source::Shim && state == SourceState::Unsafe && reading.guest_from != Some(source);
        if state != SourceState::Ok && is_door && !of_other_door {
            (reading.stats, reading.guest) = (None, None);
        }
        if state != SourceState::Ok && source == Source::Runtime {
            reading.containers = Arc::default();
        }
        if is_news {
            self.changed();
        }
        is_news
    }

    pub fn reading(&self, id: &SandboxId) -> Option<Reading> {
        self.lock().get(id).map(|entry| entry.reading.clone())
    }

    /// All readings of the sandboxes of `snapshot`, in its order.
    pub fn readings(&self, snapshot: &Snapshot) -> Vec<Reading> {
        let entries = self.lock();
        let of = |(id, sandbox): (&SandboxId, &Arc<crate::sandbox::Sandbox>)| {
            let entry = entries.get(id).filter(|entry| entry.inode == sandbox.directory_inode);
            entry.map(|entry| entry.reading.clone()).unwrap_or_default()
        };
        snapshot.iter().map(of).collect()
    }

    /// Forgets sandboxes that are no more.
    pub fn retain(&self, snapshot: &Snapshot) {
        let mut entries = self.lock();
        let before = entries.len();
        self.counted().retain(|id| snapshot.contains_key(id));
        entries.retain(|id, entry| snapshot.get(id).is_some_and(|sandbox| sandbox.directory_inode == entry.inode));
        if entries.len() != before {
            self.changed();
        }
    }

    /// Grows with every change.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SandboxId, Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry<'a>(entries: &'a mut HashMap<SandboxId, Entry>, id: &SandboxId, inode: u64) -> &'a mut Entry {
    let fresh =
        || Entry { inode, history: GuestHistory::default(), containers: HashMap::new(), reading: Reading::default() };
    let entry = entries.entry(id.clone()).or_insert_with(fresh);
    if entry.inode != inode {
        *entry = fresh();
    }
    entry
}

pub fn index(source: Source) -> usize {
    Source::ALL.iter().position(|known| *known == source).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SandboxId {
        SandboxId::parse("aa").unwrap()
    }

    fn put(store: &Store, inode: u64, source: Source) {
        store.put_guest(&id(), inode, source, SystemTime::UNIX_EPOCH, |_| Converted::default());
    }

    #[test]
    fn numbers_that_are_not_renewed_leave_the_page() {
        let store = Store::default();
        put(&store, 1, Source::Shim);
        assert!(store.reading(&id()).unwrap().stats.is_some());
        assert!(store.put_state(&id(), 1, Source::Shim, SourceState::Timeout));
        assert!(!store.put_state(&id(), 1, Source::Shim, SourceState::Timeout), "no news");
        let reading = store.reading(&id()).unwrap();
        assert!(reading.stats.is_none() && reading.guest.is_none() && reading.guest_from.is_some());
        assert_eq!(reading.sources[index(Source::Shim)].collected, Some(SystemTime::UNIX_EPOCH));
    }

    #[test]
    fn what_came_by_one_door_is_not_taken_away_by_the_state_of_the_other() {
        let store = Store::default();
        put(&store, 1, Source::Agent);
        store.put_state(&id(), 1, Source::Shim, SourceState::Unsafe);
        assert!(store.reading(&id()).unwrap().stats.is_some());
        store.put_state(&id(), 1, Source::Agent, SourceState::Denied);
        assert!(store.reading(&id()).unwrap().stats.is_none());
    }

    #[test]
    fn a_shim_that_may_be_asked_shuts_the_other_door() {
        let store = Store::default();
        put(&store, 1, Source::Agent);
        assert_eq!(store.reading(&id()).unwrap().sources[index(Source::Agent)].state, Some(SourceState::Ok));
        put(&store, 1, Source::Shim);
        assert_eq!(store.reading(&id()).unwrap().sources[index(Source::Agent)], SourceReading::default());
    }

    #[test]
    fn containers_without_new_numbers_leave_the_page() {
        let (store, at) = (Store::default(), SystemTime::UNIX_EPOCH);
        let container = |name: &str| ContainerId::parse(name).unwrap();
        let put = |names: &[&str]| {
            store.put_containers(&id(), 1, at, |_, _| {
                names.iter().map(|name| (container(name), Stats::default())).collect()
            });
            store.reading(&id()).unwrap().containers.len()
        };
        assert_eq!((put(&["c1", "c2"]), put(&["c2"])), (2, 1));
        store.put_state(&id(), 1, Source::Runtime, SourceState::Timeout);
        assert!(store.reading(&id()).unwrap().containers.is_empty());
    }

    #[test]
    fn another_life_of_an_id_starts_with_nothing() {
        let store = Store::default();
        put(&store, 1, Source::Shim);
        store.put_state(&id(), 2, Source::Cri, SourceState::Ok);
        assert!(store.reading(&id()).unwrap().stats.is_none());
        store.retain(&Snapshot::default());
        assert!(store.reading(&id()).is_none());
    }

    #[test]
    fn the_pods_source_is_decided_once() {
        let decide = |store: &Store, decides| {
            let (stats, pod) = Default::default();
            store.put_host(
                vec![HostNumbers { id: id(), inode: 1, stats, pod, decides, has_no_door: false }],
                SystemTime::UNIX_EPOCH,
            );
            store.reading(&id()).unwrap().pod_source
        };
        let host = |store: &Store| decide(store, true);
        let store = Store::default();
        store.put_state(&id(), 1, Source::Shim, SourceState::Unsafe);
        assert_eq!(host(&store), None, "another door may yet open");
        store.put_state(&id(), 1, Source::Agent, SourceState::Unsupported);
        assert_eq!(decide(&store, false), None, "too early to tell");
        assert_eq!(host(&store), Some(PodSource::Host));
        put(&store, 1, Source::Agent);
        assert_eq!(host(&store), Some(PodSource::Host), "never switched");
        let store = Store::default();
        put(&store, 1, Source::Shim);
        store.put_state(&id(), 1, Source::Shim, SourceState::Denied);
        assert_eq!(host(&store), Some(PodSource::Guest));
    }

    #[test]
    fn a_ledger_that_says_nothing_new_is_no_change() {
        let store = Store::default();
        let ended = Arc::new(Vec::new());
        let total = NamespaceStats { namespace: "shop".into(), cpu_seconds: Some(1.0), ..NamespaceStats::default() };
        store.put_ledger(vec![total.clone()], ended.clone());
        let before = store.generation();
        store.put_ledger(vec![total], ended);
        assert_eq!(store.generation(), before);
        assert_eq!(store.namespaces()[0].cpu_seconds, Some(1.0));
    }

    #[test]
    fn every_change_is_a_new_generation() {
        let store = Store::default();
        let before = store.generation();
        store.put_state(&id(), 1, Source::Shim, SourceState::Booting);
        let between = store.generation();
        store.put_state(&id(), 1, Source::Shim, SourceState::Booting);
        assert!(before < between && between == store.generation());
    }
}
