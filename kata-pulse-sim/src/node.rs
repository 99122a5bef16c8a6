//! The node: directories in the order the runtimes make and remove them, one listener for each shim.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::{AtFlags, Mode, OFlags};
use tokio::{net::UnixListener, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    container::{CgroupDriver, CgroupMode, ContainerSpec, QosClass},
    containerd::events::{EventHub, Happening},
    kind::{Fault, Kind, Runtime, SimError, Vmm},
    page::GuestLoad,
    shim::{self, ShimState},
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
    /// Written into persist.json or state.json; no process is made for it.
    pub vmm_pid: u32,
    pub containers: Vec<ContainerSpec>,
    pub guest_cgroup: CgroupMode,
    pub host_cgroup: CgroupMode,
    pub cgroup_driver: CgroupDriver,
    pub qos: QosClass,
    pub overhead: Option<Overhead>,
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
}

type Sandboxes = BTreeMap<String, Sandbox>;

/// A simulated node; dropping it ends every shim, [`Node::remove_all`] removes what it made.
#[derive(Debug)]
pub struct Node {
    root: PathBuf,
    sandboxes: Mutex<Sandboxes>,
    killed: Arc<AtomicU64>,
    pub(crate) events: EventHub,
}

impl Node {
    /// `/` for the real paths.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), sandboxes: Mutex::default(), killed: Arc::default(), events: EventHub::default() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that holds the sandboxes of a runtime.
    pub fn base(&self, runtime: Runtime) -> PathBuf {
        self.root.join(match runtime {
            Runtime::Go => "run/vc/sbs",
            Runtime::Rs => "run/kata",
        })
    }

    pub fn sandbox_dir(&self, runtime: Runtime, id: &str) -> PathBuf {
        self.base(runtime).join(id)
    }

