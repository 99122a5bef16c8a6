//! The known truth: one node with four Kata pods and three runc pods, all of whose rates and amounts are stated here.
//! In: nothing. Out: [`World`], from which the pages are printed and the right answers computed.

/// The labels that a scrape gives every series of the node.
pub const CLUSTER: &str = "lab";
pub const NODE: &str = "node-a";
pub const NODE_IP: &str = "10.0.0.7";
pub const INSTANCE: &str = "10.0.0.7:10250";
pub const PAUSE_IMAGE: &str = "registry.k8s.io/pause:3.10";
/// Every counter that is older than the test began this long before it.
pub const AGE_SECONDS: f64 = 3600.0;

const MIB: f64 = 1_048_576.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Runc,
    /// The Go shim with a guest of cgroup v2, on a host of cgroup v2.
    KataGo,
    /// The same with a guest of cgroup v1, which has no rss, no cache and no counts of I/O for such a host.
    KataGoOldGuest,
    /// runtime-rs with a guest of cgroup v1.
    KataRust,
}

impl Runtime {
    pub fn is_kata(self) -> bool {
        self != Self::Runc
    }
}

/// CPU quota: periods per second, of which so many are throttled.
#[derive(Debug, Clone, Copy)]
pub struct Throttle {
    pub periods: f64,
    pub throttled: f64,
}

/// Per second.
#[derive(Debug, Clone, Copy)]
pub struct Io {
    pub reads: f64,
    pub writes: f64,
    pub read_bytes: f64,
    pub written_bytes: f64,
}

/// Cores and bytes, as kube-state-metrics tells them.
#[derive(Debug, Clone, Copy)]
pub struct Resources {
    pub cpu: f64,
    pub memory: f64,
}

/// From its start, in seconds since the test began, to its end.
#[derive(Debug, Clone)]
pub struct Life {
    pub id: String,
    pub from: f64,
    pub until: Option<f64>,
}

impl Life {
    pub fn is_at(&self, now: f64) -> bool {
        self.from <= now && self.until.is_none_or(|until| now < until)
    }
}

#[derive(Debug, Clone)]
pub struct Container {
    pub name: &'static str,
    pub cpu: f64,
    pub working_set: f64,
    /// Absent where the runtime cannot tell.
    pub rss: Option<f64>,
    pub cache: Option<f64>,
    pub swap: Option<f64>,
    pub throttle: Option<Throttle>,
    pub io: Option<Io>,
    pub request: Option<Resources>,
    pub limit: Option<Resources>,
    pub lives: Vec<Life>,
}

impl Container {
    pub fn image(&self) -> String {
        format!("docker.io/library/{}:1", self.name)
    }

    pub fn life_at(&self, now: f64) -> Option<&Life> {
        self.lives.iter().find(|life| life.is_at(now))
    }
}

/// Per second and interface, as the pod sees it.
#[derive(Debug, Clone)]
pub struct Interface {
    pub name: &'static str,
    pub rx_bytes: f64,
    pub tx_bytes: f64,
    pub rx_packets: f64,
    pub tx_packets: f64,
    pub rx_dropped: f64,
    pub tx_dropped: f64,
}

/// What the guest as a whole does, by its own kernel.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    pub cpu: f64,
    /// Received, and sent as well.
    pub network_bytes: f64,
}

#[derive(Debug, Clone)]
pub struct Pod {
    pub namespace: &'static str,
    pub name: &'static str,
    pub runtime: Runtime,
    /// As kube-state-metrics spells it: ReplicaSet, StatefulSet, DaemonSet.
    pub owner_kind: &'static str,
    pub workload: &'static str,
    pub host_network: bool,
    pub uid: String,
    pub sandbox_id: String,
    /// What the pod costs its host beyond its containers: for Kata the guest's kernel, VMM and shim.
    pub extra_cpu: f64,
    pub extra_memory: f64,
    /// Of Kata pods.
    pub guest: Guest,
    pub interfaces: Vec<Interface>,
    pub containers: Vec<Container>,
}

