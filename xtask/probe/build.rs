//! The same objects as the agent's.

use std::path::Path;

#[path = "../../kata-pulse/build/ebpf.rs"]
mod ebpf;

fn main() {
    ebpf::embed_ebpf(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")));
}
