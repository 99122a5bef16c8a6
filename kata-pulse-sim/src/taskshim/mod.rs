//! A containerd shim (task service v2) without namespaces, cgroups or a VM: a real containerd takes it for Kata's. In:
//! containerd's command lines and calls, [`Orders`] from a test. Out: sandboxes that become ready, stats, events, a
//! monitor socket, a process that plays the VMM.
//!
//! One shim serves all containers of a pod. Its sandbox is a [`Node`](crate::Node) with one sandbox, so directories,
//! monitor page and stats are those of the simulator. It ends when its last task is deleted.

use std::{env, io, path::Path, process::ExitCode};

mod args;
mod bundle;
mod orders;
mod serve;
mod service;
mod start;
mod task;

pub use orders::{Asked, FOLDER, Orders, StatsOrder};

/// The whole program; see `src/bin`.
pub fn main() -> ExitCode {
    let name = env::args().next().unwrap_or_default();
    let is_shim =
        Path::new(&name).file_name().is_some_and(|name| name.to_string_lossy().starts_with("containerd-shim"));
    if !is_shim {
        return crate::role::play().unwrap_or(ExitCode::FAILURE);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let args = args::Args::parse(env::args().skip(1)).map_err(io::Error::other)?;
    match args.command.as_deref() {
        _ if args.info => start::info(),
        Some("start") => start::start(&args),
        Some("delete") => start::delete(&args),
        Some(other) => Err(io::Error::other(format!("unknown command {other:?}"))),
        None => serve::serve(&args),
    }
}
