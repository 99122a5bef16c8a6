//! Containers' series from end to end: the simulated runtime's stats, with every shim's defects, against the known truth
//! of the simulated workload.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kata_pulse_sim::{
    AgentFault, CgroupDriver, CgroupMode, Container, ContainerSpec, CriFlavour, CriServer, Node, SECRET, SandboxSpec,
    StatsFault, Truth,
};
use support::{Agent, root};

fn node(root: &Path, flavour: CriFlavour) -> (Arc<Node>, CriServer) {
    let node = Arc::new(Node::new(root));
    let cri = CriServer::start(node.clone(), &root.join("cri.sock"), flavour).unwrap();
    (node, cri)
}

/// A pod with these containers, each of which has been running for ten minutes.
fn pod(number: u64, kind: &str, containers: &[&str]) -> SandboxSpec {
    let mut spec = SandboxSpec::numbered(number, kind.parse().unwrap());
    let started_unix_ns = unix_ns() - 600_000_000_000;
    let container = |name: &&str| ContainerSpec { started_unix_ns, ..ContainerSpec::named(&spec.id, name) };
    spec.containers = containers.iter().map(container).collect();
    spec
}

fn unix_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

/// The value of a family for one container of a pod.
fn value(page: &str, family: &str, pod: &str, container: &str) -> Option<f64> {
    lines(page, family, pod, container).next()?.rsplit_once(' ')?.1.parse().ok()
}

fn lines<'a>(page: &'a str, family: &str, pod: &str, container: &str) -> impl Iterator<Item = &'a str> {
    let (start, pod) = (format!("{family}{{container=\"{container}\","), format!("pod=\"{pod}\""));
    page.lines().filter(move |line| line.starts_with(&start) && line.contains(&pod))
}

fn has_numbers(page: &str, pod: &str, container: &str) -> bool {
    value(page, "container_cpu_usage_seconds_total", pod, container).is_some()
}

fn label<'a>(line: &'a str, name: &str) -> &'a str {
    line.split_once(&format!("{name}=\"")).unwrap().1.split_once('"').unwrap().0
}

fn truth(container: &Container) -> Truth {
    container.truth_at(unix_ns())
}

