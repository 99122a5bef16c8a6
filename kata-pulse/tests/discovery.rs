//! Discovery and registry together, on real directories and real processes, without eBPF.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use kata_pulse::config::{BaseDirectory, HostPaths};
use kata_pulse::discover::{self, Batch, DiscoveryCounters};
use kata_pulse::registry::Registry;
use kata_pulse::sandbox::{ProcessRole, Runtime, Sandbox, SandboxId, SandboxState, Snapshot};
use tokio::sync::{mpsc, watch};

/// Generous: an event is awaited, this only ends a test that would wait for ever.
const PATIENCE: Duration = Duration::from_secs(10);

struct Host {
    _folder: tempfile::TempDir,
    root: PathBuf,
    registry: Registry,
    snapshots: watch::Receiver<Snapshot>,
    counters: DiscoveryCounters,
}

impl Host {
    fn start() -> Self {
        Self::start_after(|_| {})
    }

    fn start_after(prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_path_buf();
        prepare(&root);
        let paths = HostPaths {
            bases: vec![
                BaseDirectory { runtime: Some(Runtime::Go), path: root.join("run/vc/sbs") },
                BaseDirectory { runtime: Some(Runtime::Rust), path: root.join("run/kata") },
            ],
            ..HostPaths::default()
        };
        let registry = Registry::default();
        let counters = DiscoveryCounters::default();
        let (sender, mut batches) = mpsc::channel::<Batch>(64);
        tokio::spawn(discover::run(paths, None, counters.clone(), sender));
        let applying = registry.clone();
        tokio::spawn(async move {
            while let Some(batch) = batches.recv().await {
                applying.apply(&batch.events, Instant::now());
            }
        });
        let snapshots = registry.subscribe();
        Self { _folder: folder, root, registry, snapshots, counters }
    }

    fn go(&self, id: &str) -> PathBuf {
        self.root.join("run/vc/sbs").join(id)
    }

    fn rust(&self, id: &str) -> PathBuf {
        self.root.join("run/kata").join(id)
    }

    async fn until(&mut self, what: &str, fits: impl Fn(&Snapshot) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, self.snapshots.wait_for(|snapshot| fits(snapshot))).await;
        assert!(waited.is_ok(), "waited in vain: {what}; there are {:?}", self.registry.snapshot());
    }

    async fn until_one(&mut self, id: &str, what: &str, fits: impl Fn(&Sandbox) -> bool) {
        let id = SandboxId::parse(id).unwrap();
        self.until(what, |snapshot| snapshot.get(&id).is_some_and(|sandbox| fits(sandbox))).await;
    }
}

/// By a process of its own: a descriptor open for writing, inherited by what another test starts, would make the
/// program "text file busy".
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args([from, to]).status().unwrap().success());
}

/// A program of Kata's name that does nothing, with the arguments of the real one.
struct Program {
    child: Child,
}

