//! Kernel events by eBPF: directories made and removed below the watched bases; exec, fork, exit and release of shims,
//! hypervisors and their helpers. In: what to watch. Out: [`KernelEvent`]s in batches, hints all of them.
//!
//! facts ([`probe`]) → decision ([`plan`]) → action (`load`), then [`EbpfWatch`]. Blocking: [`start`] about
//! 0.1 s, [`EbpfWatch::detach`] up to a second. Believing an event or not is the caller's job.

mod account;
mod events;
mod load;
mod log;
pub mod plan;
pub mod probe;
mod rings;
mod watch;

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

pub use account::{Account, AccountIo};
pub use events::{Directory, ExitStatus, KernelEvent, Origin, Process, Program};
use tracing::{info, warn};
pub use watch::EbpfWatch;

use crate::kernel::give_memory_back;
pub use crate::kernel::{ProgramStatus, RunStats, embedded};

use load::HostNamespaces;
use probe::KernelFacts;

/// `--ebpf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Use what there is.
    #[default]
    Auto,
    /// Fail when exec and exit of processes cannot be seen.
    Require,
    Off,
}

/// `--ebpf-directories`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DirectoryMode {
    /// fexit, else kprobe, else nothing: inotify sees them too.
    #[default]
    Auto,
    /// As auto, then per-syscall tracepoints, which slow every system call of the host.
    Syscalls,
    Off,
}

/// What [`start`] is to do and where it finds things.
#[derive(Debug, Clone)]
pub struct EbpfOptions {
    pub mode: Mode,
    pub directories: DirectoryMode,
    /// Inode of the host's mount namespace; `None`: that of process 1.
    pub host_mount_ns: Option<u64>,
    pub procfs: PathBuf,
    pub sysfs: PathBuf,
    /// Where tracefs is mounted; `None`: its usual places below sysfs.
    pub tracefs: Option<PathBuf>,
    /// Let the programs log each event (aya-log) to this process' log at debug level.
    pub log: bool,
    /// Pretend that the kernel lacks these. For tests of every rung on one kernel.
    pub hide: Hidden,
}

impl Default for EbpfOptions {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            directories: DirectoryMode::Auto,
            host_mount_ns: None,
            procfs: "/proc".into(),
            sysfs: "/sys".into(),
            tracefs: None,
            log: false,
            hide: Hidden::default(),
        }
    }
}

/// What of the kernel is not to be used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hidden {
    pub btf: bool,
    pub fexit: bool,
    pub kprobes: bool,
    /// What the exit tracepoint says of the last thread, which kernels up to 6.1 do not have.
    pub last_thread: bool,
    /// The release of a process: its account is then what it was at its exit.
    pub releases: bool,
}

/// Sums over all CPUs, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Written to the ring of the host's events.
    pub emitted: u64,
    /// Of the host, not written because that ring was full.
    pub lost: u64,
    /// From other namespaces, written to the ring for those.
    pub foreign_emitted: u64,
    /// From other namespaces, not written because that ring was full.
    pub foreign_lost: u64,
    /// Processes that could not be tracked because the map was full.
    pub map_full: u64,
    /// Directories whose path is a base's text in another mount namespace.
    pub rejected_foreign: u64,
    /// Strings that could not be read.
    pub faults: u64,
    /// Records that this side did not understand.
    pub undecoded: u64,
}

