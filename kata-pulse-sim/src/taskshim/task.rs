//! The tasks of one pod: made, started, ended, deleted. In: calls of the service. Out: states, and a sandbox on the
//! shim's own node, with a process that plays its VMM.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    net::unix::pipe,
    process::{Child, Command},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::{
    bundle::Bundle,
    orders::{Asked, Orders},
};
use crate::{
    container::ContainerSpec,
    kind::{Kind, Runtime, SimError, Vmm},
    node::{Node, SandboxSpec},
    workload::unix_now_ns,
};

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) status: u32,
    pub(super) at_unix_ns: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Created,
    Running,
    Exited(Exit),
}

/// Where containerd reads and writes, as it was told at creation.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams {
    pub(super) stdin: String,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

#[derive(Debug)]
struct Task {
    bundle: String,
    streams: Streams,
    phase: watch::Sender<Phase>,
    /// `None`: the sandbox itself.
    container: Option<ContainerSpec>,
    /// Held open while it runs: containerd waits for their end.
    outputs: Vec<pipe::Sender>,
}

/// What State tells of a task.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) bundle: String,
    pub(super) streams: Streams,
    pub(super) phase: Phase,
}

/// A call that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum TaskError {
    #[error("task {0}: not found")]
    Unknown(String),
    #[error("task {0} does not run")]
    NotRunning(String),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Sim(#[from] SimError),
    #[error("stats of {0}")]
    Stats(String),
}

/// One pod's tasks.
#[derive(Debug)]
pub(super) struct Tasks {
    pub(super) node: Node,
    sandbox: String,
    folder: PathBuf,
    tasks: Mutex<BTreeMap<String, Task>>,
    vmm: Mutex<Option<u32>>,
    /// Ends the VMM.
    power: CancellationToken,
    /// Cancelled when containerd has let the last task go.
    pub(super) done: CancellationToken,
}