impl Program {
    fn start(folder: &Path, name: &str, arguments: &[&str]) -> Self {
        let path = folder.join(name);
        if !path.exists() {
            std::fs::create_dir_all(folder).unwrap();
            // The shell that waits on a pipe: it takes any further arguments without looking at them.
            copy(Path::new("/bin/bash"), &path);
        }
        let script = "exec 3<&0; read -r line <&3; exit 7";
        let mut command = Command::new(path);
        command.args(["-c", script, name]).args(arguments).stdin(std::process::Stdio::piped());
        Self { child: command.spawn().unwrap() }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tests share the real `/proc`: those that start processes use ids of their own.
fn id_of(number: usize) -> String {
    format!("{number:064x}")
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_of_both_runtimes_come_and_go() {
    let mut host = Host::start();
    for number in 0..200 {
        std::fs::create_dir_all(host.go(&id_of(number))).unwrap();
        std::fs::create_dir_all(host.rust(&id_of(1000 + number))).unwrap();
    }
    host.until("all listed", |snapshot| snapshot.len() == 400).await;
    let runtimes = |runtime| host.registry.snapshot().values().filter(|one| one.runtime == Some(runtime)).count();
    assert_eq!((runtimes(Runtime::Go), runtimes(Runtime::Rust)), (200, 200));
    for number in 0..200 {
        std::fs::remove_dir(host.go(&id_of(number))).unwrap();
        std::fs::remove_dir(host.rust(&id_of(1000 + number))).unwrap();
    }
    host.until("none left", |snapshot| snapshot.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_before_is_found_and_what_is_no_sandbox_is_not() {
    let mut host = Host::start_after(|root| {
        std::fs::create_dir_all(root.join("run/vc/sbs").join(id_of(1))).unwrap();
        std::fs::create_dir_all(root.join("run/vc/sbs/12345678-1234-1234-1234-123456789abc")).unwrap();
        std::fs::create_dir_all(root.join("run/kata/firecracker")).unwrap();
    });
    host.until("the real one", |snapshot| snapshot.len() == 1).await;
    // Seen after everything that was there before it.
    std::fs::create_dir(host.rust(&id_of(2))).unwrap();
    host.until("the second", |snapshot| snapshot.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_made_anew_is_another_sandbox() {
    let mut host = Host::start();
    let directory = host.go(&id_of(9002));
    std::fs::create_dir_all(&directory).unwrap();
    host.until("the first", |snapshot| snapshot.len() == 1).await;
    let first = host.registry.snapshot().values().next().unwrap().directory_inode;
    std::fs::remove_dir(&directory).unwrap();
    std::fs::create_dir(host.go(&id_of(2))).unwrap();
    std::fs::create_dir(&directory).unwrap();
    host.until_one(&id_of(9002), "another inode", |sandbox| sandbox.directory_inode != first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_is_found_by_its_arguments_and_its_end_is_seen() {
    let mut host = Host::start();
    let id = id_of(9003);
    let mut shim = Program::start(
        &host.root.join("bin"),
        "containerd-shim-kata-v2",
        &["-namespace", "k8s.io", "-address", "", "-id", &id],
    );
    std::fs::create_dir_all(host.rust(&id)).unwrap();
    let pid = shim.pid();
    host.until_one(&id, "the shim", |sandbox| {
        sandbox.process(ProcessRole::Shim).is_some_and(|process| process.pid.0 == pid && process.start_ticks > 0)
    })
    .await;
    shim.kill();
    host.until_one(&id, "the shim's end", |sandbox| sandbox.processes.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_whose_end_is_seen_leaves_a_stopping_sandbox() {
    let mut host = Host::start();
    let id = id_of(9004);
    std::fs::create_dir_all(host.go(&id)).unwrap();
    let bin = host.root.join("bin");
    let _shim = Program::start(&bin, "containerd-shim-kata-v2", &["-id", &id]);
    let mut vmm = Program::start(&bin, "qemu-system-x86_64", &["-name", &format!("sandbox-{id}")]);
    host.until_one(&id, "the VMM", |sandbox| sandbox.vmm_from_process.is_some()).await;
    vmm.kill();
    host.until_one(&id, "stopping", |sandbox| sandbox.state == SandboxState::Stopping).await;
    std::fs::remove_dir(host.go(&id)).unwrap();
    host.until_one(&id, "the shim holds it", |sandbox| sandbox.processes.len() == 1).await;
    drop(_shim);
    host.until("ended", |snapshot| snapshot.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_in_another_mount_namespace_with_a_victims_id_is_refused() {
    let mut host = Host::start();
    let id = id_of(9005);
    let bin = host.root.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    copy(Path::new("/bin/sleep"), &bin.join("qemu-system-x86_64"));
    // unshare execs the program in a mount namespace of its own, as a container's runtime does.
    let mut forger = Command::new("unshare")
        .args(["--mount", "--", "bash", "-c", &format!("exec -a qemu {}/qemu-system-x86_64 1000", bin.display())])
        .spawn()
        .unwrap();
    std::fs::create_dir_all(host.go(&id)).unwrap();
    let counters = host.counters.clone();
    let refused = async {
        while counters.foreign() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("the forger was never looked at");
    host.until_one(&id, "the sandbox itself", |sandbox| sandbox.processes.is_empty()).await;
    forger.kill().unwrap();
    forger.wait().unwrap();
}
