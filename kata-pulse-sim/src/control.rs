//! Commands to a running node: a Unix socket, one line of JSON each way. In: a [`Request`], which is also what the
//! command line of `ctl` is parsed into. Out: text to print, or what went wrong.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::commands::Commander;
use crate::fault::FAULT_NAMES;
use crate::kind::KIND_NAMES;
use crate::layout::Variant;
use crate::node::Node;

/// What a node can be told. SANDBOX is an id, the beginning or end of one, or the name of its pod.
#[derive(Debug, Clone, Subcommand, Serialize, Deserialize)]
pub enum Request {
    /// One line for each sandbox: id, kind, pod, number of `GET /metrics`, pids.
    List,
    /// Make a sandbox and say its id.
    Create(Create),
    /// Remove a sandbox in the order of its runtime, or what a crash left of it.
    Remove { sandbox: String },
    /// SIGKILL the shim: directories, dead socket, VMM and virtiofsd stay until `remove`.
    Crash { sandbox: String },
    /// Make a sandbox fail until `heal`.
    #[command(after_help = format!("FAULT is one of {FAULT_NAMES}."))]
    Fault { sandbox: String, fault: String },
    /// Hang a guest until its runtime gives up: Go after 33 s, runtime-rs after 95 s.
    Hang { sandbox: String },
    /// End every fault of a sandbox.
    Heal { sandbox: String },
    /// Make its VMM work: needs processes.
    Burn(BurnOptions),
    /// End that work and say what it was.
    Rest { sandbox: String },
    /// What each process of a removed sandbox had used when it ended: needs processes, and the whole id.
    Usage { sandbox: String },
    /// Make noise on this machine; says how much when it is over.
    Storm(StormOptions),
    /// Do what a container may to be taken for a sandbox: directories in a mount namespace, a VMM's name.
    Forge {
        sandbox: String,
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
}

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
#[command(after_help = format!("KIND is one of {KIND_NAMES}."))]
pub struct Create {
    pub kind: String,
    /// Instead of the next number.
    #[arg(long)]
    pub id: Option<String>,
    /// A sandbox that CRI does not know, as ctr and nerdctl make it.
    #[arg(long)]
    pub no_pod: bool,
    /// The guest's agent answers on its hybrid-vsock socket.
    #[arg(long)]
    pub agent: bool,
    /// With processes: shim, VMM, virtiofsd.
    #[arg(long)]
    pub processes: bool,
    /// Firecracker in its jail.
    #[arg(long)]
    pub jailed: bool,
    /// The state is below `/run/user/<UID>`.
    #[arg(long, value_name = "UID")]
    pub rootless: Option<u32>,
    /// The VM came from Go's factory.
    #[arg(long, value_name = "UUID")]
    pub factory: Option<String>,
    /// The socket is where Go 3.1.0 had it.
    #[arg(long)]
    pub go_3_1_0: bool,
}

impl Create {
    pub(crate) fn variant(&self) -> Variant {
        Variant { jailed: self.jailed, rootless: self.rootless, factory: self.factory.clone(), go_3_1_0: self.go_3_1_0 }
    }
}

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct BurnOptions {
    pub sandbox: String,
    /// User time over all vCPU threads.
    #[arg(long, default_value_t = 0.5)]
    pub cpus: f64,
    #[arg(long, default_value_t = 2)]
    pub threads: u32,
    /// Written to a file and synced.
    #[arg(long, default_value_t = 0)]
    pub io_bytes_per_second: u64,
    #[arg(long, default_value_t = 0)]
    pub resident_bytes: u64,
}

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct StormOptions {
    pub kind: StormKind,
    #[arg(long, default_value_t = 10_000)]
    pub count: u64,
    /// Ends the storm before the count is reached.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Where directories are made.
    #[arg(long, default_value = "/tmp")]
    pub folder: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize, Deserialize)]
pub enum StormKind {
    Exec,
    Mkdir,
    Syscall,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    #[serde(rename = "ok")]
    Done(String),
    #[serde(rename = "error")]
    Failed(String),
}

/// The socket of the node below `root`.
pub fn socket(root: &Path) -> PathBuf {
    root.join("sim.sock")
}

/// Sends one command and waits until it is done.
pub fn ask(root: &Path, request: &Request) -> io::Result<Reply> {
    let path = socket(root);
    let mut stream = UnixStream::connect(&path).map_err(|error| {
        let hint =
            format!("no node listens at {} ({error}): kata-pulse-sim run --root {}", path.display(), root.display());
        io::Error::new(error.kind(), hint)
    })?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::other("the node ended before it answered"));
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Serves commands until it is dropped; the socket goes with it.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl ControlServer {
    /// `simulator` is the program that plays Kata's; new sandboxes are numbered from `first` on.
    pub fn start(node: Arc<Node>, simulator: PathBuf, first: u64) -> io::Result<Self> {
        let path = socket(node.root());
        if UnixStream::connect(&path).is_ok() {
            let taken = format!("a node listens already at {}", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, taken));
        }
        if path.exists() {
            std::fs::remove_file(&path)?;
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let commander = Arc::new(Commander::new(node, simulator, first));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&commander)));
            }
        });
        Ok(Self { path, task })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One line, one answer, until the peer is done.
async fn converse(mut stream: tokio::net::UnixStream, commander: Arc<Commander>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = tokio::io::BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let reply = match serde_json::from_str(&line) {
            Ok(request) => commander.carry_out(request).await,
            Err(error) => Reply::Failed(format!("not a request: {error}")),
        };
        let mut answer = serde_json::to_string(&reply)?;
        answer.push('\n');
        write.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}
