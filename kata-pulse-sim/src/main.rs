//! `kata-pulse-sim run`: a simulated node until SIGINT or SIGTERM.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use kata_pulse_sim::launch::{Processes, simulator};
use kata_pulse_sim::storm::{self, Storm};
use kata_pulse_sim::{CriFlavour, CriServer, Kind, Node, SandboxSpec};
use tokio::signal::unix::{SignalKind, signal};

/// A Kata node made of nothing but this machine.
#[derive(Debug, Parser)]
enum Command {
    /// Create sandboxes, serve them until SIGINT or SIGTERM, remove them.
    Run {
        /// Everything is made below this folder; `/` for the real paths.
        #[arg(long)]
        root: PathBuf,
        /// How many sandboxes.
        #[arg(long, default_value_t = 4)]
        sandboxes: u64,
        /// Their kinds with weights, e.g. `go-qemu=3,rs-qemu=1`.
        #[arg(long, default_value = "go-qemu=1,rs-dragonball=1,rs-qemu=1,go-clh=1", value_delimiter = ',')]
        mix: Vec<String>,
        /// The CRI server at `<root>/run/containerd/containerd.sock` or `<root>/run/crio/crio.sock`.
        #[arg(long, default_value = "containerd")]
        cri: Cri,
        /// Make processes too: shim, VMM and virtiofsd of each sandbox, with Kata's names and arguments.
        #[arg(long)]
        processes: bool,
    },
    /// Make noise, bounded in count and time, and say how fast it was.
    Storm {
        kind: StormKind,
        /// Where directories are made.
        #[arg(long, default_value = "/tmp")]
        folder: PathBuf,
        #[arg(long, default_value_t = 10_000)]
        count: u64,
        /// Ends the storm before the count is reached.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StormKind {
    Exec,
    Mkdir,
    Syscall,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Cri {
    Containerd,
    #[value(name = "cri-o")]
    CriO,
    None,
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
        Command::Run { root, sandboxes, mix, cri, processes } => {
            let kinds = parse_mix(&mix)?;
            tokio::runtime::Runtime::new()?.block_on(run(root, sandboxes, kinds, cri, processes))?;
        }
        Command::Storm { kind, folder, count, seconds } => {
            let storm = match kind {
                StormKind::Exec => Storm::Exec,
                StormKind::Mkdir => Storm::Mkdir,
                StormKind::Syscall => Storm::Syscall,
            };
            let (done, took) = storm::blow(storm, &folder, count, Duration::from_secs(seconds))?;
            println!("{done} in {took:?}: {:.0} a second", done as f64 / took.as_secs_f64());
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn run(root: PathBuf, sandboxes: u64, kinds: Vec<Kind>, cri: Cri, processes: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let node = Arc::new(Node::new(&root));
    let server = start_cri(&node, &root, cri)?;
    for (n, kind) in (1..=sandboxes).zip(kinds.iter().copied().cycle()) {
        let mut spec = SandboxSpec::numbered(n, kind);
        if processes {
            spec.processes = Some(Processes::of(simulator()?));
        }
        node.create(spec).await?;
    }
    println!("{sandboxes} sandboxes below {}", root.display());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    node.remove_all().await?;
    println!("shims killed by GET /metrics: {}", node.shims_killed());
    if let Some(server) = server {
        server.stop().await;
    }
    Ok(())
}

fn parse_mix(mix: &[String]) -> anyhow::Result<Vec<Kind>> {
    let mut kinds = Vec::new();
    for part in mix {
        let (kind, weight) = part.split_once('=').unwrap_or((part, "1"));
        let weight: usize = weight.parse().with_context(|| format!("weight of {part:?}"))?;
        kinds.extend(std::iter::repeat_n(kind.parse::<Kind>()?, weight));
    }
    anyhow::ensure!(!kinds.is_empty(), "the mix is empty");
    Ok(kinds)
}

fn start_cri(node: &Arc<Node>, root: &std::path::Path, cri: Cri) -> anyhow::Result<Option<CriServer>> {
    let (path, flavour) = match cri {
        Cri::Containerd => ("run/containerd/containerd.sock", CriFlavour::Containerd),
        Cri::CriO => ("run/crio/crio.sock", CriFlavour::CriO),
        Cri::None => return Ok(None),
    };
    let socket = root.join(path);
    if let Some(parent) = socket.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    println!("CRI at {}", socket.display());
    Ok(Some(CriServer::start(Arc::clone(node), &socket, flavour)?))
}
