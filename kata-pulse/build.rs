//! What the compiler needs besides the sources: the build's names, the eBPF objects, and the messages of the container
//! runtimes.

use std::error::Error;
use std::path::Path;
use std::process::Command;

#[path = "build/ebpf.rs"]
mod ebpf;

fn main() -> Result<(), Box<dyn Error>> {
    let embedded = ebpf::embed_ebpf(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")));
    println!("cargo::rustc-env=KATA_PULSE_EBPF_EMBEDDED={}", if embedded { "embedded" } else { "absent" });
    name_the_build();
    compile_protos()
}

/// The commit, for `--version` and `kata_pulse_build_info`: what the variable says where there is no checkout, as in the
/// image's build; else empty there.
fn name_the_build() {
    let told = std::env::var("KATA_PULSE_REVISION").ok().filter(|revision| !revision.is_empty());
    let revision = told.or_else(revision_of_checkout).unwrap_or_default();
    println!("cargo::rustc-env=KATA_PULSE_REVISION={revision}");
    println!("cargo::rerun-if-env-changed=KATA_PULSE_REVISION");
    println!("cargo::rerun-if-changed=../.git/HEAD");
    println!("cargo::rerun-if-changed=build.rs");
}

fn revision_of_checkout() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// In pure Rust: no protoc on anybody's machine.
fn compile_protos() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let names = ["agent", "cri", "containers", "events", "tasks", "cgroups1", "cgroups2"];
    let files = names.map(|name| format!("proto/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().build_server(false).build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
