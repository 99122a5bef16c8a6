//! The processes that are proven to belong to sandboxes, whether or not the sandbox's directory exists yet.
//!
//! In: facts of processes, ends of processes. Out: what changed. No IO.

use std::collections::{BTreeSet, HashMap};

use super::hypervisor::{self, Claim, ClaimedId};
use super::membership::{self, Membership, Proven, ProvenProcess};
use super::process::{Outline, ProcessFacts};
use crate::sandbox::{DirectoryFacts, Pid, Process, ProcessFound, ProcessRole, SandboxId, Version};

/// No sandbox has more: shim, VMM, two virtiofsd, and a few that are being replaced.
const MAX_PER_SANDBOX: usize = 32;

/// What one look at a process brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// New, or another program in the same process.
    Joined(SandboxId, ProcessFound),
    Known,
    /// Claims to be Kata's, and nothing supports it: pid and start time.
    Foreign(Pid, u64),
    /// None of Kata's.
    Stranger,
}

#[derive(Debug, Default)]
pub struct Census {
    proven: Proven,
    found: HashMap<Pid, ProcessFound>,
    by_sandbox: HashMap<SandboxId, BTreeSet<Pid>>,
    /// Whose a machine of the VM factory has become, by the machine's name.
    machines: HashMap<SandboxId, SandboxId>,
    /// Members whose pid is another's, or theirs as another program, since the last call of [`Census::take_replaced`].
    replaced: Vec<(SandboxId, ProcessFound)>,
}

impl Census {
    pub fn new(host_mount_namespace: Option<u64>) -> Self {
        Self { proven: Proven { host_mount_namespace, ..Proven::default() }, ..Self::default() }
    }

    pub fn judge(&mut self, facts: &ProcessFacts) -> Judgement {
        let Some(mut claim) = hypervisor::classify(&facts.outline.executable, &facts.arguments) else {
            return Judgement::Stranger;
        };
        let was_in_factory = self.take_from_factory(&mut claim);
        let known_as = self.known_as(facts, &claim).cloned();
        match (membership::decide(facts, &claim, &self.proven), known_as) {
            (Membership::Belongs(sandbox), Some(known)) if was_in_factory && sandbox != known => {
                self.join(sandbox, facts, &claim)
            }
            // What proved it once may have ended since: nothing else ever moves.
            (_, Some(_)) => Judgement::Known,
            (Membership::Belongs(sandbox), None) => self.join(sandbox, facts, &claim),
            (Membership::Unproven, None) => Judgement::Foreign(facts.outline.pid, facts.outline.start_ticks),
            (Membership::NotYet, None) => Judgement::Stranger,
        }
    }

    /// A machine of the VM factory claims its own name; the link in Kata's state directory says whose it became.
    fn take_from_factory(&self, claim: &mut Claim) -> bool {
        let Some(ClaimedId::Whole(machine)) = &claim.sandbox else { return false };
        let Some(owner) = self.machines.get(machine) else { return false };
        claim.sandbox = Some(ClaimedId::Whole(owner.clone()));
        true
    }

    /// Judges many at once, parents before children.
    pub fn judge_all(&mut self, mut all: Vec<ProcessFacts>) -> Vec<Judgement> {
        all.sort_by_key(|facts| facts.outline.start_ticks);
        let mut judgements = Vec::new();
        // Within one clock tick the order of starts is unknown: three rounds see shim, virtiofsd and its worker.
        for round in 0..3 {
            let mut undecided = Vec::new();
            for facts in all {
                match self.judge(&facts) {
                    Judgement::Foreign(..) if round < 2 => undecided.push(facts),
                    judgement => judgements.push(judgement),
                }
            }
            all = undecided;
        }
        judgements
    }

    /// The sandbox of a process that is known as what it is now.
    fn known_as(&self, facts: &ProcessFacts, claim: &Claim) -> Option<&SandboxId> {
        let ProcessFound { process, vmm, .. } = self.found.get(&facts.outline.pid)?;
        let same = (process.start_ticks, process.role, *vmm) == (facts.outline.start_ticks, claim.role, claim.vmm);
        self.proven.processes.get(&facts.outline.pid).filter(|_| same).map(|proven| &proven.sandbox)
    }

