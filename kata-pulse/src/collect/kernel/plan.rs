//! What this kernel offers → which accounting programs to try, and the numbers they get. [`Facts::read`] reads,
//! [`plan`] is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Hidden, ProgramGroup};
use crate::kernel::{Btf, Format, Hook, Ladder, Rung, Step, find_tracefs, missing, read_btf, read_formats};

/// What the running kernel offers, or why not.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Name of the eBPF global → offset.
    pub btf: Result<BTreeMap<&'static str, u32>, String>,
    pub formats: Result<BTreeMap<&'static str, Format>, String>,
}

/// What to load, and the globals it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub with_btf: bool,
    /// In the order of the groups.
    pub ladders: Vec<Ladder>,
    pub globals: BTreeMap<&'static str, u32>,
}

/// Global, member of task_struct; two rows for a name that changed in 5.14.
const OFFSETS: [(&str, &str); 6] = [
    ("O_TASK_PID", "pid"),
    ("O_TASK_TGID", "tgid"),
    ("O_TASK_STATE", "__state"),
    ("O_TASK_STATE", "state"),
    ("O_TASK_WAITED", "sched_info.run_delay"),
    ("O_TASK_RAN", "sched_info.pcount"),
];

/// What [`OFFSETS`] must have found.
const SCHEDULER: [&str; 5] = ["O_TASK_PID", "O_TASK_TGID", "O_TASK_STATE", "O_TASK_WAITED", "O_TASK_RAN"];

/// How a field of a record is found.
#[derive(Clone, Copy)]
enum Kind {
    Number(u32),
    Bytes(u32),
}
use Kind::{Bytes, Number};

/// Global, tracepoint, field.
const FIELDS: &[(&str, &str, &str, Kind)] = &[
    ("O_KVM_REASON", "kvm:kvm_userspace_exit", "reason", Number(4)),
    ("O_KVM_ERRNO", "kvm:kvm_userspace_exit", "errno", Number(4)),
    ("O_START_DEV", "block:block_io_start", "dev", Number(4)),
    ("O_START_SECTOR", "block:block_io_start", "sector", Number(8)),
    ("O_START_BYTES", "block:block_io_start", "bytes", Number(4)),
    ("O_START_RWBS", "block:block_io_start", "rwbs", Bytes(2)),
    ("O_DONE_DEV", "block:block_io_done", "dev", Number(4)),
    ("O_DONE_SECTOR", "block:block_io_done", "sector", Number(8)),
    ("O_MERGE_DEV", "block:block_bio_backmerge", "dev", Number(4)),
    ("O_MERGE_SECTORS", "block:block_bio_backmerge", "nr_sector", Number(4)),
    ("O_MERGE_RWBS", "block:block_bio_backmerge", "rwbs", Bytes(2)),
    ("O_QUEUE_DEV", "block:block_bio_queue", "dev", Number(4)),
    ("O_QUEUE_SECTORS", "block:block_bio_queue", "nr_sector", Number(4)),
    ("O_QUEUE_RWBS", "block:block_bio_queue", "rwbs", Bytes(2)),
    ("O_ISSUE_DEV", "block:block_rq_issue", "dev", Number(4)),
    ("O_ISSUE_SECTOR", "block:block_rq_issue", "sector", Number(8)),
    ("O_ISSUE_BYTES", "block:block_rq_issue", "bytes", Number(4)),
    ("O_ISSUE_RWBS", "block:block_rq_issue", "rwbs", Bytes(2)),
    ("O_COMPLETE_DEV", "block:block_rq_complete", "dev", Number(4)),
    ("O_COMPLETE_SECTOR", "block:block_rq_complete", "sector", Number(8)),
    ("O_VICTIM_PID", "oom:mark_victim", "pid", Number(4)),
];

const TRACEPOINTS: [&str; 9] = [
    "kvm:kvm_userspace_exit",
    "block:block_io_start",
    "block:block_io_done",
    "block:block_bio_backmerge",
    "block:block_bio_frontmerge",
    "block:block_bio_queue",
    "block:block_rq_issue",
    "block:block_rq_complete",
    "oom:mark_victim",
];

impl Facts {
    pub(super) fn read(sysfs: &Path, tracefs: Option<&Path>, hide: &Hidden) -> Self {
        let btf = if hide.btf { Err("hidden for a test".to_owned()) } else { read_btf(sysfs) };
        let mut formats = find_tracefs(sysfs, tracefs).map(|root| read_formats(&root, &TRACEPOINTS));
        if let Ok(formats) = &mut formats {
            formats.retain(|name, _| !hide.tracepoints.contains(name));
        }
        let mut offsets = btf.and_then(|bytes| parse_btf(&bytes));
        if let Ok(offsets) = &mut offsets {
            offsets.extend(hide.offsets.iter().map(|(&name, &offset)| (name, offset)));
        }
        Self { btf: offsets, formats }
    }

