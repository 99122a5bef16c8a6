//! Which rights this process lacks: one line of the log for each, at the start, with what will not work and what to
//! change.
//!
//! In: what the kernel says of this process, and what the configuration wants. Out: sentences. Facts → decision →
//! action; nothing is refused because of it, since what a right is needed for is tried anyway. docs/rights.md has the
//! table for readers; `tests/rights` takes the rights away one at a time.

use std::fs;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, SecureComputingMode, capabilities, secure_computing_mode};
use tracing::warn;

use crate::config::{Config, EbpfMode, HostPaths, ShimMetrics};
use crate::discover;

/// A capability, without `CAP_` as Kubernetes writes it.
struct Right {
    name: &'static str,
    /// The capability itself, or one that includes it.
    any_of: CapabilitySet,
    wanted_for: For,
    without: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Everything,
    Ebpf,
    Qdisc,
}

/// What the operator asked for.
#[derive(Clone, Copy, Debug)]
struct Wants {
    ebpf: bool,
    agents: bool,
    qdisc: bool,
}

const RIGHTS: [Right; 5] = [
    Right {
        name: "BPF",
        any_of: CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN),
        wanted_for: For::Ebpf,
        without: "eBPF maps and programs cannot be made, inotify, pidfds and scans discover alone",
    },
    Right {
        name: "PERFMON",
        any_of: CapabilitySet::PERFMON.union(CapabilitySet::SYS_ADMIN),
        wanted_for: For::Ebpf,
        without: "eBPF programs cannot be loaded, inotify, pidfds and scans discover alone",
    },
    Right {
        name: "SYS_PTRACE",
        any_of: CapabilitySet::SYS_PTRACE,
        wanted_for: For::Everything,
        without: "shims, VMMs and virtiofsd are not found, nor any number of theirs",
    },
    Right {
        name: "DAC_READ_SEARCH",
        any_of: CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::DAC_OVERRIDE),
        wanted_for: For::Everything,
        without: "processes and directories of rootless VMMs stay closed, with their guests' agents",
    },
    Right {
        name: "SYS_ADMIN",
        any_of: CapabilitySet::SYS_ADMIN,
        wanted_for: For::Qdisc,
        without: "--qdisc cannot enter the pods' network namespaces, what their queueing disciplines drop is not shown",
    },
];

const NO_HOST_PIDS: &str = "not in the host's pid namespace: no process of a sandbox is found, and the pids of eBPF \
                            mean nothing here; set hostPID: true";
const NO_SUSPECT: &str = "no seccomp, AppArmor, SELinux or lockdown is seen here: it is the kernel's configuration or \
                          what the machine runs on";

/// What this process may do, and what may keep it from doing that.
#[derive(Clone, Debug)]
pub(super) struct Rights {
    /// `None`: the kernel did not say; nothing is called missing then.
    effective: Option<CapabilitySet>,
    uid: u32,
    sees_host: bool,
    is_filtered: bool,
    /// AppArmor's or SELinux' word for this process.
    label: Option<String>,
    /// Of kernel lockdown, the mode that holds.
    lockdown: Option<String>,
    vsock: Result<(), Errno>,
}

impl Rights {
    pub(super) fn read(host: &HostPaths) -> Self {
        Self {
            effective: capabilities(None).ok().map(|sets| sets.effective),
            uid: geteuid().as_raw(),
            sees_host: discover::process::sees_kernel_threads(host),
            is_filtered: secure_computing_mode().is_ok_and(|mode| mode == SecureComputingMode::Filter),
            label: fs::read_to_string("/proc/self/attr/current").ok().and_then(|text| confinement(&text)),
            lockdown: fs::read_to_string(host.sysfs.join("kernel/security/lockdown")).ok().and_then(|t| lockdown(&t)),
            vsock: rustix::net::socket(AddressFamily::VSOCK, SocketType::STREAM, None).map(drop),
        }
    }

