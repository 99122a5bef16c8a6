//! The whole agent as its user runs it, against the simulated node: from directories to the page.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kata_pulse_sim::{CriFlavour, CriServer, Fault, Node, SandboxSpec};
use support::{Agent, root};

fn value(page: &str, starts: &str) -> Option<f64> {
    page.lines().find(|line| line.starts_with(starts))?.rsplit_once(' ')?.1.parse().ok()
}

/// The series of a pod as a whole, which a shim or the guest's agent gives, without those of the containers in it.
fn of_pod_itself(page: &str, number: usize) -> Vec<&str> {
    let (pod, id) = (format!(",pod=\"pod-{number}\""), format!("id=\"/kubepods/burstable/pod{}", uid(number)));
    let of_pod = |line: &&str| line.contains(&pod) || line.contains(&id);
    page.lines()
        .filter(|line| line.starts_with("container_") && line.contains("{container=\"\","))
        .filter(of_pod)
        .collect()
}

fn of_container<'a>(page: &'a str, number: usize, name: &str) -> Vec<&'a str> {
    let (container, pod) = (format!("{{container=\"{name}\","), format!(",pod=\"pod-{number}\""));
    page.lines()
        .filter(|line| line.starts_with("container_") && line.contains(&container) && line.contains(&pod))
        .collect()
}

