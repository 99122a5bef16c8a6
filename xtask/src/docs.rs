//! The files that are written from the tables in the code and from each other; `--check` only says whether they are
//! fresh.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, bail};

use crate::chart_docs;
use crate::steps::{self, cargo};

const METRICS: &str = "docs/metrics.md";

#[derive(clap::Args)]
pub struct Options {
    /// Write nothing; fail if a file is not what would be written.
    #[arg(long)]
    check: bool,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut stale = Vec::new();
    for (file, fresh) in [(METRICS.to_owned(), metrics()?)].into_iter().chain(chart_docs::files()?) {
        let path = steps::root().join(&file);
        if fs::read_to_string(&path).is_ok_and(|text| text == fresh) {
            println!("{file} is fresh");
        } else if options.check {
            stale.push(file);
        } else {
            fs::write(&path, fresh).with_context(|| format!("write {}", path.display()))?;
            println!("wrote {file}");
        }
    }
    if !stale.is_empty() {
        bail!("stale: {}; run `cargo xtask docs` and commit", stale.join(", "));
    }
    Ok(())
}

fn metrics() -> anyhow::Result<String> {
    let output = cargo(&["run", "--quiet", "--package", "kata-pulse", "--example", "metrics_table"])
        .stderr(Stdio::inherit())
        .output()
        .context("run the example metrics_table")?;
    if !output.status.success() {
        bail!("example metrics_table: {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}
