//! What the compiler needs besides the sources: the build's names.

use std::process::Command;

fn main() {
    name_the_build();
}

/// The commit, for `--version` and `kata_pulse_build_info`; empty outside a checkout.
fn name_the_build() {
    let revision = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    println!("cargo::rustc-env=KATA_PULSE_REVISION={revision}");
    println!("cargo::rustc-env=KATA_PULSE_EBPF_EMBEDDED=absent");
    println!("cargo::rerun-if-changed=../.git/HEAD");
    println!("cargo::rerun-if-changed=build.rs");
}
