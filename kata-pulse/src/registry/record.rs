//! The life of one sandbox, decided from what is known of it. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sandbox::{
    AgentAddress, Appeared, Container, DirectoryFacts, Identity, Process, ProcessFound, ProcessRole, Runtime, Sandbox,
    SandboxState, Version,
};

/// A directory in which nothing has happened for so long is no booting sandbox.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);

/// What the shim's socket said to `GET /agent-url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentReply {
    /// The VM is up and the agent has an address.
    Address(String),
    /// It answers, and the VM is not up yet.
    NotYet,
    /// Nobody listens on the socket file.
    Refused,
}

/// Why a directory is not listed though it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    Directory,
    /// With a socket on which nobody listens.
    Socket,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Listed(SandboxState),
    Hidden(Leftover),
    Ended,
}

#[derive(Debug)]
pub(super) struct Record {
    sandbox: Sandbox,
    base_runtime: Option<Runtime>,
    shim_place: Option<Runtime>,
    /// State files that were there at any time: Go's goes before its socket does.
    wrote: [bool; 2],
    files: DirectoryFacts,
    directory_removed: bool,
    seen_vmm: bool,
    seen_shim: bool,
    reply: Option<AgentReply>,
    /// Its socket has given an address: the VM was up.
    has_answered: bool,
    first_seen: Instant,
    stage: Stage,
}

impl Record {
    pub(super) fn new(appeared: &Appeared, now: Instant) -> Self {
        Self {
            sandbox: Sandbox::new(appeared),
            base_runtime: appeared.runtime,
            shim_place: None,
            wrote: [false; 2],
            files: DirectoryFacts::default(),
            directory_removed: false,
            seen_vmm: false,
            seen_shim: false,
            reply: None,
            has_answered: false,
            first_seen: now,
            stage: Stage::Listed(SandboxState::Booting),
        }
    }

    pub(super) fn inode(&self) -> u64 {
        self.sandbox.directory_inode
    }

    pub(super) fn leftover(&self) -> Option<Leftover> {
        match self.stage {
            Stage::Hidden(leftover) => Some(leftover),
            _ => None,
        }
    }

