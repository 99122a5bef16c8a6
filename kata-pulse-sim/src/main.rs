//! `kata-pulse-sim run`: a simulated node until SIGINT or SIGTERM.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::{Parser, ValueEnum};
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
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Cri {
    Containerd,
    #[value(name = "cri-o")]
    CriO,
    None,
}

fn main() -> anyhow::Result<ExitCode> {
    // Under the name of one of Kata's programs it is that program.
    if let Some(code) = kata_pulse_sim::role::play() {
        return Ok(code);
    }
    let command = Command::parse();
    tokio::runtime::Runtime::new()?.block_on(run(command))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(command: Command) -> anyhow::Result<()> {
    let Command::Run { root, sandboxes, mix, cri } = command;
    let kinds = parse_mix(&mix)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let node = Arc::new(Node::new(&root));
    let server = start_cri(&node, &root, cri)?;
    for (n, kind) in (1..=sandboxes).zip(kinds.iter().copied().cycle()) {
        node.create(SandboxSpec::numbered(n, kind)).await?;
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
