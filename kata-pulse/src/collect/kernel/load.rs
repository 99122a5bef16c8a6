//! The plan → the object in the kernel. Blocks for some 0.1 s.

use aya::{Btf, Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};
use tracing::warn;

use super::plan::{Facts, Plan, plan};
use super::{KernelOptions, ProgramGroup};
use crate::kernel::{Object, ProgramStatus, bytes, chain, climb, embedded};

/// Maps that a group of programs needs; of a group that is not wanted they are made as small as can be.
const MAPS: [(ProgramGroup, &[&str]); 4] = [
    (ProgramGroup::Runqueue, &["THREADS", "WAITS", "RUNQUEUE"]),
    (ProgramGroup::Kvm, &["KVM"]),
    (ProgramGroup::Block, &["BLOCK", "UNDER_WAY", "DEVICES"]),
    (ProgramGroup::Oom, &["OOM"]),
];

/// Every program, attached or with its reason; the object if one attached at all.
pub(super) fn load(options: &KernelOptions) -> (Option<Ebpf>, Vec<ProgramStatus>) {
    let facts = Facts::read(&options.sysfs, options.tracefs.as_deref(), &options.hide);
    let decision = plan(&facts, &options.programs);
    if !embedded() {
        let reason = "built without the eBPF objects: cargo xtask build-ebpf, then build again";
        return (None, none_attached(&decision, reason));
    }
    if decision.ladders.iter().flat_map(|ladder| &ladder.rungs).all(|rung| rung.refused.is_some()) {
        return (None, none_attached(&decision, ""));
    }
    let (decision, loaded) = match attach(&decision, options) {
        Err(EbpfError::BtfError(error)) => {
            // aya gives up the whole object then; the other one has nothing that needs BTF.
            warn!(error = &error as &dyn std::error::Error, "the kernel refuses the accounting object's BTF");
            let facts = facts.without_btf("the kernel refuses the accounting object's BTF");
            let decision = plan(&facts, &options.programs);
            let loaded = attach(&decision, options);
            (decision, loaded)
        }
        other => (decision, other),
    };
    match loaded {
        Ok((ebpf, programs)) => {
            let any = programs.iter().any(|program| program.attached);
            (any.then_some(ebpf), programs)
        }
        Err(error) => {
            let reason = format!("load the accounting object: {}", chain(&error));
            (None, none_attached(&decision, &reason))
        }
    }
}

fn attach(decision: &Plan, options: &KernelOptions) -> Result<(Ebpf, Vec<ProgramStatus>), EbpfError> {
    let open = |verifier| open(decision, options, verifier);
    // Without its text the verifier is fast; the text is fetched for a program that fails.
    let mut ebpf = open(VerifierLogLevel::DISABLE)?;
    let btf = if decision.with_btf { Btf::from_sys_fs().ok() } else { None };
    let mut programs = Vec::new();
    for ladder in &decision.ladders {
        climb(&open, &mut ebpf, btf.as_ref(), ladder, &mut programs);
    }
    Ok((ebpf, programs))
}

fn open(decision: &Plan, options: &KernelOptions, verifier: VerifierLogLevel) -> Result<Ebpf, EbpfError> {
    let mut loader = EbpfLoader::new();
    // The object has no CO-RE relocations.
    loader.btf(None).verifier_log_level(verifier);
    for (name, value) in &decision.globals {
        loader.override_global(name, value, decision.with_btf);
    }
    for (group, names) in MAPS {
        if !options.programs.contains(&group) {
            for name in names {
                loader.map_max_entries(name, 1);
            }
        }
    }
    loader.load(bytes(Object::Account, decision.with_btf))
}

/// `reason` for those that were not refused before.
fn none_attached(decision: &Plan, reason: &str) -> Vec<ProgramStatus> {
    let mut programs = Vec::new();
    for ladder in &decision.ladders {
        for rung in &ladder.rungs {
            programs.extend(rung.steps.iter().map(|step| ProgramStatus {
                name: step.program,
                feature: ladder.feature,
                hook: step.hook.describe(),
                attached: false,
                reason: rung.refused.clone().unwrap_or_else(|| reason.to_owned()),
            }));
        }
    }
    programs
}
