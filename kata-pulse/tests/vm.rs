//! A real QEMU machine under emulation as child of the simulator's shim, with Kata's command line: found as that
//! sandbox's VMM by its exec and by a scan, its end seen with its signal.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_pulse::config::{BaseDirectory, HostPaths};
use kata_pulse::discover::ebpf::{self, EbpfOptions, EbpfWatch, Mode};
use kata_pulse::discover::{self, Batch, DiscoveryCounters};
use kata_pulse::sandbox::{Change, DiscoveryEvent, EventSource, ExitStatus, ProcessRole, Runtime, Vmm};
use kata_pulse_sim::role::{Helper, ShimProcess, install};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(30);
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

struct Watched {
    batches: mpsc::Receiver<Batch>,
    seen: Vec<DiscoveryEvent>,
}

impl Watched {
    fn start(base: &Path, kernel: Option<EbpfWatch>) -> Self {
        let host = HostPaths {
            bases: vec![BaseDirectory { runtime: Some(Runtime::Go), path: base.into() }],
            ..HostPaths::default()
        };
        let (sender, batches) = mpsc::channel(64);
        tokio::spawn(discover::run(host, kernel, DiscoveryCounters::default(), sender));
        Self { batches, seen: Vec::new() }
    }

    async fn until(&mut self, what: &str, fits: impl Fn(&DiscoveryEvent) -> bool) -> DiscoveryEvent {
        loop {
            if let Some(at) = self.seen.iter().position(&fits) {
                return self.seen.remove(at);
            }
            let batch = tokio::time::timeout(PATIENCE, self.batches.recv()).await;
            let Ok(Some(batch)) = batch else { panic!("waited in vain: {what}; there was {:?}", self.seen) };
            self.seen.extend(batch.events);
        }
    }

    async fn until_started(&mut self, role: ProcessRole, pid: u32) -> DiscoveryEvent {
        self.until("the start of a process", |event| {
            matches!(&event.change, Change::ProcessStarted(_, found)
                if found.process.role == role && found.process.pid.0 == pid)
        })
        .await
    }
}

/// The machine has no disk and no kernel; its firmware runs.
fn qemu(id: &str) -> Helper {
    let arguments = ["-name", &format!("sandbox-{id}"), "-machine", "q35,accel=tcg", "-m", "64", "-nodefaults"];
    let silent = ["-display", "none", "-serial", "none", "-monitor", "none"];
    Helper {
        role: "vmm".into(),
        program: QEMU.into(),
        arguments: arguments.iter().chain(&silent).map(ToString::to_string).collect(),
    }
}

fn virtiofsd(folder: &Path, id: &str) -> Helper {
    let shared = format!("--shared-dir=/run/kata-containers/shared/sandboxes/{id}/shared");
    let program = install(simulator(), folder, "virtiofsd").unwrap();
    Helper { role: "virtiofsd".into(), program, arguments: vec!["--syslog".into(), shared, "--fd=3".into()] }
}

/// The simulator's program, which the workspace's tests build beside ours.
fn simulator() -> &'static Path {
    static PATH: std::sync::LazyLock<PathBuf> = std::sync::LazyLock::new(|| {
        let beside = Path::new(env!("CARGO_BIN_EXE_kata-pulse")).with_file_name("kata-pulse-sim");
        assert!(beside.exists(), "build the simulator first: cargo build --package kata-pulse-sim");
        beside
    });
    &PATH
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_machine_is_found_by_exec_and_by_scan_and_its_end_is_seen_with_its_signal() {
    let required = std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_some();
    if !Path::new(QEMU).exists() {
        assert!(!required, "{QEMU} is needed");
        println!("SKIPPED: {QEMU} is missing");
        return;
    }
    let options = EbpfOptions { mode: Mode::Require, ..EbpfOptions::default() };
    let kernel = match tokio::task::spawn_blocking(move || ebpf::start(&options)).await.unwrap() {
        Ok(kernel) => kernel,
        Err(error) => {
            assert!(!required, "eBPF is needed: {error}");
            println!("SKIPPED: eBPF cannot be used here: {error}");
            return;
        }
    };
    let root = tempfile::tempdir().unwrap();
    let (base, bin) = (root.path().join("sbs"), root.path().join("bin"));
    let id = format!("{:064x}", 0x7a7a_0001);
    std::fs::create_dir_all(base.join(&id)).unwrap();

    let mut watched = Watched::start(&base, Some(kernel));
    watched.until("the directory", |event| matches!(event.change, Change::Appeared(_))).await;
    let program = install(simulator(), &bin, "containerd-shim-kata-v2").unwrap();
    let shim = ShimProcess::start(&program, &id, &[qemu(&id), virtiofsd(&bin, &id)]).unwrap();
    let vmm = shim.helpers["vmm"];
    let started = watched.until_started(ProcessRole::Vmm, vmm).await;
    assert_eq!(started.source, EventSource::Ebpf, "its exec was told");
    assert!(started.at_boot.is_some());
    let Change::ProcessStarted(sandbox, found) = started.change else { unreachable!("it was matched above") };
    assert_eq!((sandbox.as_str(), found.vmm), (id.as_str(), Some(Vmm::Qemu)));
    watched.until_started(ProcessRole::Shim, shim.pid()).await;
    watched.until_started(ProcessRole::Virtiofsd, shim.helpers["virtiofsd"]).await;
    watched
        .until("virtiofsd's worker", |event| {
            matches!(&event.change, Change::ProcessStarted(_, found) if found.process.role == ProcessRole::Virtiofsd)
        })
        .await;

    let mut late = Watched::start(&base, None);
    let scanned = late.until_started(ProcessRole::Vmm, vmm).await;
    assert_eq!(scanned.source, EventSource::Scan, "an agent that comes later finds it by its scan");

    let pid = rustix::process::Pid::from_raw(i32::try_from(vmm).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let ended = watched
        .until(
            "the end of the VMM",
            |event| matches!(&event.change, Change::ProcessEnded(_, process, _) if process.pid.0 == vmm),
        )
        .await;
    let Change::ProcessEnded(_, process, exit) = ended.change else { unreachable!("it was matched above") };
    assert_eq!((process.role, exit.status), (ProcessRole::Vmm, Some(ExitStatus::Signal(9))));
    let ended = late
        .until(
            "its end without eBPF",
            |event| matches!(&event.change, Change::ProcessEnded(_, process, _) if process.pid.0 == vmm),
        )
        .await;
    assert_eq!(ended.source, EventSource::Pidfd);
    shim.stop().unwrap();
}
