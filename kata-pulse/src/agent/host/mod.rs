//! The host's accounting: reads every sandbox once an interval, spread over it, and sooner when its processes come and
//! go; keeps the ledger; leaves a final account of what is no more.
//!
//! One task owns all of it. What blocks, the reading, is lent the books for one pass on a thread of its own.

mod ending;
mod entry;
mod kernel;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::suspects::Suspects;
use crate::account::{CAUSES, NamespaceBook, count_orphans, pod_stats};
use crate::collect::cri::Client;
use crate::collect::host::{HostBook, HostReader, HostReading, Target, Tiers};
use crate::collect::kernel::{KernelView, Slot};
use crate::discover::{boot_now, to_boot};
use crate::model::KernelReading;
use crate::registry::Registry;
use crate::sandbox::{Change, DiscoveryEvent, Sandbox, SandboxId, Snapshot, Source, SourceState};
use crate::store::{Ended, HostNumbers, Store, index};
use crate::telemetry::Own;
pub(super) use ending::Endings;
use entry::Entry;
use kernel::Watched;
pub(super) use kernel::start as start_kernel;

/// Between looks at what is due.
const TURN: Duration = Duration::from_millis(100);
/// A container runtime that is asked about a sandbox that has just ended may have to be waited for.
const PATIENCE_FOR_NAMES: Duration = Duration::from_secs(3);
/// Between counts of what outlived its purpose.
const ORPHANS_EVERY: Duration = Duration::from_secs(5);

/// What discovery saw, for the ledger.
#[derive(Debug)]
pub(super) struct News {
    pub events: Arc<[DiscoveryEvent]>,
    /// The sandboxes as they were before it.
    pub before: Snapshot,
    /// The first scan is not over: what it finds was there before the agent.
    pub is_first_scan: bool,
}

pub(super) struct Accountant {
    registry: Registry,
    store: Store,
    own: Own,
    suspects: Suspects,
    /// The container runtime, once it answers.
    runtime: watch::Receiver<Option<Client>>,
    reader: Arc<HostReader>,
    /// What counts in the kernel, if anything does, and since it is there.
    kernel: Option<Arc<KernelView>>,
    kernel_due: Instant,
    kernel_lost: u64,
    interval: Duration,
    entries: HashMap<SandboxId, Entry>,
    namespaces: NamespaceBook,
    endings: Endings,
    /// Ended, and not named yet: each until when that is waited for.
    nameless: Vec<(Instant, Entry, Ended)>,
    /// Kinds of which it is shown how many ended.
    vmms: HashSet<&'static str>,
    /// Something in the ledger is not on the page yet.
    is_dirty: bool,
    seen: Snapshot,
    /// One that has ended waits for its book.
    is_ending: bool,
    orphans_at: Instant,
}

/// One sandbox in a pass: its book is lent.
struct Job {
    sandbox: Arc<Sandbox>,
    book: HostBook,
    tiers: Tiers,
    /// Whether the time of its socket is wanted.
    wants_socket: bool,
}

/// What a pass brings back.
struct Pass {
    done: Vec<Done>,
    /// When the kernel was asked.
    kernel: Option<BTreeMap<Slot, KernelReading>>,
}

struct Done {
    sandbox: Arc<Sandbox>,
    book: HostBook,
    reading: HostReading,
    /// Seconds since boot.
    at: f64,
    socket_at: Option<f64>,
}

impl Accountant {
    pub fn new(
        registry: Registry,
        store: Store,
        own: Own,
        suspects: Suspects,
        reader: HostReader,
        interval: Duration,
        endings: Endings,
    ) -> Self {
        let reader = Arc::new(reader);
        let (entries, namespaces, seen) = (HashMap::new(), NamespaceBook::default(), Snapshot::default());
        let (orphans_at, kernel_due) = (Instant::now(), Instant::now());
        Self {
            registry,
            store,
            own,
            suspects,
            runtime: watch::channel(None).1,
            reader,
            kernel: None,
            kernel_due,
            kernel_lost: 0,
            interval,
            entries,
            namespaces,
            endings,
            nameless: Vec::new(),
            vmms: HashSet::new(),
            is_dirty: false,
            seen,
            is_ending: false,
            orphans_at,
        }
    }

