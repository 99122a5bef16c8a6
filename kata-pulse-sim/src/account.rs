//! What the sandboxes of a node have really used: the truth that an agent's accounts are held against.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::burn::{Burn, BurnTruth};
use crate::kind::SimError;
use crate::launch::Launcher;
use crate::node::Node;
use crate::usage::ProcessUsage;
use crate::vm::{self, Vm};

/// So many removed sandboxes are remembered.
const REMEMBERED: usize = 4096;

type Ended = VecDeque<(String, Vec<ProcessUsage>)>;

/// The usage of sandboxes that were removed, the latest last.
#[derive(Debug, Default)]
pub(crate) struct Account(Mutex<Ended>);

impl Account {
    fn lock(&self) -> MutexGuard<'_, Ended> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keep(&self, id: &str, vm: &Vm) {
        let Some(process) = &vm.process else { return };
        let usages = vm::locked(process).usages();
        let mut ended = self.lock();
        ended.push_back((id.to_owned(), usages));
        if ended.len() > REMEMBERED {
            ended.pop_front();
        }
    }
}

impl Node {
    /// What each process of a removed sandbox had used when it ended.
    pub fn usage(&self, id: &str) -> Result<Vec<ProcessUsage>, SimError> {
        let ended = self.account.lock();
        let found = ended.iter().rev().find(|(ended, _)| ended == id);
        found.map(|(_, usages)| usages.clone()).ok_or_else(|| SimError::UnknownSandbox(id.to_owned()))
    }

    /// Makes the processes of one role work: `vmm`, `virtiofsd`, `shim`.
    pub fn burn_role(&self, id: &str, role: &str, burn: &Burn) -> Result<(), SimError> {
        self.with_process(id, |shim| shim.burn(role, burn))?.map_err(SimError::io("burn in", id))
    }

    /// Ends that work and tells what it was.
    pub fn rest_role(&self, id: &str, role: &str) -> Result<BurnTruth, SimError> {
        self.with_process(id, |shim| shim.stop_burning(role))?.map_err(SimError::io("stop the burning of", id))
    }

    /// Another VMM in the place of the one there is, which dies of SIGKILL. Says its pid.
    pub fn replace_vmm(&self, id: &str) -> Result<u32, SimError> {
        let spec = self.with(id, |sandbox| sandbox.spec.clone())?;
        let lacks = || SimError::Lacks(id.to_owned(), "VMM of its own");
        let launcher = Launcher::of(self.root(), &spec).ok_or_else(lacks)?;
        self.with_process(id, |shim| {
            shim.end_helper("vmm")?;
            launcher.start_vmm(shim)?;
            Ok(shim.helpers.get("vmm").copied())
        })?
        .map_err(SimError::io("replace the VMM of", id))?
        .ok_or_else(lacks)
    }
}
