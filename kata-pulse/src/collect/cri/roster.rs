//! Which containers run in the sandboxes of this node, and what is known of each.
//!
//! In: the runtime's list of containers, and what it says of one. Out: [`Containers`]. No IO of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};
use tracing::debug;

use super::client::{Client, CriError};
use super::parse::{ContainerDetails, Listed};
use super::pause::spread;
use crate::sandbox::{Container, ContainerId, Containers, Identity, SandboxId, Snapshot};

/// Containers of all pods of a node; a kubelet admits a few hundred pods.
const MAX_CONTAINERS: usize = 20_000;
/// Of one pod.
const MAX_PER_SANDBOX: usize = 256;
const PARALLEL: usize = 8;
/// Limits change when a pod is resized in place.
const REFRESH: Duration = Duration::from_secs(60);
/// After a failure, times the number of tries.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(super) struct Roster {
    listed: BTreeMap<SandboxId, Vec<Listed>>,
    facts: HashMap<ContainerId, Facts>,
    asking: JoinSet<(ContainerId, Result<ContainerDetails, CriError>)>,
    published: Arc<Containers>,
    dirty: bool,
}

struct Facts {
    known: Option<ContainerDetails>,
    /// When it is asked for next; `None`: the question is under way.
    due: Option<Instant>,
    failures: u32,
}

pub(super) type Answer = Result<(ContainerId, Result<ContainerDetails, CriError>), JoinError>;

impl Roster {
    /// Something happened since the last update.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// What was under way is lost.
    pub(super) fn reconnect(&mut self, now: Instant) {
        self.asking = JoinSet::new();
        self.facts.values_mut().filter(|facts| facts.due.is_none()).for_each(|facts| facts.due = Some(now));
    }

    pub(super) fn take(&mut self, list: Vec<(SandboxId, Listed)>, snapshot: &Snapshot, now: Instant) {
        let before = std::mem::take(&mut self.listed);
        for (sandbox, container) in list.into_iter().take(MAX_CONTAINERS) {
            if snapshot.contains_key(&sandbox) {
                let containers = self.listed.entry(sandbox).or_default();
                if containers.len() < MAX_PER_SANDBOX {
                    containers.push(container);
                }
            }
        }
        let mut facts = std::mem::take(&mut self.facts);
        for container in self.listed.values().flatten() {
            let fresh = || Facts { known: None, due: Some(now), failures: 0 };
            let known = facts.remove(&container.id).unwrap_or_else(fresh);
            self.facts.insert(container.id.clone(), known);
        }
        self.dirty |= before != self.listed;
    }

    /// Asks for what is due, a few at a time.
    pub(super) fn ask(&mut self, client: &Client, now: Instant) {
        let room = PARALLEL.saturating_sub(self.asking.len());
        let due = self.facts.iter_mut().filter(|(_, facts)| facts.due.is_some_and(|due| due <= now)).take(room);
        for (id, facts) in due {
            facts.due = None;
            let (client, id, known) = (client.clone(), id.clone(), facts.known.clone());
            self.asking.spawn(async move {
                let answer = client.container(&id, known).await;
                (id, answer)
            });
        }
    }

    /// The next answer; `None` while nothing is asked.
    pub(super) async fn answered(&mut self) -> Option<Answer> {
        self.asking.join_next().await
    }

    /// When something is due that is not asked yet; `None` also while there is no room to ask.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.asking.len() >= PARALLEL {
            return None;
        }
        self.facts.values().filter_map(|facts| facts.due).min()
    }

    pub(super) fn take_answer(&mut self, answer: Answer, now: Instant) {
        let Ok((id, answer)) = answer else { return };
        let Some(facts) = self.facts.get_mut(&id) else { return };
        match answer {
            Ok(details) => {
                self.dirty |= facts.known.as_ref() != Some(&details);
                *facts = Facts { known: Some(details), due: Some(now + spread(REFRESH)), failures: 0 };
            }
            Err(error) => {
                debug!(container_id = %id, error = &error as &dyn std::error::Error, "no details of the container");
                facts.failures += 1;
                facts.due = Some(now + spread((RETRY * facts.failures).min(REFRESH)));
            }
        }
    }

    /// All containers of which enough is known for labels that will not change; `None`: as said last time.
    pub(super) fn update(&mut self, names: &BTreeMap<SandboxId, Identity>, is_crio: bool) -> Option<Arc<Containers>> {
        self.dirty = false;
        let mut containers = Containers::new();
        for (sandbox, listed) in &self.listed {
            let Some(identity) = names.get(sandbox) else { continue };
            let known = listed.iter().filter_map(|one| {
                let details = self.facts.get(&one.id)?.known.as_ref()?;
                Some(Arc::new(container(one, details, identity, is_crio)))
            });
            let mut known: Vec<_> = known.collect();
            known.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
            if !known.is_empty() {
                containers.insert(sandbox.clone(), known);
            }
        }
        if containers == *self.published {
            return None;
        }
        self.published = Arc::new(containers);
        Some(self.published.clone())
    }
}

