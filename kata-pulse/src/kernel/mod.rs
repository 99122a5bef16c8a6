//! What both parts that use eBPF share, `discover::ebpf` and `collect::kernel`: the kernel's own description of itself
//! (types, tracepoints), the embedded objects, and attaching programs so that each that fails says why.

mod attach;
mod btf;
mod facts;
mod format;
mod ladder;
mod object;

use aya::Ebpf;

pub use attach::{chain, climb};
pub use btf::{Btf, BtfError, Prototype};
pub use facts::{find_tracefs, read_btf, read_formats};
pub use format::{Format, parse_format};
pub use ladder::{Hook, Ladder, Rung, Step, missing};
pub use object::{Object, bytes, embedded};

/// A program of the object: attached, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramStatus {
    pub name: &'static str,
    /// What it serves.
    pub feature: &'static str,
    pub hook: String,
    pub attached: bool,
    /// Empty when attached.
    pub reason: String,
}

/// How often a program ran and for how long, as far as the kernel counts: for as long as somebody with CAP_SYS_ADMIN
/// wants it to, the agent itself or kernel.bpf_stats_enabled.
#[derive(Debug, Clone, PartialEq)]
pub struct RunStats {
    pub name: &'static str,
    pub runs: Option<u64>,
    pub run_seconds: Option<f64>,
}

/// Runs and time of the attached programs; `None` in it where the kernel does not count them.
pub fn run_stats(ebpf: &Ebpf, programs: &[ProgramStatus]) -> Vec<RunStats> {
    let attached = programs.iter().filter(|program| program.attached);
    attached.map(|program| run_stats_of(ebpf, program.name)).collect()
}

fn run_stats_of(ebpf: &Ebpf, name: &'static str) -> RunStats {
    let info = ebpf.program(name).and_then(|program| program.info().ok());
    // The kernel leaves both at zero while it does not count.
    let counted = info.filter(|info| info.run_count() > 0);
    RunStats {
        name,
        runs: counted.as_ref().map(|info| info.run_count()),
        run_seconds: counted.as_ref().map(|info| info.run_time().as_secs_f64()),
    }
}

/// Two thirds of what the agent would hold for ever is the kernel's BTF, parsed and dropped by now: the allocator keeps
/// it unless told otherwise.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a function of the C library")]
pub fn give_memory_back() {
    // SAFETY: takes no pointer, may be called at any time from any thread, and only returns free pages.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
pub fn give_memory_back() {}
