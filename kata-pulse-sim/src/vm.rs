//! What a sandbox is besides its shim's answers: its places, its processes, its guest's agent. It outlives a crash.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::agent::AgentState;
use crate::kind::SimError;
use crate::layout::Places;
use crate::order;
use crate::process::ShimProcess;

/// How a shim ends without cleaning up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fall {
    /// By SIGKILL.
    Killed,
    /// By itself, with code 1.
    Exited,
}

#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) places: Places,
    pub(crate) agent: Option<Arc<AgentState>>,
    pub(crate) process: Option<Arc<Mutex<ShimProcess>>>,
}

pub(crate) fn locked(process: &Mutex<ShimProcess>) -> MutexGuard<'_, ShimProcess> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vm {
    pub(crate) fn end_agent(&self) {
        if let Some(agent) = &self.agent {
            agent.life.cancel();
        }
    }

    /// `vmm` or `virtiofsd`; with the VMM goes the guest.
    pub(crate) fn end_role(&mut self, role: &str) -> Result<(), SimError> {
        if role == "vmm" {
            self.end_agent();
        }
        let Some(process) = &self.process else { return Ok(()) };
        locked(process).end_helper(role).map_err(SimError::io("end the process of", role))
    }

    pub(crate) fn fell(&self, fall: Fall) -> Result<(), SimError> {
        let Some(process) = &self.process else { return Ok(()) };
        let mut shim = locked(process);
        let ended = match fall {
            Fall::Killed => shim.kill(),
            Fall::Exited => shim.exit(),
        };
        ended.map(drop).map_err(SimError::io("kill", "the shim"))
    }

    /// The shim's normal end, and its bundle's.
    pub(crate) fn end_shim(&self, root: &Path, id: &str) -> Result<(), SimError> {
        let Some(process) = &self.process else { return Ok(()) };
        locked(process).end().map_err(SimError::io("end", "the shim"))?;
        let disk = order::disk(root, id);
        if disk.exists() {
            std::fs::remove_file(&disk).map_err(SimError::io("remove", &disk))?;
        }
        order::remove_tree(&order::bundle(root, id))
    }

    /// Ends what a crash left and removes its traces.
    pub(crate) fn sweep(&self, root: &Path, id: &str) -> Result<(), SimError> {
        self.end_agent();
        self.end_shim(root, id)?;
        order::sweep(&self.places)
    }
}