fn container(listed: &Listed, details: &ContainerDetails, identity: &Identity, is_crio: bool) -> Container {
    let id = listed.id.clone();
    let image = [&details.image, &listed.image].into_iter().find(|image| !image.is_empty());
    let parent = identity.cgroup_parent.as_deref().unwrap_or("/kata").trim_end_matches('/');
    let label_name = if is_crio {
        let Identity { pod_name, namespace, uid, .. } = identity;
        format!("k8s_{}_{pod_name}_{namespace}_{uid}_{}", listed.name, listed.attempt)
    } else {
        id.to_string()
    };
    Container {
        name: listed.name.clone(),
        image: image.map_or_else(|| "unknown".to_owned(), Clone::clone),
        label_name,
        cgroup: details.cgroup.clone().unwrap_or_else(|| format!("{parent}/{id}")),
        attempt: listed.attempt,
        created_unix_ns: listed.created_unix_ns,
        started_unix_ns: details.started_unix_ns,
        limits: details.limits,
        id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Limits;

    fn listed() -> Listed {
        Listed {
            id: ContainerId::parse("c1").unwrap(),
            name: "app".into(),
            attempt: 2,
            image: String::new(),
            created_unix_ns: Some(1),
        }
    }

    fn identity() -> Identity {
        Identity {
            pod_name: "p".into(),
            namespace: "ns".into(),
            uid: "u".into(),
            cgroup_parent: Some("/kubepods/podu".into()),
            ..Identity::default()
        }
    }

    #[test]
    fn labels_are_those_of_cadvisor_for_each_runtime() {
        let details = ContainerDetails { image: "app:1".into(), ..ContainerDetails::default() };
        let one = container(&listed(), &details, &identity(), false);
        assert_eq!((one.label_name.as_str(), one.cgroup.as_str()), ("c1", "/kubepods/podu/c1"));
        assert_eq!((one.image.as_str(), one.limits), ("app:1", Limits::default()));
        let one = container(&listed(), &ContainerDetails::default(), &identity(), true);
        assert_eq!((one.label_name.as_str(), one.image.as_str()), ("k8s_app_p_ns_u_2", "unknown"));
    }

    #[tokio::test]
    async fn a_lost_connection_forgets_what_was_under_way_and_nothing_else() {
        let now = Instant::now();
        let mut roster = Roster::default();
        let known = Some(ContainerDetails::default());
        roster.facts.insert(listed().id, Facts { known: known.clone(), due: None, failures: 0 });
        assert_eq!(roster.next_due(), None);
        roster.reconnect(now);
        assert_eq!((roster.next_due(), &roster.facts[&listed().id].known), (Some(now), &known));
    }

    #[tokio::test]
    async fn a_container_is_told_of_when_its_details_are_known_and_only_once() {
        let now = Instant::now();
        let sandbox = SandboxId::parse("aa").unwrap();
        let (names, mut roster) = (BTreeMap::from([(sandbox.clone(), identity())]), Roster::default());
        roster.listed.insert(sandbox.clone(), vec![listed()]);
        roster.facts.insert(listed().id, Facts { known: None, due: None, failures: 0 });
        assert!(roster.update(&names, false).is_none(), "nothing is known yet");
        roster.take_answer(Ok((listed().id, Ok(ContainerDetails::default()))), now);
        assert!(roster.next_due().is_some_and(|due| due > now + REFRESH / 2 && due <= now + 2 * REFRESH));
        assert_eq!(roster.update(&names, false).unwrap()[&sandbox].len(), 1);
        assert!(roster.update(&names, false).is_none(), "no news");
        roster.take(Vec::new(), &Snapshot::default(), now);
        assert!(roster.update(&names, false).unwrap().is_empty(), "an ended container is gone at once");
        assert!(roster.facts.is_empty());
    }
}
