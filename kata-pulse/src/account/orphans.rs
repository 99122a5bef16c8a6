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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Appeared, Pid, Process, SandboxId, Vmm};

    fn sandbox(roles: &[ProcessRole], state: SandboxState, vmm: Vmm) -> Sandbox {
        let process = |role: &ProcessRole| Process { role: *role, pid: Pid(7), start_ticks: 1 };
        let appeared = Appeared {
            id: SandboxId::parse("aa").unwrap(),
            directory: "/x/aa".into(),
            inode: 1,
            runtime: None,
            created_unix_ms: None,
        };
        Sandbox { processes: roles.iter().map(process).collect(), vmm: Some(vmm), state, ..Sandbox::new(&appeared) }
    }

    #[test]
    fn who_outlived_whom() {
        use ProcessRole::{Shim, Vmm as Machine};
        let count = |sandbox: Sandbox, is_unknown| count_orphans([(&sandbox, is_unknown)].into_iter());
        let (running, stopping) = (SandboxState::Running, SandboxState::Stopping);
        let none = Orphans::default();
        assert_eq!(count(sandbox(&[Shim, Machine], running, Vmm::Qemu), false), none);
        assert_eq!(count(sandbox(&[Shim, Machine], running, Vmm::Qemu), true), Orphans { vmms: 1, shims: 0 });
        assert_eq!(count(sandbox(&[Machine], running, Vmm::Qemu), false), Orphans { vmms: 1, shims: 0 });
        assert_eq!(count(sandbox(&[Shim], stopping, Vmm::Qemu), false), Orphans { vmms: 0, shims: 1 });
        assert_eq!(count(sandbox(&[Shim], SandboxState::Booting, Vmm::Qemu), false), none, "its VMM is to come");
        assert_eq!(count(sandbox(&[Shim], stopping, Vmm::Dragonball), false), none, "its VMM is in it");
    }
}
