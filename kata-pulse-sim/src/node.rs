//! The node: directories in the order the runtimes make and remove them, one listener for each shim.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use tokio::{net::UnixStream, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    account::Account,
    agent::{self, AgentState},
    container::{CgroupDriver, CgroupMode, ContainerSpec, QosClass},
    containerd::events::{EventHub, Happening},
    kind::{Kind, Runtime, SimError, Vmm},
    launch::Processes,
    layout::{self, Places, Variant},
    order::{self, Made, Making},
    page::GuestLoad,
    process::ShimProcess,
    shim::{self, ShimState},
    traffic::Traffic,
    vm::{self, Fall, Vm},
    workload::{Workload, unix_now_ns},
};

/// The pod of a sandbox, as CRI tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub handler: String,
}

/// What the RuntimeClass adds to a pod for the VM itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overhead {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
}

/// What to create.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    pub id: String,
    pub kind: Kind,
    /// `None`: made without a pod (ctr, nerdctl); CRI does not know it.
    pub pod: Option<Pod>,
    pub load: GuestLoad,
    /// Written into persist.json; that of the VMM where there are processes.
    pub vmm_pid: u32,
    pub containers: Vec<ContainerSpec>,
    pub guest_cgroup: CgroupMode,
    pub host_cgroup: CgroupMode,
    pub cgroup_driver: CgroupDriver,
    pub qos: QosClass,
    pub overhead: Option<Overhead>,
    /// What is not as usual about its places.
    pub variant: Variant,
    /// The guest's agent answers on a hybrid-vsock socket.
    pub agent: bool,
    /// `None`: a sandbox without processes, all of it in this one.
    pub processes: Option<Processes>,
}

impl SandboxSpec {
    /// A sandbox number `n` with a 64-digit id, a pod `pod-<n>` in `default` and one container `app`.
    pub fn numbered(n: u64, kind: Kind) -> Self {
        let pod = Pod {
            name: format!("pod-{n}"),
            namespace: "default".to_owned(),
            uid: format!("00000000-0000-4000-8000-{n:012x}"),
            handler: "kata".to_owned(),
        };
        let id = format!("{n:064x}");
        Self {
            containers: vec![ContainerSpec::named(&id, "app")],
            id,
            kind,
            pod: Some(pod),
            load: GuestLoad::default(),
            vmm_pid: 0,
            guest_cgroup: CgroupMode::default(),
            host_cgroup: CgroupMode::default(),
            cgroup_driver: CgroupDriver::default(),
            qos: QosClass::default(),
            overhead: Some(Overhead { cpu_millis: 250, memory_bytes: 160 << 20 }),
            variant: Variant::default(),
            agent: false,
            processes: None,
        }
    }
}

/// A sandbox that exists.
#[derive(Debug)]
pub struct Sandbox {
    pub spec: SandboxSpec,
    pub created_unix_ns: i64,
    pub(crate) workload: Workload,
    pub(crate) shim: Arc<ShimState>,
    server: JoinHandle<()>,
    pub(crate) vm: Vm,
}

type Sandboxes = BTreeMap<String, Sandbox>;

/// A simulated node; dropping it ends every shim, [`Node::remove_all`] removes what it made.
#[derive(Debug)]
pub struct Node {
    root: PathBuf,
    sandboxes: Mutex<Sandboxes>,
    /// What crashes left.
    leftovers: Mutex<BTreeMap<String, Vm>>,
    pub(crate) killed: Arc<AtomicU64>,
    pub(crate) events: EventHub,
    pub(crate) account: Account,
}

impl Node {
    /// `/` for the real paths.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            sandboxes: Mutex::default(),
            leftovers: Mutex::default(),
            killed: Arc::default(),
            events: EventHub::default(),
            account: Account::default(),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that holds the sandboxes of a runtime.
    pub fn base(&self, runtime: Runtime) -> PathBuf {
        layout::base(&self.root, runtime)
    }

