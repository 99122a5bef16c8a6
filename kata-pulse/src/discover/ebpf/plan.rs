//! Facts → which programs to try, in which order, and which numbers to hand over. Pure.
//!
//! What was refused before anything was tried keeps its reason.

use std::collections::BTreeMap;

use super::{
    DirectoryMode,
    probe::{BtfFacts, FunctionFacts, KernelFacts, TracefsFacts},
};
use crate::kernel::{Hook, Ladder, Rung, Step, missing};

/// What to load, and the globals it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Load the object that has the BTF programs.
    pub with_btf: bool,
    pub ladders: Vec<Ladder>,
    pub globals: BTreeMap<&'static str, u32>,
}

/// What each inode comparison needs.
const INODE: &[&str] = &["O_INODE_INO", "O_INODE_SB", "O_SB_DEV", "O_DENTRY_NAME", "O_DENTRY_NAME_LEN"];
const LIVE: &[&str] = &["O_TASK_SIGNAL", "O_SIGNAL_LIVE"];
/// What the account of a process takes, and its part about I/O, which a kernel may be built without.
const ACCOUNT: &[&str] = &[
    "O_TASK_SIGNAL",
    "O_TASK_THREAD_NODE",
    "O_TASK_UTIME",
    "O_TASK_STIME",
    "O_TASK_GTIME",
    "O_TASK_RUNTIME",
    "O_TASK_MIN_FLT",
    "O_TASK_MAJ_FLT",
    "O_TASK_NVCSW",
    "O_TASK_NIVCSW",
    "O_SIGNAL_THREADS",
    "O_SIGNAL_UTIME",
    "O_SIGNAL_STIME",
    "O_SIGNAL_GTIME",
    "O_SIGNAL_RUNTIME",
    "O_SIGNAL_MIN_FLT",
    "O_SIGNAL_MAJ_FLT",
    "O_SIGNAL_NVCSW",
    "O_SIGNAL_NIVCSW",
    "O_SIGNAL_MAXRSS",
    "O_SIGNAL_TOLD_UTIME",
    "O_SIGNAL_TOLD_STIME",
    "O_SIGNAL_STATS_SEQ",
];
const ACCOUNT_IO: &[&str] = &[
    "O_TASK_SYSCR",
    "O_TASK_SYSCW",
    "O_TASK_READ",
    "O_TASK_WRITE",
    "O_SIGNAL_SYSCR",
    "O_SIGNAL_SYSCW",
    "O_SIGNAL_READ",
    "O_SIGNAL_WRITE",
];
const ENTER: [(&str, &str, &[&str]); 4] = [
    ("mkdir_enter", "syscalls:sys_enter_mkdir", &["sys_enter_mkdir"]),
    ("mkdirat_enter", "syscalls:sys_enter_mkdirat", &["sys_enter_mkdirat"]),
    ("rmdir_enter", "syscalls:sys_enter_rmdir", &["sys_enter_rmdir"]),
    ("unlinkat_enter", "syscalls:sys_enter_unlinkat", &["sys_enter_unlinkat"]),
];

/// Global, tracepoint, field, size; size 0 is a located string.
const FIELDS: &[(&str, &str, &str, u32)] = &[
    ("O_EXEC_FILENAME", "sched:sched_process_exec", "filename", 0),
    ("O_EXIT_GROUP_DEAD", "sched:sched_process_exit", "group_dead", 1),
    ("O_FORK_CHILD", "sched:sched_process_fork", "child_pid", 4),
    ("O_MKDIR_PATH", "syscalls:sys_enter_mkdir", "pathname", 8),
    ("O_MKDIRAT_FD", "syscalls:sys_enter_mkdirat", "dfd", 8),
    ("O_MKDIRAT_PATH", "syscalls:sys_enter_mkdirat", "pathname", 8),
    ("O_RMDIR_PATH", "syscalls:sys_enter_rmdir", "pathname", 8),
    ("O_UNLINKAT_FD", "syscalls:sys_enter_unlinkat", "dfd", 8),
    ("O_UNLINKAT_PATH", "syscalls:sys_enter_unlinkat", "pathname", 8),
    ("O_UNLINKAT_FLAG", "syscalls:sys_enter_unlinkat", "flag", 8),
    ("O_SYSCALL_RET", "syscalls:sys_exit_mkdirat", "ret", 8),
];

/// Whoever takes the pid of a process that ended unseen would be followed instead, with all that it forks.
const FORKS_NEED_EXITS: &str = "ends of processes are not told, so that none could be forgotten";

