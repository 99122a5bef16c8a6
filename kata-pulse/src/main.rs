//! The agent's program: flags, logging, run, exit code.

use std::process::ExitCode;

use kata_pulse::config::{Args, Config};
use kata_pulse::{agent, telemetry};

fn main() -> ExitCode {
    let config = match Args::read(std::env::args_os()) {
        Ok(args) => Config::from(args),
        Err(error) => return explain(&error),
    };
    if let Err(error) = telemetry::log::init(&config.log_level, config.log_format) {
        eprintln!("kata-pulse: {:#}", anyhow::Error::from(error));
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(agent::run(config));
            // Whatever still blocks is nothing that anybody waits for.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kata-pulse: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A bad value is one line; help and version are what they are.
fn explain(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        print!("{error}");
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let line: Vec<&str> = paragraph.lines().map(str::trim).collect();
    eprintln!("kata-pulse: {}", line.join(" ").trim_start_matches("error: "));
    ExitCode::from(2)
}
