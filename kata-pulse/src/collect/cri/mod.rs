//! Who is which pod? One list call answers for all; containerd's events and new sandboxes say when to ask.
//!
//! In: the sandboxes of this node. Out: [`CriUpdate`]s. Only calls that a runtime answers from memory are made
//! regularly; nothing here can change anything in it. A sandbox that the runtime does not know after some answers is
//! not asked for any more.

mod client;
mod filtered;
pub mod handlers;
mod ladder;
pub mod parse;
mod pause;
pub(in crate::collect) mod proto;
mod roster;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tracing::{debug, info, warn};

pub use client::{Client, CriError};
pub(in crate::collect) use client::{MESSAGE_BYTES, in_kubernetes};
pub use handlers::Handlers;
use ladder::Ladder;
use pause::spread;
use roster::Roster;

use crate::sandbox::{ContainerId, Containers, Identity, SandboxId, Snapshot, SourceState};

/// The truth, when nothing gave a reason to ask.
const LIST_INTERVAL: Duration = Duration::from_secs(30);
/// Between tries to reach a runtime that is not there.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// Answers without a sandbox, and time since the first of them, after which it counts as one that never had a pod.
const ANSWERS_UNTIL_GIVEN_UP: u32 = 10;
const TIME_UNTIL_GIVEN_UP: Duration = Duration::from_secs(45);
/// Details asked for at once.
const PARALLEL_DETAILS: usize = 8;
const MAX_DETAIL_TRIES: u32 = 3;
/// Lists that may fail one after another before the connection counts as lost.
const MAX_FAILURES: u32 = 3;
/// Between two lists, whatever the runtime hints at; it grows while hints go on that are about nobody here.
const SHORTEST_GAP: Duration = Duration::from_millis(25);
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// What became known.
#[derive(Clone, Debug)]
pub enum CriUpdate {
    /// The runtime's whole list, and the sandboxes of this node that are certainly not on it.
    Names { names: Arc<BTreeMap<SandboxId, Identity>>, without_pod: BTreeSet<SandboxId> },
    /// The running workload containers of this node's sandboxes.
    Containers(Arc<Containers>),
    /// The guest's kernel killed a process of this container for want of memory.
    OutOfMemory(ContainerId),
    /// The runtime's handlers, once per connection, where it tells them.
    Handlers(Arc<Handlers>),
    /// The runtime cannot be asked, and why.
    Unreachable(SourceState),
}

/// Runs for as long as the agent does. `endpoint`: the operator's choice; `None` tries the well-known places.
/// `current`: the connection, for those who ask the runtime other things.
pub async fn run(
    endpoint: Option<PathBuf>,
    mut snapshots: watch::Receiver<Snapshot>,
    out: mpsc::Sender<CriUpdate>,
    current: watch::Sender<Option<Client>>,
) {
    let mut retry = FIRST_RETRY;
    let mut said = None;
    // What is known outlives a connection: a runtime that restarts has the same pods.
    let mut following = Following::default();
    loop {
        match Client::connect(endpoint.as_deref()).await {
            Ok(client) => {
                info!(socket = %client.socket().display(), runtime = client.runtime(), "container runtime found");
                (retry, said) = (FIRST_RETRY, None);
                current.send_replace(Some(client.clone()));
                let error = follow(client, &mut following, &mut snapshots, &out).await;
                current.send_replace(None);
                warn!(error = &error as &dyn std::error::Error, "container runtime lost, trying again");
                if out.send(CriUpdate::Unreachable(error.state())).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                let text = error.to_string();
                if said.as_ref() != Some(&text) {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "no container runtime, sandboxes stay without pod names"
                    );
                    said = Some(text);
                }
                if out.send(CriUpdate::Unreachable(error.state())).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(spread(retry)).await;
        retry = (retry * 2).min(LONGEST_RETRY);
    }
}

/// Lists again and again until the runtime cannot be reached any more.
async fn follow(
    client: Client,
    following: &mut Following,
    snapshots: &mut watch::Receiver<Snapshot>,
    out: &mpsc::Sender<CriUpdate>,
) -> CriError {
    following.reconnect(client.handlers().await.map(Arc::new));
    if let Some(handlers) = &following.handlers
        && out.send(CriUpdate::Handlers(handlers.clone())).await.is_err()
    {
        std::future::pending::<()>().await;
    }
    let (hint_sender, mut hints) = mpsc::channel(1);
    let (oom_sender, mut ooms) = mpsc::channel(256);
    // Before the first list, so that nothing happens unseen in between.
    let _hinting = AbortOnDrop(tokio::spawn(client.clone().hint(hint_sender, oom_sender)));
    let (mut failures, mut gap) = (0, SHORTEST_GAP);
    loop {
        let asked = Instant::now();
        let pause = match list(&client, following, snapshots).await {
            Ok(()) => {
                failures = 0;
                following.ladder.next()
            }
            // A runtime that starts says so for a while, and one slow answer is no end.
            Err(error) if error.may_pass() && failures < MAX_FAILURES => {
                failures += 1;
                debug!(error = &error as &dyn std::error::Error, "list of pods failed");
                spread(FIRST_RETRY * failures)
            }
            Err(error) => return error,
        };
        let mut due = Instant::now() + pause;
        while Instant::now() < due {
            following.ask_details(&client);
            following.roster.ask(&client, Instant::now());
            for update in following.updates(&client) {
                if out.send(update).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            let soon = asked + if following.ladder.is_pending() { SHORTEST_GAP } else { gap };
            let until = following.roster.next_due().map_or(due, |refresh| refresh.min(due));
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                Some(()) = hints.recv() => {
                    following.ladder.restart();
                    gap = if asked.elapsed() < 2 * LONGEST_GAP { (gap * 2).min(LONGEST_GAP) } else { SHORTEST_GAP };
                    due = due.min(soon.max(Instant::now()));
                }
                Some(id) = ooms.recv() => {
                    // The receiver that is gone takes the whole agent with it.
                    let _ = out.send(CriUpdate::OutOfMemory(id)).await;
                }
                () = news(snapshots, &following.details, &following.unanswered) => {
                    following.ladder.restart();
                    gap = SHORTEST_GAP;
                    let soon = asked + gap;
                    due = due.min(soon.max(Instant::now()));
                }
                Some(joined) = following.asking.join_next() => {
                    following.dirty = true;
                    take_details(&mut following.details, joined);
                }
                Some(answer) = following.roster.answered() => following.roster.take_answer(answer, Instant::now()),
            }
        }
    }
}

/// Pods, and the containers of those that are on this node as sandboxes.
async fn list(
    client: &Client,
    following: &mut Following,
    snapshots: &mut watch::Receiver<Snapshot>,
) -> Result<(), CriError> {
    let here: Vec<SandboxId> = snapshots.borrow().keys().cloned().collect();
    let names = following.list(client, here).await?;
    following.take(names, &snapshots.borrow_and_update(), Instant::now());
    if following.details.is_empty() {
        // None of them is ours: their containers are of no interest.
        following.roster.take(Vec::new(), &snapshots.borrow(), Instant::now());
        return Ok(());
    }
    match client.containers().await {
        Ok(containers) => {
            following.roster.take(containers, &snapshots.borrow(), Instant::now());
            following.containers_failed = false;
        }
        // Names are worth having without them.
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            if !std::mem::replace(&mut following.containers_failed, true) {
                warn!(error, "the container runtime gives no list of containers, their series may be missing or old");
            }
        }
    }
    Ok(())
}