/// Decides.
pub fn plan(facts: &KernelFacts, directories: DirectoryMode) -> Plan {
    let globals = globals(facts);
    let exec = process(facts, &globals, "exec", "sched_process_exec", "exec_btf", "exec_plain");
    let mut fork = process(facts, &globals, "fork", "sched_process_fork", "fork_btf", "fork_plain");
    let exit = process(facts, &globals, "exit", "sched_process_exit", exit_variant(facts), "exit_plain");
    if exit.rungs.iter().all(|rung| rung.refused.is_some()) {
        for rung in &mut fork.rungs {
            rung.refused.get_or_insert_with(|| FORKS_NEED_EXITS.to_owned());
        }
    }
    let release = release_ladder(facts, &globals);
    let mut ladders = vec![exec, fork, exit, release];
    if directories != DirectoryMode::Off {
        ladders.push(directory_ladder(facts, &globals, directories));
    }
    Plan { with_btf: facts.btf.is_ok(), ladders, globals }
}

/// The same without BTF: for when the kernel refuses the object's own.
pub fn without_btf(facts: &KernelFacts, reason: &str) -> KernelFacts {
    KernelFacts { btf: Err(reason.to_owned()), ..facts.clone() }
}

fn globals(facts: &KernelFacts) -> BTreeMap<&'static str, u32> {
    let mut globals = BTreeMap::new();
    if let Ok(btf) = &facts.btf {
        globals.extend(btf.offsets.iter().map(|(&name, &offset)| (name, offset)));
        let functions = [("MKDIR_DIR_ARG", "MKDIR_ARGS", btf.mkdir), ("RMDIR_DIR_ARG", "RMDIR_ARGS", btf.rmdir)];
        for (dir, arguments, function) in functions {
            if let Some(function) = function {
                globals.extend([(dir, function.dir), (arguments, function.arguments)]);
            }
        }
        if let Some(mkdir) = btf.mkdir {
            globals.insert("MKDIR_RETURNS_DENTRY", u32::from(mkdir.returns_pointer));
        }
    }
    if missing(&globals, ACCOUNT).is_none() {
        globals.insert("HAS_ACCOUNT", 1);
    }
    if missing(&globals, ACCOUNT_IO).is_none() {
        globals.insert("HAS_ACCOUNT_IO", 1);
    }
    if let Ok(tracefs) = &facts.tracefs {
        globals.extend(FIELDS.iter().filter_map(|&row| Some((row.0, field(tracefs, row)?))));
    }
    globals
}

fn field(tracefs: &TracefsFacts, row: (&str, &str, &str, u32)) -> Option<u32> {
    let (_, tracepoint, name, size) = row;
    let format = tracefs.formats.get(tracepoint)?;
    if size == 0 { format.located(name) } else { format.number(name, size) }
}

/// The program for this kernel's form of the exit tracepoint.
fn exit_variant(facts: &KernelFacts) -> &'static str {
    let arguments = facts.btf.as_ref().ok().and_then(|btf| btf.tracepoints.get("sched_process_exit"));
    if arguments.is_some_and(|&count| count >= 2) { "exit_btf" } else { "exit_btf_live" }
}

fn process(
    facts: &KernelFacts,
    globals: &BTreeMap<&'static str, u32>,
    feature: &'static str,
    name: &'static str,
    btf: &'static str,
    plain: &'static str,
) -> Ladder {
    let typed = match &facts.btf {
        Err(reason) => Some(reason.clone()),
        Ok(found) if !found.tracepoints.contains_key(name) => {
            Some(format!("the kernel's BTF has no tracepoint {name}"))
        }
        Ok(_) if btf == "exit_btf_live" => missing(globals, LIVE),
        Ok(_) if feature == "fork" => missing(globals, &["O_TASK_PID", "O_TASK_TGID"]),
        Ok(_) => None,
    };
    let text = match (&facts.tracefs, feature) {
        (Err(reason), _) => Some(reason.clone()),
        (Ok(_), "exit") if globals.contains_key("O_EXIT_GROUP_DEAD") => None,
        (Ok(_), "exit") => missing(globals, LIVE)
            .map(|_| "this kernel's exit tracepoint does not tell the last thread, and there is no BTF".to_owned()),
        (Ok(_), "fork") => missing(globals, &["O_FORK_CHILD"]),
        (Ok(found), _) => no_tracepoint(found, "sched:sched_process_exec"),
    };
    let names: &'static [&'static str] = match feature {
        "exec" => &["sched_process_exec"],
        "fork" => &["sched_process_fork"],
        _ => &["sched_process_exit"],
    };
    Ladder {
        feature,
        rungs: vec![
            Rung { steps: vec![Step { program: btf, hook: Hook::BtfTracepoint(name) }], refused: typed },
            Rung { steps: vec![Step { program: plain, hook: Hook::Tracepoints("sched", names) }], refused: text },
        ],
    }
}

