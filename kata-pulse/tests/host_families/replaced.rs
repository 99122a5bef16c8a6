//! Processes that go while their sandbox stays: another VMM in the place of the first, and a stranger with its pid.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kata_pulse_sim::Burn;
use kata_pulse_sim::judge::{Findings, Page};
use rustix::process::{Pid, Signal, kill_process};

use crate::ONE_AT_A_TIME;
use crate::amounts::{CPU, MEMORY, Of};
use crate::host::{Host, has_ebpf, must_be_real};

const WORKED_FOR: Duration = Duration::from_secs(2);
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

fn vmm_cpu(of: &Of<'_>, page: &Page) -> Option<f64> {
    of.roles(page, CPU, &["vcpu", "vmm"], &[])
}

/// Work of so many CPUs' worth, on a page every 200 ms that must not be lower than the one before.
async fn work(host: &Host, id: &str, last: &mut Page, findings: &mut Findings) {
    host.node.burn(id, &Burn { vcpu_user: 0.5, threads: 2, ..Burn::default() }).unwrap();
    watch(host, last, findings, WORKED_FOR).await;
    host.node.stop_burning(id).unwrap();
    // One more reading of the host.
    watch(host, last, findings, WORKED_FOR).await;
}

async fn watch(host: &Host, last: &mut Page, findings: &mut Findings, patience: Duration) {
    let started = Instant::now();
    while started.elapsed() < patience {
        let page = host.page();
        let fallen = last.fallen(&page);
        findings.holds(fallen.is_empty(), fallen.join("\n  "));
        *last = page;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_go_on_with_another_vmm_under_the_same_sandbox() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let host = Host::start(1, 60).await;
    let spec = host.pod(1, "go-clh", "default");
    let id = spec.id.clone();
    host.node.create(spec).await.unwrap();
    let of = Of(&id);
    // The agent's programs may be a while in coming when those of the test before are just going.
    let known = host.settle(|page| vmm_cpu(&of, page).is_some()).await;
    let (mut findings, mut last) = (Findings::default(), known);
    let first = host.node.pids(&id).unwrap()["vmm"];
    work(&host, &id, &mut last, &mut findings).await;
    let of_first = vmm_cpu(&of, &last);
    let second = host.node.replace_vmm(&id).unwrap();
    assert_ne!(first, second);
    work(&host, &id, &mut last, &mut findings).await;
    let of_both = vmm_cpu(&of, &last);
    host.node.remove(&id).await.unwrap();
    let usages = host.node.usage(&id).unwrap();
    let cpu = |pid| usages.iter().find(|usage| usage.pid == pid).expect("it was reaped").cpu_seconds();
    println!("the first VMM used {:.3} s, the second {:.3} s", cpu(first), cpu(second));
    assert!(cpu(first) > 0.2 && cpu(second) > 0.2, "they have worked");
    findings.near("CPU of the first VMM", of_first, cpu(first), 0.05);
    let ebpf = has_ebpf(&last, "the last moments of a VMM");
    findings.near("CPU of both VMMs", of_both, cpu(first) + cpu(second), if ebpf { 0.08 } else { 0.3 });
    host.end().await;
    findings.end();
}

/// A stranger that is busy and has this pid; `None` where the next pid cannot be chosen.
fn stranger_with(pid: u32) -> Option<Child> {
    for _ in 0..200 {
        fs::write(LAST_PID, (pid - 1).to_string()).ok()?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "sh", "-c", "while :; do :; done"]).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        if child.id() == pid {
            return Some(child);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_the_pid_of_a_vmm_that_ended_is_not_counted() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let host = Host::start(1, 60).await;
    let spec = host.pod(1, "go-clh", "default");
    let id = spec.id.clone();
    host.node.create(spec).await.unwrap();
    let of = Of(&id);
    host.settle(|page| vmm_cpu(&of, page).is_some()).await;
    let vmm = host.node.pids(&id).unwrap()["vmm"];
    kill_process(Pid::from_raw(i32::try_from(vmm).unwrap()).unwrap(), Signal::KILL).unwrap();
    let started = Instant::now();
    while fs::exists(format!("/proc/{vmm}")).unwrap() {
        assert!(started.elapsed() < Duration::from_secs(10), "the shim does not reap its VMM");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let Some(mut stranger) = stranger_with(vmm) else {
        assert!(!must_be_real(), "{LAST_PID} must be writable");
        println!("SKIPPED: the next pid cannot be chosen by {LAST_PID}");
        host.end().await;
        return;
    };
    // Time for a reading before the stranger has used much.
    let (mut findings, mut last) = (Findings::default(), host.page());
    watch(&host, &mut last, &mut findings, WORKED_FOR).await;
    let before = vmm_cpu(&of, &last);
    watch(&host, &mut last, &mut findings, WORKED_FOR * 2).await;
    let after = vmm_cpu(&of, &last);
    let stat = fs::read_to_string(format!("/proc/{vmm}/schedstat")).unwrap();
    let used = stat.split_ascii_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9;
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    println!("the stranger {vmm} used {used:.3} s");
    assert!(used > 0.5, "it was busy");
    findings.between("CPU of a VMM that has ended", after, 0.0, before.unwrap_or(0.0));
    findings.between("CPU of a VMM that did little", after, 0.0, 0.3);
    let memory = last.all(MEMORY, &[("sandbox_id", &id), ("role", "vmm")]);
    findings.holds(memory.is_empty(), format!("memory of a VMM that has ended: {memory:?}"));
    host.end().await;
    findings.end();
}
