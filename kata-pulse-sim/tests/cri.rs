//! The runtime's side of the simulator, asked as an agent would ask it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{path::Path, sync::Arc, time::Duration};

use kata_pulse_sim::{
    CgroupDriver, CgroupMode, ContainerSpec, CriFlavour, CriServer, Kind, Metrics, Node, Reporter, Runtime, SECRET,
    SandboxSpec, StatsFault, Vmm,
    containerd::proto::{
        containers::{GetContainerRequest, ListContainersRequest as Filtered, containers_client::ContainersClient},
        events::{SubscribeRequest, events_client::EventsClient},
        tasks::{GetRequest, ListTasksRequest, MetricsRequest, tasks_client::TasksClient},
    },
    cri::proto::{runtime_service_client::RuntimeServiceClient, *},
};
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};

struct Rig {
    node: Arc<Node>,
    server: CriServer,
    channel: Channel,
    _root: tempfile::TempDir,
}

const GO: Kind = Kind::new(Runtime::Go, Vmm::Qemu);
const RS: Kind = Kind::new(Runtime::Rs, Vmm::Dragonball);

/// Short ids: a socket's path has at most 107 bytes.
fn spec(n: u64, kind: Kind) -> SandboxSpec {
    let mut spec = SandboxSpec::numbered(n, kind);
    spec.id = format!("sandbox{n}");
    spec
}

async fn rig(flavour: CriFlavour, specs: Vec<SandboxSpec>) -> Rig {
    let root = tempfile::tempdir().unwrap();
    let node = Arc::new(Node::new(root.path()));
    for spec in specs {
        node.create(spec).await.unwrap();
    }
    let socket = root.path().join("cri.sock");
    let server = CriServer::start(Arc::clone(&node), &socket, flavour).unwrap();
    Rig { node, server, channel: connect(&socket).await, _root: root }
}

async fn connect(socket: &Path) -> Channel {
    Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap().connect().await.unwrap()
}

fn k8s<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "k8s.io".parse().unwrap());
    request
}

impl Rig {
    fn cri(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }

    async fn containers(&self, filter: ContainerFilter) -> Vec<kata_pulse_sim::cri::proto::Container> {
        self.cri()
            .list_containers(ListContainersRequest { filter: Some(filter) })
            .await
            .unwrap()
            .into_inner()
            .containers
    }

    async fn stats(&self, pod: &str) -> Result<Vec<ContainerStats>, tonic::Status> {
        let filter = ContainerStatsFilter { pod_sandbox_id: pod.into(), ..Default::default() };
        let request = ListContainerStatsRequest { filter: Some(filter) };
        Ok(self.cri().list_container_stats(request).await?.into_inner().stats)
    }

    /// Ids with the types of their messages.
    async fn metrics(&self, filters: &[&str]) -> Vec<(String, String)> {
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        let answer = self.tasks().metrics(k8s(MetricsRequest { filters })).await.unwrap().into_inner();
        answer.metrics.into_iter().map(|m| (m.id, m.data.map(|data| data.type_url).unwrap_or_default())).collect()
    }
}

#[tokio::test]
async fn a_restarted_container_has_a_new_id_and_the_old_one_has_ended() {
    let rig = rig(CriFlavour::Containerd, vec![spec(1, GO)]).await;
    let first = rig.node.containers("sandbox1").unwrap().remove(0).spec.id;
    let second = rig.node.restart_container("sandbox1", "app").unwrap();
    let pod = ContainerFilter { pod_sandbox_id: "sandbox1".into(), ..Default::default() };
    let listed = rig.containers(pod.clone()).await;
    let attempts =
        |c: &kata_pulse_sim::cri::proto::Container| (c.id.clone(), c.state, c.metadata.clone().unwrap().attempt);
    assert_eq!(listed.iter().map(attempts).collect::<Vec<_>>(), [(first, 2, 0), (second.clone(), 1, 1)]);
    rig.node.forget_exited("sandbox1").unwrap();
    assert_eq!(rig.containers(pod).await.len(), 1);
    let running = ContainerStateValue { state: 1 };
    let filter = ContainerFilter { id: second[..12].into(), state: Some(running), ..Default::default() };
    assert_eq!(rig.containers(filter).await[0].id, second);
}

