//! What this build is.

/// Version of the crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Commit it was built from, empty outside a checkout.
pub const REVISION: &str = env!("KATA_PULSE_REVISION");
/// `embedded` or `absent`: whether the eBPF programs are part of this binary.
pub const EBPF: &str = env!("KATA_PULSE_EBPF_EMBEDDED");
/// For `--version`.
pub const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (revision ",
    env!("KATA_PULSE_REVISION"),
    ", eBPF programs ",
    env!("KATA_PULSE_EBPF_EMBEDDED"),
    ")"
);
