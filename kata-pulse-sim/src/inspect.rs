//! What tests and commands ask and tell a node about its sandboxes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::agent::AgentState;
use crate::burn::{Burn, BurnTruth};
use crate::fault::{AgentFault, Fault};
use crate::kind::{Runtime, SimError};
use crate::node::{Node, Sandbox};
use crate::order;
use crate::process::ShimProcess;
use crate::vm;

impl Node {
    /// `None` heals the sandbox. A guest that hangs, lies or is denied does so to whoever asks its agent directly, too.
    pub fn set_fault(&self, id: &str, fault: Option<Fault>) -> Result<(), SimError> {
        self.with(id, |sandbox| {
            if let Some(agent) = &sandbox.vm.agent {
                set_agent(agent, fault.as_ref().and_then(Fault::seen_at_the_agent));
            }
            *sandbox.shim.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        })
    }

    /// Only of the agent's own socket; `None` heals it.
    pub fn set_agent_fault(&self, id: &str, fault: Option<AgentFault>) -> Result<(), SimError> {
        self.with_agent(id, |agent| set_agent(agent, fault))
    }

    /// `GET /metrics` that this sandbox has had.
    pub fn requests(&self, id: &str) -> Result<u64, SimError> {
        self.with(id, |sandbox| sandbox.shim.traffic.requests())
    }

    /// The most `GET /metrics` that were in flight together.
    pub fn max_in_flight(&self, id: &str) -> Result<u64, SimError> {
        self.with(id, |sandbox| sandbox.shim.traffic.max_in_flight())
    }

    /// Calls of `GetMetrics` that the guest's agent has had on its own socket.
    pub fn agent_calls(&self, id: &str) -> Result<u64, SimError> {
        self.with_agent(id, |agent| agent.traffic.requests())
    }

    /// The most of those that were in flight together.
    pub fn agent_max_in_flight(&self, id: &str) -> Result<u64, SimError> {
        self.with_agent(id, |agent| agent.traffic.max_in_flight())
    }

    /// The agent's hybrid-vsock socket, if the sandbox has one.
    pub fn agent_socket(&self, id: &str) -> Result<Option<PathBuf>, SimError> {
        self.with(id, |sandbox| sandbox.vm.agent.as_ref().and_then(|_| sandbox.vm.places.agent()))
    }

    /// Shims that a `GET /metrics` has killed on this node: must stay 0.
    pub fn shims_killed(&self) -> u64 {
        self.killed.load(Ordering::Relaxed)
    }

    /// Pids by role: `shim`, `vmm`, `virtiofsd`, `virtiofsd-worker`; also of what a crash left.
    pub fn pids(&self, id: &str) -> Result<BTreeMap<String, u32>, SimError> {
        self.with_process(id, |shim| {
            let mut pids = shim.helpers.clone();
            pids.insert("shim".to_owned(), shim.pid());
            pids
        })
    }

    /// How the shim's process ended, if it has.
    pub fn shim_ended(&self, id: &str) -> Result<Option<ExitStatus>, SimError> {
        self.with_process(id, ShimProcess::ended)?.map_err(SimError::io("ask for the end of the shim of", id))
    }

    /// Makes the VMM work from now on, instead of what it did.
    pub fn burn(&self, id: &str, burn: &Burn) -> Result<(), SimError> {
        let mut burn = burn.clone();
        if burn.file.as_os_str().is_empty() && burn.vmm_io_bytes_per_second > 0 {
            burn.file = order::disk(self.root(), id);
            order::make_dir(burn.file.parent().unwrap_or(self.root()), 0o700)?;
        }
        self.with_process(id, |shim| shim.burn("vmm", &burn))?.map_err(SimError::io("burn in", id))
    }

    /// Ends that work and tells what it was.
    pub fn stop_burning(&self, id: &str) -> Result<BurnTruth, SimError> {
        self.with_process(id, |shim| shim.stop_burning("vmm"))?.map_err(SimError::io("stop the burning of", id))
    }

    /// A directory with a socket that nobody listens on, as a crash of long ago left it.
    pub fn leave_dead_socket(&self, runtime: Runtime, id: &str) -> Result<(), SimError> {
        let dir = self.sandbox_dir(runtime, id);
        order::make_dir(&dir, 0o750)?;
        order::bind(&dir.join("shim-monitor.sock"), 0o600, None).map(drop)
    }

    /// A VM of Go's factory that no sandbox has taken: looks like a sandbox, and is none (kata.md 1.6).
    pub fn make_factory_vm(&self, uuid: &str) -> Result<(), SimError> {
        order::make_dir(&self.sandbox_dir(Runtime::Go, uuid), 0o750)?;
        order::make_dir(&self.root().join("run/vc/vm").join(uuid), 0o750)
    }

    pub(crate) fn with<T>(&self, id: &str, look: impl FnOnce(&Sandbox) -> T) -> Result<T, SimError> {
        let sandboxes = self.lock();
        let sandbox = sandboxes.get(id).ok_or_else(|| SimError::UnknownSandbox(id.to_owned()))?;
        Ok(look(sandbox))
    }

    fn with_agent<T>(&self, id: &str, look: impl FnOnce(&AgentState) -> T) -> Result<T, SimError> {
        let agent = self.with(id, |sandbox| sandbox.vm.agent.clone())?;
        agent.map(|agent| look(&agent)).ok_or_else(|| SimError::Lacks(id.to_owned(), "socket of an agent"))
    }

    pub(crate) fn with_process<T>(&self, id: &str, look: impl FnOnce(&mut ShimProcess) -> T) -> Result<T, SimError> {
        let left = self.leftovers().get(id).map(|vm| vm.process.clone());
        let process = left.map_or_else(|| self.with(id, |sandbox| sandbox.vm.process.clone()), Ok)?;
        process.map(|shim| look(&mut vm::locked(&shim))).ok_or_else(|| SimError::Lacks(id.to_owned(), "processes"))
    }
}

fn set_agent(agent: &AgentState, fault: Option<AgentFault>) {
    *agent.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
}