/// Waits until there is a sandbox on this node of which nothing was asked yet.
async fn news(
    snapshots: &mut watch::Receiver<Snapshot>,
    details: &HashMap<SandboxId, Details>,
    unanswered: &HashMap<SandboxId, (Instant, u32)>,
) {
    loop {
        if snapshots.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let snapshot = snapshots.borrow_and_update();
        if snapshot.keys().any(|id| !details.contains_key(id) && !unanswered.contains_key(id)) {
            return;
        }
    }
}

/// What is known of this node's pods. It outlives a connection.
#[derive(Default)]
struct Following {
    /// As listed.
    names: BTreeMap<SandboxId, Identity>,
    /// Cgroup and handler, asked for once per sandbox.
    details: HashMap<SandboxId, Details>,
    asking: JoinSet<(SandboxId, Result<parse::Details, CriError>)>,
    /// Sandboxes of this node that are missing in the list: since when, and in how many answers.
    unanswered: HashMap<SandboxId, (Instant, u32)>,
    ladder: Ladder,
    roster: Roster,
    handlers: Option<Arc<Handlers>>,
    /// The whole list does not fit into a message.
    by_id: bool,
    /// Something happened since the last telling.
    dirty: bool,
    /// The names and those without, as last told.
    told: Option<Told>,
    containers_failed: bool,
}

type Told = (Arc<BTreeMap<SandboxId, Identity>>, BTreeSet<SandboxId>);

enum Details {
    /// How often it was asked for before.
    Wanted(u32),
    Asked(u32),
    Known(parse::Details),
}

impl Following {
    /// What was under way is lost, and everything is told anew.
    fn reconnect(&mut self, handlers: Option<Arc<Handlers>>) {
        (self.handlers, self.by_id, self.told, self.dirty) = (handlers, false, None, true);
        self.asking = JoinSet::new();
        for details in self.details.values_mut() {
            if let Details::Asked(tries) = *details {
                *details = Details::Wanted(tries);
            }
        }
        self.roster.reconnect(Instant::now());
    }

    /// The whole list; or what it says of the sandboxes of this node that may have a pod, once it was too large.
    async fn list(
        &mut self,
        client: &Client,
        mut here: Vec<SandboxId>,
    ) -> Result<BTreeMap<SandboxId, Identity>, CriError> {
        let mut names = match self.list_whole(client).await? {
            Some(names) => names,
            None => {
                let now = Instant::now();
                here.retain(|id| self.unanswered.get(id).is_none_or(|missing| !is_given_up(*missing, now)));
                filtered::list(client, here, &self.names).await?
            }
        };
        if let Some(handlers) = &self.handlers {
            handlers.name_default(&mut names);
        }
        Ok(names)
    }

