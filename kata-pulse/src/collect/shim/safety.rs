//! May this shim be asked for `/metrics`? One request kills some of them, and with them the pod.
//!
//! In: [`Evidence`], all of it gathered without risk. Out: a [`Verdict`]. Pure: one function over a table. Whoever is
//! not positively known to survive is not asked; two signs that disagree are no knowledge.

use crate::config::ShimMetrics;
use crate::sandbox::{Evidence, Runtime, Version, Vmm};

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ask,
    /// The operator insists; it may kill the sandbox.
    AskForced(&'static str),
    Unsafe(&'static str),
    /// The virtual machine is not up: nothing to ask for yet.
    Booting,
    Off,
}

/// Which releases of runtime-rs survive with one VMM.
#[derive(Clone, Copy, Debug)]
enum Survives {
    Always,
    /// This release and all later ones.
    Since(Version),
    /// Only these: a list that starts empty.
    Only(&'static [Version]),
}

/// `get_hypervisor_metrics` of runtime-rs is `todo!()` for some VMMs, and its panic hook aborts (kata.md H1).
const RUNTIME_RS: &[(Vmm, Survives)] = &[
    (Vmm::Dragonball, Survives::Always),
    (Vmm::OpenVmm, Survives::Always),
    (Vmm::CloudHypervisor, Survives::Since(Version::new(3, 3, 0))),
    (Vmm::Remote, Survives::Since(Version::new(4, 1, 0))),
    (Vmm::Qemu, Survives::Only(&[])),
    (Vmm::Firecracker, Survives::Only(&[])),
];

/// Decides for one sandbox.
pub fn decide(evidence: &Evidence, policy: ShimMetrics) -> Verdict {
    if policy == ShimMetrics::Never {
        return Verdict::Off;
    }
    match (judge(evidence), policy) {
        (Verdict::Unsafe(reason), ShimMetrics::Force) => Verdict::AskForced(reason),
        (verdict, _) => verdict,
    }
}

fn judge(evidence: &Evidence) -> Verdict {
    match evidence.runtime {
        // A panic of a Go handler costs one response, never the shim (H3). The Go runtime writes its state file before it
        // opens the socket; without it only the operator's or the directory's word says that it is Go.
        Some(Runtime::Go) if evidence.runtime_wrote_state => Verdict::Ask,
        Some(Runtime::Go) => Verdict::Unsafe("no state file confirms that the shim is Go's"),
        Some(Runtime::Rust) => judge_runtime_rs(evidence),
        None => Verdict::Unsafe("which runtime the shim is, is not known"),
    }
}

fn judge_runtime_rs(evidence: &Evidence) -> Verdict {
    let Some(address) = &evidence.agent_address else { return Verdict::Booting };
    let Some(from_address) = vmm_of_address(&address.0) else {
        return Verdict::Unsafe("the agent's address tells no VMM");
    };
    let others = [evidence.vmm_from_state, evidence.vmm_from_process];
    if others.into_iter().flatten().any(|vmm| vmm != from_address) {
        return Verdict::Unsafe("agent address, state file and process name different VMMs");
    }
    if others == [None, None] {
        return Verdict::Unsafe("only the agent's address tells the VMM");
    }
    let row = RUNTIME_RS.iter().find(|(vmm, _)| *vmm == from_address);
    let survives = match (row, evidence.version) {
        (Some((_, Survives::Always)), _) => true,
        (Some((_, Survives::Since(first))), Some(version)) => version >= *first,
        (Some((_, Survives::Only(list))), Some(version)) => list.contains(&version),
        _ => false,
    };
    if survives { Verdict::Ask } else { Verdict::Unsafe("this VMM and release abort when asked for metrics, or may") }
}

/// What `/agent-url` of runtime-rs looks like with each VMM.
pub fn vmm_of_address(address: &str) -> Option<Vmm> {
    let (scheme, rest) = address.trim().split_once("://")?;
    let path = rest.strip_suffix(":1024").unwrap_or(rest);
    let ends = |suffix: &str| path.ends_with(suffix);
    match scheme {
        "vsock" => path.parse::<u64>().is_ok().then_some(Vmm::Qemu),
        "remote" => path.starts_with('/').then_some(Vmm::Remote),
        "hvsock" if !path.starts_with('/') => None,
        "hvsock" if ends("/ch-vm.sock") => Some(Vmm::CloudHypervisor),
        "hvsock" if ends("/vsock.sock") => Some(Vmm::OpenVmm),
        "hvsock" if ends("/kata.hvsock") => Some(hvsock_owner(path)),
        _ => None,
    }
}

/// `kata.hvsock` is Dragonball's below `<id>/root`, and Firecracker's below `<id>` or in its jail.
fn hvsock_owner(path: &str) -> Vmm {
    if path.ends_with("/root/kata.hvsock") && !path.contains("/firecracker/") {
        Vmm::Dragonball
    } else {
        Vmm::Firecracker
    }
}

/// An address is none before the VM is up: empty, or a port alone.
pub fn is_address(body: &str) -> bool {
    let body = body.trim();
    body.split_once("://").is_some_and(|(_, rest)| !rest.is_empty() && !rest.starts_with(":1024"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::AgentAddress;

    const QEMU: &str = "vsock://3405691582:1024";
    const CH: &str = "hvsock:///run/kata/0a/ch-vm.sock:1024";
    const DRAGONBALL: &str = "hvsock:///run/kata/0a/root/kata.hvsock:1024";
    const FC: &str = "hvsock:///run/kata/0a/kata.hvsock:1024";
    const FC_JAILED: &str = "hvsock:///run/kata/firecracker/0a/root/kata.hvsock:1024";
    const OPENVMM: &str = "hvsock:///run/kata/0a/vsock.sock:1024";
    const REMOTE: &str = "remote:///run/peerpod/0a.sock:1024";

    fn rust(address: &str, state: Option<Vmm>, version: Option<&str>) -> Evidence {
        Evidence {
            runtime: Some(Runtime::Rust),
            runtime_wrote_state: state.is_some(),
            vmm_from_state: state,
            vmm_from_process: None,
            agent_address: Some(AgentAddress(address.into())),
            version: version.and_then(Version::parse),
        }
    }

    fn asks(address: &str, vmm: Vmm, version: Option<&str>) -> bool {
        decide(&rust(address, Some(vmm), version), ShimMetrics::Safe) == Verdict::Ask
    }

    #[test]
    fn h1_runtime_rs_with_qemu_and_firecracker_is_never_asked() {
        for version in [None, Some("3.2.0"), Some("4.0.0"), Some("4.1.0"), Some("9.9.9")] {
            assert!(!asks(QEMU, Vmm::Qemu, version), "{version:?}");
            assert!(!asks(FC, Vmm::Firecracker, version), "{version:?}");
            assert!(!asks(FC_JAILED, Vmm::Firecracker, version), "{version:?}");
        }
    }

    #[test]
    fn h1_remote_is_asked_from_4_1_and_cloud_hypervisor_from_3_3() {
        assert!(asks(REMOTE, Vmm::Remote, Some("4.1.0")));
        assert!(!asks(REMOTE, Vmm::Remote, Some("4.0.0")) && !asks(REMOTE, Vmm::Remote, None));
        assert!(asks(CH, Vmm::CloudHypervisor, Some("3.3.0")));
        assert!(!asks(CH, Vmm::CloudHypervisor, Some("3.2.0")) && !asks(CH, Vmm::CloudHypervisor, None));
    }

    #[test]
    fn h1_dragonball_and_openvmm_survive_in_any_release() {
        assert!(asks(DRAGONBALL, Vmm::Dragonball, None));
        assert!(asks(OPENVMM, Vmm::OpenVmm, None));
    }

    #[test]
    fn h2_what_is_not_known_is_not_asked() {
        let decide = |evidence: &Evidence| decide(evidence, ShimMetrics::Safe);
        assert!(matches!(decide(&Evidence::default()), Verdict::Unsafe(_)));
        assert!(matches!(decide(&rust(DRAGONBALL, None, None)), Verdict::Unsafe(_)), "one sign alone");
        assert!(matches!(decide(&rust(DRAGONBALL, Some(Vmm::Qemu), None)), Verdict::Unsafe(_)));
        let process = Evidence { vmm_from_process: Some(Vmm::Qemu), ..rust(OPENVMM, Some(Vmm::OpenVmm), None) };
        assert!(matches!(decide(&process), Verdict::Unsafe(_)));
        assert!(matches!(decide(&rust("weird", Some(Vmm::Dragonball), None)), Verdict::Unsafe(_)));
        assert!(matches!(decide(&rust("vsock://x:1024", Some(Vmm::Qemu), None)), Verdict::Unsafe(_)));
        let booting = Evidence { runtime: Some(Runtime::Rust), ..Evidence::default() };
        assert_eq!(decide(&booting), Verdict::Booting);
    }

    #[test]
    fn h3_go_is_asked_whatever_its_vmm() {
        let evidence = Evidence { runtime: Some(Runtime::Go), runtime_wrote_state: true, ..Evidence::default() };
        assert_eq!(decide(&evidence, ShimMetrics::Safe), Verdict::Ask);
        let unconfirmed = Evidence { runtime_wrote_state: false, ..evidence };
        assert!(matches!(decide(&unconfirmed, ShimMetrics::Safe), Verdict::Unsafe(_)));
    }

    #[test]
    fn the_operator_can_insist_or_forbid() {
        let qemu = rust(QEMU, Some(Vmm::Qemu), None);
        assert!(matches!(decide(&qemu, ShimMetrics::Force), Verdict::AskForced(_)));
        assert_eq!(decide(&qemu, ShimMetrics::Never), Verdict::Off);
        let go = Evidence { runtime: Some(Runtime::Go), runtime_wrote_state: true, ..Evidence::default() };
        assert_eq!((decide(&go, ShimMetrics::Never), decide(&go, ShimMetrics::Force)), (Verdict::Off, Verdict::Ask));
    }

    #[test]
    fn every_form_of_agent_address_is_understood() {
        let expected = [
            (QEMU, Vmm::Qemu),
            (CH, Vmm::CloudHypervisor),
            (DRAGONBALL, Vmm::Dragonball),
            (FC, Vmm::Firecracker),
            (FC_JAILED, Vmm::Firecracker),
            (OPENVMM, Vmm::OpenVmm),
            (REMOTE, Vmm::Remote),
            ("remote:///run/peerpod/0a.sock", Vmm::Remote),
        ];
        for (address, vmm) in expected {
            assert_eq!(vmm_of_address(address), Some(vmm), "{address}");
            assert!(is_address(address));
        }
        for none in ["hvsock://:1024::M/kata.hvsock", "", ":1024", "\n", "vsock://:1024"] {
            assert!(!is_address(none) && vmm_of_address(none).is_none(), "{none:?}");
        }
    }
}
