//! Three machines that end in three ways, each told apart: by itself, by SIGKILL, by the OOM killer.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kata_pulse_sim::judge::{Findings, Page};
use rustix::process::{Pid, Signal, kill_process};

use crate::host::{Host, must_be_real};
use crate::rig::{Boot, NAMESPACE, ONE_AT_A_TIME, Running};

const ENDED: &str = "kata_sandbox_ended";
const ENDS: &str = "kata_pulse_sandboxes_ended_total";
const CONTROLLER: &str = "/sys/fs/cgroup/memory";
/// What the guest wants is more.
const LIMIT_BYTES: u64 = 32 << 20;
const WANTED_MIB: u64 = 150;

/// A memory cgroup that goes with the test.
struct Limit(PathBuf);

impl Limit {
    /// `None`: no memory controller of version 1, or not ours to use.
    fn make() -> Option<Self> {
        let folder = PathBuf::from(CONTROLLER).join(format!("kata-pulse-{}", std::process::id()));
        fs::create_dir(&folder).ok()?;
        let limit = Self(folder);
        fs::write(limit.0.join("memory.limit_in_bytes"), LIMIT_BYTES.to_string()).ok()?;
        Some(limit)
    }

    /// What it has already is not counted.
    fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("memory.oom_control")).unwrap();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().parse().unwrap()
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let started = Instant::now();
        // Busy until its last process is reaped.
        while fs::remove_dir(&self.0).is_err() && started.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What is expected of one machine's end.
struct Expected {
    machine: Running,
    cause: &'static str,
    signal: &'static str,
    exit_code: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_a_kill_and_an_oom_kill_are_told_apart() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some(boot) = Boot::prepare() else { return };
    let host = Host::start(1, 60).await;
    let mut expected = Vec::new();

    // The same power-off: of a pod that is being stopped, and of one whose containers run.
    for (number, is_stopped, cause) in [(1, true, "orderly"), (4, false, "guest")] {
        let mut machine = Running::start(&host, &boot, number, None, None).await;
        let runs = |page: &Page| containers(page, &machine.id) > 0;
        host.settle(runs).await;
        if is_stopped {
            host.node.stop_sandbox(&machine.id).unwrap();
            host.settle(|page| !runs(page)).await;
        }
        machine.console.begin("poweroff -f").unwrap();
        machine.await_end();
        if !is_stopped {
            // Kata's shim looks after its VMM every five seconds: until then its directory stays.
            host.settle(|page| page.sum("kata_pulse_sandboxes", &[("state", "stopping")]) == Some(1.0)).await;
        }
        let usage = machine.remove(&host).await;
        println!("powered off: {}, {:.2} s of CPU", usage.status(), usage.cpu_seconds());
        assert_eq!(usage.status().code(), Some(0));
        expected.push(Expected { machine, cause, signal: "", exit_code: "0" });
    }

    let machine = Running::start(&host, &boot, 2, None, None).await;
    let pid = Pid::from_raw(i32::try_from(machine.vmm).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    machine.await_end();
    host.settle(|page| page.sum("kata_pulse_sandboxes", &[("state", "stopping")]) == Some(1.0)).await;
    let usage = machine.remove(&host).await;
    println!("killed: {}", usage.status());
    assert_eq!(usage.status().signal(), Some(9));
    expected.push(Expected { machine, cause: "vmm", signal: "9", exit_code: "" });

    match Limit::make() {
        Some(limit) => expected.push(of_memory(&host, &boot, &limit).await),
        None => {
            assert!(!must_be_real(), "a memory cgroup of version 1 is needed below {CONTROLLER}");
            println!("SKIPPED: no memory cgroup of version 1 below {CONTROLLER}");
        }
    }

    let count = expected.len() as f64;
    let page = host.settle(|page| page.sum(ENDS, &[]) == Some(count)).await;
    let mut findings = Findings::default();
    for Expected { machine, cause, signal, exit_code } in &expected {
        let found = page.all(ENDED, &[("sandbox_id", &machine.id)]);
        let labels = [("cause", *cause), ("exit_code", *exit_code), ("signal", *signal), ("namespace", NAMESPACE)];
        let fits = matches!(found[..], [one] if one.value == 1.0 && labels.iter().all(|(label, value)| one.labels[*label] == *value));
        findings.holds(fits, format!("{ENDED} of an end by {cause}: {found:?}, expected {labels:?}"));
        findings.near(&format!("ends by {cause}"), page.sum(ENDS, &[("cause", cause), ("vmm", "qemu")]), 1.0, 0.0);
        let left = containers(&page, &machine.id);
        findings.holds(left == 0, format!("{left} series of containers stand after an end by {cause}"));
    }
    host.end().await;
    findings.end();
}

/// Series of containers and pod.
fn containers(page: &Page, id: &str) -> usize {
    page.starting("container_").filter(|sample| sample.labels["pod"] == found_pod(id)).count()
}

/// As the simulator numbers pods and sandboxes.
fn found_pod(id: &str) -> String {
    format!("pod-{}", u64::from_str_radix(&id[48..], 16).unwrap())
}

async fn of_memory(host: &Host, boot: &Boot, limit: &Limit) -> Expected {
    let mut machine = Running::start(host, boot, 3, None, None).await;
    limit.take(machine.vmm);
    machine.console.begin(&format!("dd if=/dev/zero of=/tmp/full bs=1M count={WANTED_MIB}")).unwrap();
    machine.await_end();
    assert_eq!(limit.kills(), 1, "the OOM killer has struck");
    host.settle(|page| page.sum("kata_pulse_sandboxes", &[("state", "stopping")]) == Some(1.0)).await;
    let usage = machine.remove(host).await;
    println!("out of memory: {}", usage.status());
    assert_eq!(usage.status().signal(), Some(9));
    Expected { machine, cause: "oom", signal: "9", exit_code: "" }
}