    /// One line for each right that is missing.
    pub(super) fn report(&self, config: &Config) {
        let wants = Wants {
            ebpf: config.ebpf != EbpfMode::Off,
            agents: config.shim_metrics != ShimMetrics::Never,
            qdisc: config.qdisc,
        };
        for line in self.missing(&wants) {
            warn!("{line}");
        }
    }

    fn missing(&self, wants: &Wants) -> Vec<String> {
        let mut lines = Vec::new();
        if self.uid != 0 {
            let uid = self.uid;
            lines.push(format!(
                "not root but user {uid}: sandbox directories and the sockets of shims and runtime are root's; run as \
                 user 0"
            ));
        }
        if !self.sees_host {
            lines.push(NO_HOST_PIDS.to_owned());
        }
        let is_wanted = |purpose| match purpose {
            For::Everything => true,
            For::Ebpf => wants.ebpf,
            For::Qdisc => wants.qdisc,
        };
        lines.extend(self.capabilities(is_wanted).map(Right::line));
        if wants.agents && matches!(self.vsock, Err(Errno::PERM | Errno::ACCESS)) {
            lines.push(format!("AF_VSOCK is denied: guests' agents behind vsock are not asked; {}", self.who_denies()));
        }
        lines
    }

    fn capabilities(&self, wanted: impl Fn(For) -> bool) -> impl Iterator<Item = &'static Right> {
        let effective = self.effective.unwrap_or(CapabilitySet::all());
        RIGHTS.iter().filter(move |right| !effective.intersects(right.any_of) && wanted(right.wanted_for))
    }

    /// The lines of what eBPF lacks, in one.
    pub(super) fn missing_for_ebpf(&self) -> Option<String> {
        let missing: Vec<String> = self.capabilities(|purpose| purpose == For::Ebpf).map(Right::line).collect();
        (!missing.is_empty()).then(|| missing.join("; "))
    }

    /// Who may have refused eBPF although the capabilities are there; `None`: the errors are no refusals.
    pub(super) fn explain_refusal(&self, errors: &str) -> Option<String> {
        let refusals = [Errno::PERM, Errno::ACCESS].map(|errno| format!("(os error {})", errno.raw_os_error()));
        let is_refusal = refusals.iter().any(|refusal| errors.contains(refusal));
        let may = is_refusal && self.missing_for_ebpf().is_none();
        may.then(|| format!("refused although CAP_BPF and CAP_PERFMON are there: {}", self.who_denies()))
    }

    /// Whoever may refuse what the capabilities allow.
    fn who_denies(&self) -> String {
        let mut suspects = Vec::new();
        if self.is_filtered {
            suspects.push("a seccomp profile filters this process: use the chart's, or Unconfined".to_owned());
        }
        if let Some(label) = &self.label {
            suspects.push(format!(
                "AppArmor or SELinux confines it as {label}: allow it there, or set appArmorProfile or seLinuxOptions"
            ));
        }
        if let Some(mode) = &self.lockdown {
            suspects.push(format!("kernel lockdown is {mode}: confidentiality forbids eBPF to read the kernel"));
        }
        if suspects.is_empty() {
            return NO_SUSPECT.to_owned();
        }
        suspects.join("; ")
    }
}

impl Right {
    fn line(&self) -> String {
        format!(
            "missing capability CAP_{}: {}; add {} to the container's capabilities",
            self.name, self.without, self.name
        )
    }
}

/// From `/proc/self/attr/current`; `None` where nothing confines.
fn confinement(text: &str) -> Option<String> {
    let label = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    let is_free = label.is_empty() || label.starts_with("unconfined") || label == "kernel";
    (!is_free).then(|| label.to_owned())
}

