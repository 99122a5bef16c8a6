//! Facts about this kernel: its BTF, its tracepoints, whether it has kprobes. Reads files, decides nothing.

use std::{collections::BTreeMap, path::Path};

use crate::kernel::{Btf, Format, find_tracefs, read_btf, read_formats};

/// What the running kernel offers, or why it does not: each refusal says what to do about it.
#[derive(Debug, Clone)]
pub struct KernelFacts {
    pub btf: Result<BtfFacts, String>,
    pub tracefs: Result<TracefsFacts, String>,
    pub kprobes: bool,
    /// Not known before it is tried.
    pub fexit: bool,
    /// Whether the release of processes is to be watched.
    pub releases: bool,
}

/// Numbers from BTF.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BtfFacts {
    /// Name of the eBPF global → offset.
    pub offsets: BTreeMap<&'static str, u32>,
    /// Number of arguments of BTF tracepoints.
    pub tracepoints: BTreeMap<&'static str, usize>,
    pub mkdir: Option<FunctionFacts>,
    pub rmdir: Option<FunctionFacts>,
}

/// How a kernel function takes the parent directory and the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionFacts {
    /// The argument that is the parent's inode; the entry follows it.
    pub dir: u32,
    pub arguments: u32,
    pub returns_pointer: bool,
}

/// Numbers from tracefs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TracefsFacts {
    /// `category:name` → its record.
    pub formats: BTreeMap<&'static str, Format>,
}

/// eBPF global, struct, path of the member; several rows for names that changed over time.
const OFFSETS: &[(&str, &str, &str)] = &[
    ("O_TASK_NSPROXY", "task_struct", "nsproxy"),
    ("O_NSPROXY_MNT", "nsproxy", "mnt_ns"),
    ("O_MNTNS_INUM", "mnt_namespace", "ns.inum"),
    ("O_TASK_PID", "task_struct", "pid"),
    ("O_TASK_TGID", "task_struct", "tgid"),
    ("O_TASK_PARENT", "task_struct", "real_parent"),
    ("O_TASK_LEADER", "task_struct", "group_leader"),
    ("O_TASK_START", "task_struct", "start_boottime"),
    ("O_TASK_START", "task_struct", "real_start_time"),
    ("O_TASK_EXIT_CODE", "task_struct", "exit_code"),
    ("O_TASK_SIGNAL", "task_struct", "signal"),
    ("O_SIGNAL_LIVE", "signal_struct", "live.counter"),
    ("O_TASK_MM", "task_struct", "mm"),
    ("O_MM_ARG_START", "mm_struct", "arg_start"),
    ("O_MM_ARG_END", "mm_struct", "arg_end"),
    ("O_TASK_FILES", "task_struct", "files"),
    ("O_FILES_FDT", "files_struct", "fdt"),
    ("O_FDT_FD", "fdtable", "fd"),
    ("O_FILE_INODE", "file", "f_inode"),
    ("O_TASK_FS", "task_struct", "fs"),
    ("O_FS_PWD_DENTRY", "fs_struct", "pwd.dentry"),
    ("O_DENTRY_INODE", "dentry", "d_inode"),
    ("O_BPRM_FILENAME", "linux_binprm", "filename"),
    ("O_INODE_INO", "inode", "i_ino"),
    ("O_INODE_SB", "inode", "i_sb"),
    ("O_SB_DEV", "super_block", "s_dev"),
    ("O_DENTRY_NAME", "dentry", "d_name.name"),
    ("O_DENTRY_NAME_LEN", "dentry", "d_name.len"),
    ("O_TASK_UTIME", "task_struct", "utime"),
    ("O_TASK_STIME", "task_struct", "stime"),
    ("O_TASK_GTIME", "task_struct", "gtime"),
    ("O_TASK_RUNTIME", "task_struct", "se.sum_exec_runtime"),
    ("O_TASK_MIN_FLT", "task_struct", "min_flt"),
    ("O_TASK_MAJ_FLT", "task_struct", "maj_flt"),
    ("O_TASK_NVCSW", "task_struct", "nvcsw"),
    ("O_TASK_NIVCSW", "task_struct", "nivcsw"),
    ("O_TASK_SYSCR", "task_struct", "ioac.syscr"),
    ("O_TASK_SYSCW", "task_struct", "ioac.syscw"),
    ("O_TASK_READ", "task_struct", "ioac.read_bytes"),
    ("O_TASK_WRITE", "task_struct", "ioac.write_bytes"),
    ("O_SIGNAL_UTIME", "signal_struct", "utime"),
    ("O_SIGNAL_STIME", "signal_struct", "stime"),
    ("O_SIGNAL_GTIME", "signal_struct", "gtime"),
    ("O_SIGNAL_RUNTIME", "signal_struct", "sum_sched_runtime"),
    ("O_SIGNAL_MIN_FLT", "signal_struct", "min_flt"),
    ("O_SIGNAL_MAJ_FLT", "signal_struct", "maj_flt"),
    ("O_SIGNAL_NVCSW", "signal_struct", "nvcsw"),
    ("O_SIGNAL_NIVCSW", "signal_struct", "nivcsw"),
    ("O_SIGNAL_SYSCR", "signal_struct", "ioac.syscr"),
    ("O_SIGNAL_SYSCW", "signal_struct", "ioac.syscw"),
    ("O_SIGNAL_READ", "signal_struct", "ioac.read_bytes"),
    ("O_SIGNAL_WRITE", "signal_struct", "ioac.write_bytes"),
    ("O_TASK_THREAD_NODE", "task_struct", "thread_node"),
    ("O_SIGNAL_THREADS", "signal_struct", "thread_head"),
    ("O_SIGNAL_MAXRSS", "signal_struct", "maxrss"),
    ("O_SIGNAL_TOLD_UTIME", "signal_struct", "prev_cputime.utime"),
    ("O_SIGNAL_TOLD_STIME", "signal_struct", "prev_cputime.stime"),
    ("O_SIGNAL_STATS_SEQ", "signal_struct", "stats_lock.seqcount.seqcount.sequence"),
    ("O_SIGNAL_STATS_SEQ", "signal_struct", "stats_lock.seqcount.sequence"),
];

