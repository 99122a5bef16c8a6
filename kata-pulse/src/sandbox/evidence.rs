//! What is known of a shim before the first dangerous request is sent to it.

use std::fmt;

use super::{Runtime, Vmm};

/// A Kata release, compared by its three numbers; pre-releases count as the release before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    pub major: u16,
    pub minor: u16,
    pub patch: u16,
}

impl Version {
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// `4.1.0`, `v3.2.0`; a suffix such as `-rc1` makes `None`: a pre-release proves nothing about the release.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().strip_prefix('v').unwrap_or(text.trim());
        let mut numbers = text.split('.').map(|part| part.parse::<u16>().ok());
        let version = Self::new(numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Body of the shim's `/agent-url`, the one request that never touches the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentAddress(pub String);

/// Everything the decision "may this shim be asked for `/metrics`?" is based on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// From the base directory, the shim's executable and the state files; `None` when they disagree or say nothing.
    pub runtime: Option<Runtime>,
    /// The runtime's own state file says the same.
    pub runtime_wrote_state: bool,
    /// From Kata's own root-owned state file.
    pub vmm_from_state: Option<Vmm>,
    /// From a process proven to belong to the sandbox.
    pub vmm_from_process: Option<Vmm>,
    /// `None` until `/agent-url` was answered.
    pub agent_address: Option<AgentAddress>,
    pub version: Option<Version>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_and_prereleases_prove_nothing() {
        assert!(Version::parse("3.10.0") > Version::parse("3.9.9"));
        assert_eq!(Version::parse("v4.1.0\n"), Some(Version::new(4, 1, 0)));
        for text in ["4.1.0-rc1", "4.1", "", "4.1.0.1", "x"] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
    }
}
