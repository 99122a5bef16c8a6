//! What the tests of the host's accounting share: a simulated node whose sandboxes have real processes, and the agent that
//! watches it with the host's numbers every second.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kata_pulse_sim::judge::Page;
use kata_pulse_sim::{CriFlavour, CriServer, Node, Processes, SandboxSpec};

use crate::support::{self, Agent, root};

const POLL: Duration = Duration::from_millis(100);

pub struct Host {
    pub root: PathBuf,
    pub node: Arc<Node>,
    pub agent: Agent,
    cri: CriServer,
    first: u64,
}

impl Host {
    /// How often the host is read, and how long what has ended stays.
    pub async fn start(interval_seconds: u64, retention_seconds: u64) -> Self {
        let root = root();
        let node = Arc::new(Node::new(root.clone()));
        let cri = CriServer::start(node.clone(), &root.join("cri.sock"), CriFlavour::Containerd).unwrap();
        let agent = start_agent(&root, interval_seconds, retention_seconds).await;
        // All tests share the real `/proc`: ids are those of this host alone.
        static HOSTS: AtomicU64 = AtomicU64::new(1);
        let first = (u64::from(std::process::id()) << 32) | (HOSTS.fetch_add(1, Ordering::Relaxed) << 16);
        Self { root, node, agent, cri, first }
    }

    /// A pod whose sandbox has processes.
    pub fn pod(&self, number: u64, kind: &str, namespace: &str) -> SandboxSpec {
        let mut spec = SandboxSpec::numbered(self.first + number, kind.parse().unwrap());
        spec.pod.as_mut().unwrap().namespace = namespace.to_owned();
        spec.processes = Some(Processes::of(simulator()));
        spec
    }

    pub fn page(&self) -> Page {
        Page::parse(&self.agent.page())
    }

    /// The first page that fits, or the last one after the patience, which is judged all the same: one reading of the
    /// host or two should be enough.
    pub async fn settle(&self, fits: impl Fn(&Page) -> bool) -> Page {
        let started = Instant::now();
        loop {
            let page = self.page();
            if fits(&page) || started.elapsed() > support::PATIENCE / 2 {
                return page;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub async fn end(self) {
        self.node.remove_all().await.unwrap();
        assert_eq!(self.node.shims_killed(), 0);
        self.cri.stop().await;
        drop(self.agent);
        std::fs::remove_dir_all(&self.root).unwrap();
    }
}

pub async fn start_agent(root: &Path, interval_seconds: u64, retention_seconds: u64) -> Agent {
    let ebpf = if must_be_real() { "require" } else { "auto" };
    let (interval, retention) = (interval_seconds.to_string(), retention_seconds.to_string());
    let host = ["--host-interval-secs", &interval, "--ended-retention-secs", &retention, "--ebpf", ebpf];
    let agent = Agent::start(root, &[&host[..], &["--qdisc", "--thread-detail"]].concat());
    agent.until("a page", |page| page.contains("kata_pulse_build_info")).await;
    agent
}

pub fn must_be_real() -> bool {
    std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_some()
}

/// The simulator's program, which the workspace's tests build beside ours.
fn simulator() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_kata-pulse")).with_file_name("kata-pulse-sim");
    assert!(beside.exists(), "build the simulator first: cargo build --package kata-pulse-sim");
    beside
}

/// Whether the agent's programs run in this kernel; says so when they do not.
pub fn has_ebpf(page: &Page, what: &str) -> bool {
    let attached = page.all("kata_pulse_ebpf_program_attached", &[]).iter().any(|sample| sample.value > 0.0);
    if !attached {
        println!("SKIPPED: {what} need eBPF, which cannot be used here");
    }
    attached
}
