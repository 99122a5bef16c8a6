//! The container runtime with every fault it can have: names come when it is well, and nothing is asked in vain.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "support/crowded.rs"]
mod crowded;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crowded::Crowded;
use kata_pulse::collect::cri::{self, CriUpdate, Handlers};
use kata_pulse::registry::Registry;
use kata_pulse::sandbox::{Appeared, Change, DiscoveryEvent, EventSource, Identity, Runtime, SandboxId, SourceState};
use kata_pulse_sim::{CriFault, CriFlavour, CriServer, Node, SandboxSpec};
use tokio::sync::{mpsc, watch};

const PATIENCE: Duration = Duration::from_secs(30);

/// A node of which the agent's runtime part sees the sandboxes, and what it says.
struct Naming {
    root: PathBuf,
    registry: Registry,
    updates: mpsc::Receiver<CriUpdate>,
    handlers: Option<Arc<Handlers>>,
}

impl Naming {
    fn start(ids: &[String]) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/tmp/kr{:x}.{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        let registry = Registry::default();
        let (sender, updates) = mpsc::channel(4);
        let (connected, _) = watch::channel(None);
        tokio::spawn(cri::run(Some(root.join("cri.sock")), registry.subscribe(), sender, connected));
        let naming = Self { root, registry, updates, handlers: None };
        ids.iter().for_each(|id| naming.appear(id));
        naming
    }

    fn socket(&self) -> PathBuf {
        self.root.join("cri.sock")
    }

    fn appear(&self, id: &str) {
        let id = SandboxId::parse(id).unwrap();
        let appeared =
            Appeared { id, directory: "/x".into(), inode: 1, runtime: Some(Runtime::Go), created_unix_ms: None };
        let event = DiscoveryEvent { source: EventSource::Scan, at_boot: None, change: Change::Appeared(appeared) };
        self.registry.apply(&[event], Instant::now());
    }

    async fn next(&mut self, what: &str) -> CriUpdate {
        let update = tokio::time::timeout(PATIENCE, self.updates.recv()).await;
        let update = update.unwrap_or_else(|_| panic!("waited in vain: {what}")).unwrap();
        if let CriUpdate::Handlers(handlers) = &update {
            self.handlers = Some(handlers.clone());
        }
        update
    }

    async fn until_named(&mut self, id: &str) -> Identity {
        let id = SandboxId::parse(id).unwrap();
        loop {
            if let CriUpdate::Names { names, .. } = self.next("a name").await
                && let Some(identity) = names.get(&id)
            {
                return identity.clone();
            }
        }
    }

    async fn until_unreachable(&mut self) -> SourceState {
        loop {
            if let CriUpdate::Unreachable(state) = self.next("being told of the fault").await {
                return state;
            }
        }
    }
}

impl Drop for Naming {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// A server that ends as a process does: with all its connections.
struct Daemon {
    runtime: Option<tokio::runtime::Runtime>,
    server: Option<CriServer>,
}

impl Daemon {
    fn start(node: &Arc<Node>, socket: &Path, flavour: CriFlavour) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = {
            let _inside = runtime.enter();
            CriServer::start(node.clone(), socket, flavour).unwrap()
        };
        Self { runtime: Some(runtime), server: Some(server) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.server.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn node(root: &Path) -> (Arc<Node>, String) {
    let node = Arc::new(Node::new(root));
    let spec = SandboxSpec::numbered(1, "go-qemu".parse().unwrap());
    let id = spec.id.clone();
    node.create(spec).await.unwrap();
    (node, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_is_down_at_first_or_restarts_names_all_the_same() {
    let mut naming = Naming::start(&[]);
    let (node, id) = node(&naming.root).await;
    naming.appear(&id);
    assert_eq!(naming.until_unreachable().await, SourceState::Refused);
    let daemon = Daemon::start(&node, &naming.socket(), CriFlavour::Containerd);
    let identity = naming.until_named(&id).await;
    assert_eq!((identity.pod_name.as_str(), identity.runtime_handler.as_str()), ("pod-1", "kata"));
    assert!(naming.handlers.as_ref().is_some_and(|handlers| !handlers.kata_shims().is_empty()), "handlers were told");
    drop(daemon);
    naming.appear("another");
    assert_eq!(naming.until_unreachable().await, SourceState::Refused);
    let _daemon = Daemon::start(&node, &naming.socket(), CriFlavour::Containerd);
    assert_eq!(naming.until_named(&id).await.pod_name, "pod-1");
    node.remove_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_starts_fails_or_hangs_is_asked_again_until_it_is_well() {
    let faults = [
        (CriFault::NotInitialized, SourceState::Refused),
        (CriFault::Internal, SourceState::BadPage),
        (CriFault::Hang, SourceState::Timeout),
    ];
    for (fault, state) in faults {
        let mut naming = Naming::start(&[]);
        let (node, id) = node(&naming.root).await;
        let server = CriServer::start(node.clone(), &naming.socket(), CriFlavour::Containerd).unwrap();
        server.set_fault(Some(fault));
        naming.appear(&id);
        // The socket may not have been there at the first try.
        let mut told = naming.until_unreachable().await;
        while told != state {
            told = naming.until_unreachable().await;
        }
        server.set_fault(None);
        assert_eq!(naming.until_named(&id).await.pod_name, "pod-1", "{fault:?}");
        server.stop().await;
        node.remove_all().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cri_o_tells_no_handlers_and_names_all_the_same() {
    let mut naming = Naming::start(&[]);
    let (node, id) = node(&naming.root).await;
    naming.appear(&id);
    let server = CriServer::start(node.clone(), &naming.socket(), CriFlavour::CriO).unwrap();
    assert_eq!(naming.until_named(&id).await.pod_name, "pod-1");
    assert_eq!(naming.handlers, None);
    server.stop().await;
    node.remove_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_too_large_is_asked_for_id_by_id() {
    let ids: Vec<String> = (0..20).map(|number| format!("id-{number}")).collect();
    let mut naming = Naming::start(&ids);
    naming.appear("id-without-pod");
    let config = r#"{"containerd":{"defaultRuntimeName":"kata-default","runtimes":{}}}"#;
    let server = Crowded::start(&naming.socket(), config);
    let mut missing: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    while !missing.is_empty() {
        let CriUpdate::Names { names, .. } = naming.next("all names").await else { continue };
        for (id, identity) in names.iter() {
            assert_eq!(identity.pod_name, format!("pod of {id}"));
            assert_eq!(identity.runtime_handler, "kata-default", "a pod that named no handler");
            missing.remove(id.as_str());
        }
        assert!(names.len() <= ids.len(), "{names:?}");
    }
    assert_eq!(server.whole_lists.load(Ordering::Relaxed), 1, "what failed once is not asked for again");
    assert!(server.filtered_lists.load(Ordering::Relaxed) >= 21);
}
