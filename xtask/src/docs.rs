//! docs/metrics.md, from the tables in the code; `--check` only says whether it is fresh.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, bail};

use crate::steps::{self, cargo};

const FILE: &str = "docs/metrics.md";

#[derive(clap::Args)]
pub struct Options {
    /// Write nothing; fail if the file is not what would be written.
    #[arg(long)]
    check: bool,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let output = cargo(&["run", "--quiet", "--package", "kata-pulse", "--example", "metrics_table"])
        .stderr(Stdio::inherit())
        .output()
        .context("run the example metrics_table")?;
    if !output.status.success() {
        bail!("example metrics_table: {}", output.status);
    }
    let fresh = String::from_utf8(output.stdout)?;
    let path = steps::root().join(FILE);
    if options.check {
        if fs::read_to_string(&path).unwrap_or_default() != fresh {
            bail!("{FILE} is stale: run `cargo xtask docs` and commit it");
        }
        println!("{FILE} is fresh");
    } else {
        fs::write(&path, fresh).with_context(|| format!("write {}", path.display()))?;
        println!("wrote {FILE}");
    }
    Ok(())
}
