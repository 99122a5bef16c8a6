//! The embedded objects: everything, and what needs no BTF. Empty when built without a BPF toolchain.

static FULL: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kata-pulse-ebpf"));
static PLAIN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kata-pulse-ebpf-plain"));

/// Whether there is anything to load.
pub fn embedded() -> bool {
    !FULL.is_empty() && !PLAIN.is_empty()
}

pub(super) fn bytes(with_btf: bool) -> &'static [u8] {
    if with_btf { FULL } else { PLAIN }
}
