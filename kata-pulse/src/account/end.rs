//! How a sandbox ended: by what died first. In: what was seen of its end. Out: a cause, with signal or code.

use crate::sandbox::{ExitStatus, Pid, ProcessRole};

const SIGKILL: u8 = 9;
const SIGTERM: u8 = 15;
/// A file server that has nobody to serve any more leaves at about the same time as its VMM, in either order.
const TOGETHER_SECONDS: f64 = 2.0;

/// One process of the sandbox that ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Death {
    pub pid: Pid,
    pub role: ProcessRole,
    pub status: Option<ExitStatus>,
    /// Seconds since boot.
    pub at: f64,
    /// The kernel killed it for lack of memory.
    pub by_oom: bool,
}

/// What was seen of a sandbox's end.
#[derive(Clone, Debug, Default)]
pub struct EndEvidence {
    pub deaths: Vec<Death>,
    /// Somebody had asked for the end before the first death: the runtime had stopped it, its containers had all ended, or
    /// its directory was gone.
    pub told_to_stop: bool,
    /// The guest had stopped answering before the first death.
    pub guest_hung: bool,
    /// Containers ran in it at the first death.
    pub was_busy: bool,
    /// The container runtime tells at once what becomes of its pod: what it did not tell has not happened.
    pub is_heard: bool,
}

impl EndEvidence {
    pub fn died(&mut self, death: Death) {
        self.deaths.push(death);
    }

    /// A process goes on as another program: what looked like its end was none.
    pub fn lives(&mut self, pid: Pid) {
        self.deaths.retain(|death| death.pid != pid || death.status.is_some());
    }
}

/// All that [`judge`] may say.
pub const CAUSES: [&str; 7] = ["orderly", "vmm", "shim", "virtiofsd", "guest", "oom", "unknown"];

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct End {
    pub cause: &'static str,
    pub status: Option<ExitStatus>,
}

pub fn judge(evidence: &EndEvidence) -> End {
    let end = |cause, status| End { cause, status };
    let victims = || evidence.deaths.iter().filter(|death| death.by_oom);
    if let Some(victim) = victims().find(|death| death.status.is_some()).or_else(|| victims().next()) {
        return end("oom", victim.status);
    }
    let Some(first) = first_of(evidence) else { return end("unknown", None) };
    let is_asked_for = match first.status {
        // A guest that powers off or panics by itself ends its VMM so, as the runtime does.
        Some(ExitStatus::Code(0)) if first.role == ProcessRole::Vmm => {
            evidence.told_to_stop || !(evidence.was_busy && evidence.is_heard)
        }
        Some(ExitStatus::Code(0)) => true,
        Some(ExitStatus::Signal(SIGKILL | SIGTERM)) | None => evidence.told_to_stop,
        Some(ExitStatus::Code(_) | ExitStatus::Signal(_)) => false,
    };
    let cause = match first.role {
        _ if evidence.guest_hung && !evidence.told_to_stop => "guest",
        _ if is_asked_for => "orderly",
        ProcessRole::Vmm if first.status == Some(ExitStatus::Code(0)) => "guest",
        // Who ends a process with SIGTERM asks it to end.
        ProcessRole::Vmm if first.status == Some(ExitStatus::Signal(SIGTERM)) => "orderly",
        _ if first.status.is_none() => "unknown",
        // Go's runtime ends its VMM so at last.
        ProcessRole::Vmm if first.status == Some(ExitStatus::Signal(SIGKILL)) && !evidence.is_heard => "unknown",
        ProcessRole::Vmm => "vmm",
        ProcessRole::Shim => "shim",
        ProcessRole::Virtiofsd => "virtiofsd",
    };
    end(cause, first.status)
}

