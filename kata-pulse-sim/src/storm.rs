//! Noise, bounded in count and time: execs, directories, system calls, and events that a container would forge.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What one storm was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storm {
    /// Processes of `/bin/true`, one after the other.
    Exec,
    /// A directory made and removed below `elsewhere`.
    Mkdir,
    /// The cheapest system call.
    Syscall,
}

/// Makes noise until `count` or `longest` is reached; how often, and for how long.
pub fn blow(storm: Storm, folder: &Path, count: u64, longest: Duration) -> io::Result<(u64, Duration)> {
    let started = Instant::now();
    let directory = folder.join(format!("kata-pulse-storm-{}", std::process::id()));
    let mut done = 0;
    while done < count && started.elapsed() < longest {
        match storm {
            Storm::Exec => drop(Command::new("/bin/true").stdin(Stdio::null()).status()?),
            Storm::Mkdir => {
                std::fs::create_dir(&directory)?;
                std::fs::remove_dir(&directory)?;
            }
            // A batch, so that looking at the clock is no part of it.
            Storm::Syscall => {
                for _ in 0..1000 {
                    std::hint::black_box(std::os::unix::process::parent_id());
                }
                done += 999;
            }
        }
        done += 1;
    }
    Ok((done, started.elapsed()))
}

/// Does what a container may: in a mount namespace of its own it has directories at the path of `base`, and runs
/// programs of a hypervisor's name with the victim's id. It ends with its parent.
pub fn forge(folder: &Path, base: &Path, victim: &str) -> io::Result<Child> {
    std::fs::create_dir_all(folder)?;
    let vmm = folder.join("qemu-system-x86_64");
    std::fs::copy("/bin/true", &vmm)?;
    let script = "mount -t tmpfs tmpfs \"$1\" && n=0 && while :; do \
                  mkdir \"$1/forged-$((n+=1))\"; \"$2\" -name \"sandbox-$3\"; done";
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--", "sh", "-c", script, "sh"]);
    command.arg(base).arg(vmm).arg(victim).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_ends_by_count_and_by_time() {
        let folder = tempfile::tempdir().expect("a folder");
        for storm in [Storm::Exec, Storm::Mkdir] {
            let (done, _) = blow(storm, folder.path(), 3, Duration::from_secs(60)).expect("a storm");
            assert_eq!(done, 3, "{storm:?}");
        }
        let (done, _) = blow(Storm::Syscall, folder.path(), u64::MAX, Duration::ZERO).expect("a storm");
        assert_eq!(done, 0);
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
    }
}
