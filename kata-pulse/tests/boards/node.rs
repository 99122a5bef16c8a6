//! A simulated node with something of everything, and what happens on it. In: nothing. Out: a real agent's address.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kata_pulse_sim::{
    Burn, ContainerSpec, CriFlavour, CriServer, DeviceLoad, Fault, GuestLoad, Node, Processes, SandboxSpec, StatsFault,
};

use crate::support::{Agent, root};

/// Each has processes, an agent in its guest, three containers and work to do.
const KINDS: [&str; 4] = ["go-qemu", "rs-qemu", "rs-dragonball", "go-clh"];

const WORKING: [u64; 2] = [1, 4];

/// More than the agent reads of a page.
const HUGE_BYTES: u64 = 20 << 20;

pub struct Busy {
    root: PathBuf,
    node: Arc<Node>,
    cri: CriServer,
    pub agent: Agent,
}

impl Busy {
    /// Sandboxes there were before the agent; it sees all of them when this returns.
    pub async fn start() -> Self {
        let root = root();
        let node = Arc::new(Node::new(root.clone()));
        let cri = CriServer::start(Arc::clone(&node), &root.join("cri.sock"), CriFlavour::Containerd).unwrap();
        for (number, kind) in (1..).zip(KINDS) {
            node.create(sandbox(number, kind)).await.unwrap();
        }
        let agent = Agent::start(&root, &["--metrics-interval-secs", "1", "--host-interval-secs", "1"]);
        agent
            .until("the numbers of all guests", |page| {
                page.matches("kata_sandbox_guest_load{").count() == 3 * KINDS.len()
            })
            .await;
        Self { root, node, cri, agent }
    }

    /// The sandboxes whose VMs work: the first of [`KINDS`], whose memory is told, and the last, whose vCPUs are.
    pub fn working() -> [String; 2] {
        WORKING.map(|number| SandboxSpec::numbered(number, KINDS[0].parse().unwrap()).id)
    }

    /// One that ends in the first turn.
    pub fn ended() -> String {
        SandboxSpec::numbered(number(1, 1), KINDS[0].parse().unwrap()).id
    }

    /// Sandboxes begin and end in every way that the simulator has, containers die, shims talk without end. Half of it,
    /// so that the other half, later, makes what was counted before grow.
    pub async fn happen(&self, turn: u64) {
        let node = &self.node;
        let mut ids = Vec::new();
        for (of_turn, kind) in (1..).zip(["go-qemu", "go-qemu", "go-qemu", "go-qemu", "go-clh"]) {
            let spec = sandbox(number(turn, of_turn), kind);
            ids.push(spec.id.clone());
            node.create(spec).await.unwrap();
        }
        let [orderly, crashes, loses_its_vmm, never_ends, has_no_stats] = &ids[..] else { unreachable!() };
        let name = format!("pod-{}\"", number(turn, 5));
        self.agent.until("the sandboxes of this turn", |page| page.contains(&name)).await;
        node.set_fault(never_ends, Some(Fault::HugeBody(HUGE_BYTES))).unwrap();
        node.set_stats_fault(has_no_stats, Some(StatsFault::Error)).unwrap();
        node.oom_container(&Self::working()[0], &format!("sidecar-{turn}")).unwrap();
        node.remove(orderly).await.unwrap();
        let vmm = node.pids(loses_its_vmm).unwrap()["vmm"];
        let vmm = rustix::process::Pid::from_raw(i32::try_from(vmm).unwrap()).unwrap();
        rustix::process::kill_process(vmm, rustix::process::Signal::KILL).unwrap();
        node.crash(crashes).await.unwrap();
    }

    pub async fn stop(self) {
        drop(self.agent);
        self.node.remove_all().await.unwrap();
        self.cri.stop().await;
        std::fs::remove_dir_all(&self.root).unwrap();
    }
}

fn number(turn: u64, of_turn: u64) -> u64 {
    100 * turn + of_turn
}

fn sandbox(number: u64, kind: &str) -> SandboxSpec {
    let mut spec = SandboxSpec::numbered(number, kind.parse().unwrap());
    spec.agent = true;
    spec.load =
        GuestLoad { cpus: 0.3, network_bytes_per_second: 1e5, sectors_per_second: 100.0, ..GuestLoad::default() };
    let sidecars = ["sidecar-1", "sidecar-2"].map(|name| ContainerSpec::named(&spec.id, name));
    spec.containers.extend(sidecars);
    for container in &mut spec.containers {
        container.load.devices = vec![DeviceLoad {
            major: 254,
            minor: 0,
            read_bytes_per_second: 4096.0,
            written_bytes_per_second: 8192.0,
            reads_per_second: 1.0,
            writes_per_second: 2.0,
        }];
    }
    let burn = WORKING.contains(&number).then(|| Burn {
        vcpu_user: 0.2,
        threads: 2,
        vmm_io_bytes_per_second: 1 << 20,
        resident_bytes: 16 << 20,
        ..Burn::default()
    });
    spec.processes = Some(Processes { burn, ..Processes::of(simulator()) });
    spec
}

/// The simulator's program, which the workspace's tests build beside ours.
fn simulator() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_kata-pulse")).with_file_name("kata-pulse-sim");
    assert!(beside.exists(), "build the simulator first: cargo build --package kata-pulse-sim");
    beside
}