    /// Time alone has brought it to another stage.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.stage_at(now) != self.stage
    }

    pub(super) fn directory_removed(&mut self) {
        self.directory_removed = true;
        self.sandbox.has_socket = false;
    }

    pub(super) fn take_files(&mut self, facts: &DirectoryFacts) {
        if facts.has_socket && !self.files.has_socket {
            // Another socket than the one that refused.
            self.reply = None;
        }
        self.files = facts.clone();
        self.sandbox.has_socket = facts.has_socket && !self.directory_removed;
        self.sandbox.is_stopped |= facts.stopped;
        self.wrote = [self.wrote[0] || facts.go_state, self.wrote[1] || facts.rust_state];
        // A state file that is being rewritten is no reason to forget what it said.
        self.sandbox.vmm_from_state = facts.vmm.or(self.sandbox.vmm_from_state);
        self.derive();
    }

    pub(super) fn process_started(&mut self, found: &ProcessFound) {
        let process = found.process;
        self.sandbox.processes.retain(|known| known.pid != process.pid);
        self.sandbox.processes.push(process);
        self.sandbox.processes.sort_by_key(|process| (process.role, process.start_ticks, process.pid));
        match process.role {
            ProcessRole::Shim => {
                self.seen_shim = true;
                self.shim_place = found.runtime;
                self.sandbox.shim_version = found.version;
            }
            ProcessRole::Vmm => {
                self.seen_vmm = true;
                self.sandbox.vmm_from_process = found.vmm;
            }
            ProcessRole::Virtiofsd => {}
        }
        self.derive();
    }

    pub(super) fn process_ended(&mut self, process: &Process) {
        self.sandbox.processes.retain(|known| known != process);
    }

    /// Counts for the shim that was asked only, and what is known already stays.
    pub(super) fn shim_told(&mut self, shim: &Process, version: Version) {
        if self.sandbox.processes.contains(shim) {
            self.sandbox.shim_version.get_or_insert(version);
        }
    }

    /// A list without the sandbox is no reason to forget its name. Says whether anything changed.
    pub(super) fn identify(&mut self, identity: Option<&Identity>) -> bool {
        let Some(identity) = identity.filter(|&identity| self.sandbox.identity.as_ref() != Some(identity)) else {
            return false;
        };
        self.sandbox.identity = Some(identity.clone());
        true
    }

    /// Says whether anything changed.
    pub(super) fn contain(&mut self, containers: &[Arc<Container>]) -> bool {
        let changed = self.sandbox.containers != containers;
        if changed {
            self.sandbox.containers = containers.to_vec();
        }
        changed
    }

    pub(super) fn agent_replied(&mut self, reply: AgentReply) {
        if let AgentReply::Address(address) = &reply {
            self.sandbox.agent_address = Some(AgentAddress(address.clone()));
            self.has_answered = true;
        }
        self.reply = Some(reply);
    }

    fn derive(&mut self) {
        let sandbox = &mut self.sandbox;
        sandbox.vmm = sandbox.vmm_from_process.or(sandbox.vmm_from_state);
        let wrote = [Runtime::Go, Runtime::Rust].into_iter().zip(self.wrote).filter(|(_, wrote)| *wrote);
        let wrote: Vec<Runtime> = wrote.map(|(runtime, _)| runtime).collect();
        let mut signs = [self.base_runtime, self.shim_place].into_iter().flatten().chain(wrote.iter().copied());
        let first = signs.next();
        sandbox.runtime = first.filter(|first| signs.all(|sign| sign == *first));
        sandbox.runtime_wrote_state = sandbox.runtime.is_some_and(|runtime| wrote.contains(&runtime));
    }

    /// Decides where the sandbox stands, and remembers it.
    pub(super) fn settle(&mut self, now: Instant) -> Stage {
        self.stage = self.stage_at(now);
        self.stage
    }

    fn stage_at(&self, now: Instant) -> Stage {
        let shim = self.has(ProcessRole::Shim);
        let vmm = self.vmm_lives(shim);
        if self.directory_removed {
            let nobody = self.sandbox.processes.is_empty();
            return if nobody { Stage::Ended } else { Stage::Listed(SandboxState::Stopping) };
        }
        if self.seen_shim && !shim && !vmm && (self.seen_vmm || self.is_without_vmm_process()) {
            return Stage::Hidden(self.leftover_kind());
        }
        if self.is_leftover(now) {
            return Stage::Hidden(self.leftover_kind());
        }
        // A shim that has answered and is gone was the last that could be asked of its VM.
        let fell = self.has_answered && self.socket_is_dead() && !vmm;
        if self.files.stopped || (self.seen_vmm && !vmm) || fell {
            return Stage::Listed(SandboxState::Stopping);
        }
        Stage::Listed(if self.answers() { SandboxState::Running } else { SandboxState::Booting })
    }

    fn has(&self, role: ProcessRole) -> bool {
        self.sandbox.processes.iter().any(|process| process.role == role)
    }

    fn vmm_lives(&self, shim: bool) -> bool {
        self.has(ProcessRole::Vmm) || (shim && self.is_without_vmm_process())
    }

    fn is_without_vmm_process(&self) -> bool {
        self.sandbox.vmm.is_some_and(|vmm| !vmm.has_process())
    }

    fn answers(&self) -> bool {
        matches!(self.reply, Some(AgentReply::Address(_)))
            || self.sandbox.identity.as_ref().is_some_and(|identity| identity.ready)
    }

    fn socket_is_dead(&self) -> bool {
        self.files.has_socket && self.reply == Some(AgentReply::Refused)
    }

    fn is_leftover(&self, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.first_seen) >= BOOT_PATIENCE;
        let socket_lives = self.files.has_socket && !self.socket_is_dead();
        let state_counts = self.files.has_state && !self.socket_is_dead();
        idle && self.sandbox.processes.is_empty() && !socket_lives && !state_counts
    }

    fn leftover_kind(&self) -> Leftover {
        if self.files.has_socket { Leftover::Socket } else { Leftover::Directory }
    }

    pub(super) fn publish(&self, state: SandboxState) -> Sandbox {
        Sandbox { state, ..self.sandbox.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Pid, SandboxId, Vmm};

    fn record(runtime: Runtime, start: Instant) -> Record {
        let id = SandboxId::parse("aa").unwrap();
        let appeared =
            Appeared { id, directory: "/x/aa".into(), inode: 1, runtime: Some(runtime), created_unix_ms: None };
        Record::new(&appeared, start)
    }

    #[test]
    fn signs_of_the_runtime_must_agree_and_its_own_state_file_confirms_them() {
        let start = Instant::now();
        let runtime = |record: &Record| (record.sandbox.runtime, record.sandbox.runtime_wrote_state);
        let mut go = record(Runtime::Go, start);
        assert_eq!(runtime(&go), (Some(Runtime::Go), false));
        go.take_files(&DirectoryFacts { go_state: true, ..DirectoryFacts::default() });
        assert_eq!(runtime(&go), (Some(Runtime::Go), true));
        go.take_files(&DirectoryFacts::default());
        assert_eq!(runtime(&go), (Some(Runtime::Go), true), "it goes before the socket does");
        let mut misnamed = record(Runtime::Go, start);
        misnamed.take_files(&DirectoryFacts { rust_state: true, ..DirectoryFacts::default() });
        assert_eq!(runtime(&misnamed), (None, false));
    }

    #[test]
    fn a_sandbox_whose_processes_nobody_saw_ends_with_its_socket() {
        let start = Instant::now();
        let mut record = record(Runtime::Go, start);
        record.take_files(&DirectoryFacts { has_socket: true, ..DirectoryFacts::default() });
        record.agent_replied(AgentReply::Address("vsock://3:1024".into()));
        assert_eq!(record.settle(start), Stage::Listed(SandboxState::Running));
        record.agent_replied(AgentReply::Refused);
        assert_eq!(record.settle(start), Stage::Listed(SandboxState::Stopping));
        assert_eq!(record.settle(start + BOOT_PATIENCE), Stage::Hidden(Leftover::Socket));
    }

    fn found(role: ProcessRole, pid: u32, vmm: Option<Vmm>) -> ProcessFound {
        let process = Process { role, pid: Pid(pid), start_ticks: 7 };
        ProcessFound { process, vmm, runtime: None, version: None }
    }

    fn socket() -> DirectoryFacts {
        DirectoryFacts { has_socket: true, ..DirectoryFacts::default() }
    }

    fn address() -> AgentReply {
        AgentReply::Address("vsock://3:1024".into())
    }

    #[test]
    fn a_go_sandbox_from_booting_to_ended() {
        let start = Instant::now();
        let mut record = record(Runtime::Go, start);
        let shim = found(ProcessRole::Shim, 1, None);
        let vmm = found(ProcessRole::Vmm, 2, Some(Vmm::Qemu));
        assert_eq!(record.stage_at(start), Stage::Listed(SandboxState::Booting));
        record.process_started(&shim);
        record.process_started(&vmm);
        assert_eq!(record.sandbox.vmm, Some(Vmm::Qemu));
        assert_eq!(record.stage_at(start), Stage::Listed(SandboxState::Booting));
        record.take_files(&socket());
        record.agent_replied(address());
        assert_eq!(record.stage_at(start), Stage::Listed(SandboxState::Running));
        record.process_ended(&vmm.process);
        assert_eq!(record.stage_at(start), Stage::Listed(SandboxState::Stopping));
        record.directory_removed();
        assert_eq!(record.stage_at(start), Stage::Listed(SandboxState::Stopping), "the shim is still there");
        record.process_ended(&shim.process);
        assert_eq!(record.stage_at(start), Stage::Ended);
    }

    #[test]
    fn a_socket_that_answers_before_the_vm_is_up_is_booting() {
        let start = Instant::now();
        let mut record = record(Runtime::Rust, start);
        record.take_files(&socket());
        record.agent_replied(AgentReply::NotYet);
        assert_eq!(record.stage_at(start), Stage::Listed(SandboxState::Booting));
        record.agent_replied(address());
        assert_eq!(record.stage_at(start), Stage::Listed(SandboxState::Running));
    }

    #[test]
    fn dragonball_lives_in_its_shim() {
        let start = Instant::now();
        let mut record = record(Runtime::Rust, start);
        let shim = found(ProcessRole::Shim, 1, None);
        record.process_started(&shim);
        record.take_files(&DirectoryFacts { has_state: true, vmm: Some(Vmm::Dragonball), ..socket() });
        record.agent_replied(address());
        assert_eq!(record.stage_at(start), Stage::Listed(SandboxState::Running));
        record.process_ended(&shim.process);
        assert_eq!(record.stage_at(start), Stage::Hidden(Leftover::Socket));
    }

    #[test]
    fn gos_state_file_says_stopped() {
        let start = Instant::now();
        let mut record = record(Runtime::Go, start);
        record.process_started(&found(ProcessRole::Shim, 1, None));
        record.take_files(&DirectoryFacts { has_state: true, stopped: true, ..socket() });
        assert_eq!(record.stage_at(start), Stage::Listed(SandboxState::Stopping));
    }

    #[test]
    fn a_directory_in_which_nothing_happens_is_a_leftover_after_two_minutes() {
        let start = Instant::now();
        let later = start + BOOT_PATIENCE;
        let mut record = record(Runtime::Rust, start);
        assert_eq!(record.stage_at(later - Duration::from_millis(1)), Stage::Listed(SandboxState::Booting));
        assert_eq!(record.stage_at(later), Stage::Hidden(Leftover::Directory));
        // A process of its own makes it a sandbox again.
        record.process_started(&found(ProcessRole::Shim, 1, None));
        assert_eq!(record.stage_at(later), Stage::Listed(SandboxState::Booting));
    }

    #[test]
    fn a_dead_socket_is_told_from_one_that_is_slow() {
        let start = Instant::now();
        let later = start + BOOT_PATIENCE;
        let mut record = record(Runtime::Rust, start);
        record.take_files(&DirectoryFacts { has_state: true, ..socket() });
        assert_eq!(record.stage_at(later), Stage::Listed(SandboxState::Booting));
        record.agent_replied(AgentReply::Refused);
        assert_eq!(record.stage_at(later), Stage::Hidden(Leftover::Socket));
    }

    #[test]
    fn an_orphaned_vmm_is_still_listed() {
        let start = Instant::now();
        let mut record = record(Runtime::Go, start);
        let shim = found(ProcessRole::Shim, 1, None);
        record.process_started(&shim);
        record.process_started(&found(ProcessRole::Vmm, 2, Some(Vmm::Qemu)));
        record.process_ended(&shim.process);
        assert!(matches!(record.stage_at(start + BOOT_PATIENCE), Stage::Listed(_)));
    }

    #[test]
    fn signs_of_the_runtime_that_disagree_are_no_knowledge() {
        let mut record = record(Runtime::Rust, Instant::now());
        record.process_started(&ProcessFound { runtime: Some(Runtime::Go), ..found(ProcessRole::Shim, 1, None) });
        assert_eq!(record.sandbox.runtime, None);
    }
}
