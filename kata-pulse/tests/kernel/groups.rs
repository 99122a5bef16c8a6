//! What is switched off, and what the kernel refuses, costs only itself and is named.

use kata_pulse::collect::kernel::{Hidden, KernelOptions, KernelReading, KernelView, ProgramGroup};
use kata_pulse::sandbox::HostRole;

use crate::{own_pid, skip, start_ticks};

fn start(programs: impl IntoIterator<Item = ProgramGroup>, hide: Hidden) -> KernelView {
    KernelView::start(&KernelOptions { programs: programs.into_iter().collect(), hide, ..KernelOptions::default() })
}

/// Only this group is not attached; its programs all say why.
fn only_missing(view: &KernelView, group: ProgramGroup, reason: &str) {
    for other in ProgramGroup::ALL {
        assert_eq!(view.has(other), other != group, "{other:?}: {:#?}", view.programs());
    }
    let own: Vec<_> = view.programs().iter().filter(|program| program.feature == group.as_str()).collect();
    assert!(!own.is_empty() && own.iter().all(|program| !program.attached));
    assert!(own.iter().all(|program| program.reason.contains(reason)), "{own:#?}");
    println!("without {}: {} on {}: {}", group.as_str(), own[0].name, own[0].hook, own[0].reason);
}

fn all_can_be_had() -> bool {
    let view = start(ProgramGroup::ALL, Hidden::default());
    let all = ProgramGroup::ALL.iter().all(|group| view.has(*group));
    if !all {
        skip(&format!("not all programs can be had: {:#?}", view.programs()));
    }
    all
}

#[test]
fn each_group_is_off_alone_or_refused_alone() {
    if !all_can_be_had() {
        return;
    }
    for off in ProgramGroup::ALL {
        let others = ProgramGroup::ALL.into_iter().filter(|group| *group != off);
        only_missing(&start(others, Hidden::default()), off, "switched off");
    }
    let without = |names: &[&'static str]| Hidden { tracepoints: names.to_vec(), ..Hidden::default() };
    let cases = [
        (ProgramGroup::Kvm, without(&["kvm:kvm_userspace_exit"]), "no tracepoint kvm:kvm_userspace_exit"),
        (ProgramGroup::Oom, without(&["oom:mark_victim"]), "no tracepoint oom:mark_victim"),
        (ProgramGroup::Block, without(&["block:block_io_done", "block:block_bio_queue"]), "no tracepoint block:"),
        (ProgramGroup::Runqueue, Hidden { btf: true, ..Hidden::default() }, "hidden for a test"),
        // What the verifier itself refuses: four bytes of a task that are no member.
        (
            ProgramGroup::Runqueue,
            Hidden { offsets: [("O_TASK_TGID", 1 << 20)].into(), ..Hidden::default() },
            "the kernel refuses to load it",
        ),
    ];
    for (group, hide, reason) in cases {
        only_missing(&start(ProgramGroup::ALL, hide), group, reason);
    }
}

#[test]
fn without_any_program_all_works_and_nothing_is_read() {
    let view = start([], Hidden::default());
    assert!(view.programs().iter().all(|program| !program.attached && program.reason == "switched off"));
    let slot = view.open();
    view.watch(slot, own_pid(), start_ticks(own_pid()), HostRole::Vmm).unwrap();
    view.watch_thread(own_pid(), own_pid(), HostRole::Vcpu).unwrap();
    assert_eq!(view.read(slot), Some(KernelReading::default()));
    assert_eq!(view.read_all().len(), 1);
    assert_eq!(view.free(slot), KernelReading::default());
    assert!(view.counted().is_empty() && view.run_stats().is_empty());
    view.detach();
}
