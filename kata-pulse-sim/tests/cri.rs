//! The simulator's CRI, asked as an agent would ask it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod runtime;

use std::time::Duration;

use kata_pulse_sim::{
    CgroupDriver, CriFlavour, Kind, Runtime, SECRET, StatsFault, Vmm, containerd::proto::tasks::MetricsRequest,
    cri::proto::*,
};
use runtime::{GO, RS, Rig, k8s, rig, spec};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use tonic::{Code, Request};

async fn containers(rig: &Rig, filter: ContainerFilter) -> Vec<Container> {
    rig.cri().list_containers(ListContainersRequest { filter: Some(filter) }).await.unwrap().into_inner().containers
}

#[tokio::test]
async fn a_restarted_container_has_a_new_id_and_the_old_one_has_ended() {
    let rig = rig(CriFlavour::Containerd, vec![spec(1, GO)]).await;
    let first = rig.node.containers("sandbox1").unwrap().remove(0).spec.id;
    let second = rig.node.restart_container("sandbox1", "app").unwrap();
    let pod = ContainerFilter { pod_sandbox_id: "sandbox1".into(), ..Default::default() };
    let listed = containers(&rig, pod.clone()).await;
    let attempts = |c: &Container| (c.id.clone(), c.state, c.metadata.clone().unwrap().attempt);
    assert_eq!(listed.iter().map(attempts).collect::<Vec<_>>(), [(first, 2, 0), (second.clone(), 1, 1)]);
    rig.node.forget_exited("sandbox1").unwrap();
    assert_eq!(containers(&rig, pod).await.len(), 1);
    let running = ContainerStateValue { state: 1 };
    let filter = ContainerFilter { id: second[..12].into(), state: Some(running), ..Default::default() };
    assert_eq!(containers(&rig, filter).await[0].id, second);
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
async fn cri_o_names_no_handler_and_has_no_containerd_services() {
    let rig = rig(CriFlavour::CriO, vec![spec(1, GO)]).await;
    let pods = rig.cri().list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    assert_eq!(
        (pods[0].runtime_handler.as_str(), pods[0].labels["io.kubernetes.container.name"].as_str()),
        ("", "POD")
    );
    assert_eq!(rig.tasks().metrics(k8s(MetricsRequest::default())).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn the_stats_of_one_container_fail_where_it_does_not_run() {
    let rig = rig(CriFlavour::Containerd, vec![spec(1, GO)]).await;
    let container_id = rig.node.containers("sandbox1").unwrap().remove(0).spec.id;
    let request = ContainerStatsRequest { container_id };
    let stats = rig.cri().container_stats(request.clone()).await.unwrap().into_inner().stats.unwrap();
    assert_eq!(stats.attributes.unwrap().metadata.unwrap().name, "app");
    rig.node.stop_container("sandbox1", "app", 0).unwrap();
    let error = rig.cri().container_stats(request).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Unknown, "unexpected metrics response: []"));
    let unknown = ContainerStatsRequest { container_id: "x".into() };
    assert_eq!(rig.cri().container_stats(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_dead_shim_is_a_pod_not_ready_with_containers_that_ended() {
    let killed_by_get = Kind::new(Runtime::Rs, Vmm::Qemu);
    let rig = rig(CriFlavour::Containerd, vec![spec(1, killed_by_get)]).await;
    let socket = rig.node.sandbox_dir(Runtime::Rs, "sandbox1").join("shim-monitor.sock");
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    let pods = rig.cri().list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    assert_eq!(pods[0].state, 1);
    assert_eq!(containers(&rig, ContainerFilter::default()).await[0].state, 2);
    assert!(rig.metrics(&[]).await.is_empty());
}

#[tokio::test]
async fn a_sandbox_made_by_hand_is_unknown_to_cri() {
    let mut by_hand = spec(1, GO);
    by_hand.pod = None;
    let rig = rig(CriFlavour::Containerd, vec![by_hand]).await;
    assert!(containers(&rig, ContainerFilter::default()).await.is_empty());
    assert!(rig.metrics(&[]).await.is_empty(), "it is in another namespace of containerd");
    let mut request = k8s(MetricsRequest::default());
    request.metadata_mut().insert("containerd-namespace", "default".parse().unwrap());
    assert_eq!(rig.tasks().metrics(request).await.unwrap().into_inner().metrics.len(), 2);
}