    /// With a container runtime that may tell of pods at once.
    pub fn hearing(mut self, runtime: watch::Receiver<Option<Client>>) -> Self {
        self.runtime = runtime;
        self
    }

    /// Until discovery ends. `counting`: the programs in the kernel, whenever they come; nothing waits for them.
    pub async fn run(
        mut self,
        mut news: mpsc::Receiver<News>,
        counting: impl Future<Output = Option<Arc<KernelView>>> + Send,
    ) {
        let (mut counting, mut is_coming) = (pin!(counting), true);
        let mut turns = tokio::time::interval(TURN);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pass: Option<JoinHandle<Pass>> = None;
        loop {
            tokio::select! {
                one = news.recv() => match one {
                    Some(one) => self.hear(&one),
                    None => return,
                },
                view = &mut counting, if is_coming => {
                    is_coming = false;
                    self.count_in_kernel(view);
                }
                done = finished(&mut pass) => {
                    pass = None;
                    self.take(done);
                }
                _ = turns.tick() => {
                    if pass.is_none() {
                        pass = self.begin_pass();
                    }
                    self.turn();
                }
            }
        }
    }

    fn count_in_kernel(&mut self, view: Option<Arc<KernelView>>) {
        let Some(view) = view else { return };
        self.entries.values_mut().for_each(|entry| entry.watch(Watched::new(&view)));
        (self.kernel, self.kernel_due) = (Some(view), Instant::now());
    }

    fn hear(&mut self, news: &News) {
        for event in news.events.iter() {
            let id = match &event.change {
                Change::Appeared(appeared) => {
                    // One that was made while the agent looked around for the first time is new all the same.
                    let existed = self.is_older(appeared.created_unix_ms).unwrap_or(news.is_first_scan);
                    self.begin(&appeared.id, appeared.inode, existed);
                    continue;
                }
                Change::Removed(id) | Change::ProcessStarted(id, _) | Change::ProcessEnded(id, ..) => id,
                Change::Files(..) => continue,
            };
            let Some(entry) = self.entries.get_mut(id) else { continue };
            if let Some(sandbox) = news.before.get(id) {
                entry.know(sandbox);
            }
            match &event.change {
                Change::Removed(_) => entry.evidence_of_removal(),
                Change::ProcessStarted(_, found) => entry.process_started(found, event),
                Change::ProcessEnded(_, process, exit) => {
                    let is_held = |sandbox: &Sandbox| self.suspects.is_held(sandbox, Source::Cri);
                    // With events; lists of others are up to half a minute old.
                    let tells_at_once = self.runtime.borrow().as_ref().is_some_and(Client::is_containerd);
                    entry.process_ended(process, exit, event, is_held, tells_at_once);
                }
                Change::Appeared(_) | Change::Files(..) => {}
            }
        }
    }

    fn entry(&self, inode: u64, existed: bool) -> Entry {
        Entry::new(inode, existed, self.reader.book(), self.kernel.as_ref().map(Watched::new))
    }

    fn begin(&mut self, id: &SandboxId, inode: u64, existed: bool) {
        // The registry may have told of it before the news came.
        if let Some(entry) = self.entries.get_mut(id).filter(|entry| entry.inode == inode) {
            return entry.existed(existed);
        }
        let entry = self.entry(inode, existed);
        // Another life of the id: the one before it has ended.
        if let Some(old) = self.entries.insert(id.clone(), entry) {
            self.close(id, old);
        }
    }

    /// Made before this agent began.
    fn is_older(&self, created_unix_ms: Option<u64>) -> Option<bool> {
        let created = UNIX_EPOCH + Duration::from_millis(created_unix_ms?);
        Some(created < self.endings.agent_began())
    }

    /// Once in a while: what the registry knows, what has ended, what the page shows.
    fn turn(&mut self) {
        if !self.nameless.is_empty() {
            self.name_the_ended();
        }
        let snapshot = self.registry.snapshot();
        if self.is_ending || !Arc::ptr_eq(&snapshot, &self.seen) {
            self.compare(&snapshot);
            self.seen = snapshot;
        }
        self.is_dirty |= self.endings.expire(Instant::now());
        self.show_ledger();
        if self.orphans_at.elapsed() >= ORPHANS_EVERY {
            self.orphans_at = Instant::now();
            self.show_orphans();
        }
    }

