//! The processes of simulated sandboxes, as the kernel sees them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use kata_pulse_sim::role::{Helper, ShimProcess, install};
use kata_pulse_sim::{Burn, Processes, SandboxSpec, Variant};
use support::{ID, get, node_with, socket, spec};

fn with_processes(kind: &str) -> SandboxSpec {
    SandboxSpec { processes: Some(Processes::of(env!("CARGO_BIN_EXE_kata-pulse-sim"))), ..spec(kind) }
}

/// A field of `/proc/<pid>/status`, its first word.
fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:"))).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

fn number(pid: u32, field: &str) -> u64 {
    status(pid, field).parse().unwrap()
}

fn command_line(pid: u32) -> String {
    String::from_utf8(fs::read(format!("/proc/{pid}/cmdline")).unwrap()).unwrap().replace('\0', " ")
}

/// Not reaped is not running.
fn runs(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines().any(|line| line.starts_with("State:") && !line.contains('Z') && !line.contains('X'))
}

/// utime and stime of a thread, in seconds.
fn thread_cpu(pid: u32, tid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[tokio::test]
async fn a_sandbox_has_its_processes_and_none_after_its_removal() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), with_processes("go-qemu")).await;
    let pids = node.pids(ID).unwrap();
    let (shim, vmm, files, worker) = (pids["shim"], pids["vmm"], pids["virtiofsd"], pids["virtiofsd-worker"]);
    assert!(command_line(shim).ends_with("-publish-binary /usr/bin/containerd -id s1 "));
    assert!(command_line(vmm).contains("-name sandbox-s1 -uuid "));
    assert_eq!(command_line(files), command_line(worker));
    assert_eq!((number(vmm, "PPid"), number(worker, "PPid")), (u64::from(shim), u64::from(files)));
    assert_eq!(fs::read_to_string(root.path().join("run/vc/vm/s1/pid")).unwrap(), vmm.to_string());
    let state = fs::read_to_string(root.path().join("run/vc/sbs/s1/persist.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!(
        (&state["HypervisorState"]["Pid"], &state["HypervisorState"]["VirtiofsDaemonPid"]),
        (&vmm.into(), &files.into())
    );
    node.remove(ID).await.unwrap();
    assert!(![shim, vmm, files, worker].into_iter().any(runs));
}

#[tokio::test]
async fn who_listens_is_the_shim() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), with_processes("rs-dragonball")).await;
    let stream = tokio::net::UnixStream::connect(socket(root.path(), "rs-dragonball")).await.unwrap();
    let peer = stream.peer_cred().unwrap().pid().unwrap();
    assert_eq!(peer.unsigned_abs(), node.pids(ID).unwrap()["shim"]);
    let bundle = root.path().join("run/containerd/io.containerd.runtime.v2.task/k8s.io/s1/shim.pid");
    assert_eq!(fs::read_to_string(bundle).unwrap(), peer.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_would_abort_does_and_its_vmm_lives_on() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), with_processes("rs-qemu")).await;
    let pids = node.pids(ID).unwrap();
    assert_eq!(get(&socket(root.path(), "rs-qemu"), "/metrics").await, "");
    let ended = node.shim_ended(ID).unwrap().unwrap();
    assert_eq!(ended.signal(), Some(6), "SIGABRT");
    assert_eq!(node.shims_killed(), 1);
    assert!(runs(pids["vmm"]) && runs(pids["virtiofsd"]) && runs(pids["virtiofsd-worker"]));
    assert_ne!(number(pids["vmm"], "PPid"), u64::from(pids["shim"]));
    node.remove(ID).await.unwrap();
    assert!(!runs(pids["vmm"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_refuses_and_leaves_everything() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), with_processes("go-clh")).await;
    let pids = node.pids(ID).unwrap();
    let socket = socket(root.path(), "go-clh");
    node.crash(ID).await.unwrap();
    let refused = tokio::net::UnixStream::connect(&socket).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!runs(pids["shim"]) && runs(pids["vmm"]) && runs(pids["virtiofsd"]));
    assert!(root.path().join("run/vc/vm/s1").exists());
    node.remove(ID).await.unwrap();
    assert!(!runs(pids["vmm"]) && !socket.exists());
    assert!(!root.path().join("run/vc/vm/s1").exists());
}

#[tokio::test]
async fn go_s_jailer_leaves_firecracker_to_init_and_the_other_becomes_it() {
    let root = tempfile::tempdir().unwrap();
    let jailed = Variant { jailed: true, ..Variant::default() };
    let go = node_with(root.path(), SandboxSpec { variant: jailed.clone(), ..with_processes("go-firecracker") }).await;
    let pids = go.pids(ID).unwrap();
    let vmm = pids["vmm"];
    assert_ne!(number(vmm, "PPid"), u64::from(pids["shim"]));
    assert!(command_line(vmm).starts_with("/firecracker --id s1 --start-time-us "));
    let jail = root.path().join("run/vc/firecracker/s1/root");
    assert_eq!(fs::read_link(format!("/proc/{vmm}/exe")).unwrap(), jail.join("firecracker"));
    assert_eq!(fs::read_to_string(jail.join("firecracker.pid")).unwrap(), vmm.to_string());
    go.remove(ID).await.unwrap();
    assert!(!runs(vmm) && !jail.exists());

    let rs = node_with(root.path(), SandboxSpec { variant: jailed, ..with_processes("rs-firecracker") }).await;
    let pids = rs.pids(ID).unwrap();
    assert_eq!(number(pids["vmm"], "PPid"), u64::from(pids["shim"]));
    assert!(command_line(pids["vmm"]).ends_with("--api-sock /run//fc.sock "));
    rs.remove(ID).await.unwrap();
}

