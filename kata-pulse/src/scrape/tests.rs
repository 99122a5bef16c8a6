use super::*;
use crate::convert::Converted;
use crate::registry::Registry;
use crate::sandbox::{Appeared, Change, DirectoryFacts, DiscoveryEvent, EventSource, Identity, Runtime, SandboxId};
use std::collections::{BTreeMap, BTreeSet};

/// Sandboxes of one pod, each with its state at the runtime and when it was made.
struct Shown {
    registry: Registry,
    store: Store,
    scraper: Scraper,
}

impl Shown {
    fn new(sandboxes: &[(&str, bool, i64)]) -> Self {
        let (registry, store) = (Registry::default(), Store::default());
        let levels = BTreeSet::from([crate::model::Level::Pod]);
        let selection = Selection { levels, disabled: BTreeSet::new() };
        let host =
            HostView { cgroup_mode: "", ebpf: tokio::sync::watch::channel(SourceState::Off).1, containers: true };
        let scraper = Scraper::new(registry.subscribe(), store.clone(), Own::new(), selection, host);
        let shown = Self { registry, store, scraper };
        for (name, ..) in sandboxes {
            let (id, directory) = (id(name), format!("/x/{name}").into());
            let appeared =
                Appeared { id: id.clone(), directory, inode: 1, runtime: Some(Runtime::Go), created_unix_ms: None };
            shown.tell(Change::Appeared(appeared));
            shown.store.put_guest(&id, 1, Source::Shim, SystemTime::now(), |_| {
                let mut converted = Converted::default();
                converted.pod.memory.usage_bytes = Some(1.0);
                converted.guest.load = [Some(1.0); 3];
                converted
            });
        }
        shown.name(sandboxes);
        shown
    }

    fn name(&self, sandboxes: &[(&str, bool, i64)]) {
        let identity = |ready, created| Identity {
            pod_name: "p".into(),
            namespace: "n".into(),
            cgroup_parent: Some("/kubepods/podu".into()),
            ready,
            created_unix_ns: Some(created),
            ..Identity::default()
        };
        let names: BTreeMap<SandboxId, Identity> =
            sandboxes.iter().map(|(name, ready, created)| (id(name), identity(*ready, *created))).collect();
        self.registry.name(Arc::new(names), Instant::now());
    }

    fn tell(&self, change: Change) {
        let event = DiscoveryEvent { source: EventSource::Scan, at_boot: None, change };
        self.registry.apply(&[event], Instant::now());
    }

    fn page(&self) -> String {
        let page = self.scraper.page(&MetricsQuery::default(), Format::Text, false).unwrap();
        String::from_utf8(page.to_vec()).unwrap()
    }
}

fn id(name: &str) -> SandboxId {
    SandboxId::parse(name).unwrap()
}

fn count(page: &str, family: &str) -> usize {
    page.lines().filter(|line| line.starts_with(&format!("{family}{{"))).count()
}

#[test]
fn two_sandboxes_of_one_pod_have_one_set_of_the_pods_series() {
    let shown = Shown::new(&[("aa", true, 1), ("bb", true, 2), ("cc", true, 1)]);
    let page = shown.page();
    assert_eq!(count(&page, "container_memory_usage_bytes"), 1);
    assert_eq!(count(&page, "kata_sandbox_guest_load"), 9, "these have the sandbox's id");
}

#[test]
fn what_is_not_asked_any_more_says_nothing() {
    let shown = Shown::new(&[("aa", true, 1)]);
    assert_eq!(count(&shown.page(), "container_memory_usage_bytes"), 1);
    shown.name(&[("aa", false, 1)]);
    let page = shown.page();
    assert!(!page.contains("container_memory") && !page.contains("_guest_load") && page.contains("kata_sandbox_info{"));
    let stopping = Shown::new(&[("aa", true, 1)]);
    stopping.tell(Change::Files(id("aa"), DirectoryFacts { stopped: true, ..DirectoryFacts::default() }));
    assert!(!stopping.page().contains("container_memory"));
}

#[test]
fn while_the_runtime_is_away_at_the_start_no_series_begins_without_its_name() {
    let shown = Shown::new(&[]);
    let appeared = Appeared {
        id: id("aa"),
        directory: "/x/aa".into(),
        inode: 1,
        runtime: Some(Runtime::Go),
        created_unix_ms: None,
    };
    shown.tell(Change::Appeared(appeared));
    shown.store.put_guest(&id("aa"), 1, Source::Shim, SystemTime::now(), |_| {
        let mut converted = Converted::default();
        converted.pod.memory.usage_bytes = Some(1.0);
        converted
    });
    shown.store.put_state(&id("aa"), 1, Source::Cri, SourceState::Refused);
    assert!(!shown.page().contains("container_memory"));
    shown.store.put_state(&id("aa"), 1, Source::Cri, SourceState::Unsupported);
    assert!(shown.page().contains("id=\"/kata/aa\""), "it never had a pod");
}
