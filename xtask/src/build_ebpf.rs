//! Builds the eBPF objects: `target/bpf/kata-pulse-ebpf`, `…-account`, and both as `…-plain`, which the agent's build
//! embeds.
//!
//! The compiler is chosen in `toolchain`. `lint` runs its clippy over the same sources.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::steps;
use crate::toolchain::{self, Toolchain};

const OBJECTS: [&str; 4] =
    ["kata-pulse-ebpf", "kata-pulse-ebpf-plain", "kata-pulse-ebpf-account", "kata-pulse-ebpf-account-plain"];
const TARGET: &str = "bpfel-unknown-none";

pub fn run() -> anyhow::Result<()> {
    let toolchain = toolchain::choose()?;
    println!("build-ebpf: with {}", toolchain.name);
    let mut build = Command::new(&toolchain.cargo);
    steps::run(with(&toolchain, build.arg("build")))
        .context("build the eBPF programs; `cargo xtask setup` installs what it takes")?;
    let (from, to) =
        (steps::root().join("target/bpf-build").join(TARGET).join("release"), steps::root().join("target/bpf"));
    fs::create_dir_all(&to)?;
    for object in OBJECTS {
        publish(&from.join(object), &to.join(object))?;
    }
    println!("build-ebpf: in {}: {}", to.display(), OBJECTS.join(", "));
    Ok(())
}

/// Clippy over the programs; a toolchain without clippy counts as a skipped check.
pub fn lint() -> anyhow::Result<()> {
    let toolchain = toolchain::choose()?;
    let clippy = toolchain.rustc.with_file_name("cargo-clippy");
    if !clippy.exists() {
        println!("SKIPPED: {} has no clippy: rustup component add clippy, or Debian's rust-web-clippy", toolchain.name);
        return Ok(());
    }
    println!("lint-ebpf: with {}", toolchain.name);
    let mut lint = Command::new(clippy);
    with(&toolchain, lint.arg("clippy")).args(["--", "-D", "warnings"]).env("CARGO", &toolchain.cargo);
    steps::run(&mut lint)
}

/// How cargo is to be told of target, library and linker.
fn with<'a>(toolchain: &Toolchain, command: &'a mut Command) -> &'a mut Command {
    command
        .args(["--release", "--locked", "--target", TARGET, "-Z", "build-std=core"])
        .current_dir(steps::root().join("kata-pulse-ebpf"))
        // Whatever cargo started us with belongs to another toolchain.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env_remove("CARGO_TARGET_DIR")
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", "bpf-linker")
}

/// Strips debug sections, which the agent would carry for nothing, and replaces the object only if it changed: a new
/// time stamp would rebuild the agent.
fn publish(from: &Path, to: &Path) -> anyhow::Result<()> {
    let stripped = from.with_extension("stripped");
    let strip = Command::new("/usr/lib/llvm-22/bin/llvm-strip").arg("-g").arg(from).arg("-o").arg(&stripped).status();
    let made = if strip.is_ok_and(|status| status.success()) { stripped } else { from.to_owned() };
    let bytes = fs::read(&made).with_context(|| format!("read {}", made.display()))?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(to, bytes).with_context(|| format!("write {}", to.display()))
}
