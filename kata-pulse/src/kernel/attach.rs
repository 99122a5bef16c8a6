//! Programs → the kernel. Each ladder is climbed down until one rung attaches; every program that is not attached
//! keeps its reason. A program takes about 1 ms.

use aya::{
    Btf, Ebpf, VerifierLogLevel,
    programs::{Program, ProgramError},
};
use tracing::debug;

use super::{Hook, Ladder, ProgramStatus, Rung, Step};

/// Opens an object, with this much of the verifier's text.
pub type Open<'a> = &'a dyn Fn(VerifierLogLevel) -> Result<Ebpf, aya::EbpfError>;

/// The one errno that is true even without the verifier's text.
const EPERM: i32 = 1;
/// Lines of the verifier's text that are kept.
const VERIFIER_LINES: usize = 5;

/// Climbs down a ladder and appends what became of each program. `open` opens the object once more.
pub fn climb(open: Open<'_>, ebpf: &mut Ebpf, btf: Option<&Btf>, ladder: &Ladder, programs: &mut Vec<ProgramStatus>) {
    let mut serving: Option<String> = None;
    for rung in &ladder.rungs {
        let reason = match (&serving, &rung.refused) {
            (Some(better), _) => Err(format!("not needed: {better} serves")),
            (None, Some(reason)) => Err(reason.clone()),
            (None, None) => attach_rung(open, ebpf, btf, rung),
        };
        if reason.is_ok() {
            serving = rung.steps.first().map(|step| step.hook.describe());
        }
        programs.extend(rung.steps.iter().map(|step| ProgramStatus {
            name: step.program,
            feature: ladder.feature,
            hook: step.hook.describe(),
            attached: reason.is_ok(),
            reason: reason.as_ref().err().cloned().unwrap_or_default(),
        }));
    }
}

/// All programs of a rung or none.
fn attach_rung(open: Open<'_>, ebpf: &mut Ebpf, btf: Option<&Btf>, rung: &Rung) -> Result<(), String> {
    for step in &rung.steps {
        if let Err(error) = attach_step(ebpf, btf, step) {
            let reason = explain(open, btf, step, &error);
            debug!(program = step.program, reason, "eBPF program not attached");
            for other in &rung.steps {
                unload(ebpf, other.program);
            }
            return Err(reason);
        }
    }
    Ok(())
}

fn attach_step(ebpf: &mut Ebpf, btf: Option<&Btf>, step: &Step) -> Result<(), StepError> {
    let program = ebpf.program_mut(step.program).ok_or(StepError::NotInObject)?;
    match (program, step.hook) {
        (Program::BtfTracePoint(program), Hook::BtfTracepoint(name)) => {
            program.load(name, btf.ok_or(StepError::NoBtf)?)?;
            program.attach()?;
        }
        (Program::FExit(program), Hook::Fexit(name)) => {
            program.load(name, btf.ok_or(StepError::NoBtf)?)?;
            program.attach()?;
        }
        (Program::KProbe(program), Hook::Kprobe(name)) => {
            program.load()?;
            program.attach(name, 0)?;
        }
        (Program::TracePoint(program), Hook::Tracepoints(category, names)) => {
            program.load()?;
            for name in names {
                program.attach(category, name)?;
            }
        }
        _ => return Err(StepError::NotInObject),
    }
    Ok(())
}

fn unload(ebpf: &mut Ebpf, name: &str) {
    // Of a program that was never loaded: an error that means there is nothing to do.
    let _ = match ebpf.program_mut(name) {
        Some(Program::BtfTracePoint(program)) => program.unload(),
        Some(Program::FExit(program)) => program.unload(),
        Some(Program::KProbe(program)) => program.unload(),
        Some(Program::TracePoint(program)) => program.unload(),
        _ => Ok(()),
    };
}

#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("the embedded object has no such program of this type")]
    NotInObject,
    #[error("the kernel's BTF is gone")]
    NoBtf,
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// One line, and what to do about it where we know.
fn explain(open: Open<'_>, btf: Option<&Btf>, step: &Step, error: &StepError) -> String {
    let StepError::Program(program_error) = error else {
        return error.to_string();
    };
    if let ProgramError::LoadError { io_error, .. } = program_error {
        if io_error.raw_os_error() == Some(EPERM) {
            return format!("the kernel refuses to load it: {io_error} (CAP_BPF and CAP_PERFMON are needed)");
        }
        // With its text off the verifier's errno lies; once more, with text.
        let text = open(VerifierLogLevel::default())
            .ok()
            .and_then(|mut again| attach_step(&mut again, btf, step).err())
            .map_or_else(|| io_error.to_string(), |error| last_lines(&error.to_string()));
        return format!("the kernel refuses to load it: {text}");
    }
    chain(program_error)
}

/// An error and its causes in one line, none of them twice.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(VERIFIER_LINES)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_the_verifiers_text_is_kept() {
        assert_eq!(last_lines("1\n2\n3\n\n4\n5\n6\n"), "2; 3; 4; 5; 6");
        assert_eq!(last_lines(""), "");
    }
}
