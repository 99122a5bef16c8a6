//! The words every stage shares: what a sandbox is, what runs for it, where its numbers come from.
//! No IO and no async in here.

mod container;
mod event;
mod evidence;
mod host;
mod id;
mod identity;
mod process;
mod source;

pub use container::{Container, ContainerId, Containers, Limits};
pub use event::{
    Appeared, Change, DirectoryFacts, DiscoveryEvent, EventSource, ExitStatus, NamedPid, ProcessExit, ProcessFound,
};
pub use evidence::{AgentAddress, Evidence, Version};
pub use host::{CpuTimes, ExitAccount, HostRole, IoTotals};
pub use id::{InvalidSandboxId, SandboxId};
pub use identity::{Identity, Overhead};
pub use process::{Pid, Process, ProcessRole};
pub use source::{Source, SourceState};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Which implementation of the Kata shim owns the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Runtime {
    /// `src/runtime`, directories below `/run/vc/sbs`.
    Go,
    /// `src/runtime-rs`, directories below `/run/kata`.
    Rust,
}

impl Runtime {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Rust => "rust",
        }
    }
}

/// The virtual machine monitor behind a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vmm {
    Qemu,
    CloudHypervisor,
    Firecracker,
    /// Threads of the shim, no process of its own.
    Dragonball,
    Stratovirt,
    OpenVmm,
    /// Peer pods: no VMM on this node.
    Remote,
}

impl Vmm {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Firecracker => "firecracker",
            Self::Dragonball => "dragonball",
            Self::Stratovirt => "stratovirt",
            Self::OpenVmm => "openvmm",
            Self::Remote => "remote",
        }
    }

    /// The word in Kata's own state files (`hypervisor_type`, `Type`) for this VMM.
    pub fn from_kata_name(name: &str) -> Option<Self> {
        match name {
            "qemu" => Some(Self::Qemu),
            "clh" | "cloud-hypervisor" => Some(Self::CloudHypervisor),
            "firecracker" => Some(Self::Firecracker),
            "dragonball" => Some(Self::Dragonball),
            "stratovirt" => Some(Self::Stratovirt),
            "openvmm" => Some(Self::OpenVmm),
            "remote" => Some(Self::Remote),
            _ => None,
        }
    }

    /// Whether a process of this VMM's own exists on the node.
    pub fn has_process(self) -> bool {
        !matches!(self, Self::Dragonball | Self::Remote)
    }
}

/// Where a sandbox stands in its life, as `/sandboxes` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SandboxState {
    Booting,
    Running,
    Stopping,
}

impl SandboxState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

/// One sandbox as the registry publishes it. Immutable: a change makes a new value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    pub id: SandboxId,
    /// The sandbox's directory as this agent can open it.
    pub directory: PathBuf,
    /// Inode of that directory: a sandbox made anew under the same id is another sandbox.
    pub directory_inode: u64,
    /// `None` also when two signs of it disagree.
    pub runtime: Option<Runtime>,
    /// The runtime's own state file is among those signs.
    pub runtime_wrote_state: bool,
    /// The best of what follows.
    pub vmm: Option<Vmm>,
    pub vmm_from_state: Option<Vmm>,
    pub vmm_from_process: Option<Vmm>,
    pub state: SandboxState,
    /// The runtime itself has written that it stopped the sandbox.
    pub is_stopped: bool,
    /// A `shim-monitor.sock` has been seen in the directory.
    pub has_socket: bool,
    pub processes: Vec<Process>,
    pub shim_version: Option<Version>,
    pub agent_address: Option<AgentAddress>,
    pub created_unix_ms: Option<u64>,
    /// What the container runtime says; `None` until it was asked and knew the sandbox.
    pub identity: Option<Identity>,
    /// Workload containers that run, by name; empty until the container runtime told of them.
    pub containers: Vec<Arc<Container>>,
}

impl Sandbox {
    /// Of which nothing is known but its directory.
    pub fn new(appeared: &Appeared) -> Self {
        Self {
            id: appeared.id.clone(),
            directory: appeared.directory.clone(),
            directory_inode: appeared.inode,
            runtime: appeared.runtime,
            runtime_wrote_state: false,
            vmm: None,
            vmm_from_state: None,
            vmm_from_process: None,
            state: SandboxState::Booting,
            is_stopped: false,
            has_socket: false,
            processes: Vec::new(),
            shim_version: None,
            agent_address: None,
            created_unix_ms: appeared.created_unix_ms,
            identity: None,
            containers: Vec::new(),
        }
    }

    pub fn socket_path(&self) -> PathBuf {
        self.directory.join(SHIM_SOCKET)
    }

    /// What the decision whether its shim may be asked is based on.
    pub fn evidence(&self) -> Evidence {
        Evidence {
            runtime: self.runtime,
            runtime_wrote_state: self.runtime_wrote_state,
            vmm_from_state: self.vmm_from_state,
            vmm_from_process: self.vmm_from_process,
            agent_address: self.agent_address.clone(),
            version: self.shim_version,
        }
    }

    pub fn process(&self, role: ProcessRole) -> Option<&Process> {
        self.processes.iter().find(|process| process.role == role)
    }
}

/// All sandboxes at one moment; readers share it and never wait.
pub type Snapshot = Arc<BTreeMap<SandboxId, Arc<Sandbox>>>;

/// Name of the shim's monitor socket in the sandbox directory, for both runtimes.
pub const SHIM_SOCKET: &str = "shim-monitor.sock";
