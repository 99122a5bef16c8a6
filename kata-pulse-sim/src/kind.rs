//! The words of the simulator: runtimes, hypervisors, errors.

use std::{fmt, io, path::PathBuf, str::FromStr};

use crate::fault::FAULT_NAMES;

/// Which shim implementation runs the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// `src/runtime`, below `/run/vc/sbs`.
    Go,
    /// `src/runtime-rs`, below `/run/kata`.
    Rs,
}

/// Which hypervisor runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vmm {
    Qemu,
    CloudHypervisor,
    Firecracker,
    Dragonball,
    OpenVmm,
    Remote,
}

/// A runtime with a hypervisor, e.g. `go-qemu`, `rs-dragonball`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    pub runtime: Runtime,
    pub vmm: Vmm,
}

impl Kind {
    pub const fn new(runtime: Runtime, vmm: Vmm) -> Self {
        Self { runtime, vmm }
    }

    /// One `GET /metrics` aborts this shim (kata 4.1.0, hazard H1).
    pub fn dies_on_metrics(self) -> bool {
        self.runtime == Runtime::Rs && matches!(self.vmm, Vmm::Qemu | Vmm::Firecracker)
    }

    /// `hypervisor.hypervisor_type` of state.json.
    pub fn hypervisor_type(self) -> &'static str {
        match self.vmm {
            Vmm::Qemu => "qemu",
            Vmm::CloudHypervisor => "clh",
            Vmm::Firecracker => "firecracker",
            Vmm::Dragonball => "dragonball",
            Vmm::OpenVmm => "openvmm",
            Vmm::Remote => "remote",
        }
    }
}

impl FromStr for Kind {
    type Err = SimError;

    fn from_str(text: &str) -> Result<Self, SimError> {
        let unknown = || SimError::UnknownKind(text.to_owned());
        let (runtime, vmm) = text.split_once('-').ok_or_else(unknown)?;
        let runtime = match runtime {
            "go" => Runtime::Go,
            "rs" => Runtime::Rs,
            _ => return Err(unknown()),
        };
        let vmm = match vmm {
            "qemu" => Vmm::Qemu,
            "clh" => Vmm::CloudHypervisor,
            "firecracker" => Vmm::Firecracker,
            "remote" => Vmm::Remote,
            "dragonball" if runtime == Runtime::Rs => Vmm::Dragonball,
            "openvmm" if runtime == Runtime::Rs => Vmm::OpenVmm,
            _ => return Err(unknown()),
        };
        Ok(Self { runtime, vmm })
    }
}

/// Every name that is a [`Kind`].
pub const KIND_NAMES: &str = "go-qemu, go-clh, go-firecracker, go-remote, rs-qemu, rs-clh, rs-firecracker, \
                              rs-dragonball, rs-openvmm, rs-remote";

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runtime = if self.runtime == Runtime::Go { "go" } else { "rs" };
        write!(out, "{runtime}-{}", self.hypervisor_type())
    }
}

/// What the simulator could not do.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    #[error("unknown kind of sandbox {0:?}; there are {KIND_NAMES}")]
    UnknownKind(String),
    #[error("unknown fault {0:?}; there are {FAULT_NAMES}")]
    UnknownFault(String),
    #[error("sandbox {0:?} does not exist")]
    UnknownSandbox(String),
    #[error("container {0:?} does not run")]
    UnknownContainer(String),
    #[error("{0:?} may be any of {1} sandboxes")]
    Ambiguous(String, usize),
    #[error("{0:?} is no id for a new sandbox: it is taken, or not made of letters, digits, `_`, `.` and `-`")]
    BadId(String),
    #[error("sandbox {0:?} has no {1}")]
    Lacks(String, &'static str),
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl SimError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