/// As the simulator numbers them.
fn uid(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_become_series_and_a_shim_that_would_die_is_never_asked() {
    let root = root();
    let node = Arc::new(Node::new(root.clone()));
    let cri = CriServer::start(node.clone(), &root.join("cri.sock"), CriFlavour::Containerd).unwrap();
    let agent = Agent::start(&root, &["--ebpf", "off"]);
    let mut ids = Vec::new();
    for (number, kind) in ["go-qemu", "rs-qemu", "rs-firecracker", "rs-dragonball", "go-clh"].into_iter().enumerate() {
        let spec = SandboxSpec::numbered(number as u64 + 1, kind.parse().unwrap());
        ids.push(spec.id.clone());
        node.create(spec).await.unwrap();
    }
    let page = agent
        .until("three guests with their pods' names", |page| {
            [1, 4, 5].iter().all(|number| {
                of_pod_itself(page, *number).iter().any(|line| line.starts_with("container_memory_usage_bytes{"))
            })
        })
        .await;
    assert!(page.contains("namespace=\"default\",pod=\"pod-1\""));
    for unsafe_one in [&ids[1], &ids[2]] {
        let state = format!("sandbox_id=\"{unsafe_one}\",source=\"shim\",state=\"unsafe\"");
        agent.until("the shim is called unsafe", |page| page.contains(&state)).await;
    }
    // Two pages tell in which unit a guest counts; then the seconds must be those of the guest.
    let cpu = "container_cpu_usage_seconds_total{";
    let page = agent
        .until("CPU time, and containers of the pods whose shims are not asked", |page| {
            of_pod_itself(page, 1).iter().any(|line| line.starts_with(cpu))
                && [2, 3].iter().all(|number| !of_container(page, *number, "app").is_empty())
        })
        .await;
    let line = of_pod_itself(&page, 1).into_iter().find(|line| line.starts_with(cpu)).unwrap();
    let usage = value(line, cpu).unwrap();
    assert!((1.0..600.0).contains(&usage), "{usage} s of a guest that is a minute old");
    // Shims that would die, without an agent to ask instead: numbers of containers, none of the pod.
    for number in [2, 3] {
        assert_eq!(of_pod_itself(&page, number), Vec::<&str>::new());
        assert_eq!(node.requests(&ids[number - 1]).unwrap(), 0, "pod-{number}");
    }
    assert_eq!(node.shims_killed(), 0);
    assert_eq!(agent.get("/metrics?sandbox=nobody").0, 404);
    assert_eq!(agent.get(&format!("/metrics?sandbox={}", ids[0])).0, 200);
    for id in &ids {
        node.remove(id).await.unwrap();
    }
    agent.until("none left", |page| !page.contains("kata_pulse_sandboxes{")).await;
    cri.stop().await;
    std::fs::remove_dir_all(&root).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_or_lying_guest_harms_nobody_else() {
    let root = root();
    let node = Arc::new(Node::new(root.clone()));
    let cri = CriServer::start(node.clone(), &root.join("cri.sock"), CriFlavour::Containerd).unwrap();
    let forged = "kata_guest_netdev_stat{interface=\"eth0\",item=\"recv_bytes\",pod=\"victim\"} NaN\n\
                  container_cpu_usage_seconds_total{namespace=\"kube-system\",pod=\"victim\"} 99\nkata_shim_threads 99\n";
    let faults = [
        None,
        Some(Fault::HungGuest),
        Some(Fault::HalfAnswer),
        Some(Fault::Garbage),
        Some(Fault::HugeBody(100 << 20)),
        Some(Fault::Extra(forged.into())),
        Some(Fault::AcceptThenClose),
        Some(Fault::Denied),
    ];
    let mut ids = Vec::new();
    for (number, fault) in faults.into_iter().enumerate() {
        let spec = SandboxSpec::numbered(number as u64 + 1, "go-qemu".parse().unwrap());
        ids.push(spec.id.clone());
        node.create(spec).await.unwrap();
        node.set_fault(&ids[number], fault).unwrap();
    }
    let agent = Agent::start(&root, &["--ebpf", "off"]);
    let of = |page: &str, number: usize, state: &str| {
        let label = format!("sandbox_id=\"{}\",source=\"shim\",state=\"{state}\"", ids[number]);
        page.contains(&label)
    };
    let page = agent.until("the hung one has timed out", |page| of(page, 1, "timeout")).await;
    assert!(of(&page, 0, "ok") && of(&page, 5, "ok"), "{page}");
    assert!(of(&page, 3, "bad_page") && of(&page, 4, "bad_page"), "{page}");
    agent.until("denied is told from hung", |page| of(page, 7, "denied")).await;
    assert!(!page.contains("victim") && !page.contains("kube-system"));
    assert!(value(&page, "kata_pulse_limited_total{limit=\"body_bytes\"}").unwrap() >= 1.0);
    for id in &ids {
        assert!(node.max_in_flight(id).unwrap() <= 1);
        node.remove(id).await.unwrap();
    }
    cri.stop().await;
    std::fs::remove_dir_all(&root).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_families_are_passed_through_with_kata_monitors_names_and_labels() {
    let root = root();
    let node = Arc::new(Node::new(root.clone()));
    let cri = CriServer::start(node.clone(), &root.join("cri.sock"), CriFlavour::Containerd).unwrap();
    for (number, kind) in ["go-qemu", "rs-dragonball"].into_iter().enumerate() {
        node.create(SandboxSpec::numbered(number as u64 + 1, kind.parse().unwrap())).await.unwrap();
    }
    let agent = Agent::start(&root, &["--ebpf", "off", "--passthrough", "kata_shim_,kata_guest_load"]);
    let page = agent
        .until("both shims' families", |page| {
            page.lines().filter(|line| line.starts_with("kata_shim_threads{")).count() == 2
                && page.lines().any(|line| line.starts_with("kata_shim_go_goroutines{"))
        })
        .await;
    let labels = "cri_name=\"pod-1\",cri_namespace=\"default\",cri_uid=\"00000000-0000-4000-8000-000000000001\"";
    let load = format!("kata_guest_load{{{labels},item=\"load1\",sandbox_id=\"");
    assert!(page.lines().any(|line| line.starts_with(&load)), "{page}");
    assert!(!page.contains("cri_name=\"\"") && !page.contains("kata_hypervisor_") && !page.contains("\ngo_"));
    assert_eq!(page.matches("# TYPE kata_shim_threads ").count(), 1);
    node.remove_all().await.unwrap();
    cri.stop().await;
    std::fs::remove_dir_all(&root).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_agent_within_a_second_with_code_zero() {
    let root = root();
    let mut agent = Agent::start(&root, &[]);
    // Starting and reaping a process costs what the machine is busy with; the agent is given that beside its second.
    let spawning = Instant::now();
    assert!(Command::new("/bin/true").status().unwrap().success());
    let limit = Duration::from_secs(1) + spawning.elapsed();
    let started = Instant::now();
    let pid = rustix_pid(agent.child.id());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = agent.child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let took = started.elapsed();
    println!("ended after {took:?}, limit {limit:?}");
    assert!(took < limit, "{took:?} of {limit:?}");
    std::fs::remove_dir_all(&root).unwrap();
}

fn rustix_pid(pid: u32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// A chart sets every variable.
#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let names =
        ["KATA_PULSE_DISABLE_METRICS", "RUNTIME_ENDPOINT", "KATA_PULSE_SANDBOX_DIRS", "KATA_PULSE_EBPF", "RUST_LOG"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_kata-pulse"));
    // A flag that is wrong, so that it ends at once: it is the only one that is complained of.
    let output = command.envs(names.map(|name| (name, ""))).args(["--ebpf-directories", "maybe"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && text.contains("--ebpf-directories"), "{text}");
}

#[test]
fn a_bad_value_is_one_line_and_exit_code_two() {
    let output = Command::new(env!("CARGO_BIN_EXE_kata-pulse")).args(["--ebpf", "maybe"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{text}");
    assert!(text.contains("--ebpf") && text.contains("maybe") && text.contains("require"), "{text}");
}