    /// For when the kernel refuses the object's own BTF.
    pub(super) fn without_btf(&self, reason: &str) -> Self {
        Self { btf: Err(reason.to_owned()), formats: self.formats.clone() }
    }
}

/// Offsets in the kernel's structures; an error if the scheduler's tracepoint is not what the program expects.
fn parse_btf(bytes: &[u8]) -> Result<BTreeMap<&'static str, u32>, String> {
    let btf = Btf::parse(bytes, &["task_struct", "btf_trace_sched_switch"]).map_err(|error| error.to_string())?;
    let points_to = btf.tracepoint("sched_switch").map(|prototype| prototype.points_to).unwrap_or_default();
    if points_to.get(1).is_none_or(|found| found != "task_struct") {
        return Err("the kernel's BTF has no tracepoint sched_switch that gives tasks".to_owned());
    }
    let mut offsets = BTreeMap::new();
    for (global, member) in OFFSETS {
        if let Some(offset) = btf.offset("task_struct", member) {
            offsets.entry(global).or_insert(offset);
        }
    }
    Ok(offsets)
}

/// Decides.
pub(super) fn plan(facts: &Facts, wanted: &BTreeSet<ProgramGroup>) -> Plan {
    let mut globals = facts.btf.clone().unwrap_or_default();
    if let Ok(formats) = &facts.formats {
        for &(global, tracepoint, field, kind) in FIELDS {
            let found = formats.get(tracepoint).and_then(|format| match kind {
                Number(size) => format.number(field, size),
                Bytes(size) => format.bytes(field, size),
            });
            globals.extend(found.map(|offset| (global, offset)));
        }
    }
    let ladders = ProgramGroup::ALL.map(|group| {
        let mut rungs = rungs(group, facts, &globals);
        if !wanted.contains(&group) {
            rungs.iter_mut().for_each(|rung| rung.refused = Some("switched off".to_owned()));
        }
        Ladder { feature: group.as_str(), rungs }
    });
    Plan { with_btf: facts.btf.is_ok(), ladders: ladders.into(), globals }
}

fn rungs(group: ProgramGroup, facts: &Facts, globals: &BTreeMap<&'static str, u32>) -> Vec<Rung> {
    match group {
        ProgramGroup::Runqueue => vec![Rung { steps: scheduler_steps(), refused: scheduler_refused(facts, globals) }],
        ProgramGroup::Kvm => vec![plain(facts, globals, &[("kvm_exit", "kvm", &["kvm_userspace_exit"])])],
        ProgramGroup::Oom => vec![plain(facts, globals, &[("oom_victim", "oom", &["mark_victim"])])],
        ProgramGroup::Block => {
            let by_request: [Program; 3] = [
                ("block_done", "block", &["block_io_done"]),
                ("block_merge", "block", &["block_bio_backmerge", "block_bio_frontmerge"]),
                ("block_start", "block", &["block_io_start"]),
            ];
            let by_piece: [Program; 3] = [
                ("request_done", "block", &["block_rq_complete"]),
                ("request_issue", "block", &["block_rq_issue"]),
                ("bio_start", "block", &["block_bio_queue"]),
            ];
            vec![plain(facts, globals, &by_request), plain(facts, globals, &by_piece)]
        }
    }
}

/// Program, category and names of its tracepoints.
type Program = (&'static str, &'static str, &'static [&'static str]);

fn scheduler_steps() -> Vec<Step> {
    vec![Step { program: "runqueue_switch", hook: Hook::BtfTracepoint("sched_switch") }]
}

fn scheduler_refused(facts: &Facts, globals: &BTreeMap<&'static str, u32>) -> Option<String> {
    match &facts.btf {
        Err(reason) => Some(reason.clone()),
        Ok(_) => missing(globals, &SCHEDULER),
    }
}

/// A rung of plain tracepoints: each must exist, with every field that is read of it.
fn plain(facts: &Facts, globals: &BTreeMap<&'static str, u32>, programs: &[Program]) -> Rung {
    let steps = programs
        .iter()
        .map(|&(program, category, names)| Step { program, hook: Hook::Tracepoints(category, names) })
        .collect();
    let names =
        programs.iter().flat_map(|(_, category, names)| names.iter().map(move |name| format!("{category}:{name}")));
    let refused = match &facts.formats {
        Err(reason) => Some(reason.clone()),
        Ok(formats) => names.into_iter().find_map(|name| {
            if !formats.contains_key(name.as_str()) {
                return Some(absent(&name));
            }
            let needed: Vec<&str> = FIELDS.iter().filter(|row| row.1 == name).map(|row| row.0).collect();
            missing(globals, &needed)
        }),
    };
    Rung { steps, refused }
}

fn absent(tracepoint: &str) -> String {
    let hint = if tracepoint.starts_with("kvm:") { ": start the agent after the kvm module is loaded" } else { "" };
    format!("the kernel has no tracepoint {tracepoint}{hint}")
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
