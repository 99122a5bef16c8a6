//! containerd's own services of the simulator.

mod runtime;

use kata_pulse_sim::{
    CgroupMode, ContainerSpec, CriFlavour, Metrics, Reporter, Runtime, StatsFault,
    containerd::proto::{
        containers::{GetContainerRequest, ListContainersRequest, containers_client::ContainersClient},
        events::{SubscribeRequest, events_client::EventsClient},
        tasks::{GetRequest, ListTasksRequest, MetricsRequest},
    },
    cri::proto::ListPodSandboxRequest,
};
use runtime::{GO, RS, k8s, rig, spec};
use tonic::Code;

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
    let listed = store.list(k8s(ListContainersRequest { filters: sandboxes })).await.unwrap().into_inner().containers;
    assert_eq!(listed.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["sandbox1"]);
    let by_runtime = ListContainersRequest { filters: vec!["runtime.name~=kata".to_owned()] };
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
async fn state_waits_behind_stats_in_the_go_shim_alone() {
    for (kind, expected) in [(GO, 0), (RS, 2)] {
        let rig = rig(CriFlavour::Containerd, vec![spec(1, kind)]).await;
        rig.node.set_stats_fault("sandbox1", Some(StatsFault::Never)).unwrap();
        let mut tasks = rig.tasks();
        let hung = tokio::spawn(async move { tasks.metrics(k8s(MetricsRequest::default())).await });
        while rig.node.stats_calls("sandbox1").unwrap() == 0 {
            tokio::task::yield_now().await;
        }
        // containerd waits two seconds for a state, which is then unknown.
        let request = GetRequest { container_id: "sandbox1".into(), ..Default::default() };
        let process = rig.tasks().get(k8s(request)).await.unwrap().into_inner().process.unwrap();
        assert_eq!(process.status, expected, "{kind:?}");
        assert!(!hung.is_finished());
        hung.abort();
    }
}
