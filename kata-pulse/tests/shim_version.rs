//! Which release a shim is, told by the configured program itself: a real program that runs as a real shim would.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "support/crowded.rs"]
mod crowded;
mod support;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Instant;

use crowded::Crowded;
use kata_pulse::config::HostPaths;
use kata_pulse::discover::process::read_stat;
use kata_pulse::discover::shim_version::{self, Told};
use kata_pulse::registry::Registry;
use kata_pulse::sandbox::{
    Appeared, Change, DiscoveryEvent, EventSource, Pid, Process, ProcessFound, ProcessRole, Runtime, SandboxId, Version,
};
use support::{Agent, PATIENCE};
use tokio::sync::{mpsc, watch};

const NAME: &str = "containerd-shim-kata-v2";
/// What it does is told by the folder it lies in. It counts its runs there.
const SOURCE: &str = r#"
use std::io::{Read, Write};
fn main() {
    let file = std::env::current_exe().unwrap();
    let folder = file.parent().unwrap();
    if !std::env::args().any(|word| word == "--version") {
        loop { std::thread::park(); }
    }
    std::fs::OpenOptions::new().create(true).append(true).open(folder.join("runs")).unwrap().write_all(b"x").unwrap();
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).unwrap();
    assert!(input.is_empty() && std::env::vars_os().count() == 0, "it was given something");
    match folder.file_name().unwrap().to_str().unwrap() {
        "hang" => loop { std::thread::park() },
        "flood" => loop { println!("Kata Containers containerd shim (Rust): id: x, version: 4.1.0, commit: x"); },
        "fail" => std::process::exit(1),
        "go" => println!("Kata Containers containerd shim (Golang): id: \"io.containerd.kata.v2\", version: 3.2.0, commit: x"),
        _ => println!("Kata Containers containerd shim (Rust): id: io.containerd.kata.v2, version: 4.1.0, commit: x"),
    }
}
"#;

/// Programs in a folder that only root can write to; the shims that run are ended with it.
struct Lab {
    folder: PathBuf,
    children: Vec<Child>,
    registry: Registry,
    configured: Vec<PathBuf>,
}

/// Where nobody but root can write, up to the root: below `/tmp`, where a clone may lie, the agent runs nothing.
fn place_of_root() -> &'static Path {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let is_roots = |folder: &Path| {
        let metadata = std::fs::symlink_metadata(folder).unwrap();
        metadata.uid() == 0 && metadata.mode() & 0o022 == 0
    };
    if own.ancestors().all(is_roots) { own } else { Path::new("/opt") }
}

