//! Which sandbox does a process belong to? Decided by evidence that a container cannot forge.
//!
//! In: a process's facts and its [`Claim`], and what is proven already. Out: the sandbox, or why not. Pure.
//!
//! A container can name its program `qemu-system-x86_64` and give it a victim's id. It cannot become a child of the
//! victim's shim, enter the host's mount namespace, or write Kata's root-owned state files.

use std::collections::HashMap;

use super::cgroup;
use super::hypervisor::{Claim, ClaimedId};
use super::process::ProcessFacts;
use crate::sandbox::{Pid, ProcessRole, SandboxId};

/// What is proven already, when a further process is judged.
#[derive(Debug, Default)]
pub struct Proven {
    /// Processes of sandboxes, by pid.
    pub processes: HashMap<Pid, ProvenProcess>,
    /// Pids that root-owned state files of existing sandboxes name.
    pub named_in_state: HashMap<u32, SandboxId>,
    /// Cgroups that the same files name.
    pub cgroups: HashMap<SandboxId, Vec<String>>,
    /// The host's mount namespace; `None` where we may not look: then descent and state files must do.
    pub host_mount_namespace: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenProcess {
    pub sandbox: SandboxId,
    pub role: ProcessRole,
    pub start_ticks: u64,
}

/// What came out for one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    Belongs(SandboxId),
    /// It claims to be Kata's, and nothing supports that.
    Unproven,
    /// A child of the shim that has not become another program yet.
    NotYet,
}

pub fn decide(facts: &ProcessFacts, claim: &Claim, proven: &Proven) -> Membership {
    if is_fork_of_shim(facts, claim, proven) {
        return Membership::NotYet;
    }
    by_descent(facts, claim, proven)
        .or_else(|| by_state_file(facts, claim, proven))
        .or_else(|| by_host_namespace(facts, claim, proven))
        .or_else(|| by_cgroup(facts, claim, proven))
        .map_or(Membership::Unproven, Membership::Belongs)
}

/// Between fork and exec a child of the shim looks like a second shim.
fn is_fork_of_shim(facts: &ProcessFacts, claim: &Claim, proven: &Proven) -> bool {
    claim.role == ProcessRole::Shim
        && proven.processes.get(&facts.parent).is_some_and(|parent| parent.role == ProcessRole::Shim)
}

/// Children of a proven shim, and children of a proven virtiofsd that are virtiofsd themselves (its worker).
fn by_descent(facts: &ProcessFacts, claim: &Claim, proven: &Proven) -> Option<SandboxId> {
    let parent = proven.processes.get(&facts.parent)?;
    let fits = match parent.role {
        ProcessRole::Shim => claim.role != ProcessRole::Shim,
        ProcessRole::Virtiofsd => claim.role == ProcessRole::Virtiofsd,
        ProcessRole::Vmm => false,
    };
    // A parent that started later is another process that got the pid.
    (fits && parent.start_ticks <= facts.start_ticks).then(|| parent.sandbox.clone())
}

fn by_state_file(facts: &ProcessFacts, claim: &Claim, proven: &Proven) -> Option<SandboxId> {
    let sandbox = proven.named_in_state.get(&facts.pid.0)?;
    // The pid may have been reused since the file was written: the process must say the same.
    let agrees = claim.sandbox.as_ref().is_none_or(|claimed| claimed.matches(sandbox));
    (agrees && claim.role != ProcessRole::Shim).then(|| sandbox.clone())
}

/// Root in the host's own mount namespace: nobody in a container is that.
fn by_host_namespace(facts: &ProcessFacts, claim: &Claim, proven: &Proven) -> Option<SandboxId> {
    let host = proven.host_mount_namespace?;
    if facts.mount_namespace != Some(host) || facts.uid != 0 {
        return None;
    }
    match claim.sandbox.as_ref()? {
        ClaimedId::Whole(id) => Some(id.clone()),
        ClaimedId::Prefix(_) => None,
    }
}

