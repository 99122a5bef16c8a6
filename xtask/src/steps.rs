//! Running commands from the workspace's root; those with a log and a deadline are in `logged`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The cargo that started us.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// This binary with another command.
pub fn xtask(args: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("path of xtask")?);
    command.args(args);
    Ok(command)
}

/// Runs with our own input and output; an error if it fails.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{} {:?}: {status}", command.get_program().display(), command.get_args());
    }
    Ok(())
}

/// Standard output; the exit code is read from what it says.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
