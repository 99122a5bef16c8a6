//! The eBPF object, then the agent around it.

use crate::steps::{self, cargo};

pub fn run() -> anyhow::Result<()> {
    crate::build_ebpf::run()?;
    steps::run(&mut cargo(&["build", "--release", "--package", "kata-pulse"]))?;
    println!("built target/release/kata-pulse");
    Ok(())
}
