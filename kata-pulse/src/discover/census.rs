//! The processes that are proven to belong to sandboxes, whether or not the sandbox's directory exists yet.
//!
//! In: facts of processes, ends of processes. Out: what changed. No IO.

use std::collections::{BTreeSet, HashMap};

use super::hypervisor::{self, Claim};
use super::membership::{self, Membership, Proven, ProvenProcess};
use super::process::ProcessFacts;
use crate::sandbox::{Pid, Process, ProcessFound, ProcessRole, SandboxId, Version};

/// No sandbox has more: shim, VMM, two virtiofsd, and a few that are being replaced.
const MAX_PER_SANDBOX: usize = 32;

/// What one look at a process brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// New, or another program in the same process.
    Joined(SandboxId, ProcessFound),
    Known,
    /// Claims to be Kata's, and nothing supports it.
    Foreign,
    /// None of Kata's.
    Stranger,
}

#[derive(Debug, Default)]
pub struct Census {
    proven: Proven,
    found: HashMap<Pid, ProcessFound>,
    by_sandbox: HashMap<SandboxId, BTreeSet<Pid>>,
}

impl Census {
    pub fn new(host_mount_namespace: Option<u64>) -> Self {
        Self { proven: Proven { host_mount_namespace, ..Proven::default() }, ..Self::default() }
    }

    pub fn judge(&mut self, facts: &ProcessFacts) -> Judgement {
        let Some(claim) = hypervisor::classify(&facts.executable, &facts.arguments) else {
            return Judgement::Stranger;
        };
        if self.is_known(facts, &claim) {
            return Judgement::Known;
        }
        match membership::decide(facts, &claim, &self.proven) {
            Membership::Belongs(sandbox) => self.join(sandbox, facts, &claim),
            Membership::Unproven => Judgement::Foreign,
            Membership::NotYet => Judgement::Stranger,
        }
    }

    /// Judges many at once, parents before children.
    pub fn judge_all(&mut self, mut all: Vec<ProcessFacts>) -> Vec<Judgement> {
        all.sort_by_key(|facts| facts.start_ticks);
        let mut judgements = Vec::new();
        // Within one clock tick the order of starts is unknown: three rounds see shim, virtiofsd and its worker.
        for round in 0..3 {
            let mut undecided = Vec::new();
            for facts in all {
                match self.judge(&facts) {
                    Judgement::Foreign if round < 2 => undecided.push(facts),
                    judgement => judgements.push(judgement),
                }
            }
            all = undecided;
        }
        judgements
    }

    fn is_known(&self, facts: &ProcessFacts, claim: &Claim) -> bool {
        self.found.get(&facts.pid).is_some_and(|known| {
            known.process.start_ticks == facts.start_ticks && known.process.role == claim.role && known.vmm == claim.vmm
        })
    }

    fn join(&mut self, sandbox: SandboxId, facts: &ProcessFacts, claim: &Claim) -> Judgement {
        self.forget(facts.pid);
        let members = self.by_sandbox.entry(sandbox.clone()).or_default();
        if members.len() >= MAX_PER_SANDBOX {
            return Judgement::Foreign;
        }
        members.insert(facts.pid);
        let process = Process { role: claim.role, pid: facts.pid, start_ticks: facts.start_ticks };
        let proven = ProvenProcess { sandbox: sandbox.clone(), role: claim.role, start_ticks: facts.start_ticks };
        self.proven.processes.insert(facts.pid, proven);
        let found = ProcessFound { process, vmm: claim.vmm, runtime: claim.runtime, version: None };
        self.found.insert(facts.pid, found.clone());
        Judgement::Joined(sandbox, found)
    }

    /// The process ended; `None` if it was none of ours, or another one has the pid by now.
    pub fn end(&mut self, pid: Pid, start_ticks: Option<u64>) -> Option<(SandboxId, Process)> {
        let process = self.found.get(&pid)?.process;
        if start_ticks.is_some_and(|start| start != process.start_ticks) {
            return None;
        }
        self.forget(pid).map(|sandbox| (sandbox, process))
    }

    fn forget(&mut self, pid: Pid) -> Option<SandboxId> {
        self.found.remove(&pid)?;
        let proven = self.proven.processes.remove(&pid)?;
        if let Some(members) = self.by_sandbox.get_mut(&proven.sandbox) {
            members.remove(&pid);
            if members.is_empty() {
                self.by_sandbox.remove(&proven.sandbox);
            }
        }
        Some(proven.sandbox)
    }

    pub fn set_version(&mut self, pid: Pid, version: Option<Version>) {
        if let Some(found) = self.found.get_mut(&pid) {
            found.version = version;
        }
    }

    /// What a root-owned state file of an existing sandbox says.
    pub fn state_names(&mut self, sandbox: &SandboxId, pids: impl IntoIterator<Item = u32>) {
        self.proven.named_in_state.retain(|_, named| named != sandbox);
        self.proven.named_in_state.extend(pids.into_iter().map(|pid| (pid, sandbox.clone())));
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
        ProcessFacts {
            pid: Pid(pid),
            parent: Pid(parent),
            start_ticks: start,
            executable: line.split(' ').next().unwrap().into(),
            arguments,
            mount_namespace: Some(if line.contains("jail") { 2 } else { 1 }),
            uid: 0,
        }
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
