//! The simulated shim under Debian's real containerd: pods become ready, stats are what was ordered, nothing is left.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use kata_pulse_sim::{
    CgroupMode, ContainerLoad,
    containerd::proto::{
        events::{Envelope, SubscribeRequest, events_client::EventsClient},
        tasks::{GetRequest, Metric, MetricsRequest, tasks_client::TasksClient},
    },
    cri::proto::{
        ContainerStatsFilter, ListContainerStatsRequest, ListContainersRequest, ListPodSandboxRequest,
        runtime_service_client::RuntimeServiceClient,
    },
    metrics::{V1_TYPE, V2_TYPE, v1, v2},
    rig::{ContainerConfig, Containerd, KataHandler, PodConfig},
    taskshim::{Asked, Orders, StatsOrder},
};
use prost::Message;
use tonic::{Request, Status, transport::Channel};

/// Only ends a test that would wait for ever.
const PATIENCE: Duration = Duration::from_secs(20);

struct Rig {
    folder: PathBuf,
    orders: PathBuf,
    base: Orders,
    containerd: Containerd,
}

impl Rig {
    /// `None`: something is missing on this machine, which was said.
    async fn start(name: &str) -> Option<Self> {
        if let Some(missing) = Containerd::missing() {
            assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "{missing} is needed");
            println!("SKIPPED: {missing} is missing");
            return None;
        }
        let folder = PathBuf::from(format!("/tmp/ks{name}{:x}", std::process::id()));
        let orders = folder.join("orders");
        fs::create_dir_all(&orders).unwrap();
        let base = Orders { root: folder.clone(), sockets: folder.join("s"), ..Orders::default() };
        base.give(&orders).unwrap();
        let programs = Path::new(env!("CARGO_BIN_EXE_containerd-shim-kata-v2")).parent().unwrap().to_owned();
        let handler = KataHandler::Shim { programs, orders: orders.clone() };
        let containerd = Containerd::start(&folder.join("c"), handler).await.unwrap();
        Some(Self { folder, orders, base, containerd })
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        let mut orders = self.base.clone();
        change(&mut orders);
        orders.give(&self.orders).unwrap();
    }

    fn cri(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.containerd.channel())
    }

    async fn metrics(&self, ids: &[&str], deadline: Duration) -> Result<Vec<Metric>, Status> {
        let filters = ids.iter().map(|id| format!("id=={id}")).collect();
        let mut request = k8s(MetricsRequest { filters });
        request.set_timeout(deadline);
        let mut tasks = TasksClient::new(self.containerd.channel());
        Ok(tasks.metrics(request).await?.into_inner().metrics)
    }

    async fn task_pid(&self, id: &str) -> u32 {
        let mut tasks = TasksClient::new(self.containerd.channel());
        let request = k8s(GetRequest { container_id: id.into(), ..Default::default() });
        tasks.get(request).await.unwrap().into_inner().process.unwrap().pid
    }

    fn asked(&self, sandbox: &str) -> Asked {
        Asked::read(&self.orders, sandbox).unwrap()
    }

    fn end(self) {
        drop(self.containerd);
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn k8s<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "k8s.io".parse().unwrap());
    request
}

fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |entries| entries.count() == 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_becomes_ready_tells_its_stats_in_both_types_and_leaves_nothing() {
    let Some(rig) = Rig::start("a").await else { return };
    let load = ContainerLoad { user_cpus: 2.0, memory_bytes: 99 << 20, ..ContainerLoad::default() };
    rig.order(|orders| orders.loads = BTreeMap::from([("app".to_owned(), load)]));
    let pod = PodConfig::kata("one");
    let sandbox = rig.containerd.run_pod(&pod).await.unwrap();
    let app = rig.containerd.run_container(&sandbox, &pod, &ContainerConfig::named("app")).await.unwrap();
    let side = rig.containerd.run_container(&sandbox, &pod, &ContainerConfig::named("side")).await.unwrap();

    let pods = rig.cri().list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    assert_eq!((pods[0].id.as_str(), pods[0].state, pods[0].runtime_handler.as_str()), (sandbox.as_str(), 0, "kata"));
    let listed = rig.cri().list_containers(ListContainersRequest::default()).await.unwrap().into_inner().containers;
    assert!(listed.len() == 2 && listed.iter().all(|container| container.state == 1), "{listed:?}");
    let shims = rig.containerd.bundles().join(&sandbox).join("shim.pid");
    let shim: u32 = fs::read_to_string(shims).unwrap().parse().unwrap();
    let vmm = rig.task_pid(&sandbox).await;
    assert_eq!(rig.task_pid(&app).await, vmm);
    assert!(fs::read_link(format!("/proc/{vmm}/exe")).unwrap().ends_with("qemu-system-x86_64"));
    assert!(rig.folder.join("run/vc/sbs").join(&sandbox).join("shim-monitor.sock").exists());

    for (host, expected) in [(CgroupMode::V2, V2_TYPE), (CgroupMode::V1, V1_TYPE)] {
        rig.order(|orders| orders.host = host);
        let metrics = rig.metrics(&[], PATIENCE).await.unwrap();
        let ids: Vec<&str> = metrics.iter().map(|metric| metric.id.as_str()).collect();
        assert!(ids.len() == 3 && [&sandbox, &app, &side].iter().all(|id| ids.contains(&id.as_str())), "{ids:?}");
        assert!(metrics.iter().all(|metric| metric.data.as_ref().unwrap().type_url == expected));
        let data = metrics.into_iter().find(|metric| metric.id == app).unwrap().data.unwrap();
        let (usage, limit) = if host == CgroupMode::V2 {
            let memory = v2::Metrics::decode(data.value.as_slice()).unwrap().memory.unwrap();
            (memory.usage, memory.usage_limit)
        } else {
            let memory = v1::Metrics::decode(data.value.as_slice()).unwrap().memory.unwrap().usage.unwrap();
            (memory.usage, memory.limit)
        };
        assert_eq!((usage, limit), (99 << 20, 64 << 20));
    }
    assert_eq!(rig.asked(&sandbox), Asked { stats: 6, max_in_flight: 1 });

    rig.containerd.stop_container(&side).await.unwrap();
    assert_eq!(rig.metrics(&[], PATIENCE).await.unwrap().len(), 2);
    rig.containerd.remove_pod(&sandbox).await.unwrap();
    until("shim and VMM end", || !lives(shim) && !lives(vmm)).await;
    for left in ["run/vc/sbs", "s", "run/vc/vm", "run/kata-containers/shared/sandboxes"] {
        assert!(empty(&rig.folder.join(left)), "{left}");
    }
    assert!(empty(&rig.containerd.bundles()));
    rig.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_fail_come_late_or_never_on_command() {
    let Some(rig) = Rig::start("b").await else { return };
    let (first, second) = (PodConfig::kata("first"), PodConfig::kata("second"));
    let hung = rig.containerd.run_pod(&first).await.unwrap();
    let container = rig.containerd.run_container(&hung, &first, &ContainerConfig::named("app")).await.unwrap();
    let well = rig.containerd.run_pod(&second).await.unwrap();
    let of_hung = |stats, delay_ms| Orders { stats, delay_ms, ..rig.base.clone() }.give_to(&rig.orders, &hung).unwrap();

    of_hung(StatsOrder::Error, 0);
    let ids: Vec<_> = rig.metrics(&[], PATIENCE).await.unwrap().into_iter().map(|metric| metric.id).collect();
    assert_eq!(ids, [well.as_str()], "those that failed are left out");
    let filter = Some(ContainerStatsFilter { pod_sandbox_id: hung.clone(), ..Default::default() });
    let answer = rig.cri().list_container_stats(ListContainerStatsRequest { filter }).await.unwrap().into_inner();
    assert!(answer.stats.len() == 1 && answer.stats[0].cpu.is_none(), "{answer:?}");

    of_hung(StatsOrder::Answer, 300);
    let started = Instant::now();
    assert_eq!(rig.metrics(&[&container], PATIENCE).await.unwrap().len(), 1);
    assert!(started.elapsed() >= Duration::from_millis(300));

    of_hung(StatsOrder::Never, 0);
    let started = Instant::now();
    let answer = rig.metrics(&[&container], Duration::from_millis(500)).await;
    // containerd 1.6 may send what it has at the very moment of the deadline.
    assert!(answer.is_err() || answer.is_ok_and(|metrics| metrics.is_empty()));
    assert!(started.elapsed() >= Duration::from_millis(490), "{:?}", started.elapsed());
    assert_eq!(rig.metrics(&[&well], PATIENCE).await.unwrap().len(), 1, "the other pod answers");

    of_hung(StatsOrder::Answer, 0);
    assert_eq!(rig.metrics(&[&container], PATIENCE).await.unwrap().len(), 1, "healed");
    assert_eq!(rig.asked(&hung).max_in_flight, 1);
    for sandbox in [&hung, &well] {
        rig.containerd.remove_pod(sandbox).await.unwrap();
    }
    rig.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_subscribers_and_the_end_of_the_vmm_ends_the_pod() {
    let Some(rig) = Rig::start("c").await else { return };
    rig.order(|orders| orders.kind = "rs-clh".to_owned());
    let mut client = EventsClient::new(rig.containerd.channel());
    let filters = vec!["topic~=\"^/tasks/\"".to_owned()];
    // Not answered before there is an event.
    let subscription = tokio::spawn(async move { client.subscribe(SubscribeRequest { filters }).await });
    let pod = PodConfig::kata("one");
    let mut pods = vec![rig.containerd.run_pod(&pod).await.unwrap()];
    // The subscription may have come too late for the first pod.
    pods.push(rig.containerd.run_pod(&PodConfig::kata("two")).await.unwrap());
    let mut stream = subscription.await.unwrap().unwrap().into_inner();
    let mut topics = Vec::new();
    while topics.last().map(String::as_str) != Some("/tasks/start") {
        let Envelope { topic, namespace, .. } = stream.message().await.unwrap().unwrap();
        assert_eq!(namespace, "k8s.io");
        topics.push(topic);
    }
    let vmm = rig.task_pid(&pods[0]).await;
    assert!(fs::read_link(format!("/proc/{vmm}/exe")).unwrap().ends_with("cloud-hypervisor"));
    assert!(rig.folder.join("run/kata").join(&pods[0]).join("shim-monitor.sock").exists());

    let pid = rustix::process::Pid::from_raw(i32::try_from(vmm).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let started = Instant::now();
    loop {
        let listed = rig.cri().list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        if listed.iter().any(|listed| listed.id == pods[0] && listed.state == 1) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "the pod stays ready without its VMM");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for sandbox in &pods {
        rig.containerd.remove_pod(sandbox).await.unwrap();
    }
    assert!(empty(&rig.folder.join("run/kata")));
    rig.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_nobody_removed_end_with_the_rig() {
    let Some(rig) = Rig::start("d").await else { return };
    let sandbox = rig.containerd.run_pod(&PodConfig::kata("one")).await.unwrap();
    let vmm = rig.task_pid(&sandbox).await;
    let pid = fs::read_to_string(rig.containerd.bundles().join(&sandbox).join("shim.pid")).unwrap();
    let shim = pid.parse().unwrap();
    assert!(lives(shim) && lives(vmm));
    rig.end();
    until("shim and VMM end", || !lives(shim) && !lives(vmm)).await;
}