    fn join(&mut self, sandbox: SandboxId, facts: &ProcessFacts, claim: &Claim) -> Judgement {
        let Outline { pid, start_ticks, .. } = facts.outline;
        let replaced = self.end(pid, None);
        self.replaced.extend(replaced);
        let members = self.by_sandbox.entry(sandbox.clone()).or_default();
        if members.len() >= MAX_PER_SANDBOX {
            return Judgement::Foreign(pid, start_ticks);
        }
        members.insert(pid);
        let process = Process { role: claim.role, pid, start_ticks };
        let proven = ProvenProcess { sandbox: sandbox.clone(), role: claim.role, start_ticks };
        self.proven.processes.insert(pid, proven);
        let found = ProcessFound { process, vmm: claim.vmm, runtime: claim.runtime, version: None };
        self.found.insert(pid, found.clone());
        Judgement::Joined(sandbox, found)
    }

    /// Members that are none any more because something else has their pid.
    pub fn take_replaced(&mut self) -> Vec<(SandboxId, ProcessFound)> {
        std::mem::take(&mut self.replaced)
    }

    /// The process ended; `None` if it was none of ours, or another one has the pid by now.
    pub fn end(&mut self, pid: Pid, start_ticks: Option<u64>) -> Option<(SandboxId, ProcessFound)> {
        let process = self.found.get(&pid)?.process;
        if start_ticks.is_some_and(|start| start != process.start_ticks) {
            return None;
        }
        self.forget(pid)
    }

    fn forget(&mut self, pid: Pid) -> Option<(SandboxId, ProcessFound)> {
        let found = self.found.remove(&pid)?;
        let proven = self.proven.processes.remove(&pid)?;
        if let Some(members) = self.by_sandbox.get_mut(&proven.sandbox) {
            members.remove(&pid);
            if members.is_empty() {
                self.by_sandbox.remove(&proven.sandbox);
            }
        }
        Some((proven.sandbox, found))
    }

    pub fn set_version(&mut self, pid: Pid, version: Option<Version>) {
        if let Some(found) = self.found.get_mut(&pid) {
            found.version = version;
        }
    }

    /// What root-owned state files of an existing sandbox say; `None`: it exists no more.
    pub fn state_tells(&mut self, sandbox: &SandboxId, facts: Option<&DirectoryFacts>) {
        self.proven.state_tells(sandbox, facts);
        self.machines.retain(|_, owner| owner != sandbox);
        let machine = facts.and_then(|facts| facts.machine.clone());
        self.machines.extend(machine.map(|machine| (machine, sandbox.clone())));
    }

    pub fn proven(&self) -> &Proven {
        &self.proven
    }

    pub fn members(&self, sandbox: &SandboxId) -> impl Iterator<Item = &ProcessFound> {
        self.by_sandbox.get(sandbox).into_iter().flatten().filter_map(|pid| self.found.get(pid))
    }

