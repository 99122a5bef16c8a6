//! Which sandbox does a process belong to? Decided by evidence that a container cannot forge.
//!
//! In: a process's facts and its [`Claim`], and what is proven already. Out: the sandbox, or why not. Pure.
//!
//! A container can name its program `qemu-system-x86_64` and give it a victim's id. It cannot become a child of the
//! victim's shim, enter the host's mount namespace, or write Kata's root-owned state files.

use std::collections::HashMap;

use super::hypervisor::{Claim, ClaimedId};
use super::process::{Outline, ProcessFacts};
use super::{cgroup, clock};
use crate::sandbox::{DirectoryFacts, Pid, ProcessRole, SandboxId};

/// The file's time is the wall clock's, coarse: a second, in the kernel's ticks.
const TOLERANCE_TICKS: u64 = 100;

/// What is proven already, when a further process is judged.
#[derive(Clone, Debug, Default)]
pub struct Proven {
    /// Processes of sandboxes, by pid.
    pub processes: HashMap<Pid, ProvenProcess>,
    /// Pids that root-owned state files of existing sandboxes name.
    pub named_in_state: HashMap<u32, Named>,
    /// Cgroups that the same files name.
    pub cgroups: HashMap<SandboxId, Vec<String>>,
    /// The host's mount namespace; `None` where we may not look: then descent and state files must do.
    pub host_mount_namespace: Option<u64>,
}

impl Proven {
    /// What root-owned state files of an existing sandbox say; `None`: it exists no more.
    pub fn state_tells(&mut self, sandbox: &SandboxId, facts: Option<&DirectoryFacts>) {
        self.named_in_state.retain(|_, named| named.sandbox != *sandbox);
        self.cgroups.remove(sandbox);
        if let Some(facts) = facts {
            self.add_state(sandbox, facts);
        }
    }

