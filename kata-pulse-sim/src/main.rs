//! `kata-pulse-sim`: a simulated node (`run`), commands to it (`ctl`), and noise (`storm`).

mod run;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use kata_pulse_sim::commands;
use kata_pulse_sim::control::{self, Reply, Request, StormOptions};

/// A Kata node made of nothing but this machine.
#[derive(Debug, Parser)]
enum Command {
    /// Create sandboxes, serve them until SIGINT or SIGTERM, remove them.
    Run(run::Options),
    /// Tell a running node what to do.
    Ctl {
        /// The node's root, as `run` had it.
        #[arg(long)]
        root: PathBuf,
        #[command(subcommand)]
        request: Request,
    },
    /// Make noise, bounded in count and time, and say how fast it was.
    Storm(StormOptions),
}

fn main() -> anyhow::Result<ExitCode> {
    if let Some(line) = kata_pulse_sim::version::answer() {
        println!("{line}");
        return Ok(ExitCode::SUCCESS);
    }
    // Under the name of one of Kata's programs it is that program.
    if let Some(code) = kata_pulse_sim::role::play() {
        return Ok(code);
    }
    match Command::parse() {
        Command::Run(options) => tokio::runtime::Runtime::new()?.block_on(run::run(options))?,
        Command::Ctl { root, request } => match control::ask(&root, &request)? {
            Reply::Done(text) => println!("{}", text.trim_end()),
            Reply::Failed(why) => anyhow::bail!(why),
        },
        Command::Storm(options) => println!("{}", commands::blown(&options)?),
    }
    Ok(ExitCode::SUCCESS)
}
