//! Where the kernel's programs cannot tell the end of a process (6.1 without BTF), pidfds do; what system call
//! tracepoints cannot see (io_uring), inotify does.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "../../xtask/probe/src/io_uring.rs"]
mod io_uring;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use kata_pulse::config::{BaseDirectory, HostPaths};
use kata_pulse::discover::ebpf::{self, DirectoryMode, EbpfOptions, EbpfWatch, Hidden, Mode};
use kata_pulse::discover::{self, Batch, DiscoveryCounters};
use kata_pulse::sandbox::{Change, DiscoveryEvent, EventSource, Runtime};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(20);

/// `None`, after saying why: it cannot be had here.
async fn kernel(hide: Hidden) -> Option<EbpfWatch> {
    let options =
        EbpfOptions { mode: Mode::Auto, directories: DirectoryMode::Syscalls, hide, ..EbpfOptions::default() };
    match tokio::task::spawn_blocking(move || ebpf::start(&options)).await.unwrap() {
        Ok(kernel) => Some(kernel),
        Err(error) => {
            assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "eBPF is needed: {error}");
            println!("SKIPPED: eBPF cannot be used here: {error}");
            None
        }
    }
}

fn watch(base: &Path, kernel: Option<EbpfWatch>) -> mpsc::Receiver<Batch> {
    let host = HostPaths {
        bases: vec![BaseDirectory { runtime: Some(Runtime::Go), path: base.into() }],
        ..HostPaths::default()
    };
    let (sender, batches) = mpsc::channel(64);
    tokio::spawn(discover::run(host, kernel, DiscoveryCounters::default(), sender));
    batches
}

async fn until(
    batches: &mut mpsc::Receiver<Batch>,
    what: &str,
    fits: impl Fn(&DiscoveryEvent) -> bool,
) -> DiscoveryEvent {
    let looking = async {
        loop {
            let batch = batches.recv().await.expect("discovery ended");
            if let Some(event) = batch.events.into_iter().find(&fits) {
                return event;
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A program of a VMM's name that waits.
fn vmm(folder: &Path, id: &str) -> Child {
    let program: PathBuf = folder.join("qemu-system-x86_64");
    assert!(Command::new("cp").arg("/bin/bash").arg(&program).status().unwrap().success());
    let mut command = Command::new(program);
    command.args(["-c", "read -r line", "qemu", "-name", &format!("sandbox-{id}")]);
    command.stdin(std::process::Stdio::piped()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_told_by_pidfds_where_no_program_can() {
    let hide = Hidden { btf: true, last_thread: true, ..Hidden::default() };
    let Some(kernel) = kernel(hide).await else { return };
    assert!(kernel.sees("exec") && !kernel.sees("exit") && !kernel.sees("fork"));
    let root = tempfile::tempdir().unwrap();
    let (base, id) = (root.path().join("sbs"), format!("{:064x}", 0x7a7a_0002));
    std::fs::create_dir_all(base.join(&id)).unwrap();
    let mut batches = watch(&base, Some(kernel));
    until(&mut batches, "the sandbox", |event| matches!(event.change, Change::Appeared(_))).await;
    let mut child = vmm(root.path(), &id);
    let pid = child.id();
    let started = |event: &DiscoveryEvent| matches!(&event.change, Change::ProcessStarted(_, found) if found.process.pid.0 == pid);
    // By whom is a race: the look at all processes that follows a sandbox may be quicker.
    until(&mut batches, "its start", started).await;
    let killed = Instant::now();
    child.kill().unwrap();
    let ended =
        |event: &DiscoveryEvent| matches!(&event.change, Change::ProcessEnded(_, process, _) if process.pid.0 == pid);
    let event = until(&mut batches, "its end", ended).await;
    println!("end told by pidfd after {:?}, before anybody waited for it", killed.elapsed());
    assert_eq!(event.source, EventSource::Pidfd);
    child.wait().unwrap();
}

/// One thread for all tasks: whatever blocks one of them blocks the test. Detaching in that thread takes 50 to 90 ms a
/// program, half a second and more.
#[tokio::test]
async fn detaching_the_programs_blocks_no_task() {
    let hide = Hidden { btf: true, fexit: true, kprobes: true, ..Hidden::default() };
    let Some(kernel) = kernel(hide).await else { return };
    let programs = kernel.programs().iter().filter(|program| program.attached).count();
    let root = tempfile::tempdir().unwrap();
    let host = HostPaths {
        bases: vec![BaseDirectory { runtime: Some(Runtime::Go), path: root.path().join("sbs") }],
        ..HostPaths::default()
    };
    let (sender, mut batches) = mpsc::channel(64);
    let running = tokio::spawn(discover::run(host, Some(kernel), DiscoveryCounters::default(), sender));
    while !batches.recv().await.unwrap().first_scan {}
    let stopped = Instant::now();
    drop(batches);
    running.await.unwrap();
    let took = stopped.elapsed();
    println!("discovery with {programs} programs attached ended after {took:?}");
    assert!(took < Duration::from_millis(400), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_made_by_io_uring_are_seen() {
    let root = tempfile::tempdir().unwrap();
    let base = root.path().join("sbs");
    std::fs::create_dir(&base).unwrap();
    let kernel = kernel(Hidden { fexit: true, kprobes: true, ..Hidden::default() }).await;
    let mut batches = watch(&base, kernel);
    let (first, id) = (format!("{:064x}", 1), format!("{:064x}", 2));
    std::fs::create_dir(base.join(first)).unwrap();
    until(&mut batches, "the first", |event| matches!(event.change, Change::Appeared(_))).await;
    match io_uring::mkdir(&base.join(&id)) {
        Err(error) if io_uring::is_missing(&error) => {
            println!("SKIPPED: this kernel offers no io_uring: {error:#}");
            return;
        }
        result => result.unwrap(),
    }
    let made =
        |event: &DiscoveryEvent| matches!(&event.change, Change::Appeared(appeared) if appeared.id.as_str() == id);
    assert_ne!(until(&mut batches, "made by io_uring", made).await.source, EventSource::Ebpf);
    io_uring::rmdir(&base.join(&id)).unwrap();
    let removed = |event: &DiscoveryEvent| matches!(&event.change, Change::Removed(gone) if gone.as_str() == id);
    assert_ne!(until(&mut batches, "removed by io_uring", removed).await.source, EventSource::Ebpf);
}
