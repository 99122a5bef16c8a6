//! The compiler of the eBPF programs. In: the machine's toolchains. Out: the first that fits, or what to install.
//!
//! It is the one that `KATA_PULSE_EBPF_TOOLCHAIN` names (of rustup, or a directory with rustc and cargo), else rustup's
//! nightly, else the system's. It needs the library's sources, since no library is shipped for the target, and the LLVM
//! of bpf-linker: a linker does not read the bitcode of a newer compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// That of the packages and of bpf-linker's features in `setup`.
const LLVM_MAJOR: u32 = 22;
const VARIABLE: &str = "KATA_PULSE_EBPF_TOOLCHAIN";
/// Debian's package rustc-web.
pub const SYSTEM_RUSTC: &str = "/usr/bin/rustc";

pub struct Toolchain {
    /// What is told to the user.
    pub name: String,
    pub rustc: PathBuf,
    pub cargo: PathBuf,
}

/// Says which toolchains were passed over, and why.
pub fn choose() -> anyhow::Result<Toolchain> {
    if let Some(name) = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty()) {
        return named(&name);
    }
    let mut reasons = Vec::new();
    for candidate in [of_rustup("nightly"), Ok(of_system())] {
        match candidate.and_then(checked) {
            Ok(toolchain) => {
                reasons.iter().for_each(|reason| println!("build-ebpf: passed over {reason}"));
                return Ok(toolchain);
            }
            Err(reason) => reasons.push(format!("{reason:#}")),
        }
    }
    bail!(
        "no Rust compiler for the eBPF programs: {}; on Debian: apt-get install rustc-web cargo-web rust-web-src; with \
         rustup: rustup toolchain install nightly-YYYY-MM-DD --component rust-src, of a day when it had LLVM \
         {LLVM_MAJOR}, and its name in {VARIABLE}",
        reasons.join("; ")
    )
}

fn named(name: &str) -> anyhow::Result<Toolchain> {
    let folder = Path::new(name);
    let toolchain = if folder.is_absolute() {
        Ok(Toolchain { name: name.to_owned(), rustc: folder.join("rustc"), cargo: folder.join("cargo") })
    } else {
        of_rustup(name)
    };
    toolchain.and_then(checked).with_context(|| format!("{VARIABLE}={name} cannot build the eBPF programs"))
}

fn of_system() -> Toolchain {
    Toolchain {
        name: format!("the system's {SYSTEM_RUSTC}"),
        rustc: SYSTEM_RUSTC.into(),
        cargo: "/usr/bin/cargo".into(),
    }
}

fn of_rustup(name: &str) -> anyhow::Result<Toolchain> {
    let which = |program: &str| -> anyhow::Result<PathBuf> {
        let output = Command::new("rustup")
            .args(["which", "--toolchain", name, program])
            .output()
            .with_context(|| format!("rustup's {name}: run rustup"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("rustup's {name}: {}", said.lines().next().unwrap_or("rustup does not know it"));
        }
        Ok(String::from_utf8(output.stdout)?.trim().into())
    };
    Ok(Toolchain { name: format!("rustup's {name}"), rustc: which("rustc")?, cargo: which("cargo")? })
}

fn checked(toolchain: Toolchain) -> anyhow::Result<Toolchain> {
    let ask = |arguments: &[&str]| -> anyhow::Result<String> {
        let output = Command::new(&toolchain.rustc)
            .args(arguments)
            .output()
            .with_context(|| format!("{}: run {}", toolchain.name, toolchain.rustc.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let sysroot = ask(&["--print", "sysroot"])?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    match unfit(llvm_major(&ask(&["-vV"])?), sources.exists()) {
        Some(why) => bail!("{}: {why}", toolchain.name),
        None => Ok(toolchain),
    }
}

/// Why a compiler cannot build the programs.
fn unfit(llvm: Option<u32>, has_sources: bool) -> Option<String> {
    match llvm {
        None => Some("it does not say which LLVM it has".into()),
        Some(major) if major != LLVM_MAJOR => Some(format!("it has LLVM {major}, bpf-linker has {LLVM_MAJOR}")),
        Some(_) if !has_sources => Some("it has no library sources (component rust-src)".into()),
        Some(_) => None,
    }
}

/// From what `rustc -vV` prints.
fn llvm_major(verbose: &str) -> Option<u32> {
    let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version:"))?;
    version.trim().split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_is_read_from_the_compilers_own_words() {
        let of =
            |line: &str| llvm_major(&format!("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nrelease: 1.97.0\n{line}"));
        assert_eq!(of("LLVM version: 22.1.4\n"), Some(22));
        assert_eq!(of("LLVM version: 23.0\n"), Some(23));
        assert_eq!(of("LLVM version: 9"), Some(9));
        assert_eq!(of("LLVM version: unknown"), None);
        assert_eq!(of(""), None);
        assert_eq!(llvm_major(""), None);
    }

    #[test]
    fn only_the_linkers_llvm_with_sources_fits() {
        assert_eq!(unfit(Some(LLVM_MAJOR), true), None);
        assert!(unfit(Some(LLVM_MAJOR), false).unwrap().contains("rust-src"));
        assert_eq!(unfit(Some(23), true).unwrap(), "it has LLVM 23, bpf-linker has 22");
        assert!(unfit(Some(21), true).is_some() && unfit(None, true).is_some());
    }
}
