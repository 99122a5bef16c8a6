use super::*;
use crate::kernel::{Format, parse_format};

/// A kernel that offers everything, as 6.18 does.
fn everything() -> KernelFacts {
    let names = INODE.iter().chain(LIVE).chain(ACCOUNT).chain(ACCOUNT_IO).chain(&["O_TASK_PID", "O_TASK_TGID"]);
    let function = |arguments, returns_pointer| Some(FunctionFacts { dir: 1, arguments, returns_pointer });
    let tracepoints =
        [("sched_process_exec", 3), ("sched_process_fork", 2), ("sched_process_exit", 2), ("sched_process_free", 1)];
    let format = |line: &str| parse_format(line);
    let formats = [
        ("sched:sched_process_exec", "field:__data_loc char[] filename; offset:8; size:4;"),
        ("sched:sched_process_fork", "field:pid_t child_pid; offset:20; size:4;"),
        ("sched:sched_process_exit", "field:bool group_dead; offset:32; size:1;"),
        ("syscalls:sys_enter_mkdir", "field:const char * pathname; offset:16; size:8;"),
        (
            "syscalls:sys_enter_mkdirat",
            "field:int dfd; offset:16; size:8;\nfield:const char * pathname; offset:24; size:8;",
        ),
        ("syscalls:sys_enter_rmdir", "field:const char * pathname; offset:16; size:8;"),
        (
            "syscalls:sys_enter_unlinkat",
            "field:int dfd; offset:16; size:8;\nfield:const char * pathname; offset:24; size:8;\nfield:int flag; offset:32; size:8;",
        ),
        ("syscalls:sys_exit_mkdirat", "field:long ret; offset:16; size:8;"),
    ];
    KernelFacts {
        btf: Ok(BtfFacts {
            offsets: names.map(|&name| (name, 8)).collect(),
            tracepoints: tracepoints.into_iter().collect(),
            mkdir: function(4, true),
            rmdir: function(3, false),
        }),
        tracefs: Ok(TracefsFacts { formats: formats.into_iter().map(|(n, l)| (n, format(l))).collect() }),
        kprobes: true,
        fexit: true,
        releases: true,
    }
}

fn btf(facts: &mut KernelFacts) -> &mut BtfFacts {
    facts.btf.as_mut().unwrap()
}

fn tracefs(facts: &mut KernelFacts) -> &mut TracefsFacts {
    facts.tracefs.as_mut().unwrap()
}

/// The first program of every rung that may be tried, ladder by ladder.
fn tried(facts: &KernelFacts, directories: DirectoryMode) -> String {
    let ladders = plan(facts, directories).ladders.into_iter().map(|ladder| {
        let open = ladder.rungs.iter().filter(|rung| rung.refused.is_none());
        open.map(|rung| rung.steps[0].program).collect::<Vec<_>>().join(" ")
    });
    ladders.collect::<Vec<_>>().join(" | ")
}

