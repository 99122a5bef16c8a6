//! Where numbers come from, and how each source is doing.

/// A source of numbers or names about a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    Shim,
    /// The guest's agent, asked directly where the shim must not be.
    Agent,
    Runtime,
    Cri,
    Host,
    Ebpf,
}

impl Source {
    pub const ALL: [Self; 6] = [Self::Shim, Self::Agent, Self::Runtime, Self::Cri, Self::Host, Self::Ebpf];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shim => "shim",
            Self::Agent => "agent",
            Self::Runtime => "runtime",
            Self::Cri => "cri",
            Self::Host => "host",
            Self::Ebpf => "ebpf",
        }
    }
}

/// The state of one source for one sandbox, as `/sandboxes` and `kata_pulse_sandbox_source` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceState {
    Ok,
    /// Asking could kill the sandbox, or nothing proves that it could not.
    Unsafe,
    Booting,
    Timeout,
    Refused,
    Gone,
    BadPage,
    Denied,
    Unsupported,
    Off,
}

impl SourceState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unsafe => "unsafe",
            Self::Booting => "booting",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Gone => "gone",
            Self::BadPage => "bad_page",
            Self::Denied => "denied",
            Self::Unsupported => "unsupported",
            Self::Off => "off",
        }
    }
}