#[tokio::test]
async fn container_status_has_limits_times_and_a_secret_in_its_details() {
    let mut one = spec(1, GO);
    one.cgroup_driver = CgroupDriver::Systemd;
    let rig = rig(CriFlavour::Containerd, vec![one]).await;
    let container_id = rig.node.containers("sandbox1").unwrap().remove(0).spec.id;
    let request = ContainerStatusRequest { container_id: container_id.clone(), verbose: true };
    let answer = rig.cri().container_status(request).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    let linux = status.resources.unwrap().linux.unwrap();
    assert_eq!((linux.cpu_period, linux.cpu_quota, linux.memory_limit_in_bytes), (100_000, 100_000, 256 << 20));
    assert!(status.started_at > 0 && status.image.unwrap().image == "docker.io/library/app:1");
    assert!(status.image_ref.starts_with("docker.io/library/app@sha256:"), "{}", status.image_ref);
    let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
    let path = info["runtimeSpec"]["linux"]["cgroupsPath"].as_str().unwrap();
    assert_eq!(
        path,
        format!("kubepods-burstable-pod00000000_0000_4000_8000_000000000001.slice:cri-containerd:{container_id}")
    );
    assert_eq!(info["runtimeSpec"]["process"]["rlimits"][0]["soft"], 1024);
    assert!(answer.info["info"].contains(SECRET));
    let unknown = ContainerStatusRequest { container_id: "x".into(), verbose: false };
    assert_eq!(rig.cri().container_status(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn pod_status_tells_cgroup_overhead_and_handler_of_each_flavour() {
    for flavour in [CriFlavour::Containerd, CriFlavour::CriO] {
        let rig = rig(flavour, vec![spec(1, GO)]).await;
        let request = PodSandboxStatusRequest { pod_sandbox_id: "sandbox1".into(), verbose: true };
        let answer = rig.cri().pod_sandbox_status(request).await.unwrap().into_inner();
        let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
        let pod = "/kubepods/burstable/pod00000000-0000-4000-8000-000000000001";
        if flavour == CriFlavour::Containerd {
            assert_eq!(info["config"]["linux"]["cgroup_parent"], pod);
            assert_eq!(info["config"]["linux"]["overhead"]["cpu_quota"], 25_000);
            assert_eq!(info["runtimeHandler"], "kata");
        } else {
            let annotations = &info["runtimeSpec"]["annotations"];
            assert_eq!(annotations["io.kubernetes.cri-o.CgroupParent"], pod);
            assert_eq!(annotations["io.kubernetes.cri-o.RuntimeHandler"], "kata");
            assert!(annotations["io.kubernetes.cri-o.PodLinuxOverhead"].as_str().unwrap().contains("25000"));
            let name = "k8s_POD_pod-1_default_00000000-0000-4000-8000-000000000001_0";
            assert_eq!(annotations["io.kubernetes.cri-o.Name"], name);
            assert_eq!(answer.status.unwrap().runtime_handler, "");
        }
    }
}

#[tokio::test]
async fn verbose_status_lists_handlers_with_their_shims() {
    let rig = rig(CriFlavour::Containerd, vec![]).await;
    rig.server.set_default_handler("kata-clh");
    let answer = rig.cri().status(StatusRequest { verbose: true }).await.unwrap().into_inner();
    let config: serde_json::Value = serde_json::from_str(&answer.info["config"]).unwrap();
    assert_eq!(config["containerd"]["defaultRuntimeName"], "kata-clh");
    let clh = &config["containerd"]["runtimes"]["kata-clh"];
    assert_eq!(clh["runtimePath"], "/opt/kata/bin/containerd-shim-kata-v2");
    assert!(clh["options"]["ConfigPath"].as_str().unwrap().ends_with("configuration-clh.toml"));
}

#[tokio::test]
async fn stats_are_the_truth_at_their_own_timestamp() {
    let mut one = spec(1, GO);
    one.containers[0].started_unix_ns = 1_700_000_000_000_000_000;
    let rig = rig(CriFlavour::Containerd, vec![one]).await;
    let container = rig.node.containers("sandbox1").unwrap().remove(0);
    let stats = rig.stats("sandbox1").await.unwrap().remove(0);
    let cpu = stats.cpu.unwrap();
    let truth = container.truth_at(cpu.timestamp);
    assert_eq!(cpu.usage_core_nano_seconds.unwrap().value, truth.usage_ns / 1000 * 1000);
    let memory = stats.memory.unwrap();
    assert_eq!(memory.working_set_bytes.unwrap().value, truth.memory_bytes - truth.inactive_file_bytes);
    assert_eq!(stats.writable_layer.unwrap().used_bytes.unwrap().value, container.spec.load.layer_bytes);
    assert_eq!(rig.node.stats_calls("sandbox1").unwrap(), 1, "the sandbox's own task was not asked");
}

#[tokio::test]
async fn a_filter_that_fits_nothing_asks_every_shim_of_containerd() {
    let mut empty = spec(2, GO);
    empty.containers.clear();
    let rig = rig(CriFlavour::Containerd, vec![spec(1, GO), empty]).await;
    assert!(rig.stats("sandbox2").await.unwrap().is_empty());
    assert_eq!(rig.server.asked_everybody(), 1);
    assert_eq!(rig.node.stats_calls("sandbox1").unwrap(), 2, "the container and the sandbox's own task");
    rig.stats("sandbox1").await.unwrap();
    assert_eq!(rig.server.asked_everybody(), 1);
}

#[tokio::test]
async fn failed_stats_are_empty_entries_of_containerd_and_no_entries_of_cri_o() {
    for (flavour, expected) in [(CriFlavour::Containerd, 1), (CriFlavour::CriO, 0)] {
        let rig = rig(flavour, vec![spec(1, RS)]).await;
        rig.node.set_stats_fault("sandbox1", Some(StatsFault::Error)).unwrap();
        let stats = rig.stats("sandbox1").await.unwrap();
        assert_eq!(stats.len(), expected);
        assert!(stats.iter().all(|stats| stats.cpu.is_none() && stats.memory.is_none()));
        rig.node.set_stats_fault("sandbox1", Some(StatsFault::Empty)).unwrap();
        assert_eq!(rig.stats("sandbox1").await.is_err(), flavour == CriFlavour::Containerd);
        rig.node.set_stats_fault("sandbox1", None).unwrap();
        assert!(rig.stats("sandbox1").await.unwrap()[0].cpu.is_some());
    }
}

#[tokio::test]
async fn a_hung_shim_costs_the_callers_deadline_and_in_cri_o_everybodys() {
    for (flavour, other) in [(CriFlavour::Containerd, true), (CriFlavour::CriO, false)] {
        let rig = rig(flavour, vec![spec(1, GO), spec(2, GO)]).await;
        rig.node.set_stats_fault("sandbox1", Some(StatsFault::Never)).unwrap();
        let of = |pod: &str| {
            let filter = ContainerStatsFilter { pod_sandbox_id: pod.into(), ..Default::default() };
            let mut request = Request::new(ListContainerStatsRequest { filter: Some(filter) });
            request.set_timeout(Duration::from_millis(300));
            request
        };
        assert_eq!(rig.cri().list_container_stats(of("sandbox1")).await.unwrap_err().code(), Code::Cancelled);
        assert_eq!(rig.cri().list_container_stats(of("sandbox2")).await.is_ok(), other, "{flavour:?}");
        assert_eq!(rig.node.stats_max_in_flight("sandbox1").unwrap(), 1);
    }
}

#[tokio::test]
async fn tasks_include_the_sandboxs_own_and_say_what_each_shim_says() {
    let mut old_host = spec(2, GO);
    old_host.host_cgroup = CgroupMode::V1;
    let rig = rig(CriFlavour::Containerd, vec![spec(1, GO), old_host, spec(3, RS)]).await;
    let all = rig.metrics(&[]).await;
    assert_eq!(all.len(), 6);
    let type_of = |id: &str| all.iter().find(|(found, _)| found == id).unwrap().1.as_str();
    assert_eq!(type_of("sandbox1"), "io.containerd.cgroups.v2.Metrics");
    assert_eq!(type_of("sandbox2"), "io.containerd.cgroups.v1.Metrics");
    assert_eq!(type_of("sandbox3"), "io.containerd.cgroups.v1.Metrics");
    let container = rig.node.containers("sandbox1").unwrap().remove(0);
    let two = rig.metrics(&["id==sandbox3", &format!("id=={}", container.spec.id)]).await;
    assert_eq!(two.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), [&container.spec.id, "sandbox3"]);
    assert!(rig.metrics(&["id==nobody"]).await.is_empty());

    let filters = vec![format!("id=={}", container.spec.id)];
    let metric = rig.tasks().metrics(k8s(MetricsRequest { filters })).await.unwrap().into_inner().metrics.remove(0);
    let time = metric.timestamp.unwrap();
    let truth = container.truth_at(time.seconds * 1_000_000_000 + i64::from(time.nanos));
    let reporter = Reporter { runtime: Runtime::Go, guest: CgroupMode::V2, host: CgroupMode::V2 };
    assert_eq!(metric.data, Some(Metrics::report(reporter, &truth, &container.spec.limits).to_any()));
}

#[tokio::test]
async fn tasks_need_a_namespace_and_correct_filters() {
    let rig = rig(CriFlavour::Containerd, vec![spec(1, GO)]).await;
    let status = rig.tasks().metrics(MetricsRequest { filters: vec![] }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "namespace is required: failed precondition"));
    let wrong = MetricsRequest { filters: vec!["id=x".into()] };
    assert!(rig.tasks().metrics(k8s(wrong)).await.unwrap_err().message().starts_with("filters: parse error"));
    let known = GetRequest { container_id: "sandbox1".into(), ..Default::default() };
    let process = rig.tasks().get(k8s(known)).await.unwrap().into_inner().process.unwrap();
    assert_eq!((process.container_id.as_str(), process.id.as_str(), process.status), ("", "sandbox1", 2));
    let unknown = GetRequest { container_id: "x".into(), ..Default::default() };
    assert_eq!(rig.tasks().get(k8s(unknown)).await.unwrap_err().code(), Code::NotFound);
    let listed = rig.tasks().list(k8s(ListTasksRequest::default())).await.unwrap().into_inner().tasks;
    assert_eq!(listed.len(), 2);
}

#[tokio::test]
async fn the_container_store_knows_images_runtimes_and_specifications() {
    let rig = rig(CriFlavour::Containerd, vec![spec(1, GO)]).await;
    let mut store = ContainersClient::new(rig.channel.clone());
    let id = rig.node.containers("sandbox1").unwrap().remove(0).spec.id;
    let found = store.get(k8s(GetContainerRequest { id: id.clone() })).await.unwrap().into_inner().container.unwrap();
    assert_eq!(
        (found.image.as_str(), found.runtime.unwrap().name.as_str()),
        ("docker.io/library/app:1", "io.containerd.kata.v2",)
    );
    let spec: serde_json::Value = serde_json::from_slice(&found.spec.unwrap().value).unwrap();
    assert_eq!(spec["annotations"]["io.kubernetes.cri.sandbox-id"], "sandbox1");
    let sandboxes = vec!["labels.\"io.cri-containerd.kind\"==sandbox".to_owned()];
    let listed = store.list(k8s(Filtered { filters: sandboxes })).await.unwrap().into_inner().containers;
    assert_eq!(listed.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["sandbox1"]);
    let by_runtime = Filtered { filters: vec!["runtime.name~=kata".to_owned()] };
    let mut stream = store.list_stream(k8s(by_runtime)).await.unwrap().into_inner();
    let mut ids = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        ids.push(message.container.unwrap().id);
    }
    assert_eq!(ids, ["sandbox1".to_owned(), id]);
}

