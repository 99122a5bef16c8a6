//! What processes really used, as the kernel told their shim: after work of a known amount, and with another VMM in the
//! place of the first.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use kata_pulse_sim::{Burn, Chores, Node, Processes, SandboxSpec};

const ID: &str = "used";

fn with_processes(kind: &str) -> SandboxSpec {
    let processes = Some(Processes::of(env!("CARGO_BIN_EXE_kata-pulse-sim")));
    SandboxSpec { id: ID.to_owned(), processes, ..SandboxSpec::numbered(1, kind.parse().unwrap()) }
}

async fn node_with(root: &Path, spec: SandboxSpec) -> Node {
    let node = Node::new(root);
    node.create(spec).await.unwrap();
    node
}

/// Some tenths of a second of CPU.
fn work() -> Burn {
    Burn { chores: Chores { user: 0.5, system: 0.5, open_files: 2, ..Chores::default() }, ..Burn::default() }
}

#[tokio::test]
async fn every_process_of_a_removed_sandbox_has_an_account_with_what_it_did() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), with_processes("go-clh")).await;
    for role in ["vmm", "virtiofsd", "shim"] {
        node.burn_role(ID, role, &work()).unwrap();
    }
    // Long enough for a little on a machine that is busy with other things.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let truths = ["vmm", "virtiofsd", "shim"].map(|role| (role, node.rest_role(ID, role).unwrap().chores));
    assert!(node.usage(ID).is_err(), "it lives");
    node.remove(ID).await.unwrap();
    let usages = node.usage(ID).unwrap();
    let roles: Vec<&str> = usages.iter().map(|usage| usage.role.as_str()).collect();
    assert_eq!(roles.len(), 4, "{roles:?}");
    assert!(roles.contains(&"virtiofsd-worker"));
    for (role, truth) in truths {
        let usage = usages.iter().find(|usage| usage.role == role).unwrap();
        let (cpu, done) = (usage.cpu_seconds(), truth.user_seconds + truth.system_seconds);
        println!("{role} counted {done:.3} s of work, the kernel {cpu:.3} s in all");
        assert!(done > 0.02 && (done..done + 0.5).contains(&cpu), "{role}: {usage:?}, {truth:?}");
        assert!(usage.peak_rss_bytes > 1 << 20 && usage.minor_faults > 100 && usage.io.is_some(), "{usage:?}");
    }
}

#[tokio::test]
async fn a_replaced_vmm_is_another_process_and_both_are_told() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), with_processes("go-qemu")).await;
    let first = node.pids(ID).unwrap()["vmm"];
    let second = node.replace_vmm(ID).unwrap();
    assert_eq!(node.pids(ID).unwrap()["vmm"], second);
    node.burn_role(ID, "vmm", &work()).unwrap();
    node.remove(ID).await.unwrap();
    let usages = node.usage(ID).unwrap();
    let vmms: Vec<u32> = usages.iter().filter(|usage| usage.role == "vmm").map(|usage| usage.pid).collect();
    assert_eq!(vmms, [first, second]);
}

#[tokio::test]
async fn a_program_of_others_may_be_the_vmm_and_its_end_is_told() {
    let root = tempfile::tempdir().unwrap();
    let mut spec = with_processes("go-qemu");
    let command = ["/bin/sleep", "1000"].map(str::to_owned);
    spec.processes.as_mut().unwrap().machine = Some(command.to_vec());
    let node = node_with(root.path(), spec).await;
    assert!(node.burn_role(ID, "vmm", &work()).is_err(), "it takes no orders");
    node.remove(ID).await.unwrap();
    let usages = node.usage(ID).unwrap();
    let vmm = usages.iter().find(|usage| usage.role == "vmm").unwrap();
    assert_eq!(vmm.status().signal(), Some(9), "{vmm:?}");
}