fn assert_near(seen: Option<f64>, expected: f64, tolerance: f64, what: &str) {
    let seen = seen.unwrap_or_else(|| panic!("{what} is missing"));
    assert!((seen - expected).abs() <= tolerance, "{what}: {seen}, in truth {expected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_every_shim_and_guest_have_their_true_numbers() {
    let root = root();
    let (node, cri) = node(&root, CriFlavour::Containerd);
    let (mut go, mut go_v2, mut rust) =
        (pod(1, "go-qemu", &["app", "sidecar"]), pod(2, "go-qemu", &["app"]), pod(3, "rs-dragonball", &["app"]));
    (go.guest_cgroup, go.host_cgroup) = (CgroupMode::V1, CgroupMode::V1);
    (go_v2.guest_cgroup, go_v2.host_cgroup) = (CgroupMode::V2, CgroupMode::V2);
    rust.guest_cgroup = CgroupMode::V2;
    rust.cgroup_driver = CgroupDriver::Systemd;
    let ids = [go.id.clone(), go_v2.id.clone(), rust.id.clone()];
    for spec in [go, go_v2, rust] {
        node.create(spec).await.unwrap();
    }
    let agent = Agent::start(&root, &["--ebpf", "off"]);
    let page = agent
        .until("numbers of all containers", |page| {
            [("pod-1", "app"), ("pod-1", "sidecar"), ("pod-2", "app"), ("pod-3", "app")]
                .iter()
                .all(|(pod, container)| has_numbers(page, pod, container))
        })
        .await;
    for (pod, id) in ["pod-1", "pod-2", "pod-3"].into_iter().zip(&ids) {
        let container = node.containers(id).unwrap().into_iter().find(|one| one.spec.name == "app").unwrap();
        let truth = truth(&container);
        let seconds = |ns: u64| ns as f64 / 1e9;
        // Half a minute may have gone by since, at a quarter of a CPU.
        let cpu = |family: &str| value(&page, &format!("container_cpu_{family}_seconds_total"), pod, "app");
        assert_near(cpu("usage"), seconds(truth.usage_ns), 8.0, "CPU");
        assert_near(cpu("user"), seconds(truth.user_ns), 8.0, "user time");
        assert_near(cpu("system"), seconds(truth.system_ns), 8.0, "system time");
        let memory = |family: &str| value(&page, &format!("container_memory_{family}"), pod, "app");
        assert_eq!(memory("usage_bytes"), Some(truth.memory_bytes as f64));
        let working_set = (truth.memory_bytes - truth.inactive_file_bytes) as f64;
        assert_eq!(memory("working_set_bytes"), Some(working_set), "{pod}");
        // A cgroup v2 guest has no place for it in runtime-rs' message.
        let rss = (pod != "pod-3").then_some(truth.rss as f64);
        assert_eq!(memory("rss"), rss, "{pod}");
        assert_eq!(value(&page, "container_threads", pod, "app"), Some(truth.threads as f64));
        let line = lines(&page, "container_threads", pod, "app").next().unwrap();
        assert_eq!((label(line, "name"), label(line, "image")), (&*container.spec.id, "docker.io/library/app:1"));
        let cgroup = label(line, "id");
        let end =
            if pod == "pod-3" { format!("cri-containerd-{}.scope", container.spec.id) } else { container.spec.id };
        assert!(cgroup.starts_with("/kubepods") && cgroup.ends_with(&end), "{cgroup}");
        assert_eq!(value(&page, "container_spec_cpu_quota", pod, "app"), Some(100_000.0));
        assert_eq!(value(&page, "container_spec_memory_limit_bytes", pod, "app"), Some((256_u64 << 20) as f64));
        assert!(value(&page, "container_cpu_cfs_periods_total", pod, "app").is_some());
        assert!(value(&page, "container_start_time_seconds", pod, "app").unwrap() > 1e9);
    }
    assert!(!page.contains(SECRET), "environments are nobody's business");
    assert!(!page.contains("image=\"\",name=\"c"), "no container without an image");
    assert_eq!(cri.asked_everybody(), 0);
    end(&node, cri, &root).await;
}

async fn end(node: &Node, cri: CriServer, root: &Path) {
    for id in node.ids() {
        assert!(node.stats_max_in_flight(&id).unwrap() <= 1, "one question at a time");
        assert_eq!(node.stats_calls_while_stopping(&id).unwrap(), 0, "none while it stops");
    }
    assert_eq!((cri.calls("GetContainerEvents"), node.shims_killed()), (0, 0));
    node.remove_all().await.unwrap();
    cri.stop().await;
    std::fs::remove_dir_all(root).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_container_is_another_one_and_one_that_ends_is_gone() {
    let root = root();
    let (node, cri) = node(&root, CriFlavour::Containerd);
    let spec = pod(1, "go-qemu", &["app", "sidecar"]);
    let id = spec.id.clone();
    node.create(spec).await.unwrap();
    let agent = Agent::start(&root, &["--ebpf", "off"]);
    let page = agent.until("both containers", |page| has_numbers(page, "pod-1", "sidecar")).await;
    let name = |page: &str| label(lines(page, "container_threads", "pod-1", "app").next().unwrap(), "name").to_owned();
    let first = name(&agent.until("the first", |page| has_numbers(page, "pod-1", "app")).await);
    let before = value(&page, "container_cpu_usage_seconds_total", "pod-1", "sidecar").unwrap();

    let second = node.restart_container(&id, "app").unwrap();
    let page = agent
        .until("the second instead of the first", |page| {
            has_numbers(page, "pod-1", "app") && !page.contains(&format!("name=\"{first}\""))
        })
        .await;
    assert_eq!(name(&page), second);
    assert!(value(&page, "container_cpu_usage_seconds_total", "pod-1", "app").unwrap() < 100.0, "it begins anew");
    assert!(value(&page, "container_cpu_usage_seconds_total", "pod-1", "sidecar").unwrap() >= before);

    node.oom_container(&id, "app").unwrap();
    let page = agent.until("the end", |page| !page.contains("container=\"app\"")).await;
    assert!(has_numbers(&page, "pod-1", "sidecar"));
    end(&node, cri, &root).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_does_not_answer_delays_nobody_and_is_not_asked_again_soon() {
    let root = root();
    let (node, cri) = node(&root, CriFlavour::Containerd);
    let mut ids = Vec::new();
    for number in 1..=20 {
        let spec = pod(number, "go-qemu", &["app"]);
        ids.push(spec.id.clone());
        node.create(spec).await.unwrap();
    }
    let faults =
        [StatsFault::Never, StatsFault::Never, StatsFault::Error, StatsFault::Slow(Duration::from_millis(500))];
    for (id, fault) in ids.iter().zip(faults) {
        node.set_stats_fault(id, Some(fault)).unwrap();
    }
    let agent = Agent::start(&root, &["--ebpf", "off", "--metrics-interval-secs", "1"]);
    let state = |page: &str, number: usize, state: &str| {
        page.contains(&format!("sandbox_id=\"{}\",source=\"runtime\",state=\"{state}\"", ids[number]))
    };
    let page = agent
        .until("all that answer, and the state of those that do not", |page| {
            (4..=20).all(|number| has_numbers(page, &format!("pod-{number}"), "app"))
                && state(page, 0, "timeout")
                && state(page, 1, "timeout")
                && state(page, 2, "bad_page")
        })
        .await;
    assert!(!has_numbers(&page, "pod-1", "app") && !has_numbers(&page, "pod-3", "app"), "absent is not zero");
    // Meanwhile the others are asked again and again.
    let asked = node.stats_calls(&ids[19]).unwrap();
    agent.until("more rounds", |_| node.stats_calls(&ids[19]).unwrap() >= asked + 3).await;
    assert_eq!(node.stats_calls(&ids[0]).unwrap(), 1, "a second question would pile up on the first");
    end(&node, cri, &root).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_go_and_come_back_with_the_answers_and_a_stopping_pod_is_left_alone() {
    let root = root();
    let (node, cri) = node(&root, CriFlavour::Containerd);
    let spec = pod(1, "rs-dragonball", &["app"]);
    let id = spec.id.clone();
    node.create(spec).await.unwrap();
    let agent = Agent::start(&root, &["--ebpf", "off", "--metrics-interval-secs", "1"]);
    agent.until("numbers", |page| has_numbers(page, "pod-1", "app")).await;
    node.set_stats_fault(&id, Some(StatsFault::Error)).unwrap();
    agent.until("no numbers without an answer", |page| !has_numbers(page, "pod-1", "app")).await;
    node.set_stats_fault(&id, None).unwrap();
    agent.until("numbers again", |page| has_numbers(page, "pod-1", "app")).await;
    node.stop_sandbox(&id).unwrap();
    agent.until("no container of a pod that stops", |page| !page.contains("container=\"app\"")).await;
    end(&node, cri, &root).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_cri_o_the_labels_are_cri_os_and_the_numbers_cris() {
    let root = root();
    let (node, cri) = node(&root, CriFlavour::CriO);
    let mut spec = pod(1, "go-qemu", &["app"]);
    spec.cgroup_driver = CgroupDriver::Systemd;
    let id = spec.id.clone();
    node.create(spec).await.unwrap();
    let agent = Agent::start(&root, &["--ebpf", "off"]);
    let page = agent.until("numbers", |page| has_numbers(page, "pod-1", "app")).await;
    let line = lines(&page, "container_memory_usage_bytes", "pod-1", "app").next().unwrap();
    let container = &node.containers(&id).unwrap()[0];
    let uid = "00000000-0000-4000-8000-000000000001";
    assert_eq!(label(line, "name"), format!("k8s_app_pod-1_default_{uid}_0"));
    assert!(label(line, "id").ends_with(&format!("/crio-{}.scope", container.spec.id)), "{line}");
    assert_eq!(label(line, "image"), "docker.io/library/app:1");
    assert_eq!(
        value(&page, "container_memory_usage_bytes", "pod-1", "app"),
        Some(truth(container).memory_bytes as f64)
    );
    assert_eq!(value(&page, "container_spec_cpu_shares", "pod-1", "app"), Some(1024.0));
    assert_eq!(cri.asked_everybody(), 0);
    end(&node, cri, &root).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_and_kinds_leave_out_what_the_kubelet_has_already() {
    let root = root();
    let (node, cri) = node(&root, CriFlavour::Containerd);
    node.create(pod(1, "go-qemu", &["app"])).await.unwrap();
    let drop_in = Agent::start(&root, &["--ebpf", "off", "--levels", "container", "--disable-metrics", "network"]);
    let page = drop_in.until("containers", |page| has_numbers(page, "pod-1", "app")).await;
    assert!(!page.contains("container=\"\"") && !page.contains("container_network_"));
    drop(drop_in);
    // Where the kubelet itself shows Kata's containers.
    let pods_only = Agent::start(&root, &["--ebpf", "off", "--levels", "pod"]);
    let page = pods_only.until("the pod", |page| page.contains("container_memory_usage_bytes{container=\"\"")).await;
    assert!(!page.contains("container=\"app\""));
    assert!(page.contains("source=\"runtime\",state=\"off\""));
    end(&node, cri, &root).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_shim_must_not_be_asked_the_guests_agent_is() {
    let root = root();
    let (node, cri) = node(&root, CriFlavour::Containerd);
    let faults = [
        None,
        Some(AgentFault::Denied),
        Some(AgentFault::Hung),
        Some(AgentFault::Garbage),
        Some(AgentFault::Huge),
        Some(AgentFault::RefusesHandshake),
        Some(AgentFault::Extra("container_forged{pod=\"victim\"} 1\nkata_shim_threads 9\n".into())),
    ];
    let mut ids = Vec::new();
    for (number, fault) in (1..).zip(faults) {
        let spec = SandboxSpec { agent: true, ..pod(number, "rs-firecracker", &["app"]) };
        ids.push(spec.id.clone());
        node.create(spec).await.unwrap();
        node.set_agent_fault(ids.last().unwrap(), fault).unwrap();
    }
    let agent = Agent::start(&root, &["--ebpf", "off"]);
    let state = |page: &str, number: usize, source: &str, state: &str| {
        page.contains(&format!("sandbox_id=\"{}\",source=\"{source}\",state=\"{state}\"", ids[number]))
    };
    let page = agent
        .until("every outcome", |page| {
            state(page, 0, "agent", "ok")
                && state(page, 1, "agent", "denied")
                && state(page, 2, "agent", "timeout")
                && state(page, 3, "agent", "bad_page")
                && ["timeout", "bad_page"].iter().any(|word| state(page, 4, "agent", word))
                && state(page, 5, "agent", "refused")
                && state(page, 6, "agent", "ok")
        })
        .await;
    assert!((0..ids.len()).all(|number| state(&page, number, "shim", "unsafe")));
    assert!(!page.contains("victim") && !page.contains("container_forged"));
    let guest = agent
        .until("the guest's CPU time, in its own unit", |page| {
            page.lines().any(|line| {
                line.starts_with("kata_sandbox_guest_cpu_seconds_total{mode=\"user\"") && line.contains("pod-1")
            })
        })
        .await;
    assert!(guest.contains("container_memory_usage_bytes{container=\"\"") && guest.contains("pod_source=\"guest\""));
    for id in &ids {
        assert!(node.agent_max_in_flight(id).unwrap() <= 1);
        assert_eq!(node.requests(id).unwrap(), 0, "the shim would have died of one");
    }
    end(&node, cri, &root).await;
}