#[tokio::test]
async fn events_tell_of_sandboxes_and_containers_as_they_come_and_go() {
    let rig = rig(CriFlavour::Containerd, vec![]).await;
    let mut client = EventsClient::new(rig.channel.clone());
    let filters = vec!["namespace==k8s.io,topic~=\"^/(tasks|containers)/\"".to_owned()];
    // Not answered before there is an event.
    let subscription = tokio::spawn(async move { client.subscribe(SubscribeRequest { filters }).await });
    while rig.server.calls("Events.Subscribe") == 0 {
        tokio::task::yield_now().await;
    }
    rig.node.create(spec(1, RS)).await.unwrap();
    let mut stream = subscription.await.unwrap().unwrap().into_inner();
    rig.node.add_container("sandbox1", ContainerSpec::named("sandbox1", "side")).unwrap();
    rig.node.oom_container("sandbox1", "side").unwrap();
    rig.node.remove("sandbox1").await.unwrap();
    let mut topics = Vec::new();
    while topics.iter().filter(|topic| *topic == "/containers/delete").count() < 3 {
        topics.push(stream.message().await.unwrap().unwrap().topic);
    }
    let start = ["/containers/create", "/tasks/create", "/tasks/start"];
    let exit = ["/tasks/exit", "/tasks/delete"];
    let expected = [&start[..], &start, &start, &["/tasks/oom"], &exit, &exit, &exit, &["/containers/delete"; 3]];
    assert_eq!(topics, expected.concat());
}

