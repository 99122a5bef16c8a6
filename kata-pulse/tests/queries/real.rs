//! The Kata pods of a [`World`] on a simulated node, and real agents that watch it. In: the truth. Out: the simulator's words
//! for it, addresses of agents. The host has cgroup v2, containerd and the cgroupfs driver.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kata_pulse_sim::{
    CgroupMode, ContainerLimits, ContainerLoad, ContainerSpec, CriFlavour, CriServer, DeviceLoad, GuestLoad, Node,
    SandboxSpec,
};

use crate::agent_page::Shown;
use crate::support::{Agent, root};
use crate::truth::{AGE_SECONDS, Container, Pod, Runtime, World};

/// Dropping it ends the agents and removes the node.
pub struct RealNode {
    root: PathBuf,
    node: Arc<Node>,
    agents: Vec<Agent>,
    cri: CriServer,
}

impl RealNode {
    pub async fn start(world: &World) -> Self {
        let root = root();
        let node = Arc::new(Node::new(root.clone()));
        let cri = CriServer::start(Arc::clone(&node), &root.join("cri.sock"), CriFlavour::Containerd).unwrap();
        for pod in world.pods.iter().filter(|pod| pod.runtime.is_kata()) {
            node.create(sandbox(pod)).await.unwrap();
        }
        Self { root, node, agents: Vec::new(), cri }
    }

    /// Returns when the agent knows of the last pod, so that a broken one is told from a wrong one.
    pub async fn agent(&mut self, shown: Shown) -> String {
        let flags = shown.flags();
        let agent = Agent::start(&self.root, &[vec!["--ebpf", "off"], flags].concat());
        agent.until("the last pod", |page| page.contains("queue-7f4b-q9zzw")).await;
        let address = agent.address.clone();
        self.agents.push(agent);
        address
    }

    /// Shims that were killed by a question, and questions that went to every shim of the node.
    pub fn harm(&self) -> (u64, u64) {
        (self.node.shims_killed(), self.cri.asked_everybody())
    }

    /// The id of the container's new life.
    pub fn restart(&self, sandbox: &str, container: &str) -> String {
        self.node.restart_container(sandbox, container).unwrap()
    }
}

impl Drop for RealNode {
    fn drop(&mut self) {
        self.agents.clear();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn sandbox(pod: &Pod) -> SandboxSpec {
    let (kind, guest_cgroup) = match pod.runtime {
        Runtime::KataRust => ("rs-dragonball", CgroupMode::V1),
        Runtime::KataGoOldGuest => ("go-qemu", CgroupMode::V1),
        Runtime::KataGo | Runtime::Runc => ("go-qemu", CgroupMode::V2),
    };
    let mut spec = SandboxSpec::numbered(0, kind.parse().unwrap());
    spec.id.clone_from(&pod.sandbox_id);
    let named = spec.pod.as_mut().unwrap();
    (named.name, named.namespace, named.uid) = (pod.name.to_owned(), pod.namespace.to_owned(), pod.uid.clone());
    spec.guest_cgroup = guest_cgroup;
    spec.host_cgroup = CgroupMode::V2;
    spec.load =
        GuestLoad { cpus: pod.guest.cpu, network_bytes_per_second: pod.guest.network_bytes, ..GuestLoad::default() };
    spec.containers = pod.containers.iter().map(|container| container_spec(pod, container)).collect();
    spec
}

fn container_spec(pod: &Pod, container: &Container) -> ContainerSpec {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let started = i64::try_from((now - Duration::from_secs_f64(AGE_SECONDS)).as_nanos()).unwrap();
    ContainerSpec {
        id: container.lives[0].id.clone(),
        image: container.image(),
        created_unix_ns: started,
        started_unix_ns: started,
        limits: limits(container),
        load: load(container),
        ..ContainerSpec::named(&pod.sandbox_id, container.name)
    }
}

fn limits(container: &Container) -> ContainerLimits {
    let memory = container.limit.map_or(0, |limit| limit.memory as i64);
    let quota = container.limit.filter(|_| container.throttle.is_some()).map_or(0, |limit| (limit.cpu * 1e5) as i64);
    ContainerLimits {
        cpu_period: 100_000,
        cpu_quota: quota,
        cpu_shares: 102,
        memory_limit: memory,
        memory_swap_limit: memory,
    }
}

/// As on the printed pages: a quarter more is in use than works, and that is inactive files.
fn load(container: &Container) -> ContainerLoad {
    let part = |of_working_set: f64| (container.working_set * of_working_set) as u64;
    let throttle = container.throttle;
    ContainerLoad {
        user_cpus: container.cpu * 0.75,
        system_cpus: container.cpu * 0.25,
        memory_bytes: part(1.25),
        memory_max_bytes: part(1.5),
        swap_bytes: container.swap.unwrap_or_default() as u64,
        inactive_file_bytes: part(0.25),
        active_file_bytes: part(0.125),
        inactive_anon_bytes: part(0.5),
        rss: part(0.625),
        cache: part(0.5),
        mapped_file: part(0.0625),
        periods_per_second: throttle.map_or(0.0, |throttle| throttle.periods),
        throttled_periods_per_second: throttle.map_or(0.0, |throttle| throttle.throttled),
        devices: container
            .io
            .iter()
            .map(|io| DeviceLoad {
                major: 254,
                minor: 0,
                read_bytes_per_second: io.read_bytes,
                written_bytes_per_second: io.written_bytes,
                reads_per_second: io.reads,
                writes_per_second: io.writes,
            })
            .collect(),
        ..ContainerLoad::default()
    }
}