    pub fn sandbox_dir(&self, runtime: Runtime, id: &str) -> PathBuf {
        self.base(runtime).join(id)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Sandboxes> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a sandbox in the order of its runtime; it is served when this returns.
    pub async fn create(&self, mut spec: SandboxSpec) -> Result<(), SimError> {
        let places = Places::new(&self.root, &spec.id, spec.kind, &spec.variant);
        let Made { listener, agent, shim } = Making::new(&self.root, &spec, &places).run()?;
        spec.vmm_pid = shim.as_ref().and_then(|shim| shim.helpers.get("vmm").copied()).unwrap_or(spec.vmm_pid);
        let shim = shim.map(|shim| Arc::new(Mutex::new(shim)));
        let born = Instant::now();
        let state = Arc::new(ShimState {
            kind: spec.kind,
            agent_url: places.agent_url(agent.is_some()),
            load: spec.load,
            born,
            fault: Mutex::default(),
            traffic: Traffic::default(),
            killed: AtomicU64::new(0),
            node_killed: Arc::clone(&self.killed),
            process: shim.clone(),
            life: CancellationToken::new(),
        });
        if let Some(shim) = &shim {
            follow(shim, &state).map_err(SimError::io("watch the shim of", &spec.id))?;
        }
        let server = tokio::spawn(shim::serve(listener, Arc::clone(&state)));
        let agent = agent.map(|listener| {
            let agent = Arc::new(AgentState::new(spec.kind.runtime, spec.load, born));
            tokio::spawn(agent::serve(listener, Arc::clone(&agent)));
            agent
        });
        let vm = Vm { places, agent, process: shim };
        let burn = spec.processes.as_ref().and_then(|processes| processes.burn.clone());
        let id = spec.id.clone();
        let workload = Workload::start(&spec);
        let sandbox = Sandbox { spec, created_unix_ns: unix_now_ns(), workload, shim: state, server, vm };
        self.events.publish_all(&sandbox, &Happening::START);
        self.lock().insert(id.clone(), sandbox);
        burn.map_or(Ok(()), |burn| self.burn(&id, &burn))
    }

    /// Removes a sandbox in the order and with the system calls of its runtime; what a crash left, as `delete` does.
    pub async fn remove(&self, id: &str) -> Result<(), SimError> {
        if let Some(left) = self.leftovers().remove(id) {
            left.sweep(&self.root, id)?;
            self.account.keep(id, &left);
            return Ok(());
        }
        let mut gone = self.take(id)?;
        self.events.publish_all(&gone, &Happening::EXIT);
        self.events.publish_all(&gone, &[Happening::ContainerDelete]);
        gone.vm.end_role("vmm")?;
        match gone.spec.kind.runtime {
            Runtime::Go => {
                gone.vm.end_role("virtiofsd")?;
                order::remove_go(&gone.spec, &gone.vm.places)?;
            }
            Runtime::Rs => {
                order::remove_runtime_rs(&gone.vm.places)?;
                gone.vm.end_role("virtiofsd")?;
            }
        }
        let vm = end(gone).await;
        vm.end_shim(&self.root, id)?;
        self.account.keep(id, &vm);
        if vm.places.leaves_dead_socket() {
            self.leftovers().insert(id.to_owned(), Vm { process: None, ..vm });
        }
        Ok(())
    }

    /// The shim dies of SIGKILL; directories, dead socket, VMM and virtiofsd stay until [`Node::remove`].
    pub async fn crash(&self, id: &str) -> Result<(), SimError> {
        self.fall(id, Fall::Killed).await
    }

    pub(crate) async fn fall(&self, id: &str, fall: Fall) -> Result<(), SimError> {
        let gone = self.take(id)?;
        self.events.publish_all(&gone, &Happening::EXIT);
        let dragonball = gone.spec.kind.vmm == Vmm::Dragonball;
        gone.vm.fell(fall)?;
        let mut vm = end(gone).await;
        if dragonball {
            vm.end_role("vmm")?; // its VM was the shim
        }
        self.leftovers().insert(id.to_owned(), vm);
        Ok(())
    }

    pub async fn remove_all(&self) -> Result<(), SimError> {
        for id in self.ids() {
            self.remove(&id).await?;
        }
        let left: Vec<String> = self.leftovers().keys().cloned().collect();
        for id in left {
            self.remove(&id).await?;
        }
        Ok(())
    }

    pub(crate) fn leftovers(&self) -> MutexGuard<'_, BTreeMap<String, Vm>> {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, id: &str) -> Result<Sandbox, SimError> {
        self.lock().remove(id).ok_or_else(|| SimError::UnknownSandbox(id.to_owned()))
    }

    pub fn ids(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for sandbox in self.lock().values() {
            sandbox.shim.life.cancel();
            sandbox.vm.end_agent();
        }
    }
}

/// Ends the shim's answers; what is left is its VM.
async fn end(sandbox: Sandbox) -> Vm {
    sandbox.shim.life.cancel();
    // A server that panicked is as gone as one that ended.
    drop(sandbox.server.await);
    sandbox.vm
}

/// A shim that ends by whatever cause takes its socket with it.
fn follow(shim: &Arc<Mutex<ShimProcess>>, state: &Arc<ShimState>) -> std::io::Result<()> {
    let life = UnixStream::from_std(vm::locked(shim).life()?)?;
    let (shim, state) = (Arc::downgrade(shim), Arc::clone(state));
    tokio::spawn(async move {
        if life.readable().await.is_ok() {
            state.life.cancel();
            // Reaps it, which is about to be possible; how it ended is kept for who asks.
            if let Some(shim) = shim.upgrade() {
                let _ = vm::locked(&shim).reap();
            }
        }
    });
    Ok(())
}