    pub fn all(&self) -> impl Iterator<Item = Process> + '_ {
        self.found.values().map(|found| found.process)
    }

    pub fn has(&self, sandbox: &SandboxId, role: ProcessRole) -> bool {
        self.members(sandbox).any(|found| found.process.role == role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SandboxId {
        SandboxId::parse(text).unwrap()
    }

    fn facts(pid: u32, parent: u32, start: u64, line: &str) -> ProcessFacts {
        let arguments: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        let outline = Outline {
            pid: Pid(pid),
            parent: Pid(parent),
            start_ticks: start,
            executable: line.split(' ').next().unwrap().into(),
            mount_namespace: Some(if line.contains("jail") { 2 } else { 1 }),
            cgroups: Vec::new(),
            uid: 0,
        };
        ProcessFacts { outline, arguments }
    }

    fn tree() -> Vec<ProcessFacts> {
        let shared = "--shared-dir=/run/kata-containers/shared/sandboxes/aa/shared";
        vec![
            facts(4, 3, 10, &format!("/virtiofsd {shared} --jail")),
            facts(3, 1, 10, &format!("/virtiofsd {shared} jail")),
            facts(2, 1, 10, "/qemu-system-x86_64 -name sandbox-aa"),
            facts(1, 0, 10, "/containerd-shim-kata-v2 -id aa"),
        ]
    }

    #[test]
    fn a_tree_that_started_within_one_tick_is_found_whole() {
        let mut census = Census::new(Some(1));
        let judgements = census.judge_all(tree());
        assert_eq!(judgements.iter().filter(|one| matches!(one, Judgement::Joined(..))).count(), 4);
        let roles: Vec<_> = census.members(&id("aa")).map(|found| found.process.role).collect();
        use ProcessRole::{Shim, Virtiofsd, Vmm};
        assert_eq!(roles, [Shim, Vmm, Virtiofsd, Virtiofsd]);
        assert!(census.judge_all(tree()).iter().all(|one| *one == Judgement::Known));
    }

    #[test]
    fn a_process_ends_once_and_only_as_itself() {
        let mut census = Census::new(Some(1));
        census.judge_all(tree());
        assert_eq!(census.end(Pid(2), Some(11)), None);
        assert_eq!(census.end(Pid(2), Some(10)).unwrap().0, id("aa"));
        assert_eq!(census.end(Pid(2), Some(10)), None);
        assert!(!census.has(&id("aa"), ProcessRole::Vmm) && census.has(&id("aa"), ProcessRole::Shim));
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let mut census = Census::new(Some(1));
        census.judge_all(tree());
        let later = facts(2, 0, 99, "/qemu-system-x86_64 -name sandbox-bb");
        assert!(matches!(census.judge(&later), Judgement::Joined(sandbox, _) if sandbox == id("bb")));
        assert!(!census.has(&id("aa"), ProcessRole::Vmm));
        let old = Process { role: ProcessRole::Vmm, pid: Pid(2), start_ticks: 10 };
        let replaced = census.take_replaced();
        assert!(
            matches!(&replaced[..], [(owner, found)] if *owner == id("aa") && found.process == old),
            "{replaced:?}"
        );
        assert_eq!(census.take_replaced(), []);
    }

    #[test]
    fn a_reused_pid_that_finds_its_sandbox_full_is_the_end_of_the_old_process() {
        let mut census = Census::new(Some(1));
        for pid in 1..=MAX_PER_SANDBOX as u32 {
            census.judge(&facts(pid, 0, 5, "/qemu-system-x86_64 -name sandbox-aa"));
        }
        census.judge(&facts(100, 0, 5, "/qemu-system-x86_64 -name sandbox-bb"));
        assert_eq!(
            census.judge(&facts(100, 0, 9, "/qemu-system-x86_64 -name sandbox-aa")),
            Judgement::Foreign(Pid(100), 9)
        );
        let replaced = census.take_replaced();
        assert!(
            matches!(&replaced[..], [(owner, old)] if *owner == id("bb") && old.process.pid == Pid(100)),
            "{replaced:?}"
        );
    }

    #[test]
    fn a_machine_of_the_factory_moves_to_the_sandbox_that_took_it_and_nothing_else_moves() {
        let mut census = Census::new(Some(1));
        let machine = facts(2, 0, 10, "/qemu-system-x86_64 -name sandbox-uuid");
        assert!(matches!(census.judge(&machine), Judgement::Joined(sandbox, _) if sandbox == id("uuid")));
        let taken = DirectoryFacts { machine: Some(id("uuid")), ..DirectoryFacts::default() };
        census.state_tells(&id("aa"), Some(&taken));
        assert!(matches!(census.judge(&machine), Judgement::Joined(sandbox, _) if sandbox == id("aa")));
        assert_eq!(census.judge(&machine), Judgement::Known);
        let mut census = Census::new(Some(1));
        let shim = facts(1, 0, 10, "/containerd-shim-kata-v2 -id aa");
        let child = facts(3, 1, 11, "/qemu-system-x86_64 -name sandbox-other");
        census.judge_all(vec![shim, child]);
        census.end(Pid(1), None);
        assert_eq!(census.judge(&facts(3, 0, 11, "/qemu-system-x86_64 -name sandbox-other")), Judgement::Known);
        assert!(census.has(&id("aa"), ProcessRole::Vmm));
    }

    #[test]
    fn one_sandbox_cannot_fill_the_table() {
        let mut census = Census::new(Some(1));
        for pid in 1..=100 {
            census.judge(&facts(pid, 0, 5, "/qemu-system-x86_64 -name sandbox-aa"));
        }
        assert_eq!(census.members(&id("aa")).count(), MAX_PER_SANDBOX);
    }
}
