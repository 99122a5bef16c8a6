//! `cargo deny check bans licenses sources`: reads deny.toml and the sources of the dependencies, no advisory database.

use std::process::{Command, Stdio};

use anyhow::Context;

use crate::steps::{self, cargo};

pub fn run() -> anyhow::Result<()> {
    if !is_installed() {
        println!("installing cargo-deny into Cargo's home, once");
        // A debug build: it runs for a second, and an optimised one takes minutes more to compile.
        let mut install = cargo(&["install", "cargo-deny", "--locked", "--debug", "--target-dir", "target/cargo-deny"]);
        install.env("CARGO_PROFILE_DEV_DEBUG", "false");
        steps::run(&mut install).context("cargo install cargo-deny --locked")?;
    }
    steps::run(&mut cargo(&["deny", "--locked", "check", "bans", "licenses", "sources"]))
}

fn is_installed() -> bool {
    let silent = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    silent(&mut cargo(&["deny", "--version"])).is_ok_and(|status| status.success())
}