/// Why there is no watch at all.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    #[error("switched off")]
    Off,
    #[error("built without the eBPF object: cargo xtask build-ebpf, then build again")]
    NotEmbedded,
    #[error("load the eBPF object")]
    Object(#[source] Box<aya::EbpfError>),
    #[error("no eBPF program could be attached: {0}")]
    NothingAttached(String),
    #[error("--ebpf require: {feature} cannot be seen: {reason}")]
    Required { feature: &'static str, reason: String },
    #[error("the eBPF object's map {0}")]
    Map(&'static str, #[source] Option<Box<aya::maps::MapError>>),
}

/// Probes, decides, loads and attaches. Blocks for some 0.1 s.
pub fn start(options: &EbpfOptions) -> Result<EbpfWatch, EbpfError> {
    if options.mode == Mode::Off {
        return Err(EbpfError::Off);
    }
    if !embedded() {
        return Err(EbpfError::NotEmbedded);
    }
    let facts = hide(KernelFacts::read(&options.sysfs, options.tracefs.as_deref()), options.hide);
    let host = host_namespaces(options);
    let decision = plan::plan(&facts, options.directories);
    let loaded = match load::attach(&decision, host, options.log) {
        Err(aya::EbpfError::BtfError(error)) => {
            // aya gives up the whole object then; the other one has nothing that needs BTF.
            warn!(error = &error as &dyn std::error::Error, "the kernel refuses the eBPF object's BTF");
            let facts = plan::without_btf(&facts, "the kernel refuses the eBPF object's BTF");
            load::attach(&plan::plan(&facts, options.directories), host, options.log)
        }
        other => other,
    };
    let loaded = loaded.map_err(|error| EbpfError::Object(Box::new(error)))?;
    check(options.mode, &loaded.programs)?;
    for program in loaded.programs.iter().filter(|program| program.attached) {
        info!(program = program.name, hook = program.hook, "eBPF program attached");
    }
    let watch = EbpfWatch::new(loaded, options.log);
    give_memory_back();
    watch
}

fn hide(mut facts: KernelFacts, hidden: Hidden) -> KernelFacts {
    if hidden.btf {
        facts.btf = Err("hidden for a test".to_owned());
    }
    if hidden.kprobes {
        facts.kprobes = false;
    }
    if hidden.last_thread
        && let Ok(tracefs) = &mut facts.tracefs
    {
        tracefs.formats.remove("sched:sched_process_exit");
    }
    facts.fexit = !hidden.fexit;
    facts.releases = !hidden.releases;
    facts
}

/// The least that there must be.
fn check(mode: Mode, programs: &[ProgramStatus]) -> Result<(), EbpfError> {
    let reasons = |feature: &str| {
        let of = programs.iter().filter(|program| program.feature == feature);
        of.map(|program| format!("{}: {}", program.hook, program.reason)).collect::<Vec<_>>().join("; ")
    };
    if !programs.iter().any(|program| program.attached) {
        return Err(EbpfError::NothingAttached(reasons("exec")));
    }
    for feature in ["exec", "exit"] {
        let seen = programs.iter().any(|program| program.feature == feature && program.attached);
        if mode == Mode::Require && !seen {
            return Err(EbpfError::Required { feature, reason: reasons(feature) });
        }
    }
    Ok(())
}

fn host_namespaces(options: &EbpfOptions) -> HostNamespaces {
    // Process 1 may not let itself be looked at; kthreadd, which the kernel itself started, is where it began.
    let of = |name: &str| {
        let in_process = |pid: &str| fs::metadata(options.procfs.join(pid).join("ns").join(name)).ok();
        let is_kthreadd = || fs::read(options.procfs.join("2/comm")).is_ok_and(|comm| comm == b"kthreadd\n");
        in_process("1").or_else(|| in_process("2").filter(|_| is_kthreadd()))
    };
    let mount = options.host_mount_ns.or_else(|| of("mnt").map(|found| found.ino()));
    HostNamespaces {
        mount_inode: mount.and_then(|inode| u32::try_from(inode).ok()),
        pid: of("pid").map(|found| (kernel_device(found.dev()), found.ino())),
    }
}

/// A device number as stat(2) gives it → as the kernel keeps it.
fn kernel_device(device: u64) -> u64 {
    (u64::from(rustix::fs::major(device)) << 20) | u64::from(rustix::fs::minor(device))
}

/// Device and inode of a directory, as [`EbpfWatch::watch_base`] takes them.
pub fn base_key(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(feature: &'static str, attached: bool) -> ProgramStatus {
        ProgramStatus { name: "x", feature, hook: "h".into(), attached, reason: "because".into() }
    }

    #[test]
    fn require_needs_exec_and_exit() {
        let half = [status("exec", true), status("exit", false), status("directories", false)];
        assert!(check(Mode::Auto, &half).is_ok());
        let error = check(Mode::Require, &half).unwrap_err().to_string();
        assert_eq!(error, "--ebpf require: exit cannot be seen: h: because");
        assert!(check(Mode::Require, &[status("exec", true), status("exit", true)]).is_ok());
    }

    #[test]
    fn nothing_attached_is_an_error_in_every_mode() {
        let error = check(Mode::Auto, &[status("exec", false)]).unwrap_err();
        assert!(matches!(error, EbpfError::NothingAttached(_)), "{error}");
    }

    #[test]
    fn device_numbers_are_turned_into_the_kernels() {
        assert_eq!(kernel_device(0x1b), 0x1b);
        assert_eq!(kernel_device(rustix::fs::makedev(8, 1)), 8 << 20 | 1);
    }
}