    /// The same without forgetting what it said before.
    pub fn add_state(&mut self, sandbox: &SandboxId, facts: &DirectoryFacts) {
        for named in [facts.vmm_pid, facts.virtiofsd_pid].into_iter().flatten() {
            let written_ticks = clock::to_boot(named.written).map(clock::to_ticks);
            self.named_in_state.insert(named.pid, Named { sandbox: sandbox.clone(), written_ticks });
        }
        if !facts.cgroups.is_empty() {
            self.cgroups.insert(sandbox.clone(), facts.cgroups.clone());
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenProcess {
    pub sandbox: SandboxId,
    pub role: ProcessRole,
    pub start_ticks: u64,
}

/// A pid that a state file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub sandbox: SandboxId,
    /// When the file was written, in ticks since boot: a process that started later is another one.
    pub written_ticks: Option<u64>,
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

/// Whether anything could prove this process, once its arguments are known. Nothing here depends on them.
pub fn could_belong(outline: &Outline, proven: &Proven) -> bool {
    let started_before =
        |pid: Pid| proven.processes.get(&pid).is_some_and(|process| process.start_ticks <= outline.start_ticks);
    started_before(outline.parent)
        || started_before(outline.pid)
        || proven.named_in_state.contains_key(&outline.pid.0)
        || is_hosts_root(outline, proven)
        || proven.cgroups.values().any(|named| cgroup::is_inside(&outline.cgroups, named))
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
        && proven.processes.get(&facts.outline.parent).is_some_and(|parent| parent.role == ProcessRole::Shim)
}

/// Children of a proven shim, and children of a proven virtiofsd that are virtiofsd themselves (its worker).
fn by_descent(facts: &ProcessFacts, claim: &Claim, proven: &Proven) -> Option<SandboxId> {
    let parent = proven.processes.get(&facts.outline.parent)?;
    let fits = match parent.role {
        ProcessRole::Shim => claim.role != ProcessRole::Shim,
        ProcessRole::Virtiofsd => claim.role == ProcessRole::Virtiofsd,
        ProcessRole::Vmm => false,
    };
    // A parent that started later is another process that got the pid.
    (fits && parent.start_ticks <= facts.outline.start_ticks).then(|| parent.sandbox.clone())
}

fn by_state_file(facts: &ProcessFacts, claim: &Claim, proven: &Proven) -> Option<SandboxId> {
    let named = proven.named_in_state.get(&facts.outline.pid.0)?;
    // The pid may have been reused since the file was written: the process must say the same, or be older.
    let agrees = match &claim.sandbox {
        Some(claimed) => claimed.matches(&named.sandbox),
        None => named.written_ticks.is_some_and(|written| facts.outline.start_ticks <= written + TOLERANCE_TICKS),
    };
    (agrees && claim.role != ProcessRole::Shim).then(|| named.sandbox.clone())
}

/// Root in the host's own mount namespace: nobody in a container is that.
fn by_host_namespace(facts: &ProcessFacts, claim: &Claim, proven: &Proven) -> Option<SandboxId> {
    if !is_hosts_root(&facts.outline, proven) {
        return None;
    }
    match claim.sandbox.as_ref()? {
        ClaimedId::Whole(id) => Some(id.clone()),
        ClaimedId::Prefix(_) => None,
    }
}

fn is_hosts_root(outline: &Outline, proven: &Proven) -> bool {
    proven.host_mount_namespace.is_some() && outline.mount_namespace == proven.host_mount_namespace && outline.uid == 0
}

/// In a cgroup that Kata's own state file names for the sandbox: only the host's root puts a process there.
fn by_cgroup(facts: &ProcessFacts, claim: &Claim, proven: &Proven) -> Option<SandboxId> {
    let ClaimedId::Whole(id) = claim.sandbox.as_ref()? else { return None };
    let named = proven.cgroups.get(id)?;
    cgroup::is_inside(&facts.outline.cgroups, named).then(|| id.clone())
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
        let outline = Outline {
            pid: Pid(pid),
            parent: Pid(parent),
            start_ticks: 100,
            executable: executable.into(),
            mount_namespace: Some(namespace),
            cgroups: vec!["/kubepods/pod1/kata_evil".into()],
            uid,
        };
        let words = std::iter::once(executable).chain(arguments.split(' '));
        ProcessFacts { outline, arguments: words.map(|argument| argument.as_bytes().to_vec()).collect() }
    }

    fn proven() -> Proven {
        let shim = ProvenProcess { sandbox: id("victim"), role: ProcessRole::Shim, start_ticks: 50 };
        let virtiofsd = ProvenProcess { sandbox: id("victim"), role: ProcessRole::Virtiofsd, start_ticks: 60 };
        Proven {
            processes: HashMap::from([(Pid(10), shim), (Pid(11), virtiofsd)]),
            named_in_state: HashMap::from([(77, Named { sandbox: id("victim"), written_ticks: Some(150) })]),
            cgroups: HashMap::from([(id("victim"), vec!["/kubepods/pod2/kata_victim".into()])]),
            host_mount_namespace: Some(HOST),
        }
    }

    fn check(facts: &ProcessFacts, expected: Membership) {
        let claim = classify(&facts.outline.executable, &facts.arguments).unwrap();
        assert_eq!(decide(facts, &claim, &proven()), expected, "{facts:?}");
        let could = could_belong(&facts.outline, &proven());
        assert!(could || expected == Membership::Unproven, "its arguments would not have been read: {facts:?}");
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
    fn a_reused_pid_that_claims_nothing_is_not_believed() {
        let mut silent = process(77, 1, "/firecracker", "--api-sock /x", 999, 0);
        check(&silent, victim());
        silent.outline.start_ticks = 150 + TOLERANCE_TICKS;
        check(&silent, victim());
        silent.outline.start_ticks += 1;
        check(&silent, Membership::Unproven);
    }

    #[test]
    fn only_what_could_be_proven_is_worth_a_look_at_its_arguments() {
        let could = |facts: &ProcessFacts| could_belong(&facts.outline, &proven());
        let vmm = |pid, parent, namespace, uid| process(pid, parent, "/qemu-system-x86_64", "", namespace, uid);
        assert!(!could(&vmm(5, 1, 999, 0)), "any container");
        assert!(!could(&vmm(5, 1, HOST, 1000)), "any user");
        assert!(could(&vmm(5, 1, HOST, 0)) && could(&vmm(5, 10, 999, 0)) && could(&vmm(77, 1, 999, 0)));
        assert!(could(&vmm(11, 1, 999, 0)), "known already");
    }

    #[test]
    fn an_orphan_in_the_hosts_namespace_belongs() {
        check(&process(5, 1, "/qemu-system-x86_64", "-name sandbox-victim", HOST, 0), victim());
    }

    #[test]
    fn the_cgroup_of_the_sandbox_proves_what_nothing_else_can() {
        let mut orphan = process(5, 1, "/firecracker", "--id victim", 999, 0);
        orphan.outline.cgroups = vec!["/kubepods/pod2/kata_victim".into()];
        check(&orphan, victim());
        orphan.outline.cgroups = vec!["/kubepods/pod1/evil/kubepods/pod2/kata_victim".into()];
        check(&orphan, Membership::Unproven);
    }

    #[test]
    fn a_child_of_the_shim_before_its_exec_is_no_second_shim() {
        check(&process(5, 10, "/containerd-shim-kata-v2", "-id victim", HOST, 0), Membership::NotYet);
    }

    #[test]
    fn a_parent_that_is_younger_is_another_process() {
        let mut child = process(5, 10, "/qemu-system-x86_64", "-name sandbox-victim", 999, 0);
        child.outline.start_ticks = 49;
        check(&child, Membership::Unproven);
    }
}