const TRACEPOINTS: [&str; 4] = ["sched_process_exec", "sched_process_fork", "sched_process_exit", "sched_process_free"];

/// Tracepoints whose records are read, as category and name.
const FORMATS: [&str; 11] = [
    "sched:sched_process_exec",
    "sched:sched_process_fork",
    "sched:sched_process_exit",
    "syscalls:sys_enter_mkdir",
    "syscalls:sys_enter_mkdirat",
    "syscalls:sys_enter_rmdir",
    "syscalls:sys_enter_unlinkat",
    "syscalls:sys_exit_mkdir",
    "syscalls:sys_exit_mkdirat",
    "syscalls:sys_exit_rmdir",
    "syscalls:sys_exit_unlinkat",
];

impl KernelFacts {
    /// Reads them all. The 5 MB of BTF are dropped before this returns.
    pub fn read(sysfs: &Path, tracefs: Option<&Path>) -> Self {
        let tracefs = find_tracefs(sysfs, tracefs);
        Self {
            btf: read_btf(sysfs).and_then(|bytes| parse_btf(&bytes)),
            kprobes: sysfs.join("bus/event_source/devices/kprobe").exists()
                || tracefs.as_ref().is_ok_and(|root| root.join("kprobe_events").exists()),
            tracefs: tracefs.map(|root| TracefsFacts { formats: read_formats(&root, &FORMATS) }),
            fexit: true,
            releases: true,
        }
    }
}

/// The facts in BTF bytes.
pub fn parse_btf(bytes: &[u8]) -> Result<BtfFacts, String> {
    let traces = TRACEPOINTS.map(|name| format!("btf_trace_{name}"));
    let mut wanted: Vec<&str> = OFFSETS.iter().map(|row| row.1).chain(["vfs_mkdir", "vfs_rmdir"]).collect();
    wanted.extend(traces.iter().map(String::as_str));
    let btf = Btf::parse(bytes, &wanted).map_err(|error| error.to_string())?;
    let mut facts = BtfFacts::default();
    for (global, owner, path) in OFFSETS {
        if let Some(offset) = btf.offset(owner, path) {
            facts.offsets.entry(global).or_insert(offset);
        }
    }
    for name in TRACEPOINTS {
        if let Some(prototype) = btf.tracepoint(name) {
            facts.tracepoints.insert(name, prototype.points_to.len());
        }
    }
    facts.mkdir = function_facts(&btf, "vfs_mkdir");
    facts.rmdir = function_facts(&btf, "vfs_rmdir");
    Ok(facts)
}

fn function_facts(btf: &Btf<'_>, name: &str) -> Option<FunctionFacts> {
    let prototype = btf.function(name)?;
    let dir = prototype.points_to.windows(2).position(|pair| pair == ["inode", "dentry"])?;
    Some(FunctionFacts {
        dir: dir as u32,
        arguments: prototype.points_to.len() as u32,
        returns_pointer: prototype.returns_pointer,
    })
}