/// A file server that left of its own accord just before its VMM did was not the cause.
fn first_of(evidence: &EndEvidence) -> Option<&Death> {
    let first = evidence.deaths.iter().min_by(|one, other| one.at.total_cmp(&other.at))?;
    let left = first.role == ProcessRole::Virtiofsd && first.status == Some(ExitStatus::Code(0));
    let vmm = evidence.deaths.iter().find(|death| death.role == ProcessRole::Vmm);
    match vmm {
        Some(vmm) if left && vmm.at - first.at <= TOGETHER_SECONDS => Some(vmm),
        _ => Some(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProcessRole::{Shim, Virtiofsd, Vmm};

    fn death(role: ProcessRole, status: ExitStatus, at: f64) -> Death {
        Death { pid: Pid(7), role, status: Some(status), at, by_oom: false }
    }

    fn cause(evidence: &EndEvidence) -> &'static str {
        judge(evidence).cause
    }

    fn of(deaths: &[Death]) -> EndEvidence {
        EndEvidence { deaths: deaths.to_vec(), is_heard: true, ..EndEvidence::default() }
    }

    #[test]
    fn a_vmm_that_leaves_while_containers_run_was_left_by_its_guest() {
        let left = of(&[death(Vmm, ExitStatus::Code(0), 1.0), death(Shim, ExitStatus::Code(0), 2.0)]);
        let busy = EndEvidence { was_busy: true, ..left.clone() };
        assert_eq!((cause(&left), cause(&busy)), ("orderly", "guest"));
        assert_eq!(cause(&EndEvidence { is_heard: false, ..busy.clone() }), "orderly", "its list may be old");
        assert_eq!(cause(&EndEvidence { told_to_stop: true, ..busy }), "orderly");
        let killed = EndEvidence { is_heard: false, ..of(&[death(Vmm, ExitStatus::Signal(9), 1.0)]) };
        assert_eq!(cause(&killed), "unknown", "by its shim, or by anybody");
    }

    #[test]
    fn what_died_first_is_the_cause() {
        let (left, killed) = (ExitStatus::Code(0), ExitStatus::Signal(9));
        for (deaths, right) in [
            (vec![death(Vmm, left, 1.0), death(Virtiofsd, left, 1.1), death(Shim, left, 2.0)], "orderly"),
            (vec![death(Virtiofsd, left, 1.0), death(Vmm, left, 1.1), death(Shim, left, 2.0)], "orderly"),
            (vec![death(Vmm, killed, 1.0), death(Virtiofsd, left, 1.1), death(Shim, left, 2.0)], "vmm"),
            (vec![death(Virtiofsd, left, 0.9), death(Vmm, killed, 1.0)], "vmm"),
            (vec![death(Vmm, ExitStatus::Signal(11), 1.0)], "vmm"),
            (vec![death(Vmm, ExitStatus::Code(1), 1.0)], "vmm"),
            (vec![death(Shim, killed, 1.0), death(Vmm, killed, 5.0)], "shim"),
            (vec![death(Virtiofsd, killed, 1.0), death(Vmm, left, 1.5)], "virtiofsd"),
            (vec![death(Virtiofsd, left, 1.0), death(Vmm, killed, 9.0)], "orderly"),
            (vec![death(Vmm, ExitStatus::Signal(15), 1.0)], "orderly"),
            (vec![], "unknown"),
        ] {
            assert_eq!(cause(&of(&deaths)), right, "{deaths:?}");
        }
    }

    #[test]
    fn who_was_told_to_stop_may_be_killed() {
        let deaths = [death(Vmm, ExitStatus::Signal(9), 1.0)];
        assert_eq!(cause(&EndEvidence { told_to_stop: true, ..of(&deaths) }), "orderly");
        let crash = [death(Vmm, ExitStatus::Signal(6), 1.0)];
        assert_eq!(cause(&EndEvidence { told_to_stop: true, ..of(&crash) }), "vmm");
    }

    #[test]
    fn a_hung_guest_and_a_lack_of_memory_are_told_apart_from_a_kill() {
        let deaths = [death(Vmm, ExitStatus::Signal(9), 1.0)];
        assert_eq!(cause(&EndEvidence { guest_hung: true, ..of(&deaths) }), "guest");
        let victim = Death { by_oom: true, ..deaths[0] };
        let end = judge(&EndEvidence { guest_hung: true, told_to_stop: true, ..of(&[victim]) });
        assert_eq!(end, End { cause: "oom", status: Some(ExitStatus::Signal(9)) });
    }

    #[test]
    fn a_process_that_becomes_another_program_has_not_died() {
        let mut evidence = of(&[Death { status: None, ..death(Shim, ExitStatus::Code(0), 0.5) }]);
        evidence.lives(Pid(8));
        assert_eq!(evidence.deaths.len(), 1);
        evidence.lives(Pid(7));
        evidence.died(death(Vmm, ExitStatus::Signal(9), 1.0));
        evidence.lives(Pid(7));
        assert_eq!(cause(&evidence), "vmm");
    }

    #[test]
    fn a_death_that_nobody_saw_proves_nothing() {
        let unseen = [Death { status: None, ..death(Vmm, ExitStatus::Code(0), 1.0) }];
        assert_eq!(cause(&of(&unseen)), "unknown");
        assert_eq!(cause(&EndEvidence { told_to_stop: true, ..of(&unseen) }), "orderly");
    }
}
