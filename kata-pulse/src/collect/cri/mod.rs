//! Who is which pod? One list call answers for all; containerd's events and new sandboxes say when to ask.
//!
//! In: the sandboxes of this node. Out: [`CriUpdate`]s. Only calls that a runtime answers from memory are made
//! regularly; nothing here can change anything in it. A sandbox that the runtime does not know after some answers is
//! not asked for any more.

mod client;
mod ladder;
pub mod parse;
mod proto;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

pub use client::CriError;
use client::{Client, Listed};
use ladder::Ladder;

use crate::sandbox::{Identity, SandboxId, Snapshot, SourceState};

/// The truth, when nothing gave a reason to ask.
const LIST_INTERVAL: Duration = Duration::from_secs(30);
/// Between tries to reach a runtime that is not there.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// Answers without a sandbox, after which it counts as one that never had a pod.
const ANSWERS_UNTIL_GIVEN_UP: u32 = 40;
/// Details asked for at once.
const DETAILS_PER_ROUND: usize = 32;

/// What became known.
#[derive(Clone, Debug)]
pub enum CriUpdate {
    /// The runtime's whole list, and the sandboxes of this node that are certainly not on it.
    Names { names: Arc<BTreeMap<SandboxId, Identity>>, without_pod: BTreeSet<SandboxId> },
    /// The runtime cannot be asked, and why.
    Unreachable(SourceState),
}

/// Runs for as long as the agent does. `endpoint`: the operator's choice; `None` tries the well-known places.
pub async fn run(endpoint: Option<PathBuf>, mut snapshots: watch::Receiver<Snapshot>, out: mpsc::Sender<CriUpdate>) {
    let mut retry = FIRST_RETRY;
    let mut said = None;
    loop {
        match Client::connect(endpoint.as_deref()).await {
            Ok(client) => {
                info!(socket = %client.socket().display(), runtime = client.runtime(), "container runtime found");
                (retry, said) = (FIRST_RETRY, None);
                let error = follow(client, &mut snapshots, &out).await;
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
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(LONGEST_RETRY);
    }
}

/// Lists again and again until the runtime cannot be reached any more.
async fn follow(
    mut client: Client,
    snapshots: &mut watch::Receiver<Snapshot>,
    out: &mpsc::Sender<CriUpdate>,
) -> CriError {
    let mut following = Following::default();
    let (hint_sender, mut hints) = mpsc::channel(1);
    // Before the first list, so that nothing happens unseen in between.
    let _hinting = AbortOnDrop(tokio::spawn(client.clone().hint(hint_sender)));
    let mut failures = 0;
    loop {
        match client.list().await {
            Ok(listed) => {
                failures = 0;
                let snapshot = snapshots.borrow_and_update().clone();
                let update = following.take(&mut client, listed, &snapshot).await;
                if out.send(update).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            // A runtime that starts says so for a while, and one slow answer is no end.
            Err(error) if error.may_pass() && failures < 3 => {
                failures += 1;
                debug!(error = &error as &dyn std::error::Error, "list of pods failed");
            }
            Err(error) => return error,
        }
        let pause = following.ladder.next();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Some(()) = hints.recv() => {
                following.ladder.restart();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            () = news(snapshots, &following) => following.ladder.restart(),
        }
    }
}

/// Waits until a sandbox of this node has no name and is not given up.
async fn news(snapshots: &mut watch::Receiver<Snapshot>, following: &Following) {
    loop {
        if snapshots.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let snapshot = snapshots.borrow_and_update();
        if snapshot.keys().any(|id| !following.names.contains_key(id) && !following.unanswered.contains_key(id)) {
            return;
        }
    }
}

/// What one connection to a runtime has brought so far.
#[derive(Default)]
struct Following {
    names: Arc<BTreeMap<SandboxId, Identity>>,
    /// Cgroup and handler, asked for once per sandbox.
    details: HashMap<SandboxId, parse::Details>,
    /// Answers in which a sandbox of this node was missing.
    unanswered: HashMap<SandboxId, u32>,
    ladder: Ladder,
}

impl Following {
    async fn take(&mut self, client: &mut Client, listed: Listed, snapshot: &Snapshot) -> CriUpdate {
        let mut names = listed.names;
        let missing: Vec<&SandboxId> = snapshot.keys().filter(|id| !names.contains_key(*id)).collect();
        self.unanswered.retain(|id, _| missing.contains(&id));
        for id in missing {
            *self.unanswered.entry(id.clone()).or_default() += 1;
        }
        self.details.retain(|id, _| names.contains_key(id));
        let wanted: Vec<SandboxId> = snapshot
            .keys()
            .filter(|id| names.contains_key(*id) && !self.details.contains_key(*id))
            .take(DETAILS_PER_ROUND)
            .cloned()
            .collect();
        self.details.extend(client.details(wanted).await);
        for (id, details) in &self.details {
            if let Some(identity) = names.get_mut(id) {
                identity.cgroup_parent.clone_from(&details.cgroup_parent);
                if identity.runtime_handler.is_empty() {
                    identity.runtime_handler.clone_from(&details.runtime_handler);
                }
            }
        }
        self.names = Arc::new(names);
        let given_up = |count: &u32| *count >= ANSWERS_UNTIL_GIVEN_UP;
        let pending = self.unanswered.values().any(|count| !given_up(count))
            || snapshot.keys().any(|id| self.names.contains_key(id) && !self.details.contains_key(id));
        self.ladder.pending(pending);
        let without_pod = self.unanswered.iter().filter(|(_, count)| given_up(count)).map(|(id, _)| id.clone());
        CriUpdate::Names { names: self.names.clone(), without_pod: without_pod.collect() }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