    /// `None`: it does not fit into a message, and is not asked for again on this connection.
    async fn list_whole(&mut self, client: &Client) -> Result<Option<BTreeMap<SandboxId, Identity>>, CriError> {
        if self.by_id {
            return Ok(None);
        }
        match client.list().await {
            Err(error) if error.is_too_large() => {
                warn!(error = &error as &dyn std::error::Error, "the list of pods is too large, asking one by one");
                self.by_id = true;
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    fn take(&mut self, names: BTreeMap<SandboxId, Identity>, snapshot: &Snapshot, now: Instant) {
        self.unanswered.retain(|id, _| snapshot.contains_key(id) && !names.contains_key(id));
        for id in snapshot.keys().filter(|id| !names.contains_key(*id)) {
            self.unanswered.entry(id.clone()).or_insert((now, 0)).1 += 1;
        }
        self.details.retain(|id, _| names.contains_key(id));
        for id in snapshot.keys().filter(|id| names.contains_key(*id)) {
            self.details.entry(id.clone()).or_insert(Details::Wanted(0));
        }
        self.dirty |= self.names != names;
        self.names = names;
        let pending = self.unanswered.values().any(|missing| !is_given_up(*missing, now));
        self.ladder.pending(pending);
    }

    /// A few at a time, since on some runtimes each reaches a shim, which may hang.
    fn ask_details(&mut self, client: &Client) {
        for (id, details) in &mut self.details {
            if self.asking.len() >= PARALLEL_DETAILS {
                return;
            }
            if let Details::Wanted(tries) = *details {
                *details = Details::Asked(tries + 1);
                let (client, id) = (client.clone(), id.clone());
                self.asking.spawn(async move {
                    let answer = client.details(&id).await;
                    (id, answer)
                });
            }
        }
    }

    /// What is worth telling now.
    fn updates(&mut self, client: &Client) -> Vec<CriUpdate> {
        let now = Instant::now();
        let given_up = self.unanswered.iter().filter(|(_, missing)| is_given_up(**missing, now));
        let without_pod: BTreeSet<SandboxId> = given_up.map(|(id, _)| id.clone()).collect();
        let known = self.told.as_ref().filter(|(_, without)| !self.dirty && *without == without_pod);
        let names = known.map_or_else(|| Arc::new(self.settled_names()), |(names, _)| names.clone());
        let mut updates = Vec::new();
        if self.told.as_ref().is_none_or(|told| *told != (names.clone(), without_pod.clone())) {
            self.told = Some((names.clone(), without_pod.clone()));
            updates.push(CriUpdate::Names { names: names.clone(), without_pod });
        }
        if std::mem::take(&mut self.dirty) || self.roster.is_dirty() {
            updates.extend(self.roster.update(&names, !client.is_containerd()).map(CriUpdate::Containers));
        }
        updates
    }

    /// Names that will not change any more: one whose cgroup is still asked for would change its series' labels.
    fn settled_names(&self) -> BTreeMap<SandboxId, Identity> {
        let mut names = BTreeMap::new();
        for (id, identity) in &self.names {
            let mut identity = identity.clone();
            match self.details.get(id) {
                Some(Details::Known(details)) => {
                    identity.cgroup_parent.clone_from(&details.cgroup_parent);
                    identity.overhead = details.overhead;
                    if identity.runtime_handler.is_empty() {
                        identity.runtime_handler.clone_from(&details.runtime_handler);
                    }
                }
                Some(Details::Wanted(_) | Details::Asked(_)) => continue,
                // Not on this node's list of sandboxes yet; its details are asked for when it is.
                None => continue,
            }
            names.insert(id.clone(), identity);
        }
        names
    }
}

fn take_details(
    all: &mut HashMap<SandboxId, Details>,
    joined: Result<(SandboxId, Result<parse::Details, CriError>), JoinError>,
) {
    let Ok((id, answer)) = joined else { return };
    let Some(details) = all.get_mut(&id) else { return };
    let tries = if let Details::Asked(tries) = details { *tries } else { 0 };
    *details = match answer {
        Ok(known) => Details::Known(known),
        Err(error) => {
            debug!(sandbox_id = %id, error = &error as &dyn std::error::Error, "no details of the sandbox");
            // Asking for ever would reach its shim for ever.
            let reached_a_shim = matches!(error, CriError::Deadline { call: "PodSandboxStatus", .. });
            let again = error.may_be_retried() && !reached_a_shim && tries < MAX_DETAIL_TRIES;
            if again { Details::Wanted(tries) } else { Details::Known(parse::Details::default()) }
        }
    };
}

/// Both answers and time: on a busy node many answers come within a second, and a virtual machine boots for many.
fn is_given_up((since, answers): (Instant, u32), now: Instant) -> bool {
    answers >= ANSWERS_UNTIL_GIVEN_UP && now.saturating_duration_since(since) >= TIME_UNTIL_GIVEN_UP
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
