//! Processes that outlived what they were for.

use crate::sandbox::{ProcessRole, Sandbox, SandboxState};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// VMMs whose sandbox the container runtime does not know, or whose shim is gone.
    pub vmms: usize,
    /// Shims whose VMM is gone.
    pub shims: usize,
}

/// `is_unknown`: the container runtime answers and does not know the sandbox, or does not any more.
pub fn count_orphans<'a>(sandboxes: impl Iterator<Item = (&'a Sandbox, bool)>) -> Orphans {
    let mut orphans = Orphans::default();
    for (sandbox, is_unknown) in sandboxes {
        let lives = |role| sandbox.process(role).is_some();
        let (shim, vmm) = (lives(ProcessRole::Shim), lives(ProcessRole::Vmm));
        if vmm && (is_unknown || !shim) {
            orphans.vmms += 1;
        }
        let has_vmm = sandbox.vmm.is_none_or(|vmm| vmm.has_process());
        if shim && !vmm && has_vmm && sandbox.state == SandboxState::Stopping {
            orphans.shims += 1;
        }
    }
    orphans
}
