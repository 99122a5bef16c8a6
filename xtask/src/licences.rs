//! `cargo deny check bans licenses sources` in each workspace: reads deny.toml and the sources of the dependencies, no
//! advisory database.

use anyhow::{Context, bail};

use crate::steps::{self, cargo};

/// Another version may know other licences and warnings.
const VERSION: &str = "0.20.2";
const WORKSPACES: [&str; 3] = ["Cargo.toml", "kata-pulse-ebpf/Cargo.toml", "fuzz/Cargo.toml"];

pub fn run() -> anyhow::Result<()> {
    install()?;
    let mut refused = Vec::new();
    for (number, manifest) in (1..).zip(WORKSPACES) {
        println!("licences: {manifest} ({number} of {})", WORKSPACES.len());
        let mut check =
            cargo(&["deny", "--locked", "--manifest-path", manifest, "check", "bans", "licenses", "sources"]);
        if steps::run(&mut check).is_err() {
            refused.push(manifest);
        }
    }
    if !refused.is_empty() {
        bail!("cargo-deny refuses something in {}, see above", refused.join(", "));
    }
    Ok(())
}

fn install() -> anyhow::Result<()> {
    let installed = cargo(&["deny", "--version"]).output();
    let version = installed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if version.split_whitespace().last() == Some(VERSION) {
        return Ok(());
    }
    println!("licences: installing cargo-deny {VERSION} into Cargo's home, once, two to five minutes");
    // A debug build: it runs for a second, and an optimised one takes minutes more to compile.
    let arguments = ["install", "cargo-deny", "--version", VERSION, "--locked", "--force", "--debug"];
    let mut install = cargo(&arguments);
    install.args(["--target-dir", "target/cargo-deny"]).env("CARGO_PROFILE_DEV_DEBUG", "false");
    steps::run(&mut install)
        .with_context(|| format!("by hand: cargo install cargo-deny --version {VERSION} --locked --debug"))
}
