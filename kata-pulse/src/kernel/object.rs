//! The embedded objects, each once with everything and once with what needs no BTF. Empty when built without a BPF
//! toolchain.

static DISCOVERY: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kata-pulse-ebpf"));
static DISCOVERY_PLAIN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kata-pulse-ebpf-plain"));
static ACCOUNT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kata-pulse-ebpf-account"));
static ACCOUNT_PLAIN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kata-pulse-ebpf-account-plain"));

/// Which programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// Sandboxes and processes that come and go.
    Discovery,
    /// What the kernel knows of them.
    Account,
}

/// Whether there is anything to load.
pub fn embedded() -> bool {
    [DISCOVERY, DISCOVERY_PLAIN, ACCOUNT, ACCOUNT_PLAIN].iter().all(|object| !object.is_empty())
}

pub fn bytes(object: Object, with_btf: bool) -> &'static [u8] {
    match (object, with_btf) {
        (Object::Discovery, true) => DISCOVERY,
        (Object::Discovery, false) => DISCOVERY_PLAIN,
        (Object::Account, true) => ACCOUNT,
        (Object::Account, false) => ACCOUNT_PLAIN,
    }
}