/// In a cgroup that Kata's own state file names for the sandbox: only the host's root puts a process there.
fn by_cgroup(facts: &ProcessFacts, claim: &Claim, proven: &Proven) -> Option<SandboxId> {
    let ClaimedId::Whole(id) = claim.sandbox.as_ref()? else { return None };
    let named = proven.cgroups.get(id)?;
    cgroup::is_inside(&facts.cgroups, named).then(|| id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::hypervisor::classify;

    const HOST: u64 = 1;

    fn id(text: &str) -> SandboxId {
        SandboxId::parse(text).unwrap()
    }

    fn process(pid: u32, parent: u32, executable: &str, arguments: &str, namespace: u64, uid: u32) -> ProcessFacts {
        ProcessFacts {
            pid: Pid(pid),
            parent: Pid(parent),
            start_ticks: 100,
            executable: executable.into(),
            arguments: std::iter::once(executable)
                .chain(arguments.split(' '))
                .map(|argument| argument.as_bytes().to_vec())
                .collect(),
            mount_namespace: Some(namespace),
            cgroups: vec!["/kubepods/pod1/kata_evil".into()],
            uid,
        }
    }

    fn proven() -> Proven {
        let shim = ProvenProcess { sandbox: id("victim"), role: ProcessRole::Shim, start_ticks: 50 };
        let virtiofsd = ProvenProcess { sandbox: id("victim"), role: ProcessRole::Virtiofsd, start_ticks: 60 };
        Proven {
            processes: HashMap::from([(Pid(10), shim), (Pid(11), virtiofsd)]),
            named_in_state: HashMap::from([(77, id("victim"))]),
            cgroups: HashMap::from([(id("victim"), vec!["/kubepods/pod2/kata_victim".into()])]),
            host_mount_namespace: Some(HOST),
        }
    }

    fn check(facts: &ProcessFacts, expected: Membership) {
        let claim = classify(&facts.executable, &facts.arguments).unwrap();
        assert_eq!(decide(facts, &claim, &proven()), expected, "{facts:?}");
    }

    fn victim() -> Membership {
        Membership::Belongs(id("victim"))
    }

    #[test]
    fn a_container_cannot_forge_a_vmm() {
        check(&process(5, 1, "/qemu-system-x86_64", "-name sandbox-victim", 999, 0), Membership::Unproven);
        check(&process(5, 4, "/containerd-shim-kata-v2", "-id victim", 999, 0), Membership::Unproven);
    }

    #[test]
    fn an_unprivileged_user_of_the_host_cannot_either() {
        check(&process(5, 1, "/qemu-system-x86_64", "-name sandbox-victim", HOST, 1000), Membership::Unproven);
    }

    #[test]
    fn children_of_the_shim_belong_whatever_they_claim() {
        check(&process(5, 10, "/qemu-system-x86_64", "-name other", HOST, 0), victim());
        check(&process(5, 10, "/firecracker", "--id victim", 999, 0), victim());
        check(&process(5, 10, "/qemu-system-x86_64", "-name sandbox-victim", HOST, 1001), victim());
    }

    #[test]
    fn the_worker_of_virtiofsd_belongs() {
        let shared = "--shared-dir=/run/kata-containers/shared/sandboxes/victim/shared";
        check(&process(5, 11, "/virtiofsd", shared, 999, 0), victim());
        check(&process(5, 11, "/qemu-system-x86_64", "-name sandbox-x", 999, 0), Membership::Unproven);
    }

    #[test]
    fn a_jailed_firecracker_is_proven_by_the_state_file() {
        check(&process(77, 1, "/firecracker", "--id victim", 999, 0), victim());
        check(&process(77, 1, "/firecracker", "--id another", 999, 0), Membership::Unproven);
    }

    #[test]
    fn an_orphan_in_the_hosts_namespace_belongs() {
        check(&process(5, 1, "/qemu-system-x86_64", "-name sandbox-victim", HOST, 0), victim());
    }

    #[test]
    fn the_cgroup_of_the_sandbox_proves_what_nothing_else_can() {
        let mut orphan = process(5, 1, "/firecracker", "--id victim", 999, 0);
        orphan.cgroups = vec!["/kubepods/pod2/kata_victim".into()];
        check(&orphan, victim());
        orphan.cgroups = vec!["/kubepods/pod1/evil/kubepods/pod2/kata_victim".into()];
        check(&orphan, Membership::Unproven);
    }

    #[test]
    fn a_child_of_the_shim_before_its_exec_is_no_second_shim() {
        check(&process(5, 10, "/containerd-shim-kata-v2", "-id victim", HOST, 0), Membership::NotYet);
    }

    #[test]
    fn a_parent_that_is_younger_is_another_process() {
        let mut child = process(5, 10, "/qemu-system-x86_64", "-name sandbox-victim", 999, 0);
        child.start_ticks = 49;
        check(&child, Membership::Unproven);
    }
}