impl Lab {
    fn new(name: &str) -> Self {
        let folder = place_of_root().join(format!("kata-pulse-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("shim.rs"), SOURCE).unwrap();
        let compiled = Command::new("rustc").args(["shim.rs", "-o", "shim"]).current_dir(&folder).status().unwrap();
        assert!(compiled.success());
        Self { folder, children: Vec::new(), registry: Registry::default(), configured: Vec::new() }
    }

    fn program(&self, folder: &Path) -> PathBuf {
        let program = folder.join(NAME);
        std::fs::create_dir_all(folder).unwrap();
        // By a process of its own: no other child can inherit a descriptor that is open for writing.
        assert!(Command::new("cp").arg(self.folder.join("shim")).arg(&program).status().unwrap().success());
        program
    }

    /// A sandbox whose shim runs `program`.
    fn sandbox(&mut self, id: &str, program: &Path, runtime: Runtime) {
        let child = Command::new(program).args(["-id", id]).spawn().unwrap();
        let pid = Pid(child.id());
        self.children.push(child);
        let (_, start_ticks) = read_stat(&HostPaths::default(), pid).unwrap();
        let id = SandboxId::parse(id).unwrap();
        let appeared = Appeared {
            id: id.clone(),
            directory: "/x".into(),
            inode: 1,
            runtime: Some(runtime),
            created_unix_ms: None,
        };
        let process = Process { role: ProcessRole::Shim, pid, start_ticks };
        let found = ProcessFound { process, vmm: None, runtime: None, version: None };
        let events = [Change::Appeared(appeared), Change::ProcessStarted(id, found)].map(|change| DiscoveryEvent {
            source: EventSource::Scan,
            at_boot: None,
            change,
        });
        self.registry.apply(&events, Instant::now());
    }

    fn runs(&self, folder: &str) -> usize {
        std::fs::read(self.folder.join(folder).join("runs")).map_or(0, |runs| runs.len())
    }

    /// What is told before the one sandbox `last`, which is asked for after all others.
    async fn told_until(&self, last: &str) -> Vec<Told> {
        let (_configured, configured) = watch::channel(Arc::from(self.configured.clone()));
        let (sender, mut receiver) = mpsc::channel(64);
        let running =
            tokio::spawn(shim_version::run(HostPaths::default(), configured, self.registry.subscribe(), sender));
        let mut all = Vec::new();
        while all.last().is_none_or(|told: &Told| told.sandbox.as_str() != last) {
            let told = tokio::time::timeout(PATIENCE, receiver.recv()).await;
            let told = told.expect("the last one was never told").unwrap();
            self.registry.shim_told(&told.sandbox, &told.shim, told.version, Instant::now());
            assert_eq!(self.registry.snapshot()[&told.sandbox].shim_version, Some(told.version));
            all.push(told);
        }
        running.abort();
        all
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn names(told: &[Told]) -> Vec<(&str, Version)> {
    told.iter().map(|told| (told.sandbox.as_str(), told.version)).collect()
}

#[tokio::test]
async fn the_configured_shim_is_asked_once_and_by_whatever_link() {
    let mut lab = Lab::new("asked");
    let (go, rust) = (lab.program(&lab.folder.join("go")), lab.program(&lab.folder.join("rs")));
    let link = lab.folder.join("containerd-shim-kata-qemu-v2");
    std::os::unix::fs::symlink(&rust, &link).unwrap();
    lab.configured = vec!["/nowhere/containerd-shim-kata-v2".into(), go.clone(), link];
    lab.sandbox("a1", &go, Runtime::Go);
    lab.sandbox("b1", &rust, Runtime::Rust);
    lab.sandbox("b2", &rust, Runtime::Rust);
    let told = lab.told_until("b2").await;
    let (go, rust) = (Version::new(3, 2, 0), Version::new(4, 1, 0));
    assert_eq!(names(&told), [("a1", go), ("b1", rust), ("b2", rust)]);
    assert_eq!((lab.runs("go"), lab.runs("rs")), (1, 1));
}

#[tokio::test]
async fn nothing_else_is_ever_run() {
    let mut lab = Lab::new("never");
    let last = lab.program(&lab.folder.join("rs"));
    let (other, replaced) = (lab.program(&lab.folder.join("other")), lab.program(&lab.folder.join("replaced")));
    let open = lab.program(&lab.folder.join("open/inner"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(lab.folder.join("open"), mode).unwrap();
    lab.configured = vec![replaced.clone(), open.clone(), last.clone()];
    lab.sandbox("a-not-configured", &other, Runtime::Rust);
    lab.sandbox("b-replaced", &replaced, Runtime::Rust);
    lab.sandbox("c-below-a-folder-of-everybody", &open, Runtime::Rust);
    lab.sandbox("d-last", &last, Runtime::Rust);
    std::fs::remove_file(&replaced).unwrap();
    lab.program(&lab.folder.join("replaced"));
    assert_eq!(names(&lab.told_until("d-last").await), [("d-last", Version::new(4, 1, 0))]);
    for folder in ["other", "replaced", "open/inner"] {
        assert_eq!(lab.runs(folder), 0, "{folder} was run");
    }
}

#[tokio::test]
async fn one_that_hangs_floods_fails_or_contradicts_is_unknown_and_stays_nowhere() {
    let mut lab = Lab::new("odd");
    for (id, folder) in [("a", "hang"), ("b", "flood"), ("c", "fail"), ("d", "go"), ("e", "rs")] {
        let program = lab.program(&lab.folder.join(folder));
        lab.configured.push(program.clone());
        lab.sandbox(&format!("{id}-{folder}"), &program, Runtime::Rust);
    }
    assert_eq!(names(&lab.told_until("e-rs").await), [("e-rs", Version::new(4, 1, 0))]);
    assert!(["hang", "flood", "fail", "go", "rs"].iter().all(|folder| lab.runs(folder) == 1));
    let left = std::fs::read_dir("/proc").unwrap().filter(|entry| {
        let line = std::fs::read(entry.as_ref().unwrap().path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&line).into_owned();
        text.contains(lab.folder.to_str().unwrap()) && text.contains("--version")
    });
    assert_eq!(left.count(), 0, "a program that was asked still runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_shows_what_the_runtimes_shim_tells() {
    let mut lab = Lab::new("agent");
    let program = lab.program(&lab.folder.join("rs"));
    let (root, id) = (support::root(), format!("{:064x}", 0x7a7a_0009));
    std::fs::create_dir_all(root.join("run/kata").join(&id)).unwrap();
    lab.sandbox(&id, &program, Runtime::Rust);
    let handler = serde_json::json!({"runtimeType": "io.containerd.kata.v2", "runtimePath": program});
    let config = serde_json::json!({"containerd": {"defaultRuntimeName": "kata", "runtimes": {"kata": handler}}});
    let _runtime = Crowded::start(&root.join("cri.sock"), &config.to_string());
    let agent = Agent::start(&root, &["--ebpf", "off"]);
    let told = |page: &str| {
        let mut lines = page.lines().filter(|line| line.starts_with("kata_sandbox_info{") && line.contains(&id));
        lines.any(|line| line.contains("shim_version=\"4.1.0\"") && line.contains("runtime_handler=\"kata\""))
    };
    agent.until("the shim's version and the default handler", told).await;
    assert_eq!(lab.runs("rs"), 1);
    std::fs::remove_dir_all(&root).unwrap();
}