impl Pod {
    pub fn cgroup(&self) -> String {
        format!("/kubepods/burstable/pod{}", self.uid)
    }

    pub fn container_path(&self, id: &str) -> String {
        format!("{}/{id}", self.cgroup())
    }

    pub fn workload_type(&self) -> String {
        if self.owner_kind == "ReplicaSet" { "deployment".to_owned() } else { self.owner_kind.to_lowercase() }
    }

    /// What its cgroup on the host has used, in cores.
    pub fn host_cpu(&self) -> f64 {
        self.extra_cpu + self.containers.iter().map(|container| container.cpu).sum::<f64>()
    }

    pub fn host_memory(&self) -> f64 {
        self.extra_memory + self.containers.iter().map(|container| container.working_set).sum::<f64>()
    }
}

/// The container that is restarted during the test.
pub const RESTARTED: (&str, &str) = ("db-0", "backup");

#[derive(Debug, Clone)]
pub struct World {
    pub pods: Vec<Pod>,
    pub cpu_allocatable: f64,
    pub memory_allocatable: f64,
}

impl World {
    pub fn new() -> Self {
        let mut pods = kata_pods();
        pods.extend(runc_pods());
        for (number, pod) in pods.iter_mut().enumerate() {
            identify(number, pod);
        }
        Self { pods, cpu_allocatable: 15.5, memory_allocatable: 60.0 * 1024.0 * MIB }
    }

    /// The container dies and comes again, with this id and counters from zero.
    pub fn restart(&mut self, (pod, container): (&str, &str), id: String, now: f64) {
        let lives = &mut self.container_mut(pod, container).lives;
        lives.last_mut().unwrap().until = Some(now);
        lives.push(Life { id, from: now, until: None });
    }

    pub fn sandbox_of(&self, pod: &str) -> &str {
        &self.pods.iter().find(|known| known.name == pod).unwrap().sandbox_id
    }

    fn container_mut(&mut self, pod: &str, container: &str) -> &mut Container {
        let pod = self.pods.iter_mut().find(|known| known.name == pod).unwrap();
        pod.containers.iter_mut().find(|known| known.name == container).unwrap()
    }
}

fn identify(number: usize, pod: &mut Pod) {
    let number = number as u64 + 1;
    pod.uid = format!("00000000-0000-4000-8000-{number:012x}");
    pod.sandbox_id = format!("{number:064x}");
    for (index, container) in (0..).zip(&mut pod.containers) {
        let id = hex(number << 16 | (index + 1));
        container.lives = vec![Life { id, from: -AGE_SECONDS, until: None }];
    }
}

fn hex(number: u64) -> String {
    format!("{:064x}", u128::from(number) << 64)
}

fn kata_pods() -> Vec<Pod> {
    let pod = |runtime, namespace, owner_kind, workload, name, containers| Pod {
        extra_cpu: 0.11,
        extra_memory: 190.0 * MIB,
        ..pod(runtime, namespace, owner_kind, workload, name, containers)
    };
    vec![
        pod(
            Runtime::KataGo,
            "shop",
            "ReplicaSet",
            "web",
            "web-5d9c-x2x7k",
            vec![limited(container("web", 0.45, 96.0), 0.5, 128.0, Throttle { periods: 10.0, throttled: 4.0 })],
        ),
        pod(
            Runtime::KataGo,
            "shop",
            "StatefulSet",
            "cart",
            "cart-0",
            vec![swapping(reading(container("cart", 0.22, 64.0))), container("mesh", 0.07, 24.0)],
        ),
        pod(
            Runtime::KataRust,
            "data",
            "StatefulSet",
            "db",
            "db-0",
            vec![
                reading(requested(container("db", 0.81, 512.0), 1.0, 640.0)),
                container("exporter", 0.013, 18.0),
                container("backup", 0.35, 40.0),
            ],
        ),
        pod(
            Runtime::KataGoOldGuest,
            "data",
            "ReplicaSet",
            "queue",
            "queue-7f4b-q9zzw",
            vec![blurred(limited(
                container("queue", 0.18, 72.0),
                1.0,
                256.0,
                Throttle { periods: 10.0, throttled: 0.5 },
            ))],
        ),
    ]
}