#[test]
fn every_kind_of_host_gets_the_best_it_offers() {
    type Change = fn(&mut KernelFacts);
    let cases: &[(&str, Change, DirectoryMode, &str)] = &[
        (
            "everything",
            |_| (),
            DirectoryMode::Auto,
            "exec_btf exec_plain | fork_btf fork_plain | exit_btf exit_plain | free_btf | mkdir_fexit mkdir_kretprobe",
        ),
        (
            "everything, syscalls on request",
            |_| (),
            DirectoryMode::Syscalls,
            "exec_btf exec_plain | fork_btf fork_plain | exit_btf exit_plain | free_btf | mkdir_fexit mkdir_kretprobe directory_exit",
        ),
        (
            "no directories",
            |_| (),
            DirectoryMode::Off,
            "exec_btf exec_plain | fork_btf fork_plain | exit_btf exit_plain | free_btf",
        ),
        (
            "no BTF",
            |facts| facts.btf = Err("none".into()),
            DirectoryMode::Syscalls,
            "exec_plain | fork_plain | exit_plain |  | directory_exit",
        ),
        (
            "no BTF, exit without group_dead",
            |facts| {
                facts.btf = Err("none".into());
                tracefs(facts).formats.insert("sched:sched_process_exit", Format::default());
            },
            DirectoryMode::Auto,
            "exec_plain |  |  |  | ",
        ),
        (
            "no tracefs",
            |facts| facts.tracefs = Err("not mounted".into()),
            DirectoryMode::Syscalls,
            "exec_btf | fork_btf | exit_btf | free_btf | mkdir_fexit mkdir_kretprobe",
        ),
        (
            "neither",
            |facts| {
                facts.btf = Err("none".into());
                facts.tracefs = Err("not mounted".into());
            },
            DirectoryMode::Syscalls,
            " |  |  |  | ",
        ),
        (
            "5.11: exit has one argument, mkdir starts with the parent",
            |facts| {
                btf(facts).tracepoints.insert("sched_process_exit", 1);
                btf(facts).mkdir = Some(FunctionFacts { dir: 0, arguments: 3, returns_pointer: false });
            },
            DirectoryMode::Auto,
            "exec_btf exec_plain | fork_btf fork_plain | exit_btf_live exit_plain | free_btf | mkdir_fexit mkdir_kretprobe",
        ),
        (
            "one argument and no signal_struct.live",
            |facts| {
                btf(facts).tracepoints.insert("sched_process_exit", 1);
                btf(facts).offsets.remove("O_SIGNAL_LIVE");
            },
            DirectoryMode::Auto,
            "exec_btf exec_plain | fork_btf fork_plain | exit_plain | free_btf | mkdir_fexit mkdir_kretprobe",
        ),
        (
            "an inode without number",
            |facts| {
                btf(facts).offsets.remove("O_INODE_INO");
            },
            DirectoryMode::Auto,
            "exec_btf exec_plain | fork_btf fork_plain | exit_btf exit_plain | free_btf | ",
        ),
        (
            "rmdir of a shape we do not know",
            |facts| btf(facts).rmdir = Some(FunctionFacts { dir: 4, arguments: 6, returns_pointer: false }),
            DirectoryMode::Auto,
            "exec_btf exec_plain | fork_btf fork_plain | exit_btf exit_plain | free_btf | ",
        ),
        (
            "no kprobes",
            |facts| facts.kprobes = false,
            DirectoryMode::Auto,
            "exec_btf exec_plain | fork_btf fork_plain | exit_btf exit_plain | free_btf | mkdir_fexit",
        ),
    ];
    for (host, change, directories, expected) in cases {
        let mut facts = everything();
        change(&mut facts);
        assert_eq!(&tried(&facts, *directories), expected, "{host}");
    }
}

#[test]
fn globals_carry_the_functions_shapes() {
    let found = plan(&everything(), DirectoryMode::Auto).globals;
    let get = |name| found.get(name).copied();
    assert_eq!((get("MKDIR_DIR_ARG"), get("MKDIR_ARGS"), get("MKDIR_RETURNS_DENTRY")), (Some(1), Some(4), Some(1)));
    assert_eq!((get("RMDIR_ARGS"), get("O_EXIT_GROUP_DEAD")), (Some(3), Some(32)));
}

#[test]
fn an_account_takes_all_of_its_offsets() {
    let has = |facts: &KernelFacts| {
        let globals = plan(facts, DirectoryMode::Off).globals;
        (globals.get("HAS_ACCOUNT").copied(), globals.get("HAS_ACCOUNT_IO").copied())
    };
    assert_eq!(has(&everything()), (Some(1), Some(1)));
    let mut facts = everything();
    btf(&mut facts).offsets.remove("O_TASK_SYSCR");
    assert_eq!(has(&facts), (Some(1), None), "a kernel without accounting of I/O");
    btf(&mut facts).offsets.remove("O_SIGNAL_MAXRSS");
    assert_eq!(has(&facts), (None, None));
    assert_eq!(
        tried(&facts, DirectoryMode::Off),
        "exec_btf exec_plain | fork_btf fork_plain | exit_btf exit_plain | ",
        "nothing to tell at the release"
    );
}

#[test]
fn arm_has_no_mkdir_of_its_own() {
    let mut facts = everything();
    tracefs(&mut facts)
        .formats
        .retain(|name, _| !["syscalls:sys_enter_mkdir", "syscalls:sys_enter_rmdir"].contains(name));
    let plan = plan(&facts, DirectoryMode::Syscalls);
    let rung = &plan.ladders[4].rungs[2];
    let programs: Vec<&str> = rung.steps.iter().map(|step| step.program).collect();
    assert_eq!(programs, ["directory_exit", "mkdirat_enter", "unlinkat_enter"]);
    assert_eq!(rung.refused, None);
}

#[test]
fn a_refusal_says_what_to_do() {
    let mut facts = everything();
    facts.tracefs = Err("tracefs is not at /x: mount -t tracefs tracefs /x".into());
    let plan = plan(&facts, DirectoryMode::Syscalls);
    for (ladder, rung) in [(0, 1), (1, 1), (2, 1), (4, 2)] {
        let reason = plan.ladders[ladder].rungs[rung].refused.as_deref().unwrap_or_default();
        assert!(reason.contains("mount -t tracefs"), "{reason}");
    }
}
