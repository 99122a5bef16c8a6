//! Processes that outlived what they were for.

use crate::sandbox::{ProcessRole, Sandbox, SandboxState};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// VMMs whose sandbox the container runtime does not know, or whose shim is gone.
    pub vmms: usize,
    /// Shims whose VMM is gone.
    pub shims: usize,
}

/// A VMM follows its shim within seconds, a confidential one within a minute.
const OLD_SECONDS: u64 = 120;

/// `is_unknown`: the container runtime answers and does not know the sandbox, or does not any more. `now_ticks`: since
/// boot, as the start times of processes are told.
pub fn count_orphans<'a>(
    sandboxes: impl Iterator<Item = (&'a Sandbox, bool)>,
    now_ticks: u64,
    ticks_per_second: u64,
) -> Orphans {
    let mut orphans = Orphans::default();
    for (sandbox, is_unknown) in sandboxes {
        let (shim, vmm) = (sandbox.process(ProcessRole::Shim), sandbox.process(ProcessRole::Vmm));
        if vmm.is_some() && (is_unknown || shim.is_none()) {
            orphans.vmms += 1;
        }
        // Where it died before the agent began, nobody saw the sandbox stop.
        let is_old = |start: u64| now_ticks.saturating_sub(start) > OLD_SECONDS * ticks_per_second;
        let lost_vmm = |start: u64| match sandbox.state {
            SandboxState::Stopping => true,
            SandboxState::Booting => is_old(start),
            _ => false,
        };
        let has_vmm = sandbox.vmm.is_none_or(|vmm| vmm.has_process());
        if vmm.is_none() && has_vmm && shim.is_some_and(|shim| lost_vmm(shim.start_ticks)) {
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
        let count = |sandbox: Sandbox, is_unknown| count_orphans([(&sandbox, is_unknown)].into_iter(), 10_000, 100);
        let (running, stopping) = (SandboxState::Running, SandboxState::Stopping);
        let none = Orphans::default();
        assert_eq!(count(sandbox(&[Shim, Machine], running, Vmm::Qemu), false), none);
        assert_eq!(count(sandbox(&[Shim, Machine], running, Vmm::Qemu), true), Orphans { vmms: 1, shims: 0 });
        assert_eq!(count(sandbox(&[Machine], running, Vmm::Qemu), false), Orphans { vmms: 1, shims: 0 });
        assert_eq!(count(sandbox(&[Shim], stopping, Vmm::Qemu), false), Orphans { vmms: 0, shims: 1 });
        assert_eq!(count(sandbox(&[Shim], SandboxState::Booting, Vmm::Qemu), false), none, "its VMM is to come");
        let late = sandbox(&[Shim], SandboxState::Booting, Vmm::Qemu);
        assert_eq!(count_orphans([(&late, false)].into_iter(), 13_000, 100), Orphans { vmms: 0, shims: 1 });
        assert_eq!(count(sandbox(&[Shim], stopping, Vmm::Dragonball), false), none, "its VMM is in it");
    }
}