/// From securityfs: the mode in brackets, unless that is none.
fn lockdown(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let mode = rest.split(']').next()?;
    (mode != "none").then(|| mode.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTS: Wants = Wants { ebpf: true, agents: true, qdisc: false };

    fn all() -> Rights {
        let effective = RIGHTS.iter().fold(CapabilitySet::empty(), |all, right| all | right.any_of);
        Rights {
            effective: Some(effective - CapabilitySet::SYS_ADMIN - CapabilitySet::DAC_OVERRIDE),
            uid: 0,
            sees_host: true,
            is_filtered: false,
            label: None,
            lockdown: None,
            vsock: Err(Errno::AFNOSUPPORT),
        }
    }

    #[test]
    fn nothing_is_said_of_rights_that_are_there_or_unknown_or_not_wanted() {
        assert_eq!(all().missing(&WANTS), Vec::<String>::new());
        assert_eq!(Rights { effective: None, ..all() }.missing(&WANTS), Vec::<String>::new());
        let small = CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_OVERRIDE;
        let without_ebpf = Rights { effective: Some(small), vsock: Err(Errno::PERM), ..all() };
        assert_eq!(without_ebpf.missing(&Wants { ebpf: false, agents: false, qdisc: false }), Vec::<String>::new());
        let administrator = Rights { effective: Some(small | CapabilitySet::SYS_ADMIN), ..all() };
        assert_eq!(administrator.missing(&WANTS), Vec::<String>::new());
    }

    #[test]
    fn each_missing_right_is_one_line_that_names_it() {
        let none = Rights { effective: Some(CapabilitySet::empty()), uid: 1000, sees_host: false, ..all() };
        let lines = none.missing(&WANTS);
        for (line, name) in lines.iter().skip(2).zip(["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH"]) {
            assert!(line.starts_with(&format!("missing capability CAP_{name}: ")), "{line}");
        }
        assert_eq!(lines.len(), 6);
        let for_qdisc = all().missing(&Wants { qdisc: true, ..WANTS });
        assert!(
            for_qdisc.len() == 1 && for_qdisc[0].starts_with("missing capability CAP_SYS_ADMIN: "),
            "{for_qdisc:?}"
        );
        assert!(lines[0].contains("user 1000") && lines[1].contains("hostPID"));
        assert!(lines.iter().all(|line| !line.contains('\n')));
    }

    #[test]
    fn who_denies_what_the_capabilities_allow_is_suspected_by_name() {
        let refused = "the kernel refuses to load it: Operation not permitted (os error 1)";
        assert_eq!((all().explain_refusal("no BTF"), all().missing_for_ebpf()), (None, None));
        assert!(all().explain_refusal(refused).unwrap().contains("kernel's configuration"));
        let confined = Rights {
            is_filtered: true,
            label: confinement("cri-containerd.apparmor.d (enforce)\n"),
            lockdown: lockdown("none integrity [confidentiality]\n"),
            vsock: Err(Errno::PERM),
            ..all()
        };
        let why = confined.explain_refusal(refused).unwrap();
        for word in ["seccomp", "cri-containerd.apparmor.d (enforce)", "lockdown is confidentiality"] {
            assert!(why.contains(word), "{why}");
        }
        let lines = confined.missing(&WANTS);
        assert!(lines.len() == 1 && lines[0].starts_with("AF_VSOCK is denied: "), "{lines:?}");
        let without = Rights { effective: Some(CapabilitySet::BPF), ..confined };
        assert_eq!(without.explain_refusal(refused), None);
        assert!(without.missing_for_ebpf().unwrap().starts_with("missing capability CAP_PERFMON: "));
    }

    #[test]
    fn what_confines_is_told_from_what_does_not() {
        assert_eq!(confinement("unconfined\n"), None);
        assert_eq!(confinement("kernel"), None);
        assert_eq!(confinement("\0"), None);
        let label = "system_u:system_r:container_t:s0:c1,c2";
        assert_eq!(confinement(&format!("{label}\0")).as_deref(), Some(label));
        assert_eq!((lockdown("[none] integrity confidentiality"), lockdown("")), (None, None));
    }
}
