//! Builds the eBPF objects: `target/bpf/kata-pulse-ebpf` and `…-plain`, which the agent's build embeds.
//!
//! The compiler is the toolchain that `KATA_PULSE_EBPF_TOOLCHAIN` names (of rustup, or a directory with rustc and
//! cargo), else rustup's nightly if it has the library's sources, else the system's. It needs those sources, since no
//! library is shipped for the target, and the same LLVM as bpf-linker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::steps;

/// Debian's package rustc-web.
pub const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
const OBJECTS: [&str; 2] = ["kata-pulse-ebpf", "kata-pulse-ebpf-plain"];
const TARGET: &str = "bpfel-unknown-none";

struct Toolchain {
    /// What is told to the user.
    name: String,
    rustc: PathBuf,
    cargo: PathBuf,
}

pub fn run() -> anyhow::Result<()> {
    let toolchain = choose()?;
    println!("build-ebpf: with {}", toolchain.name);
    let mut build = Command::new(&toolchain.cargo);
    build
        .args(["build", "--release", "--locked", "--target", TARGET, "-Z", "build-std=core"])
        .current_dir(steps::root().join("kata-pulse-ebpf"))
        // Whatever cargo started us with belongs to another toolchain.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env_remove("CARGO_TARGET_DIR")
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", "bpf-linker");
    steps::run(&mut build).context("build the eBPF programs; `cargo xtask setup` installs what it takes")?;
    let (from, to) =
        (steps::root().join("target/bpf-build").join(TARGET).join("release"), steps::root().join("target/bpf"));
    fs::create_dir_all(&to)?;
    for object in OBJECTS {
        publish(&from.join(object), &to.join(object))?;
    }
    println!("build-ebpf: {} and {}", to.join(OBJECTS[0]).display(), OBJECTS[1]);
    Ok(())
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

fn choose() -> anyhow::Result<Toolchain> {
    if let Some(name) = std::env::var("KATA_PULSE_EBPF_TOOLCHAIN").ok().filter(|name| !name.is_empty()) {
        return named(&name);
    }
    if let Ok(nightly) = of_rustup("nightly")
        && has_sources(&nightly)
    {
        return Ok(nightly);
    }
    let system = Toolchain {
        name: format!("the system's {SYSTEM_RUSTC}"),
        rustc: SYSTEM_RUSTC.into(),
        cargo: "/usr/bin/cargo".into(),
    };
    if has_sources(&system) {
        return Ok(system);
    }
    bail!(
        "no Rust compiler with the library's sources was found for the eBPF programs; on Debian: apt-get install \
         rustc-web cargo-web rust-web-src; with rustup: rustup toolchain install nightly --component rust-src; or \
         name one in KATA_PULSE_EBPF_TOOLCHAIN"
    )
}

fn named(name: &str) -> anyhow::Result<Toolchain> {
    let folder = Path::new(name);
    let toolchain = if folder.is_absolute() {
        Toolchain { name: name.to_owned(), rustc: folder.join("rustc"), cargo: folder.join("cargo") }
    } else {
        of_rustup(name)?
    };
    if !has_sources(&toolchain) {
        bail!("KATA_PULSE_EBPF_TOOLCHAIN={name} has no library sources (component rust-src)");
    }
    Ok(toolchain)
}

fn of_rustup(name: &str) -> anyhow::Result<Toolchain> {
    let which = |program: &str| -> anyhow::Result<PathBuf> {
        let output = Command::new("rustup").args(["which", "--toolchain", name, program]).output()?;
        if !output.status.success() {
            bail!("rustup has no toolchain {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?.trim().into())
    };
    Ok(Toolchain { name: format!("rustup's {name}"), rustc: which("rustc")?, cargo: which("cargo")? })
}

fn has_sources(toolchain: &Toolchain) -> bool {
    let sysroot = Command::new(&toolchain.rustc).args(["--print", "sysroot"]).output();
    let Ok(sysroot) = sysroot.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()) else {
        return false;
    };
    Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
}