#[test]
fn any_program_and_a_role_by_hand_end_with_the_shim_that_started_them() {
    let root = tempfile::tempdir().unwrap();
    let simulator = Path::new(env!("CARGO_BIN_EXE_kata-pulse-sim"));
    let program = install(simulator, root.path(), "containerd-shim-kata-v2").unwrap();
    let virtiofsd = install(simulator, root.path(), "virtiofsd").unwrap();
    let helpers = [
        Helper { role: "vmm".to_owned(), program: "/bin/sleep".into(), arguments: vec!["600".to_owned()] },
        Helper { role: "virtiofsd".to_owned(), program: virtiofsd, arguments: vec!["--fd=3".to_owned()] },
    ];
    let shim = ShimProcess::start(&program, ID, &helpers).unwrap();
    let (vmm, files) = (shim.helpers["vmm"], shim.helpers["virtiofsd"]);
    assert_eq!((number(vmm, "PPid"), number(files, "PPid")), (u64::from(shim.pid()), u64::from(shim.pid())));
    let ends: Vec<_> = [vmm, files]
        .into_iter()
        .map(|pid| {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap()
        })
        .collect();
    shim.stop().unwrap();
    for end in &ends {
        let mut waited = [rustix::event::PollFd::new(end, rustix::event::PollFlags::IN)];
        let minute = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut waited, Some(&minute)).unwrap(), 1);
    }
}

#[tokio::test]
async fn a_burning_vmm_uses_what_was_asked_by_the_kernel_s_count() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(); // on a disk: memory counts no writes;
    let node = node_with(root.path(), with_processes("rs-clh")).await;
    let vmm = node.pids(ID).unwrap()["vmm"];
    let before = number(vmm, "RssAnon");
    let burn = Burn {
        vcpu_user: 0.4,
        threads: 2,
        vmm_io_bytes_per_second: 4 << 20,
        resident_bytes: 8 << 20,
        ..Burn::default()
    };
    node.burn(ID, &burn).unwrap();
    let names = || {
        fs::read_dir(format!("/proc/{vmm}/task")).unwrap().filter_map(|task| {
            let task = task.unwrap();
            let name = fs::read_to_string(task.path().join("comm")).unwrap();
            name.starts_with("vcpu")
                .then(|| (name.trim().to_owned(), task.file_name().to_str().unwrap().parse::<u32>().unwrap()))
        })
    };
    let vcpus: Vec<_> = names().collect();
    assert_eq!(vcpus.len(), 2, "{vcpus:?}");
    // The work is the event: it is watched in the kernel's count until there is enough to compare.
    let started = std::time::Instant::now();
    let spent = || -> f64 { vcpus.iter().map(|(_, tid)| thread_cpu(vmm, *tid)).sum() };
    while spent() < 0.6 {
        assert!(started.elapsed() < Duration::from_secs(60), "{} s in a minute", spent());
        std::thread::yield_now();
    }
    let (counted, seconds) = (spent(), started.elapsed().as_secs_f64());
    let resident = number(vmm, "RssAnon") - before;
    let truth = node.stop_burning(ID).unwrap();
    let io = fs::read_to_string(format!("/proc/{vmm}/io")).unwrap();
    let written: u64 = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap();
    println!("asked 0.4 CPUs for {seconds:.2} s: kernel {counted:.2} s, own {:.2} s", truth.cpu_seconds());
    println!("written {} by its own count, {written} by the kernel's; resident {resident} KiB", truth.written_bytes);
    assert!(counted <= 0.4 * seconds + 0.05, "never more than asked, within the kernel's ticks");
    assert!(truth.cpu_seconds() >= counted - 0.05 && truth.cpu_seconds() <= 0.4 * truth.seconds + 0.05);
    assert!((8192..8192 + 2048).contains(&resident));
    let slack = 1 << 20; // its directory and inode
    assert!((truth.written_bytes..truth.written_bytes + slack).contains(&written), "{written}");
    assert!(truth.written_bytes > 1 << 20);
    node.remove(ID).await.unwrap();
}

#[tokio::test]
async fn a_rootless_vmm_is_its_user_s_and_so_are_its_directories() {
    let root = tempfile::tempdir().unwrap();
    let variant = Variant { rootless: Some(4242), ..Variant::default() };
    let node = node_with(root.path(), SandboxSpec { variant, ..with_processes("go-qemu") }).await;
    let pids = node.pids(ID).unwrap();
    assert_eq!(
        (number(pids["vmm"], "Uid"), number(pids["virtiofsd"], "Uid"), number(pids["shim"], "Uid")),
        (4242, 0, 0)
    );
    let owner = |path: &str| fs::metadata(path).unwrap().uid();
    assert_eq!(owner(&format!("/proc/{}", pids["vmm"])), 4242);
    let state = root.path().join("run/user/4242/run/vc/sbs/s1");
    assert_eq!(owner(state.to_str().unwrap()), 4242);
    node.remove(ID).await.unwrap();
    assert!(!state.exists() && socket(root.path(), "go-qemu").exists(), "the dead socket stays");
    node.remove_all().await.unwrap();
}

#[tokio::test]
async fn dragonball_s_vcpus_are_the_shim_s() {
    let root = tempfile::tempdir().unwrap();
    let node = node_with(root.path(), with_processes("rs-dragonball")).await;
    let pids = node.pids(ID).unwrap();
    assert!(!pids.contains_key("vmm"));
    node.burn(ID, &Burn { threads: 3, ..Burn::default() }).unwrap();
    assert_eq!(number(pids["shim"], "Threads"), 4);
    let truth = node.stop_burning(ID).unwrap();
    assert_eq!(truth.vcpus.len(), 3);
    assert!(node.stop_burning(ID).is_err(), "nothing burns");
    node.remove(ID).await.unwrap();
}