/// By BTF only: the plain tracepoint does not give the task that is freed.
fn release_ladder(facts: &KernelFacts, globals: &BTreeMap<&'static str, u32>) -> Ladder {
    let refused = match &facts.btf {
        Err(reason) => Some(reason.clone()),
        Ok(_) if !facts.releases => Some("not to be used".to_owned()),
        Ok(found) if !found.tracepoints.contains_key("sched_process_free") => {
            Some("the kernel's BTF has no tracepoint sched_process_free".to_owned())
        }
        Ok(_) => missing(globals, ACCOUNT).or_else(|| missing(globals, &["O_TASK_PID", "O_TASK_TGID"])),
    };
    let steps = vec![Step { program: "free_btf", hook: Hook::BtfTracepoint("sched_process_free") }];
    Ladder { feature: "release", rungs: vec![Rung { steps, refused }] }
}

fn no_tracepoint(tracefs: &TracefsFacts, name: &str) -> Option<String> {
    (!tracefs.formats.contains_key(name)).then(|| format!("the kernel has no tracepoint {name}"))
}

fn directory_ladder(facts: &KernelFacts, globals: &BTreeMap<&'static str, u32>, mode: DirectoryMode) -> Ladder {
    let inode = match &facts.btf {
        Err(reason) => Some(reason.clone()),
        Ok(btf) => functions_known(btf).or_else(|| missing(globals, INODE)),
    };
    let no_kprobes = (!facts.kprobes).then(|| "the kernel is built without kprobes (CONFIG_KPROBES)".to_owned());
    let no_fexit = (!facts.fexit).then(|| "not to be used".to_owned());
    let mut rungs = vec![
        Rung { steps: fexit_steps(), refused: no_fexit.or_else(|| inode.clone()) },
        Rung { steps: kprobe_steps(), refused: no_kprobes.or(inode) },
    ];
    if mode == DirectoryMode::Syscalls {
        rungs.push(syscall_rung(facts, globals));
    }
    Ladder { feature: "directories", rungs }
}

fn functions_known(btf: &BtfFacts) -> Option<String> {
    // Two registers before the entry at most: what the programs read.
    let fits = |function: Option<FunctionFacts>| function.is_some_and(|f| f.dir <= 1 && (2..=6).contains(&f.arguments));
    if !fits(btf.mkdir) {
        return Some("vfs_mkdir is not in this kernel's BTF with a parent inode and an entry".to_owned());
    }
    if !fits(btf.rmdir) || btf.rmdir.is_some_and(|function| function.returns_pointer) {
        return Some("vfs_rmdir is not in this kernel's BTF with a parent inode and an entry".to_owned());
    }
    None
}

fn fexit_steps() -> Vec<Step> {
    vec![
        Step { program: "mkdir_fexit", hook: Hook::Fexit("vfs_mkdir") },
        Step { program: "rmdir_fexit", hook: Hook::Fexit("vfs_rmdir") },
    ]
}

fn kprobe_steps() -> Vec<Step> {
    vec![
        Step { program: "mkdir_kretprobe", hook: Hook::Kprobe("vfs_mkdir") },
        Step { program: "rmdir_kretprobe", hook: Hook::Kprobe("vfs_rmdir") },
        Step { program: "mkdir_kprobe", hook: Hook::Kprobe("vfs_mkdir") },
        Step { program: "rmdir_kprobe", hook: Hook::Kprobe("vfs_rmdir") },
    ]
}

/// arm64 has no mkdir and rmdir of its own; whichever of the four exist are taken.
fn syscall_rung(facts: &KernelFacts, globals: &BTreeMap<&'static str, u32>) -> Rung {
    let tracefs = match &facts.tracefs {
        Ok(found) => found,
        Err(reason) => return Rung { steps: vec![], refused: Some(reason.clone()) },
    };
    let refused = no_tracepoint(tracefs, "syscalls:sys_enter_mkdirat")
        .map(|text| format!("{text} (CONFIG_FTRACE_SYSCALLS)"))
        .or_else(|| missing(globals, &["O_SYSCALL_RET", "O_MKDIRAT_PATH", "O_UNLINKAT_PATH", "O_UNLINKAT_FLAG"]));
    let both = tracefs.formats.contains_key("syscalls:sys_enter_mkdir");
    let exits: &'static [&'static str] = if both {
        &["sys_exit_mkdir", "sys_exit_mkdirat", "sys_exit_rmdir", "sys_exit_unlinkat"]
    } else {
        &["sys_exit_mkdirat", "sys_exit_unlinkat"]
    };
    let mut steps = vec![Step { program: "directory_exit", hook: Hook::Tracepoints("syscalls", exits) }];
    steps.extend(
        ENTER
            .iter()
            .filter(|(_, name, _)| tracefs.formats.contains_key(name))
            .map(|&(program, _, names)| Step { program, hook: Hook::Tracepoints("syscalls", names) }),
    );
    Rung { steps, refused }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
