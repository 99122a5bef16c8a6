//! A hundred pods of Debian's real containerd on the simulator's shim, five of which hang when they are asked for stats:
//! the others' numbers stay fresh, containerd stays responsive, and no shim ever has two of our questions.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kata_pulse_sim::cri::proto::{ListPodSandboxRequest, runtime_service_client::RuntimeServiceClient};
use kata_pulse_sim::rig::{ContainerConfig, Containerd, KataHandler, PodConfig};
use kata_pulse_sim::taskshim::{Asked, Orders, StatsOrder};
use kata_pulse_sim::{CgroupMode, ContainerLoad};
use support::{Agent, root};

const PODS: usize = 100;
const HUNG: usize = 5;
/// Generous: a pod takes containerd a fraction of this.
const LONGEST_LIST: Duration = Duration::from_secs(2);

struct Pod {
    sandbox: String,
    container: String,
    config: PodConfig,
}

/// Built beside this test by the workspace's tests.
fn programs() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_kata-pulse")).parent().unwrap();
    let shim = folder.join("containerd-shim-kata-v2");
    assert!(shim.exists(), "build the simulated shim first: cargo build --package kata-pulse-sim");
    folder.to_owned()
}

async fn run(containerd: &Containerd, number: usize) -> Pod {
    let config = PodConfig::kata(&format!("pod-{number}"));
    let sandbox = containerd.run_pod(&config).await.unwrap();
    let container = containerd.run_container(&sandbox, &config, &ContainerConfig::named("app")).await.unwrap();
    Pod { sandbox, container, config }
}

fn line<'a>(page: &'a str, family: &str, container: &str) -> Option<&'a str> {
    let (start, name) = (format!("{family}{{container=\"app\","), format!("name=\"{container}\""));
    page.lines().find(|line| line.starts_with(&start) && line.contains(&name))
}

fn value(page: &str, family: &str, container: &str) -> Option<f64> {
    line(page, family, container)?.rsplit_once(' ')?.1.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_pods_five_hang_and_nobody_else_notices() {
    if let Some(missing) = Containerd::missing() {
        assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "{missing} is needed");
        println!("SKIPPED: {missing} is missing");
        return;
    }
    let root = root();
    let orders_folder = root.join("o");
    fs::create_dir_all(&orders_folder).unwrap();
    let load = ContainerLoad { memory_bytes: 77 << 20, ..ContainerLoad::default() };
    let orders = Orders {
        root: root.clone(),
        sockets: root.join("s"),
        host: CgroupMode::V1,
        loads: BTreeMap::from([("app".to_owned(), load)]),
        ..Orders::default()
    };
    orders.give(&orders_folder).unwrap();
    let handler = KataHandler::Shim { programs: programs(), orders: orders_folder.clone() };
    let containerd = Containerd::start(&root.join("c"), handler).await.unwrap();
    let mut pods = Vec::new();
    for number in 0..PODS {
        pods.push(run(&containerd, number).await);
    }
    for pod in &pods[..HUNG] {
        let never = Orders { stats: StatsOrder::Never, ..orders.clone() };
        never.give_to(&orders_folder, &pod.sandbox).unwrap();
    }

    let socket = containerd.socket().display().to_string();
    let more = ["--ebpf", "off", "--runtime-endpoint", &socket, "--metrics-interval-secs", "1"];
    let agent = Agent::start(&root, &more);
    let started = Instant::now();
    let usage = "container_memory_usage_bytes";
    let page = agent
        .until("numbers of all that answer", |page| {
            pods[HUNG..].iter().all(|pod| value(page, usage, &pod.container).is_some())
        })
        .await;
    println!("numbers of {} pods {:?} after the agent's start", PODS - HUNG, started.elapsed());
    for pod in &pods[HUNG..] {
        assert_eq!(value(&page, usage, &pod.container), Some((77_u64 << 20) as f64));
        let one = line(&page, usage, &pod.container).unwrap();
        let name = &pod.config.name;
        assert!(one.contains(&format!("pod=\"{name}\"")) && one.contains("image=\"localhost/pause:1\""), "{one}");
        assert!(one.contains(&format!("/{}\",image", pod.container)), "its cgroup: {one}");
    }
    agent
        .until("the hung ones' state", |page| {
            pods[..HUNG].iter().all(|pod| {
                let label = format!("sandbox_id=\"{}\",source=\"runtime\",state=\"timeout\"", pod.sandbox);
                page.contains(&label)
            })
        })
        .await;

    // Every other pod is asked again and again, while lists are answered at once.
    let asked = |pod: &Pod| Asked::read(&orders_folder, &pod.sandbox).unwrap();
    let before: Vec<u64> = pods.iter().map(|pod| asked(pod).stats).collect();
    let mut service = RuntimeServiceClient::new(containerd.channel());
    let mut longest = Duration::ZERO;
    let mut rounds = 0;
    while pods.iter().zip(&before).skip(HUNG).any(|(pod, before)| asked(pod).stats < before + 3) {
        let listed = Instant::now();
        let answer = service.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap();
        longest = longest.max(listed.elapsed());
        assert_eq!(answer.into_inner().items.len(), PODS);
        rounds += 1;
        assert!(started.elapsed() < Duration::from_secs(120), "waited in vain for three more rounds");
        tokio::task::yield_now().await;
    }
    println!("{rounds} lists of pods meanwhile, the slowest took {longest:?}");
    assert!(longest < LONGEST_LIST, "{longest:?}");
    for (pod, hung) in pods.iter().zip((0..PODS).map(|number| number < HUNG)) {
        let Asked { stats, max_in_flight } = asked(pod);
        assert!(max_in_flight <= 1, "two questions at once to {}", pod.config.name);
        assert!(!hung || stats == 1, "a hung shim was asked {stats} times");
    }
    for pod in &pods[..HUNG] {
        orders.give_to(&orders_folder, &pod.sandbox).unwrap();
    }
    for pod in &pods {
        containerd.remove_pod(&pod.sandbox).await.unwrap();
    }
    agent.until("none left", |page| !page.contains("kata_pulse_sandboxes{")).await;
    drop(containerd);
    fs::remove_dir_all(&root).unwrap();
}
