//! Installs what is missing on this machine, from Debian's packages, crates.io, npm and PyPI; where it may not install,
//! names the exact command. Fetches the kernel of the tests' machines. Running it again costs a second.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::steps::{self, cargo};
use crate::{chart_tools, guest_kernel, toolchain};

/// A Debian package and a file that shows that it is there.
type Package = (&'static str, &'static str);

/// What building takes. gcc was there before this could be compiled, its line is for machines that have another `cc`.
const FOR_BUILDING: &[Package] = &[
    ("rustc-web", toolchain::SYSTEM_RUSTC),
    ("cargo-web", "/usr/bin/cargo"),
    ("rust-web-src", "/usr/share/doc/rust-web-src"),
    ("llvm-22-dev", "/usr/lib/llvm-22/bin/llvm-config"),
    ("libpolly-22-dev", "/usr/share/doc/libpolly-22-dev"),
    ("zlib1g-dev", "/usr/include/zlib.h"),
    ("libzstd-dev", "/usr/include/zstd.h"),
    ("libxml2-dev", "/usr/include/libxml2"),
    ("gcc", "/usr/bin/gcc"),
];

/// What the tests take besides. g++ compiles libFuzzer.
const FOR_TESTS: &[Package] = &[
    ("rust-web-clippy", "/usr/bin/cargo-clippy"),
    ("g++", "/usr/bin/g++"),
    ("prometheus", "/usr/bin/promtool"),
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("busybox-static", "/usr/share/doc/busybox-static"),
    ("cpio", "/usr/bin/cpio"),
    ("iproute2", "/usr/sbin/tc"),
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("nodejs", "/usr/bin/node"),
    ("npm", "/usr/bin/npm"),
    ("python3-venv", "/usr/share/doc/python3-venv"),
    ("buildah", "/usr/bin/buildah"),
    ("debootstrap", "/usr/sbin/debootstrap"),
    ("ca-certificates", "/etc/ssl/certs/ca-certificates.crt"),
];

/// Its LLVM must be that of the compiler of the programs: both 22.
const BPF_LINKER_VERSION: &str = "0.13.0";

pub fn run() -> anyhow::Result<()> {
    for_building()?;
    install_packages(FOR_TESTS)?;
    install_components()?;
    chart_tools::install()?;
    guest_kernel::fetch()?;
    println!("setup: everything is there");
    Ok(())
}

/// What it takes to build agent and programs, and nothing for tests.
pub fn for_building() -> anyhow::Result<()> {
    install_packages(FOR_BUILDING)?;
    install_bpf_linker()
}

fn install_packages(packages: &[Package]) -> anyhow::Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get update && apt-get install --yes --no-install-recommends {}", missing.join(" "));
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!("these are missing: {}; install them, on Debian 12 as root: {by_hand}", missing.join(", "));
    }
    println!("setup: installing {}", missing.join(", "));
    steps::run(Command::new("apt-get").args(["update", "--quiet"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&missing);
    steps::run(install.env("DEBIAN_FRONTEND", "noninteractive")).with_context(|| format!("by hand: {by_hand}"))
}

/// rustup's minimal profile has neither.
fn install_components() -> anyhow::Result<()> {
    let missing: Vec<&str> = [("fmt", "rustfmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(command, _)| !succeeds(&mut cargo(&[command, "--version"])))
        .map(|(_, component)| component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("setup: installing {} with rustup", missing.join(", "));
    let mut add = Command::new("rustup");
    steps::run(add.args(["component", "add"]).args(&missing))
        .with_context(|| format!("by hand: rustup component add {}", missing.join(" ")))
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn install_bpf_linker() -> anyhow::Result<()> {
    let installed = Command::new("bpf-linker").arg("--version").stderr(Stdio::null()).output();
    let version = installed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if version.contains(BPF_LINKER_VERSION) {
        return Ok(());
    }
    println!("setup: installing bpf-linker {BPF_LINKER_VERSION} into Cargo's home, about a minute");
    let arguments = ["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked", "--force"];
    let features = ["--no-default-features", "--features", "llvm-22", "--target-dir", "target/bpf-linker"];
    steps::run(cargo(&arguments).args(features).env("LLVM_PREFIX", "/usr/lib/llvm-22")).context(
        "by hand: LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --no-default-features --features llvm-22",
    )
}

/// Where it is, once it is installed.
pub fn bpf_linker() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join("bpf-linker"));
    places.find(|place| place.is_file()).context("bpf-linker is not in PATH; cargo xtask setup installs it")
}

fn is_root() -> bool {
    let id = Command::new("id").arg("--user").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