fn runc_pods() -> Vec<Pod> {
    let mut proxy =
        pod(Runtime::Runc, "kube-system", "DaemonSet", "proxy", "proxy-w8tnm", vec![container("proxy", 0.02, 31.0)]);
    proxy.host_network = true;
    proxy.interfaces.push(Interface { name: "cni0", rx_bytes: 7700.0, ..proxy.interfaces[0].clone() });
    vec![
        pod(
            Runtime::Runc,
            "shop",
            "ReplicaSet",
            "front",
            "front-6c8d-m4v5c",
            vec![limited(
                swapping(reading(container("front", 0.33, 55.0))),
                0.4,
                64.0,
                Throttle { periods: 10.0, throttled: 3.0 },
            )],
        ),
        pod(
            Runtime::Runc,
            "kube-system",
            "ReplicaSet",
            "dns",
            "dns-66bc-7d9xs",
            vec![reading(container("dns", 0.04, 20.0)), container("metrics", 0.01, 9.0)],
        ),
        proxy,
    ]
}

/// No two pods have the same traffic, so that none can be taken for another.
fn pod(
    runtime: Runtime,
    namespace: &'static str,
    owner_kind: &'static str,
    workload: &'static str,
    name: &'static str,
    containers: Vec<Container>,
) -> Pod {
    let weight = name.bytes().map(f64::from).sum::<f64>();
    let eth0 = Interface {
        name: "eth0",
        rx_bytes: 11.0 * weight,
        tx_bytes: 29.0 * weight,
        rx_packets: 0.09 * weight,
        tx_packets: 0.13 * weight,
        rx_dropped: 0.002 * weight,
        tx_dropped: 0.003 * weight,
    };
    Pod {
        namespace,
        name,
        runtime,
        owner_kind,
        workload,
        host_network: false,
        uid: String::new(),
        sandbox_id: String::new(),
        extra_cpu: 0.0003,
        extra_memory: 0.25 * MIB,
        guest: Guest {
            cpu: 0.06 + containers.iter().map(|container| container.cpu).sum::<f64>(),
            network_bytes: 17.0 * weight,
        },
        interfaces: vec![eth0],
        containers,
    }
}

fn container(name: &'static str, cpu: f64, mebibytes: f64) -> Container {
    let working_set = mebibytes * MIB;
    Container {
        name,
        cpu,
        working_set,
        rss: Some(working_set * 0.625),
        cache: Some(working_set * 0.5),
        swap: Some(0.0),
        throttle: None,
        io: None,
        request: Some(Resources { cpu: 0.1, memory: 32.0 * MIB }),
        limit: None,
        lives: Vec::new(),
    }
}

fn requested(mut container: Container, cores: f64, mebibytes: f64) -> Container {
    container.request = Some(Resources { cpu: cores, memory: mebibytes * MIB });
    container
}

fn limited(mut container: Container, cores: f64, mebibytes: f64, throttle: Throttle) -> Container {
    container.limit = Some(Resources { cpu: cores, memory: mebibytes * MIB });
    container.throttle = Some(throttle);
    container
}

/// Its shim cannot tell what its memory is used for.
fn blurred(mut container: Container) -> Container {
    (container.rss, container.cache) = (None, None);
    container
}

fn swapping(mut container: Container) -> Container {
    container.swap = Some(2.0 * MIB);
    container
}

/// Its root is a block device.
fn reading(mut container: Container) -> Container {
    let weight = container.working_set / MIB;
    container.io = Some(Io {
        reads: 0.5 * weight,
        writes: 0.25 * weight,
        read_bytes: 8192.0 * weight,
        written_bytes: 4096.0 * weight,
    });
    container
}
