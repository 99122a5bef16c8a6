//! Embeds the eBPF objects that `cargo xtask build-ebpf` made, or empty ones: `cargo build` and `cargo test`
//! need no BPF toolchain.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Names of the objects, in the output directory; in the build's, the first one with these endings.
const OBJECTS: [&str; 4] =
    ["kata-pulse-ebpf", "kata-pulse-ebpf-plain", "kata-pulse-ebpf-account", "kata-pulse-ebpf-account-plain"];

/// Copies the objects next to the generated code. `KATA_PULSE_EBPF_OBJECT` names another first object; its
/// siblings have `-plain`, `-account` and `-account-plain` appended. Says whether all are there.
pub fn embed_ebpf(workspace: &Path) -> bool {
    println!("cargo::rerun-if-env-changed=KATA_PULSE_EBPF_OBJECT");
    let first = env::var_os("KATA_PULSE_EBPF_OBJECT")
        .filter(|value| !value.is_empty())
        .map_or_else(|| workspace.join("target/bpf").join(OBJECTS[0]), PathBuf::from);
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let mut embedded = true;
    for name in OBJECTS {
        let mut from = first.clone().into_os_string();
        from.push(name.strip_prefix(OBJECTS[0]).unwrap_or_default());
        let from = PathBuf::from(from);
        println!("cargo::rerun-if-changed={}", from.display());
        let bytes = fs::read(&from).unwrap_or_default();
        embedded &= !bytes.is_empty();
        fs::write(out.join(name), bytes).expect("the output directory is ours to write");
    }
    embedded
}
