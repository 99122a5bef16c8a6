//! A memory cgroup that is too small for what runs in it.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kata_pulse::collect::kernel::ProgramGroup;
use kata_pulse::sandbox::{HostRole, Pid};

use crate::{skip, start_ticks, view};

const LIMIT: &str = "33554432";

/// Removed with the test; what was in it has ended by then.
struct Cgroup(PathBuf);

impl Cgroup {
    /// `Err`: why this host gives none.
    fn new() -> Result<Self, String> {
        let name = format!("kata-pulse-test-{}", std::process::id());
        let hierarchies = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        let mut reasons = Vec::new();
        for (root, limit) in hierarchies {
            let path = Path::new(root).join(&name);
            let made = std::fs::create_dir(&path).and_then(|()| std::fs::write(path.join(limit), LIMIT));
            match made {
                Ok(()) => return Ok(Self(path)),
                Err(error) => reasons.push(format!("{}: {error}", path.join(limit).display())),
            }
            let _ = std::fs::remove_dir(path);
        }
        Err(reasons.join("; "))
    }

    /// A process in it that eats memory once it is told to go.
    fn eater(&self) -> Child {
        let mut eater = Command::new("sh");
        let child = eater.args(["-c", "read go; exec tail /dev/zero"]).stdin(Stdio::piped()).spawn().unwrap();
        std::fs::write(self.0.join("cgroup.procs"), child.id().to_string()).unwrap();
        child
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Let go, and gone by the kernel's hand.
fn killed(mut child: Child) {
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn kills_for_want_of_memory_are_counted_by_role_and_only_ours() {
    let Some(view) = view(ProgramGroup::Oom) else { return };
    let cgroup = match Cgroup::new() {
        Ok(cgroup) => cgroup,
        Err(reason) => return skip(&format!("no memory cgroup: {reason}")),
    };
    let (slot, other) = (view.open(), view.open());
    let (foreign, vmm, helper) = (cgroup.eater(), cgroup.eater(), cgroup.eater());
    for (child, role) in [(&vmm, HostRole::Vmm), (&helper, HostRole::Virtiofsd)] {
        view.watch(slot, Pid(child.id()), start_ticks(Pid(child.id())), role).unwrap();
    }
    // One after the other: none of them may be killed in another's place.
    [foreign, vmm, helper].into_iter().for_each(killed);
    let all = view.read_all();
    println!("OOM kills: {:?}, of a sandbox without: {:?}", all[&slot].oom_kills, all[&other].oom_kills);
    assert_eq!(all[&slot].oom_kills, [(HostRole::Vmm, 1), (HostRole::Virtiofsd, 1)]);
    assert!(all[&other].oom_kills.is_empty());
    assert_eq!(view.free(slot).oom_kills.len(), 2);
    assert_eq!(view.read(slot), None);
}
