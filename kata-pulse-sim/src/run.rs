//! `kata-pulse-sim run`: a node until SIGINT or SIGTERM.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};
use kata_pulse_sim::control::ControlServer;
use kata_pulse_sim::launch::{Processes, simulator};
use kata_pulse_sim::{ContainerSpec, CriFlavour, CriServer, Kind, Node, SandboxSpec};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Everything is made below this folder; `/` for the real paths.
    #[arg(long)]
    root: PathBuf,
    /// How many sandboxes.
    #[arg(long, default_value_t = 4)]
    sandboxes: u64,
    /// Their kinds with weights, e.g. `go-qemu=3,rs-qemu=1`.
    #[arg(long, default_value = "go-qemu=1,rs-dragonball=1,rs-qemu=1,go-clh=1", value_delimiter = ',')]
    mix: Vec<String>,
    /// Containers of each pod.
    #[arg(long, default_value_t = 1)]
    containers: u32,
    /// The CRI server at `<root>/run/containerd/containerd.sock` or `<root>/run/crio/crio.sock`.
    #[arg(long, default_value = "containerd")]
    cri: Cri,
    /// Make processes too: shim, VMM and virtiofsd of each sandbox, with Kata's names and arguments.
    #[arg(long)]
    processes: bool,
    /// Guests' agents answer on hybrid-vsock sockets, and `/agent-url` leads there.
    #[arg(long)]
    agents: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Cri {
    Containerd,
    #[value(name = "cri-o")]
    CriO,
    None,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let kinds = parse_mix(&options.mix)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let root = &options.root;
    std::fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
    let node = Arc::new(Node::new(root));
    let control = ControlServer::start(Arc::clone(&node), simulator()?, options.sandboxes + 1)?;
    let server = start_cri(&node, root, options.cri)?;
    for (n, kind) in (1..=options.sandboxes).zip(kinds.iter().copied().cycle()) {
        let mut spec = SandboxSpec::numbered(n, kind);
        spec.agent = options.agents;
        let names = (1..options.containers).map(|number| format!("sidecar-{number}"));
        spec.containers.extend(names.map(|name| ContainerSpec::named(&spec.id, &name)).collect::<Vec<_>>());
        if options.processes {
            spec.processes = Some(Processes::of(simulator()?));
        }
        node.create(spec).await?;
    }
    println!("{} sandboxes below {}", options.sandboxes, root.display());
    println!("commands: kata-pulse-sim ctl --root {} --help", root.display());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(control);
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

fn start_cri(node: &Arc<Node>, root: &Path, cri: Cri) -> anyhow::Result<Option<CriServer>> {
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
