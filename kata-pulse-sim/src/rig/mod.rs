//! A real containerd for tests: its own folder, an image made by hand, pods in the host's network, so that neither a
//! registry nor network plugins are needed. In: a short folder. Out: a running containerd and calls to it. Costs a
//! second to start. Root only.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tonic::transport::{Channel, Endpoint};

mod calls;
mod image;
mod leftovers;
mod pods;

pub use pods::{ContainerConfig, PodConfig};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// The program behind the handler `kata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KataHandler {
    /// Ordinary containers under another name.
    Runc,
    /// The simulated shim: its program's folder and the folder of its orders, see [`crate::taskshim`].
    Shim { programs: PathBuf, orders: PathBuf },
}

/// A running containerd; dropping it ends the daemon and the simulated shims of pods that were
/// not removed. Pods under `runc` must be removed before.
#[derive(Debug)]
pub struct Containerd {
    child: Child,
    folder: PathBuf,
    handler: KataHandler,
    channel: Channel,
    /// Made by pods, removed at the end.
    cgroups: Mutex<Vec<PathBuf>>,
}

impl Containerd {
    /// What this machine lacks for it, as a Debian package or a word.
    pub fn missing() -> Option<&'static str> {
        if !geteuid().is_root() {
            return Some("root");
        }
        [("/usr/bin/containerd", "containerd"), ("/usr/sbin/runc", "runc"), ("/bin/busybox", "busybox-static")]
            .into_iter()
            .find_map(|(path, package)| (!Path::new(path).exists()).then_some(package))
    }

    /// Everything lies below `folder`, whose path must be short: sockets are in it.
    pub async fn start(folder: &Path, handler: KataHandler) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("config.toml"), config(folder, &handler))?;
        let child = spawn(folder, &handler)?;
        let channel = connect(&folder.join("containerd.sock")).await?;
        let containerd = Self { child, folder: folder.to_owned(), handler, channel, cgroups: Mutex::default() };
        containerd.import(&image::make(folder)?)?;
        Ok(containerd)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    /// Where the bundles of pods are.
    pub fn bundles(&self) -> PathBuf {
        self.folder.join("state/io.containerd.runtime.v2.task/k8s.io")
    }

    /// For clients of containerd's services; it survives restarts.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn import(&self, archive: &Path) -> io::Result<()> {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io", "images", "import"]);
        run(ctr.args(["--snapshotter", "native"]).arg(archive))
    }

    /// The daemon ends; shims and pods live on.
    pub fn stop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself.
            kill_process(pid, Signal::TERM).ok();
        }
        self.child.wait().ok();
    }

    pub fn restart(&mut self) -> io::Result<()> {
        self.stop();
        self.child = spawn(&self.folder, &self.handler)?;
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.stop();
        leftovers::end_shims(&self.bundles());
        leftovers::unmount_all(&self.folder.join("state"));
        leftovers::remove_cgroups(&mut self.cgroups.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

async fn connect(socket: &Path) -> io::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(io::Error::other)?;
    let started = Instant::now();
    loop {
        match endpoint.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) if started.elapsed() > PATIENCE => return Err(io::Error::other(error)),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn spawn(folder: &Path, handler: &KataHandler) -> io::Result<Child> {
    let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
    let mut command = Command::new("containerd");
    command.arg("--config").arg(folder.join("config.toml")).stdout(Stdio::null()).stderr(log);
    if let KataHandler::Shim { programs, orders } = handler {
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", programs.display())).env(crate::taskshim::FOLDER, orders);
    }
    command.spawn()
}

fn config(folder: &Path, handler: &KataHandler) -> String {
    let kata = match handler {
        KataHandler::Runc => "io.containerd.runc.v2",
        KataHandler::Shim { .. } => "io.containerd.kata.v2",
    };
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
runtime_type = "{kata}"
privileged_without_host_devices = true
pod_annotations = ["io.katacontainers.*"]
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{folder}/cni"
"#,
        image = image::NAME,
    )
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))))
}
