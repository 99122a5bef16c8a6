//! Where the host's trees are: every path hangs from here, so a test swaps the host.

use std::path::{Path, PathBuf};

use crate::sandbox::{Pid, Runtime, SandboxId};

/// A directory below which sandbox directories appear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseDirectory {
    /// `None`: the operator gave no prefix; the runtime is told from evidence.
    pub runtime: Option<Runtime>,
    pub path: PathBuf,
}

/// The trees of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPaths {
    pub bases: Vec<BaseDirectory>,
    pub procfs: PathBuf,
    pub sysfs: PathBuf,
}

impl HostPaths {
    pub fn proc_file(&self, pid: Pid, file: &str) -> PathBuf {
        self.procfs.join(pid.0.to_string()).join(file)
    }

    /// Kata's Go state tree (`/run/vc`), told from a Go base directory (`/run/vc/sbs`).
    pub fn go_state(base: &Path) -> Option<&Path> {
        base.parent()
    }

    pub fn sandbox_directory(base: &BaseDirectory, id: &SandboxId) -> PathBuf {
        base.path.join(id.as_str())
    }
}

impl Default for HostPaths {
    fn default() -> Self {
        Self {
            bases: vec![
                BaseDirectory { runtime: Some(Runtime::Go), path: "/run/vc/sbs".into() },
                BaseDirectory { runtime: Some(Runtime::Rust), path: "/run/kata".into() },
            ],
            procfs: "/proc".into(),
            sysfs: "/sys".into(),
        }
    }
}
