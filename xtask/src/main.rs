//! The project's commands. One file each; `cargo xtask --help` lists them.

mod bench;
mod build;
mod build_ebpf;
mod chart_docs;
mod chart_tools;
mod counts;
mod demo;
mod docs;
mod guest_kernel;
mod http;
mod image;
mod lab;
mod licences;
mod logged;
mod measure;
mod node;
mod setup;
mod steps;
mod test;
mod tool_paths;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Commands of the kata-pulse workspace")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing on this machine, or name the command that would.
    Setup,
    /// Build the eBPF object.
    BuildEbpf,
    /// Run clippy over the eBPF programs.
    LintEbpf,
    /// Build the eBPF object and the agent: target/release/kata-pulse.
    Build,
    /// Run the agent against a simulated Kata node.
    Demo(demo::Options),
    /// Everything that must hold: format, lints, docs, licences, every test there is.
    Test,
    /// Measure the agent beside its floor.
    Bench(bench::Options),
    /// Write docs/metrics.md from the tables in the code, and the chart's README and files.
    Docs(docs::Options),
    /// Check licences, bans and sources of all dependencies.
    Licences,
    /// Build the image, look into it, and run it against a simulated Kata node.
    Image(image::Options),
    /// Test discovery on a second kernel, in QEMU.
    Lab,
}

/// An error is one line: a backtrace of these commands says nothing about what they ran.
fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    std::env::set_current_dir(steps::root())?;
    match command {
        Command::Setup => setup::run(),
        Command::BuildEbpf => build_ebpf::run(),
        Command::LintEbpf => build_ebpf::lint(),
        Command::Build => build::run(),
        Command::Demo(options) => demo::run(&options),
        Command::Test => test::run(),
        Command::Bench(options) => bench::run(&options),
        Command::Docs(options) => docs::run(&options),
        Command::Licences => licences::run(),
        Command::Image(options) => image::run(&options),
        Command::Lab => lab::run(),
    }
}