    fn show_ledger(&mut self) {
        if std::mem::take(&mut self.is_dirty) {
            self.store.put_ledger(self.namespaces.totals(), self.endings.shown());
        }
    }

    fn compare(&mut self, snapshot: &Snapshot) {
        let mut gone = Vec::new();
        for (id, entry) in &mut self.entries {
            match snapshot.get(id).filter(|sandbox| sandbox.directory_inode == entry.inode) {
                Some(sandbox) => entry.know(sandbox),
                None => gone.push(id.clone()),
            }
        }
        // A book that is lent comes back first.
        let (closed, lent): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|id| self.entries.get(id).is_some_and(Entry::may_be_closed));
        self.is_ending = !lent.is_empty();
        for id in closed {
            if let Some(entry) = self.entries.remove(&id) {
                self.close(&id, entry);
            }
        }
        // Listed again: what looked like the end was none.
        for (id, sandbox) in snapshot.iter().filter(|(id, _)| !self.entries.contains_key(*id)).collect::<Vec<_>>() {
            let mut entry = self.entry(sandbox.directory_inode, true);
            entry.know(sandbox);
            self.entries.insert(id.clone(), entry);
        }
    }

    fn begin_pass(&mut self) -> Option<JoinHandle<Pass>> {
        let now = Instant::now();
        for id in self.store.take_counted() {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.compare();
            }
        }
        let jobs: Vec<Job> =
            self.entries.iter_mut().filter_map(|(id, entry)| entry.lend(id, now, self.interval)).collect();
        let kernel = self.kernel.clone().filter(|_| self.kernel_due <= now);
        if jobs.is_empty() && kernel.is_none() {
            return None;
        }
        if kernel.is_some() {
            self.kernel_due = now + self.interval;
        }
        let reader = self.reader.clone();
        reader.share_among(self.entries.len());
        Some(tokio::task::spawn_blocking(move || Pass {
            kernel: kernel.as_deref().map(KernelView::read_all),
            done: jobs.into_iter().map(|job| read(&reader, job)).collect(),
        }))
    }

    fn take(&mut self, pass: Option<Pass>) {
        let Some(Pass { done, kernel }) = pass else {
            warn!("a reading of the host's numbers failed; the sandboxes in it are read anew from now on");
            self.entries.values_mut().for_each(|entry| entry.replace_lost(self.reader.book()));
            return;
        };
        if let (Some(mut counted), Some(view)) = (kernel, &self.kernel) {
            kernel::show(view, &self.own, &mut self.kernel_lost);
            self.entries.values_mut().for_each(|entry| entry.take_kernel(&mut counted));
        }
        let mut all = Vec::with_capacity(done.len());
        for Done { sandbox, book, reading, at, socket_at } in done {
            let Some(entry) = self.entries.get_mut(&sandbox.id).filter(|entry| entry.inode == sandbox.directory_inode)
            else {
                continue;
            };
            entry.give_back(book, socket_at);
            let Some(stored) = self.store.reading(&sandbox.id) else {
                continue;
            };
            let stats = entry.update(at, reading, stored);
            let (_, vmm) = entry.kinds();
            if !vmm.is_empty() && self.vmms.insert(vmm) {
                self.own.sandboxes_may_end(vmm, &CAUSES);
            }
            if let Some(namespace) = entry.namespace() {
                self.namespaces.apply(&sandbox.id, entry.inode, &namespace, entry.contribution());
                self.is_dirty = true;
            }
            for (stage, took) in entry.stages() {
                let (runtime, vmm) = entry.kinds();
                self.own.sandbox_started(stage.as_str(), runtime, vmm, took);
            }
            let pod = pod_stats(&stats.reading);
            all.push(HostNumbers {
                id: sandbox.id.clone(),
                inode: sandbox.directory_inode,
                stats,
                pod,
                decides: entry.is_settled(),
                has_no_door: entry.has_no_door(),
            });
        }
        // Reading took a moment in which some of them may have ended.
        let snapshot = self.registry.snapshot();
        all.retain(|new| snapshot.get(&new.id).is_some_and(|sandbox| sandbox.directory_inode == new.inode));
        // No page shows a sandbox's numbers without its namespace's.
        self.show_ledger();
        self.store.put_host(all, SystemTime::now());
    }

    /// The final account; of one whose name is not known yet, when it is or nobody will tell it any more.
    fn close(&mut self, id: &SandboxId, mut entry: Entry) {
        let Some(last) = entry.close() else {
            debug!(sandbox_id = %id, "nothing to account for");
            self.namespaces.forget(id, entry.inode);
            return;
        };
        self.nameless.push((Instant::now() + PATIENCE_FOR_NAMES, entry, last));
        self.name_the_ended();
    }

    fn name_the_ended(&mut self) {
        let now = Instant::now();
        for (until, entry, mut last) in std::mem::take(&mut self.nameless) {
            if last.sandbox.identity.is_none()
                && let Some(identity) = self.registry.name_of(&last.sandbox.id)
            {
                last.sandbox = Arc::new(Sandbox { identity: Some(identity), ..(*last.sandbox).clone() });
            }
            if last.sandbox.identity.is_some() || until <= now {
                self.settle(&entry, last);
            } else {
                self.nameless.push((until, entry, last));
            }
        }
    }

    fn settle(&mut self, entry: &Entry, last: Ended) {
        let id = &last.sandbox.id;
        let namespace = last.sandbox.identity.as_ref().map(|identity| identity.namespace.clone()).unwrap_or_default();
        self.namespaces.apply(id, entry.inode, &namespace, entry.contribution());
        self.namespaces.forget(id, entry.inode);
        self.own.sandbox_ended(last.sandbox.vmm.map_or("", |vmm| vmm.as_str()), last.end.cause);
        info!(
            sandbox_id = %id,
            namespace,
            cause = last.end.cause,
            signal = last.end.signal,
            exit_code = last.end.exit_code,
            "final account of the sandbox is made"
        );
        if self.endings.keep(last) {
            self.own.limited("ended_sandboxes", 1);
        }
        self.is_dirty = true;
    }

    fn show_orphans(&self) {
        let readings = self.store.readings(&self.seen);
        let is_unknown =
            readings.iter().map(|reading| reading.sources[index(Source::Cri)].state == Some(SourceState::Gone));
        let per_second = procfs::ticks_per_second();
        let now = boot_now().as_secs().saturating_mul(per_second);
        let orphans = count_orphans(self.seen.values().map(AsRef::as_ref).zip(is_unknown), now, per_second);
        self.own.orphans("vmm", orphans.vmms);
        self.own.orphans("shim", orphans.shims);
        self.own.orphans("directory", self.registry.leftovers().directories);
    }
}

impl Drop for Accountant {
    fn drop(&mut self) {
        self.entries.clear();
        self.kernel.take().into_iter().for_each(kernel::detach_aside);
    }
}

/// Never, while no pass is under way. `None`: it panicked.
async fn finished(pass: &mut Option<JoinHandle<Pass>>) -> Option<Pass> {
    match pass {
        Some(pass) => pass.await.ok(),
        None => std::future::pending().await,
    }
}

/// Blocks.
fn read(reader: &HostReader, job: Job) -> Done {
    let Job { sandbox, mut book, tiers, wants_socket } = job;
    let target = Target {
        id: &sandbox.id,
        processes: &sandbox.processes,
        vmm: sandbox.vmm,
        cgroup_parent: sandbox.identity.as_ref().and_then(|identity| identity.cgroup_parent.as_deref()),
    };
    let reading = reader.read(&mut book, &target, tiers);
    let at = boot_now().as_secs_f64();
    let made = || sandbox.socket_path().symlink_metadata().and_then(|metadata| metadata.modified()).ok();
    let socket_at = wants_socket.then(made).flatten().and_then(to_boot).map(|at| at.as_secs_f64());
    Done { sandbox, book, reading, at, socket_at }
}
