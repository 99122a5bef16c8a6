//! What goes wrong on command, and the names by which a command line says it.

use std::str::FromStr;

use crate::kind::SimError;

/// What a shim does wrong with `GET /metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Go: host part at once, silence for 30 s, a `# …` remainder. RS: nothing for 60 s, then the shim part alone.
    HungGuest,
    /// Half of the body, then the connection is closed.
    HalfAnswer,
    /// Bytes that are no exposition.
    Garbage,
    /// A body of this many bytes.
    HugeBody(u64),
    /// One byte a second, for ever.
    Drip,
    /// No guest families (agent policy).
    Denied,
    /// These lines are added behind the page.
    Extra(String),
    /// Accepted, then closed without a byte.
    AcceptThenClose,
}

impl Fault {
    /// A guest that fails a shim fails everybody who asks it.
    pub(crate) fn seen_at_the_agent(&self) -> Option<AgentFault> {
        match self {
            Self::HungGuest => Some(AgentFault::Hung),
            Self::Denied => Some(AgentFault::Denied),
            Self::Extra(lines) => Some(AgentFault::Extra(lines.clone())),
            _ => None,
        }
    }
}

/// What the guest's agent does wrong when it is asked directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentFault {
    /// It accepts, shakes hands, and never answers.
    Hung,
    /// PERMISSION_DENIED, as a policy has it.
    Denied,
    /// An answer that is no message.
    Garbage,
    /// More than the 4 MiB that ttrpc allows.
    Huge,
    /// The VMM closes the connection instead of `OK`.
    RefusesHandshake,
    /// These lines are added behind its own.
    Extra(String),
}

/// A fault of either, as a command names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyFault {
    Shim(Fault),
    Agent(AgentFault),
}

/// Everything [`AnyFault`] is parsed from.
pub const FAULT_NAMES: &str = "hung, half, garbage, huge[=BYTES], drip, denied, extra=LINES, close, agent-hung, \
                               agent-denied, agent-garbage, agent-huge, agent-refuse, agent-extra=LINES";

/// As large as the largest.
const HUGE_BYTES: u64 = 100_000_000;

impl FromStr for AnyFault {
    type Err = SimError;

    fn from_str(text: &str) -> Result<Self, SimError> {
        let unknown = || SimError::UnknownFault(text.to_owned());
        let (name, argument) = text.split_once('=').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let lines = |text: &str| text.replace("\\n", "\n") + "\n";
        Ok(match (name, argument) {
            ("hung", None) => Self::Shim(Fault::HungGuest),
            ("half", None) => Self::Shim(Fault::HalfAnswer),
            ("garbage", None) => Self::Shim(Fault::Garbage),
            ("huge", None) => Self::Shim(Fault::HugeBody(HUGE_BYTES)),
            ("huge", Some(bytes)) => Self::Shim(Fault::HugeBody(bytes.parse().map_err(|_| unknown())?)),
            ("drip", None) => Self::Shim(Fault::Drip),
            ("denied", None) => Self::Shim(Fault::Denied),
            ("extra", Some(text)) => Self::Shim(Fault::Extra(lines(text))),
            ("close", None) => Self::Shim(Fault::AcceptThenClose),
            ("agent-hung", None) => Self::Agent(AgentFault::Hung),
            ("agent-denied", None) => Self::Agent(AgentFault::Denied),
            ("agent-garbage", None) => Self::Agent(AgentFault::Garbage),
            ("agent-huge", None) => Self::Agent(AgentFault::Huge),
            ("agent-refuse", None) => Self::Agent(AgentFault::RefusesHandshake),
            ("agent-extra", Some(text)) => Self::Agent(AgentFault::Extra(lines(text))),
            _ => return Err(unknown()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_name_is_a_fault_and_nothing_else() {
        for name in FAULT_NAMES.split(", ") {
            let text = name.replace("[=BYTES]", "").replace("LINES", "x 1");
            assert!(text.parse::<AnyFault>().is_ok(), "{text}");
        }
        assert_eq!("huge=7".parse::<AnyFault>().expect("a fault"), AnyFault::Shim(Fault::HugeBody(7)));
        for wrong in ["", "hang", "huge=much", "extra", "drip=1"] {
            assert!(wrong.parse::<AnyFault>().is_err(), "{wrong}");
        }
    }
}