impl Tasks {
    pub(super) fn new(sandbox: &str, folder: PathBuf) -> io::Result<Self> {
        let root = Orders::read(&folder, sandbox)?.root;
        Ok(Self {
            node: Node::new(root),
            sandbox: sandbox.to_owned(),
            folder,
            tasks: Mutex::default(),
            vmm: Mutex::default(),
            power: CancellationToken::new(),
            done: CancellationToken::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, id: &str, act: impl FnOnce(&mut Task) -> T) -> Result<T, TaskError> {
        self.lock().get_mut(id).map(act).ok_or_else(|| TaskError::Unknown(id.to_owned()))
    }

    /// What a task's pid is said to be: the VMM's, or the shim's where the VMM is part of it.
    pub(super) fn pid(&self) -> u32 {
        self.vmm.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(std::process::id)
    }

    /// The sandbox's own task boots the VM.
    pub(super) async fn create(self: &Arc<Self>, id: &str, folder: &str, streams: Streams) -> Result<(), TaskError> {
        let bundle = Bundle::read(Path::new(folder))?;
        let container = if id == self.sandbox {
            self.boot(&bundle).await?;
            None
        } else {
            Some(self.container(id, &bundle)?)
        };
        let (phase, outputs) = (watch::Sender::new(Phase::Created), Vec::new());
        self.lock().insert(id.to_owned(), Task { bundle: folder.to_owned(), streams, phase, container, outputs });
        Ok(())
    }

    fn container(&self, id: &str, bundle: &Bundle) -> io::Result<ContainerSpec> {
        let mut container = bundle.container(id);
        let mut orders = Orders::read(&self.folder, &self.sandbox)?;
        if let Some(load) = orders.loads.remove(bundle.container_name()) {
            container.load = load;
        }
        Ok(container)
    }

    async fn boot(self: &Arc<Self>, bundle: &Bundle) -> Result<(), TaskError> {
        let orders = Orders::read(&self.folder, &self.sandbox)?;
        let kind: Kind = orders.kind.parse()?;
        let mut spec = SandboxSpec::numbered(0, kind);
        spec.id.clone_from(&self.sandbox);
        spec.pod = bundle.pod();
        spec.containers.clear();
        (spec.host_cgroup, spec.guest_cgroup) = (orders.host, orders.guest);
        if let Some(vmm) = start_vmm(&orders.root, &self.sandbox, kind)? {
            spec.vmm_pid = vmm.id().unwrap_or_default();
            *self.vmm.lock().unwrap_or_else(PoisonError::into_inner) = vmm.id();
            tokio::spawn(Arc::clone(self).watch_vmm(vmm));
        }
        Ok(self.node.create(spec).await?)
    }

    /// Without its VM no task lives on.
    async fn watch_vmm(self: Arc<Self>, mut vmm: Child) {
        tokio::select! {
            _ = vmm.wait() => {}
            () = self.power.cancelled() => {
                // It ended just now at the latest; this reaps it.
                drop(vmm.kill().await);
            }
        }
        let ids: Vec<String> = self.lock().keys().cloned().collect();
        for id in ids {
            self.end(&id, 137);
        }
    }

    pub(super) fn start(&self, id: &str) -> Result<(), TaskError> {
        let container = self.with(id, |task| {
            let streams = [&task.streams.stdout, &task.streams.stderr];
            // Nobody reads: nothing is lost.
            task.outputs = streams.iter().filter_map(|path| pipe::OpenOptions::new().open_sender(path).ok()).collect();
            task.phase.send_replace(Phase::Running);
            task.container.clone()
        })?;
        match container {
            Some(container) => Ok(self.node.add_container(&self.sandbox, container)?),
            None => Ok(()),
        }
    }

    /// Any signal ends a task; that of the sandbox ends the VM.
    pub(super) fn kill(&self, id: &str, signal: u32) -> Result<(), TaskError> {
        if !self.end(id, 128 + signal) {
            self.seen(id)?;
            return Err(TaskError::NotRunning(id.to_owned()));
        }
        if id == self.sandbox {
            self.node.stop_sandbox(id)?;
            self.power.cancel();
        }
        Ok(())
    }

    /// `false`: there is nothing to end.
    fn end(&self, id: &str, status: u32) -> bool {
        let ended = self.with(id, |task| {
            if matches!(*task.phase.borrow(), Phase::Exited(_)) {
                return None;
            }
            task.outputs.clear();
            task.phase.send_replace(Phase::Exited(Exit { status, at_unix_ns: unix_now_ns() }));
            Some(task.container.is_some())
        });
        if let Ok(Some(true)) = ended {
            let code = i32::try_from(status).unwrap_or(i32::MAX);
            // One that never started is unknown to the node, and that is right.
            self.node.stop_container(&self.sandbox, id, code).ok();
        }
        matches!(ended, Ok(Some(_)))
    }

    pub(super) fn seen(&self, id: &str) -> Result<Seen, TaskError> {
        self.with(id, |task| Seen {
            bundle: task.bundle.clone(),
            streams: task.streams.clone(),
            phase: *task.phase.borrow(),
        })
    }

    /// State is answered behind a Stats call that takes long, as in the Go shim.
    pub(super) async fn settled(&self, id: &str) {
        let task = self.node.tasks(|task| task == id).pop();
        if let Some(task) = task {
            task.state().await;
        }
    }

    pub(super) async fn wait(&self, id: &str) -> Result<Exit, TaskError> {
        let mut phase = self.with(id, |task| task.phase.subscribe())?;
        let exited = phase.wait_for(|phase| matches!(phase, Phase::Exited(_))).await.map(|phase| *phase);
        match exited {
            Ok(Phase::Exited(exit)) => Ok(exit),
            // Deleted before it ended.
            _ => Err(TaskError::Unknown(id.to_owned())),
        }
    }

    /// The sandbox's directories go with its task.
    pub(super) async fn delete(&self, id: &str) -> Result<Exit, TaskError> {
        self.end(id, 137);
        let exit = match self.seen(id)?.phase {
            Phase::Exited(exit) => exit,
            Phase::Created | Phase::Running => return Err(TaskError::NotRunning(id.to_owned())),
        };
        self.lock().remove(id);
        if id == self.sandbox {
            self.power.cancel();
            self.node.remove(id).await?;
        }
        Ok(exit)
    }

    pub(super) fn shutdown(&self) {
        if self.lock().is_empty() {
            self.done.cancel();
        }
    }

    /// By the orders of this moment. `Ok(None)`: an answer without a message.
    pub(super) async fn stats(&self, id: &str) -> Result<Option<prost_types::Any>, TaskError> {
        self.seen(id)?;
        let orders = Orders::read(&self.folder, &self.sandbox)?;
        self.node.set_stats_fault(&self.sandbox, orders.fault())?;
        self.node.with_sandbox(&self.sandbox, |sandbox| {
            (sandbox.spec.host_cgroup, sandbox.spec.guest_cgroup) = (orders.host, orders.guest);
            Ok(())
        })?;
        let task = self.node.tasks(|task| task == id).pop();
        let task = task.ok_or_else(|| TaskError::NotRunning(id.to_owned()))?;
        let answer = task.stats_noted(unix_now_ns(), || self.note_asked()).await;
        answer.map_err(|_| TaskError::Stats(id.to_owned()))
    }

    fn note_asked(&self) {
        let counts = (self.node.stats_calls(&self.sandbox), self.node.stats_max_in_flight(&self.sandbox));
        if let (Ok(stats), Ok(max_in_flight)) = counts
            && let Err(error) = (Asked { stats, max_in_flight }).write(&self.folder, &self.sandbox)
        {
            eprintln!("{}: {error}", self.folder.display());
        }
    }
}

/// `None`: this VMM is part of the shim, or on another machine. It ends with the shim.
fn start_vmm(root: &Path, id: &str, kind: Kind) -> io::Result<Option<Child>> {
    let go = kind.runtime == Runtime::Go;
    let (name, arguments) = match kind.vmm {
        Vmm::Qemu => ("qemu-system-x86_64", format!("-name sandbox-{id} -nodefaults")),
        Vmm::CloudHypervisor if go => ("cloud-hypervisor", format!("--api-socket /run/vc/vm/{id}/clh-api.sock")),
        Vmm::CloudHypervisor => ("cloud-hypervisor", format!("--api-socket /run/kata/{id}/ch-api.sock")),
        Vmm::Firecracker => ("firecracker", format!("--id {id} --api-sock /run//fc.sock")),
        Vmm::OpenVmm => ("openvmm", format!("--ttrpc /run/kata/{id}/openvmm.sock")),
        Vmm::Dragonball | Vmm::Remote => return Ok(None),
    };
    let program = install(&root.join("opt/kata/bin"), name)?;
    let mut command = Command::new(program);
    command.args(arguments.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command.spawn().map(Some)
}

/// This program under a VMM's name, in one step: shims may start at the same time.
fn install(folder: &Path, name: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let (own, to) = (std::env::current_exe()?, folder.join(name));
    match fs::hard_link(&own, &to) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // Another file system.
        Err(_) => {
            let fresh = folder.join(format!("{name}.{}", std::process::id()));
            fs::copy(&own, &fresh)?;
            fs::rename(&fresh, &to)?;
        }
    }
    Ok(to)
}
