//! Discovery's real path over the hosts described in `testdata/host/`: which sandboxes, runtimes, VMMs, processes and
//! states come out. A host that was got wrong once becomes a file there.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "support/tree.rs"]
mod tree;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kata_pulse::collect::host::{HostOptions, HostReader, HostReading, Target, Tiers};
use kata_pulse::config::{BaseDirectory, CgroupNamespace, HostPaths};
use kata_pulse::discover::{self, DiscoveryCounters};
use kata_pulse::registry::{AgentReply, Registry};
use kata_pulse::sandbox::{Runtime, Sandbox, SandboxId};
use tokio::sync::mpsc;
use tree::Host;

fn descriptions() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/host");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "txt")).collect();
    files.sort();
    files
}

/// A look takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Short, since sockets lie below it.
fn short_root() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let root = PathBuf::from(format!("/tmp/h{:x}.{number}", std::process::id()));
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(&root).unwrap();
    root
}

fn paths(root: &Path) -> HostPaths {
    let mut paths = HostPaths {
        bases: vec![
            BaseDirectory { runtime: Some(Runtime::Go), path: root.join("run/vc/sbs") },
            BaseDirectory { runtime: Some(Runtime::Rust), path: root.join("run/kata") },
        ],
        procfs: root.join("proc"),
        sysfs: root.join("sys"),
        cgroup_namespace: CgroupNamespace::HOST,
    };
    // Most hosts say nothing of the agent's own process.
    if paths.procfs.join("self").exists() {
        paths.cgroup_namespace = discover::cgroup_namespace::read(&paths).unwrap();
    }
    paths
}

/// What one full scan of the host brings, one line per sandbox, and what was refused or left over; then what the host's
/// own files say of the sandboxes.
async fn discovered(host: &Host) -> (Vec<String>, Vec<String>) {
    let (registry, counters) = (Registry::default(), DiscoveryCounters::default());
    let (sender, mut batches) = mpsc::channel(64);
    let running = tokio::spawn(discover::run(paths(&host.root), None, counters.clone(), sender));
    loop {
        let batch = batches.recv().await.unwrap();
        registry.apply(&batch.events, Instant::now());
        if batch.first_scan {
            break;
        }
    }
    // Whom a state file names is looked at after the scan.
    let expected: usize = host.expected.iter().map(|line| line.matches('@').count()).sum();
    let found =
        |registry: &Registry| registry.snapshot().values().map(|sandbox| sandbox.processes.len()).sum::<usize>();
    while found(&registry) < expected {
        let Ok(Some(batch)) = tokio::time::timeout(PATIENCE, batches.recv()).await else { break };
        registry.apply(&batch.events, Instant::now());
    }
    drop(batches);
    running.await.unwrap();
    for (id, address) in &host.addresses {
        let id = SandboxId::parse(id).unwrap();
        let inode = registry.snapshot()[&id].directory_inode;
        let reply = if address == "refused" { AgentReply::Refused } else { AgentReply::Address(address.clone()) };
        registry.agent_replied(&id, inode, reply, Instant::now());
    }
    registry.expire(Instant::now() + Duration::from_secs(host.later_seconds));
    let mut lines: Vec<String> = registry.snapshot().values().map(|sandbox| line(sandbox)).collect();
    let leftovers = registry.leftovers();
    for (what, count) in [
        ("leftover directories", leftovers.directories as u64),
        ("leftover sockets", leftovers.sockets as u64),
        ("refused", counters.foreign()),
    ] {
        if count > 0 {
            lines.push(format!("{what} {count}"));
        }
    }
    let readings = registry.snapshot().values().map(|sandbox| reading(host, sandbox)).collect();
    (lines, readings)
}

/// `<id> <role> <user>/<system>/<guest>… <n> vcpus <n> MiB; <kind> <cgroup>…; <interface> <received>/<transmitted>…`,
/// in seconds and bytes.
fn reading(host: &Host, sandbox: &Sandbox) -> String {
    let reader = HostReader::new(HostOptions::new(&paths(&host.root))).unwrap();
    let (processes, vmm) = (sandbox.processes.as_slice(), sandbox.vmm);
    let target = Target { id: &sandbox.id, processes, vmm, cgroup_parent: None };
    let mut book = reader.book();
    let HostReading { roles, vcpus, memory_nominal_bytes, cgroups, network, .. } =
        reader.read(&mut book, &target, Tiers::ALL);
    let mut line = sandbox.id.to_string();
    for role in roles {
        let cpu = role.cpu.unwrap();
        line += &format!(" {} {}/{}/{}", role.role.as_str(), cpu.user, cpu.system, cpu.guest);
    }
    line += &vcpus.map_or_else(String::new, |count| format!(" {count} vcpus"));
    line += &memory_nominal_bytes.map_or_else(String::new, |bytes| format!(" {} MiB", bytes / 1048576.0));
    for cgroup in cgroups {
        // What sits in both hierarchies is read from both.
        let cpu = cgroup.cpu.unwrap();
        assert_eq!(cgroup.memory_bytes, Some(if cpu.user == 2.0 { 4096.0 } else { 8192.0 }));
        line += &format!("; {} {}", cgroup.kind, cgroup.path);
    }
    if network.is_hosts {
        line += "; the host's network";
    }
    for interface in network.interfaces {
        line += &format!("; {} {}/{}", interface.name, interface.receive.bytes, interface.transmit.bytes);
    }
    line
}

/// `<id> <runtime> <vmm> <state> <role>=<pid>@<start>…`; `?` for what is not known.
fn line(sandbox: &Sandbox) -> String {
    let runtime = sandbox.runtime.map_or("?", Runtime::as_str);
    let vmm = sandbox.vmm.map_or("?", |vmm| vmm.as_str());
    let mut line = format!("{} {runtime} {vmm} {}", sandbox.id, sandbox.state.as_str());
    for process in &sandbox.processes {
        line += &format!(" {}={}@{}", process.role.as_str(), process.pid, process.start_ticks);
    }
    line
}

#[tokio::test]
async fn every_host_is_understood() {
    let (mut wrong, mut described) = (Vec::new(), 0);
    let descriptions = descriptions();
    assert!(descriptions.len() >= 20, "the descriptions are gone");
    for path in descriptions {
        let root = short_root();
        let host = tree::build(&std::fs::read_to_string(&path).unwrap(), &root);
        assert!(host.expects_nothing == host.expected.is_empty(), "{} expects nothing", path.display());
        let (found, readings) = discovered(&host).await;
        let name = path.file_stem().unwrap().to_str().unwrap();
        if !host.readings.is_empty() {
            described += 1;
            if readings != host.readings {
                wrong.push(format!("{name}\n  expected {:#?}\n  read {readings:#?}", host.readings));
            }
        }
        if found != host.expected {
            wrong.push(format!("{name}\n  expected {:#?}\n  found {found:#?}", host.expected));
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
    assert!(described >= 8, "the descriptions with readings are gone");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
