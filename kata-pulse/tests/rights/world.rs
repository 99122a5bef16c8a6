//! A simulated node with the processes of one sandbox of root's and of one whose VMM is another user's.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kata_pulse_sim::{CriFlavour, CriServer, Node, Processes, SandboxSpec, Variant};
use serde_json::Value;

use crate::confined::Confined;

pub const ROOTLESS_USER: u32 = 1234;

pub struct World {
    pub root: PathBuf,
    /// Id of the sandbox with the other user's VMM.
    rootless: String,
    node: Arc<Node>,
    cri: CriServer,
}

impl World {
    pub async fn make() -> Self {
        // Worlds are beside each other in one pid namespace: no two may have sandboxes of one id.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/tmp/kr{:x}{number}", std::process::id() & 0xffff));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        let node = Arc::new(Node::new(root.clone()));
        let cri = CriServer::start(node.clone(), &root.join("cri.sock"), CriFlavour::Containerd).unwrap();
        let simulator = Path::new(env!("CARGO_BIN_EXE_kata-pulse")).with_file_name("kata-pulse-sim");
        assert!(simulator.exists(), "build the simulator first: cargo build --package kata-pulse-sim");
        let of_root = |number| SandboxSpec {
            processes: Some(Processes::of(&simulator)),
            ..SandboxSpec::numbered(number, "go-qemu".parse().unwrap())
        };
        node.create(of_root(0x11_0000 + 2 * number)).await.unwrap();
        let variant = Variant { rootless: Some(ROOTLESS_USER), ..Variant::default() };
        // Short, since a socket's path is limited: its agent's lies deep.
        let rootless = format!("rootless{number}");
        let its_own = of_root(0x11_0001 + 2 * number);
        node.create(SandboxSpec { id: rootless.clone(), agent: true, variant, ..its_own }).await.unwrap();
        // As Kata makes it; systemd does too.
        let private = root.join(format!("run/user/{ROOTLESS_USER}"));
        std::fs::set_permissions(private, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self { root, rootless, node, cri }
    }

    pub async fn end(self) {
        self.node.remove_all().await.unwrap();
        self.cri.stop().await;
        std::fs::remove_dir_all(&self.root).unwrap();
    }

    /// The rootless sandbox's socket to its guest's agent.
    pub fn rootless_socket(&self) -> PathBuf {
        self.root.join(format!("run/user/{ROOTLESS_USER}/run/vc/vm/{}/qemu.hvsock", self.rootless))
    }

    /// Every process of every sandbox is listed in its role.
    pub fn all_processes(&self, agent: &Confined) -> bool {
        let seen = agent.sandboxes();
        self.node.ids().iter().all(|id| {
            let pids = self.node.pids(id).unwrap();
            let role = |name: &str| name.trim_end_matches("-worker").to_owned();
            let truth: BTreeSet<_> = pids.iter().map(|(name, pid)| (role(name), u64::from(*pid))).collect();
            let listed = sandbox(&seen, id)["processes"].as_array().cloned().unwrap_or_default();
            let word = |process: &Value| Some((process["role"].as_str()?.to_owned(), process["pid"].as_u64()?));
            listed.iter().filter_map(word).collect::<BTreeSet<_>>() == truth
        })
    }

    pub fn no_process(&self, agent: &Confined) -> bool {
        let seen = agent.sandboxes();
        self.node.ids().iter().all(|id| {
            let sandbox = sandbox(&seen, id);
            sandbox["state"] == "running" && sandbox["processes"].as_array().is_some_and(Vec::is_empty)
        })
    }

    pub fn rootless_agent(&self, agent: &Confined, state: &str) -> bool {
        sandbox(&agent.sandboxes(), &self.rootless)["sources"]["agent"] == state
    }

    /// Of every sandbox.
    pub fn source(&self, agent: &Confined, source: &str, state: &str) -> bool {
        let seen = agent.sandboxes();
        self.node.ids().iter().all(|id| sandbox(&seen, id)["sources"][source] == state)
    }
}

fn sandbox<'a>(seen: &'a Value, id: &str) -> &'a Value {
    let mut all = seen.as_array().into_iter().flatten();
    all.find(|sandbox| sandbox["sandbox_id"] == id).unwrap_or(&Value::Null)
}
