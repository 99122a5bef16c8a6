use super::*;
use crate::kernel::parse_format;

/// A kernel that offers everything, as 6.18 does.
fn everything() -> Facts {
    let format = |name: &str| {
        let fields = FIELDS.iter().filter(|row| row.1 == name).map(|row| {
            let (Number(size) | Bytes(size)) = row.3;
            format!("field:int {}; offset:8; size:{size};\n", row.2)
        });
        parse_format(&fields.collect::<String>())
    };
    Facts {
        btf: Ok(SCHEDULER.into_iter().zip((8..).step_by(8)).collect()),
        formats: Ok(TRACEPOINTS.iter().map(|&name| (name, format(name))).collect()),
    }
}

/// The first program of every rung that may be tried, ladder by ladder.
fn tried(facts: &Facts, wanted: &[ProgramGroup]) -> String {
    let ladders = plan(facts, &wanted.iter().copied().collect()).ladders.into_iter().map(|ladder| {
        let open = ladder.rungs.iter().filter(|rung| rung.refused.is_none());
        open.map(|rung| rung.steps[0].program).collect::<Vec<_>>().join(" ")
    });
    ladders.collect::<Vec<_>>().join(" | ")
}

#[test]
fn what_a_kernel_lacks_costs_only_its_own_group() {
    type Change = fn(&mut Facts);
    let without = |facts: &mut Facts, name: &str| {
        facts.formats.as_mut().unwrap().remove(name);
    };
    let cases: &[(&str, Change, &str)] = &[
        ("everything", |_| (), "runqueue_switch | kvm_exit | block_done request_done | oom_victim"),
        ("no BTF", |facts| facts.btf = Err("none".into()), " | kvm_exit | block_done request_done | oom_victim"),
        ("no tracefs", |facts| facts.formats = Err("none".into()), "runqueue_switch |  |  | "),
        (
            "a task without state",
            |facts| facts.btf.as_mut().unwrap().retain(|name, _| *name != "O_TASK_STATE"),
            " | kvm_exit | block_done request_done | oom_victim",
        ),
    ];
    for (host, change, expected) in cases {
        let mut facts = everything();
        change(&mut facts);
        assert_eq!(&tried(&facts, &ProgramGroup::ALL), expected, "{host}");
    }
    let cases = [
        ("kvm:kvm_userspace_exit", "runqueue_switch |  | block_done request_done | oom_victim"),
        ("block:block_io_start", "runqueue_switch | kvm_exit | request_done | oom_victim"),
        ("block:block_bio_frontmerge", "runqueue_switch | kvm_exit | request_done | oom_victim"),
        ("block:block_rq_complete", "runqueue_switch | kvm_exit | block_done | oom_victim"),
        ("oom:mark_victim", "runqueue_switch | kvm_exit | block_done request_done | "),
    ];
    for (name, expected) in cases {
        let mut facts = everything();
        without(&mut facts, name);
        assert_eq!(tried(&facts, &ProgramGroup::ALL), expected, "{name}");
    }
}

#[test]
fn each_group_is_switched_off_alone() {
    let all = ["runqueue_switch", "kvm_exit", "block_done request_done", "oom_victim"];
    for off in 0..all.len() {
        let mut expected = all;
        expected[off] = "";
        let wanted: Vec<_> = ProgramGroup::ALL.into_iter().filter(|&group| group != ProgramGroup::ALL[off]).collect();
        assert_eq!(tried(&everything(), &wanted), expected.join(" | "));
        let ladder = &plan(&everything(), &wanted.into_iter().collect()).ladders[off];
        assert!(ladder.rungs.iter().all(|rung| rung.refused.as_deref() == Some("switched off")));
    }
}

#[test]
fn a_refusal_names_the_tracepoint_or_the_field() {
    let mut facts = everything();
    let formats = facts.formats.as_mut().unwrap();
    formats.remove("kvm:kvm_userspace_exit");
    formats.insert("oom:mark_victim", parse_format("field:int other; offset:8; size:4;"));
    let plan = plan(&facts, &ProgramGroup::ALL.into());
    let reason = |ladder: usize| plan.ladders[ladder].rungs[0].refused.clone().unwrap_or_default();
    assert_eq!(
        reason(1),
        "the kernel has no tracepoint kvm:kvm_userspace_exit: start the agent after the kvm module is loaded"
    );
    assert_eq!(reason(3), "not found in this kernel's BTF or tracefs: O_VICTIM_PID");
}
