//! What discovery tells the registry.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::{ExitAccount, Process, Runtime, SandboxId, Version, Vmm};

/// Who noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventSource {
    Ebpf,
    Inotify,
    Pidfd,
    Scan,
}

impl EventSource {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Inotify => "inotify",
            Self::Pidfd => "pidfd",
            Self::Scan => "scan",
        }
    }
}

/// One change, with who noticed it and when the kernel did it.
#[derive(Clone, Debug, PartialEq)]
pub struct DiscoveryEvent {
    pub source: EventSource,
    /// Kernel's time of the change since boot; `None` where the kernel does not tell.
    pub at_boot: Option<Duration>,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Appeared(Appeared),
    /// The directory is no longer below its base.
    Removed(SandboxId),
    /// The files in the directory were read anew.
    Files(SandboxId, DirectoryFacts),
    ProcessStarted(SandboxId, ProcessFound),
    ProcessEnded(SandboxId, Process, ProcessExit),
}

/// A directory that is a sandbox by name and place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appeared {
    pub id: SandboxId,
    pub directory: PathBuf,
    pub inode: u64,
    pub runtime: Option<Runtime>,
    pub created_unix_ms: Option<u64>,
}

/// A process that was proven to belong to a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessFound {
    pub process: Process,
    /// For the VMM's process: which one it is.
    pub vmm: Option<Vmm>,
    /// For the shim's process: what its executable's place tells.
    pub runtime: Option<Runtime>,
    /// For the shim's process, where it can be known without running anything found through `/proc`.
    pub version: Option<Version>,
}

/// What a sandbox's own directory and Kata's root-owned state files tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryFacts {
    pub has_socket: bool,
    pub has_state: bool,
    /// Whose state files are there, by name: `persist.json` is the Go runtime's, `state.json` runtime-rs'.
    pub go_state: bool,
    pub rust_state: bool,
    pub vmm: Option<Vmm>,
    /// Pids that the state file names; proof of nothing until the process was looked at.
    pub vmm_pid: Option<NamedPid>,
    pub virtiofsd_pid: Option<NamedPid>,
    /// The name of the VM factory's machine that became this sandbox's.
    pub machine: Option<SandboxId>,
    /// Cgroups of the sandbox that the state file names, each with the sandbox's id in it.
    pub cgroups: Vec<String>,
    /// Go's state file says that the sandbox was stopped.
    pub stopped: bool,
}

/// A pid in a state file, and when that file was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedPid {
    pub pid: u32,
    pub written: SystemTime,
}

/// What is known of the end of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessExit {
    pub status: Option<ExitStatus>,
    /// `None`: nobody read it in the kernel.
    pub account: Option<ExitAccount>,
    /// The account was read when the process was gone. Otherwise it lacks what the last thread used since the clock
    /// tick before its end, and for the end itself.
    pub account_is_final: bool,
}

impl ProcessExit {
    /// Adds what somebody else tells of the same end.
    pub fn learn(&mut self, other: Self) {
        self.status = self.status.or(other.status);
        if other.account.is_some() && (self.account.is_none() || other.account_is_final) {
            (self.account, self.account_is_final) = (other.account, other.account_is_final);
        }
    }
}

/// How a process ended, as the kernel encodes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Code(u8),
    Signal(u8),
}

impl ExitStatus {
    /// From `task.exit_code`: the code in bits 8–15, else the signal in bits 0–6.
    pub fn from_kernel(raw: u32) -> Self {
        match raw & 0x7f {
            0 => Self::Code((raw >> 8) as u8),
            signal => Self::Signal(signal as u8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_account_stays_whoever_speaks_later() {
        let account = |minor_faults| Some(ExitAccount { minor_faults, ..ExitAccount::default() });
        let status = Some(ExitStatus::Code(3));
        let at_exit = ProcessExit { status, account: account(1.0), account_is_final: false };
        let at_release = ProcessExit { status: None, account: account(2.0), account_is_final: true };
        for order in [[at_exit, at_release], [at_release, at_exit]] {
            let mut exit = ProcessExit::default();
            order.into_iter().for_each(|told| exit.learn(told));
            exit.learn(ProcessExit::default());
            assert_eq!(exit, ProcessExit { status, ..at_release });
        }
    }
}
