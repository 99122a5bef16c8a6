//! What the kernel itself counts of each sandbox, by eBPF: time on run queues, exits of vCPUs to their VMM, block I/O,
//! OOM kills. In: which processes and threads belong to which sandbox. Out: [`KernelReading`].
//!
//! Everything is summed in the kernel; nothing per event comes to user space. Each [`ProgramGroup`] can be switched off,
//! and what the kernel refuses costs only its own group. [`KernelView::start`] blocks for some 0.1 s,
//! [`KernelView::detach`] 50-90 ms for each plain tracepoint.

mod devices;
mod exits;
mod load;
mod maps;
mod plan;
mod slots;
mod types;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub use crate::model::{BlockReading, Histogram, KernelReading};
pub use types::BOUNDS;
pub use view::{Counted, KernelView, Slot, WatchError};

pub use crate::kernel::{ProgramStatus, RunStats};

/// Programs that serve one purpose and are switched together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProgramGroup {
    /// How long threads wait for a CPU.
    Runqueue,
    /// Exits of vCPUs to their VMM.
    Kvm,
    Block,
    /// Processes killed for want of memory.
    Oom,
}

impl ProgramGroup {
    pub const ALL: [Self; 4] = [Self::Runqueue, Self::Kvm, Self::Block, Self::Oom];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runqueue => "runqueue",
            Self::Kvm => "kvm",
            Self::Block => "block",
            Self::Oom => "oom",
        }
    }
}

/// What [`KernelView::start`] is to do and where it finds things.
#[derive(Clone, Debug)]
pub struct KernelOptions {
    pub programs: BTreeSet<ProgramGroup>,
    pub procfs: PathBuf,
    pub sysfs: PathBuf,
    /// Where tracefs is mounted; `None`: its usual places below sysfs.
    pub tracefs: Option<PathBuf>,
    /// Pretend that the kernel lacks these. For tests.
    pub hide: Hidden,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self {
            programs: ProgramGroup::ALL.into(),
            procfs: "/proc".into(),
            sysfs: "/sys".into(),
            tracefs: None,
            hide: Hidden::default(),
        }
    }
}

/// What of the kernel is not to be used.
#[derive(Clone, Debug, Default)]
pub struct Hidden {
    pub btf: bool,
    /// As `category:name`.
    pub tracepoints: Vec<&'static str>,
    /// Offsets of tasks' members to use instead of the right ones: the kernel's verifier refuses wrong ones.
    pub offsets: BTreeMap<&'static str, u32>,
}
