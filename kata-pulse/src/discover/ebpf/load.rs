//! The plan → programs in the kernel. Each ladder is climbed down until one rung attaches; every program
//! that is not attached keeps its reason.
//!
//! Cost: aya parses the kernel's BTF once for its loader and once for the typed programs (20-35 ms and
//! some 20 MB each, one after the other, both dropped here); a program takes about 1 ms.

use std::{collections::BTreeMap, error::Error as _};

use aya::{
    Btf, Ebpf, EbpfError as AyaError, EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError},
};
use tracing::debug;

use super::{
    ProgramStatus, object,
    plan::{Hook, Ladder, Plan, Rung, Step},
};

/// Where the host's processes are told from others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HostNamespaces {
    pub mount_inode: Option<u32>,
    /// Device (in the kernel's encoding) and inode.
    pub pid: Option<(u64, u64)>,
}

/// Programs in the kernel and those that are not.
pub(super) struct Loaded {
    pub ebpf: Ebpf,
    pub programs: Vec<ProgramStatus>,
}

/// The one errno that is true even without the verifier's text.
const EPERM: i32 = 1;
/// Lines of the verifier's text that are kept.
const VERIFIER_LINES: usize = 5;
/// The ring of aya-log when nobody reads it: the smallest that a kernel takes.
const UNUSED_LOG_BYTES: u32 = 4096;
/// Above every level of aya-log.
const LOG_EVERYTHING: u8 = 0xff;

/// Everything that [`attach`] needs to open an object once more.
struct Opener<'a> {
    plan: &'a Plan,
    host: HostNamespaces,
    log: bool,
}

impl Opener<'_> {
    fn open(&self, verifier: VerifierLogLevel) -> Result<Ebpf, AyaError> {
        let mut globals: BTreeMap<&str, u32> = self.plan.globals.clone();
        if let Some(inode) = self.host.mount_inode {
            globals.insert("HOST_MNTNS", inode);
        }
        let (device, inode) = self.host.pid.unwrap_or((0, 0));
        let level = if self.log { LOG_EVERYTHING } else { 0 };
        let mut loader = EbpfLoader::new();
        // The loader has parsed the kernel's BTF by now; our objects have no CO-RE relocations.
        loader.btf(None).verifier_log_level(verifier);
        for (name, value) in &globals {
            loader.override_global(name, value, self.plan.with_btf);
        }
        loader.override_global("HOST_PIDNS_DEV", &device, true);
        loader.override_global("HOST_PIDNS_INO", &inode, true);
        loader.override_global("AYA_LOG_LEVEL", &level, true);
        if !self.log {
            loader.map_max_entries("AYA_LOGS", UNUSED_LOG_BYTES);
        }
        loader.load(object::bytes(self.plan.with_btf))
    }
}

/// Loads the object and attaches what attaches.
pub(super) fn attach(plan: &Plan, host: HostNamespaces, log: bool) -> Result<Loaded, AyaError> {
    let opener = Opener { plan, host, log };
    // Without its text the verifier is fast; the text is fetched for a program that fails.
    let mut ebpf = opener.open(VerifierLogLevel::DISABLE)?;
    let btf = if plan.with_btf { Btf::from_sys_fs().ok() } else { None };
    let mut programs = Vec::new();
    for ladder in &plan.ladders {
        climb(&opener, &mut ebpf, btf.as_ref(), ladder, &mut programs);
    }
    Ok(Loaded { ebpf, programs })
}

fn climb(opener: &Opener<'_>, ebpf: &mut Ebpf, btf: Option<&Btf>, ladder: &Ladder, programs: &mut Vec<ProgramStatus>) {
    let mut serving: Option<String> = None;
    for rung in &ladder.rungs {
        let reason = match (&serving, &rung.refused) {
            (Some(better), _) => Err(format!("not needed: {better} serves")),
            (None, Some(reason)) => Err(reason.clone()),
            (None, None) => attach_rung(opener, ebpf, btf, rung),
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
fn attach_rung(opener: &Opener<'_>, ebpf: &mut Ebpf, btf: Option<&Btf>, rung: &Rung) -> Result<(), String> {
    for step in &rung.steps {
        if let Err(error) = attach_step(ebpf, btf, step) {
            let reason = explain(opener, btf, step, &error);
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
fn explain(opener: &Opener<'_>, btf: Option<&Btf>, step: &Step, error: &StepError) -> String {
    let StepError::Program(program_error) = error else {
        return error.to_string();
    };
    if let ProgramError::LoadError { io_error, .. } = program_error {
        if io_error.raw_os_error() == Some(EPERM) {
            return format!("the kernel refuses to load it: {io_error} (CAP_BPF and CAP_PERFMON are needed)");
        }
        // With its text off the verifier's errno lies; once more, with text.
        let text = opener
            .open(VerifierLogLevel::default())
            .ok()
            .and_then(|mut again| attach_step(&mut again, btf, step).err())
            .map_or_else(|| io_error.to_string(), |error| last_lines(&error.to_string()));
        return format!("the kernel refuses to load it: {text}");
    }
    let mut text = program_error.to_string();
    let mut cause = program_error.source();
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