#[tokio::test]
async fn asking_a_stopping_sandbox_is_counted() {
    let rig = rig(CriFlavour::Containerd, vec![spec(1, GO), spec(2, GO)]).await;
    let id = rig.node.containers("sandbox1").unwrap().remove(0).spec.id;
    rig.node.stop_sandbox("sandbox1").unwrap();
    rig.stats("sandbox2").await.unwrap();
    assert_eq!(rig.node.stats_calls_while_stopping("sandbox1").unwrap(), 0);
    rig.stats("sandbox1").await.unwrap();
    rig.metrics(&[&format!("id=={id}")]).await;
    rig.metrics(&[]).await;
    assert_eq!(rig.node.stats_calls_while_stopping("sandbox1").unwrap(), 3);
    let pods = rig.cri().list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    assert_eq!(pods.iter().map(|pod| pod.state).collect::<Vec<_>>(), [1, 0]);
}

#[tokio::test]
async fn cri_o_names_no_handler_and_has_no_containerd_services() {
    let rig = rig(CriFlavour::CriO, vec![spec(1, GO)]).await;
    let pods = rig.cri().list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    assert_eq!(
        (pods[0].runtime_handler.as_str(), pods[0].labels["io.kubernetes.container.name"].as_str()),
        ("", "POD")
    );
    assert_eq!(rig.tasks().metrics(k8s(MetricsRequest::default())).await.unwrap_err().code(), Code::Unimplemented);
}
