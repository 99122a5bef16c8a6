//! Embeds the eBPF objects that `cargo xtask build-ebpf` made, or empty ones: `cargo build` and `cargo test`
//! need no BPF toolchain.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Names of the two objects, in the build's and in the output directory.
const OBJECTS: [&str; 2] = ["kata-pulse-ebpf", "kata-pulse-ebpf-plain"];

/// Copies the objects next to the generated code. `KATA_PULSE_EBPF_OBJECT` names another first object; its
/// sibling with `-plain` appended is the second. Says whether both are there.
pub fn embed_ebpf(workspace: &Path) -> bool {
    println!("cargo::rerun-if-env-changed=KATA_PULSE_EBPF_OBJECT");
    let full = env::var_os("KATA_PULSE_EBPF_OBJECT")
        .filter(|value| !value.is_empty())
        .map_or_else(|| workspace.join("target/bpf").join(OBJECTS[0]), PathBuf::from);
    let mut plain = full.clone().into_os_string();
    plain.push("-plain");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let mut embedded = true;
    for (from, name) in [full, PathBuf::from(plain)].iter().zip(OBJECTS) {
        println!("cargo::rerun-if-changed={}", from.display());
        let bytes = fs::read(from).unwrap_or_default();
        embedded &= !bytes.is_empty();
        fs::write(out.join(name), bytes).expect("the output directory is ours to write");
    }
    embedded
}