    fn shared_dir(&self, id: &str) -> PathBuf {
        self.root.join("run/kata-containers/shared/sandboxes").join(id)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Sandboxes> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a sandbox in the order of its runtime; it is served when this returns.
    pub async fn create(&self, spec: SandboxSpec) -> Result<(), SimError> {
        let dir = self.sandbox_dir(spec.kind.runtime, &spec.id);
        let shared = self.shared_dir(&spec.id);
        let listener = match spec.kind.runtime {
            Runtime::Go => {
                if spec.kind.vmm == Vmm::Qemu {
                    make_dir(&dir, 0o750)?;
                }
                make_dir(&shared.join("shared"), 0o750)?;
                make_dir(&shared.join("mounts"), 0o750)?;
                make_dir(&self.root.join("run/vc/vm").join(&spec.id), 0o750)?;
                make_dir(&dir, 0o700)?;
                write(&dir.join("persist.json"), &persist_json(&spec))?;
                make_dir(&dir.join(&spec.id), 0o700)?;
                write(&dir.join(&spec.id).join("persist.json"), "{}")?;
                bind(&dir, 0o600)?
            }
            Runtime::Rs => {
                make_dir(&dir, 0o755)?;
                let listener = bind(&dir, 0o755)?;
                make_dir(&dir.join("root"), 0o755)?;
                make_dir(&shared, 0o750)?;
                write(&dir.join("state.json"), &state_json(&spec))?;
                listener
            }
        };
        let state = Arc::new(ShimState {
            kind: spec.kind,
            agent_url: agent_url(&spec),
            load: spec.load,
            born: Instant::now(),
            fault: Mutex::default(),
            requests: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            max_in_flight: AtomicU64::new(0),
            killed: AtomicU64::new(0),
            node_killed: Arc::clone(&self.killed),
            life: CancellationToken::new(),
        });
        let server = tokio::spawn(shim::serve(listener, Arc::clone(&state)));
        let workload = Workload::start(&spec);
        let sandbox = Sandbox { spec, created_unix_ns: unix_now_ns(), workload, shim: state, server };
        self.events.publish_all(&sandbox, &Happening::START);
        self.lock().insert(sandbox.spec.id.clone(), sandbox);
        Ok(())
    }

    /// Removes a sandbox in the order and with the system calls of its runtime.
    pub async fn remove(&self, id: &str) -> Result<(), SimError> {
        let gone = self.take(id)?;
        self.events.publish_all(&gone, &Happening::EXIT);
        self.events.publish_all(&gone, &[Happening::ContainerDelete]);
        let dir = self.sandbox_dir(gone.spec.kind.runtime, id);
        match gone.spec.kind.runtime {
            Runtime::Go => {
                remove_tree(&self.root.join("run/vc/vm").join(id))?;
                remove_tree(&self.shared_dir(id))?;
                remove_relative(&dir)?;
                end(gone).await;
            }
            Runtime::Rs => {
                remove_tree(&dir)?;
                remove_tree(&self.shared_dir(id))?;
                end(gone).await;
            }
        }
        Ok(())
    }

    /// The shim dies; its directories and its dead socket stay.
    pub async fn crash(&self, id: &str) -> Result<(), SimError> {
        let gone = self.take(id)?;
        self.events.publish_all(&gone, &Happening::EXIT);
        end(gone).await;
        Ok(())
    }

    pub async fn remove_all(&self) -> Result<(), SimError> {
        for id in self.ids() {
            self.remove(&id).await?;
        }
        Ok(())
    }

    fn take(&self, id: &str) -> Result<Sandbox, SimError> {
        self.lock().remove(id).ok_or_else(|| SimError::UnknownSandbox(id.to_owned()))
    }

    pub fn ids(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// `None` heals the sandbox.
    pub fn set_fault(&self, id: &str, fault: Option<Fault>) -> Result<(), SimError> {
        self.with(id, |shim| *shim.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault)
    }

    /// `GET /metrics` that this sandbox has had.
    pub fn requests(&self, id: &str) -> Result<u64, SimError> {
        self.with(id, |shim| shim.requests.load(Ordering::Relaxed))
    }

    /// The most `GET /metrics` that were in flight together.
    pub fn max_in_flight(&self, id: &str) -> Result<u64, SimError> {
        self.with(id, |shim| shim.max_in_flight.load(Ordering::Relaxed))
    }

    /// Shims that a `GET /metrics` has killed on this node: must stay 0.
    pub fn shims_killed(&self) -> u64 {
        self.killed.load(Ordering::Relaxed)
    }

    fn with<T>(&self, id: &str, look: impl FnOnce(&ShimState) -> T) -> Result<T, SimError> {
        let sandboxes = self.lock();
        let sandbox = sandboxes.get(id).ok_or_else(|| SimError::UnknownSandbox(id.to_owned()))?;
        Ok(look(&sandbox.shim))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for sandbox in self.lock().values() {
            sandbox.shim.life.cancel();
        }
    }
}

async fn end(sandbox: Sandbox) {
    sandbox.shim.life.cancel();
    // A server that panicked is as gone as one that ended.
    drop(sandbox.server.await);
}

fn make_dir(path: &Path, mode: u32) -> Result<(), SimError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(SimError::io("create", path))
}

fn write(path: &Path, text: &str) -> Result<(), SimError> {
    fs::write(path, text).map_err(SimError::io("write", path))
}

fn bind(dir: &Path, mode: u32) -> Result<UnixListener, SimError> {
    let path = dir.join("shim-monitor.sock");
    let listener = UnixListener::bind(&path).map_err(SimError::io("bind", &path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(SimError::io("chmod", &path))?;
    Ok(listener)
}

/// Rust's own: children by descriptor, the directory itself by its absolute path.
fn remove_tree(path: &Path) -> Result<(), SimError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(SimError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Go's os.RemoveAll: the last call is `unlinkat(parent, "<sid>", AT_REMOVEDIR)`.
fn remove_relative(dir: &Path) -> Result<(), SimError> {
    for entry in fs::read_dir(dir).map_err(SimError::io("list", dir))? {
        let path = entry.map_err(SimError::io("list", dir))?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        } else {
            fs::remove_file(&path).map_err(SimError::io("remove", &path))?;
        }
    }
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Ok(());
    };
    rustix::fs::open(parent, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|parent| rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR))
        .map_err(|errno| SimError::Io { action: "remove", path: dir.to_owned(), source: errno.into() })
}

fn persist_json(spec: &SandboxSpec) -> String {
    let kind = spec.kind.hypervisor_type();
    serde_json::json!({"State": "running", "SandboxContainer": spec.id,
        "HypervisorState": {"Type": kind, "Pid": spec.vmm_pid}})
    .to_string()
}

fn state_json(spec: &SandboxSpec) -> String {
    let kind = spec.kind.hypervisor_type();
    serde_json::json!({"sandbox_type": "virt_container",
        "hypervisor": {"hypervisor_type": kind, "id": spec.id, "pid": spec.vmm_pid}})
    .to_string()
}

/// The paths in it are the guest's side of the story: always the real ones, whatever the root.
fn agent_url(spec: &SandboxSpec) -> String {
    let id = &spec.id;
    match (spec.kind.runtime, spec.kind.vmm) {
        (Runtime::Go, Vmm::Remote) => format!("remote:///run/peerpod/{id}.sock"),
        (Runtime::Rs, Vmm::Remote) => format!("remote:///run/peerpod/{id}.sock:1024"),
        (_, Vmm::Qemu) => "vsock://3:1024".to_owned(),
        (Runtime::Go, _) => format!("hvsock:///run/vc/vm/{id}/kata.hvsock:1024"),
        (Runtime::Rs, Vmm::CloudHypervisor) => format!("hvsock:///run/kata/{id}/ch-vm.sock:1024"),
        (Runtime::Rs, Vmm::Dragonball) => format!("hvsock:///run/kata/{id}/root/kata.hvsock:1024"),
        (Runtime::Rs, Vmm::Firecracker) => format!("hvsock:///run/kata/{id}/kata.hvsock:1024"),
        (Runtime::Rs, Vmm::OpenVmm) => format!("hvsock:///run/kata/{id}/vsock.sock:1024"),
    }
}
