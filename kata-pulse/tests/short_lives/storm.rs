//! 200 sandboxes that live 0.5 to 3 s each while the host is read every 15 s.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kata_pulse_sim::judge::{Findings, Page};
use kata_pulse_sim::{Burn, Chores, IoUsage, Node, ProcessUsage, SandboxSpec};

use crate::ONE_AT_A_TIME;
use crate::clock::CpuOf;
use crate::host::{Host, has_ebpf, must_be_real};
use crate::watcher::{Seen, watch};

const SANDBOXES: u64 = 200;
const AT_ONCE: usize = 8;
const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
const KINDS: [&str; 3] = ["go-qemu", "go-clh", "rs-clh"];
const INTERVAL_SECONDS: u64 = 15;
const RETENTION: Duration = Duration::from_secs(10);
/// Of what was really used, where each process's end is told with its account.
const TOLERANCE: f64 = 0.02;

const CPU: &str = "kata_namespace_cpu_seconds_total";
const IO: &str = "kata_namespace_io_bytes_total";
const STARTED: &str = "kata_namespace_sandboxes_started_total";
const ENDED: &str = "kata_pulse_sandboxes_ended_total";

/// 0.5 to 3 s, spread evenly and without a pattern.
fn life(number: u64) -> Duration {
    Duration::from_millis(500 + number * 7919 % 2501)
}

/// The VMM's vCPUs run and its disk is written to.
fn vmm(storage: &Path, number: u64) -> Burn {
    Burn {
        vcpu_user: 0.10 + 0.02 * (number % 5) as f64,
        threads: 2,
        vmm_io_bytes_per_second: 1 << 20,
        file: storage.join(number.to_string()),
        ..Burn::default()
    }
}

fn virtiofsd() -> Burn {
    Burn { chores: Chores { user: 0.02, system: 0.03, ..Chores::default() }, ..Burn::default() }
}

async fn live(node: &Node, mut spec: SandboxSpec, storage: &Path, number: u64) {
    let id = spec.id.clone();
    let burn = vmm(storage, number);
    let file = burn.file.clone();
    spec.processes.as_mut().unwrap().burn = Some(burn);
    node.create(spec).await.unwrap();
    node.burn_role(&id, "virtiofsd", &virtiofsd()).unwrap();
    tokio::time::sleep(life(number)).await;
    node.remove(&id).await.unwrap();
    std::fs::remove_file(file).unwrap();
}

/// All of them, some at once.
async fn all_live(node: &Arc<Node>, specs: Vec<SandboxSpec>, storage: &Path) {
    let (specs, next) = (Arc::new(specs), Arc::new(AtomicU64::new(0)));
    let workers = (0..AT_ONCE).map(|_| {
        let (node, specs, next, storage) = (node.clone(), specs.clone(), next.clone(), storage.to_owned());
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(spec) = specs.get(number as usize) else { return };
                live(&node, spec.clone(), &storage, number).await;
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
}

/// What the processes of each namespace used.
#[derive(Debug, Default)]
struct Used {
    cpu_seconds: f64,
    io: IoUsage,
    by_role: BTreeMap<String, f64>,
}

impl Used {
    fn add(&mut self, usage: &ProcessUsage) {
        self.cpu_seconds += usage.cpu_seconds();
        *self.by_role.entry(usage.role.clone()).or_default() += usage.cpu_seconds();
        let io = usage.io.expect("this kernel accounts I/O");
        self.io.read_bytes += io.read_bytes;
        self.io.written_bytes += io.written_bytes;
    }
}

fn storage() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("lives-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Making and removing a sandbox blocks: each that is at once has a thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 12)]
async fn two_hundred_short_lives_are_all_accounted_for() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let waited_before = CpuOf::Children.read("self");
    let host = Host::start(INTERVAL_SECONDS, RETENTION.as_secs()).await;
    let first = host.settle(|page| page.sum("kata_pulse_ebpf_program_attached", &[]).is_some()).await;
    if !has_ebpf(&first, "lives between two readings") {
        assert!(!must_be_real(), "eBPF is needed");
        return host.end().await;
    }
    let storage = storage();
    let namespace = |number: u64| NAMESPACES[(number % 3) as usize];
    let specs: Vec<_> =
        (0..SANDBOXES).map(|number| host.pod(number, KINDS[(number / 3 % 3) as usize], namespace(number))).collect();
    let ids: Vec<String> = specs.iter().map(|spec| spec.id.clone()).collect();
    let (stop, stopped) = std::sync::mpsc::channel();
    let agent = host.agent.address.clone();
    let read = move || Page::parse(&crate::support::get(&agent, "/metrics").1);
    let watching = std::thread::spawn(move || watch(read, &stopped));

    let started = Instant::now();
    all_live(&host.node, specs, &storage).await;
    let lived = started.elapsed();
    let mut used: BTreeMap<&str, Used> = BTreeMap::new();
    for (number, id) in (0..).zip(&ids) {
        let usages = host.node.usage(id).unwrap();
        let roles: Vec<&str> = usages.iter().map(|usage| usage.role.as_str()).collect();
        assert!(["shim", "vmm", "virtiofsd", "virtiofsd-worker"].iter().all(|role| roles.contains(role)), "{roles:?}");
        let used = used.entry(namespace(number)).or_default();
        usages.iter().for_each(|usage| used.add(usage));
    }
    println!("{SANDBOXES} sandboxes lived within {lived:?} and used {used:#?}");
    let (waited, told) =
        (CpuOf::Children.read("self") - waited_before, used.values().map(|used| used.cpu_seconds).sum::<f64>());
    println!("the shims told of {told:.2} s of CPU, the kernel counts {waited:.2} s of this test's children");
    assert!((waited - told).abs() < 0.005 * waited + 0.1, "the truth is not whole");
    assert!(used.values().all(|used| used.cpu_seconds > 1.0 && used.io.written_bytes > 1 << 20), "they have worked");

    let all = SANDBOXES as f64;
    let page = host.settle(|page| page.sum(STARTED, &[]) == Some(all) && page.sum(ENDED, &[]) == Some(all)).await;
    let mut findings = Findings::default();
    judge(&mut findings, &page, &used);
    retention(&mut findings, &host, &ids).await;
    drop(stop);
    never(&mut findings, &watching.join().unwrap());
    // What the namespaces used stays when all that was kept of the sandboxes has gone.
    judge(&mut findings, &host.page(), &used);
    std::fs::remove_dir_all(&storage).unwrap();
    host.end().await;
    findings.end();
}

fn judge(findings: &mut Findings, page: &Page, used: &BTreeMap<&str, Used>) {
    findings.near("sandboxes that ended", page.sum(ENDED, &[]), SANDBOXES as f64, 0.0);
    for (namespace, used) in used {
        let of = |family: &str, more: &[(&str, &str)]| page.sum(family, &[&[("namespace", *namespace)], more].concat());
        let started = SANDBOXES / 3 + u64::from(NAMESPACES.iter().position(|one| one == namespace) < Some(2));
        findings.near(&format!("sandboxes of {namespace}"), of(STARTED, &[]), started as f64, 0.0);
        let cpu = used.cpu_seconds;
        findings.near(&format!("CPU of {namespace}"), of(CPU, &[]), cpu, TOLERANCE * cpu);
        for (direction, bytes) in [("read", used.io.read_bytes), ("write", used.io.written_bytes)] {
            let (seen, truth) = (of(IO, &[("direction", direction)]), bytes as f64);
            let slack = TOLERANCE * truth + 64.0 * 1024.0;
            findings.near(&format!("bytes of {direction} of {namespace}"), seen, truth, slack);
        }
    }
}

/// What is kept of the ended goes by time alone, however often it is read.
async fn retention(findings: &mut Findings, host: &Host, ids: &[String]) {
    let kept = |page: &Page| {
        let ended = page.all("kata_sandbox_ended", &[]);
        ended.iter().filter(|sample| ids.contains(&sample.labels["sandbox_id"])).count()
    };
    let first = host.page();
    findings.holds(kept(&first) > 0, "nothing is kept of sandboxes that have just ended");
    let again: Vec<usize> = (0..20).map(|_| kept(&host.page())).collect();
    // One or two may have come to their time meanwhile, by the clock.
    let fewest = again.iter().copied().min().unwrap_or(0);
    findings.holds(kept(&first) <= fewest + 8, format!("reading took some away: {} then {again:?}", kept(&first)));
    let page = host.settle(|page| kept(page) == 0).await;
    findings.holds(kept(&page) == 0, format!("{} are kept beyond {RETENTION:?}", kept(&page)));
    let families = page.starting("kata_sandbox_").filter(|sample| ids.contains(&sample.labels["sandbox_id"]));
    let left: Vec<_> = families.map(|sample| sample.name.as_str()).take(5).collect();
    findings.holds(left.is_empty(), format!("series of gone sandboxes: {left:?}"));
}

/// What no page may have shown, and how long each was kept.
fn never(findings: &mut Findings, seen: &Seen) {
    println!("{} pages were read meanwhile, {} ended sandboxes seen on them", seen.pages, seen.retained.len());
    findings.holds(seen.wrong.is_empty(), seen.wrong.join("\n  "));
    findings.holds(
        seen.retained.len() as u64 == SANDBOXES,
        format!("{} of {SANDBOXES} ended sandboxes were on a page", seen.retained.len()),
    );
    // Pages are a second apart, or more on a busy machine.
    let kept = seen.retained.iter().map(|(id, (first, last))| (id, last.duration_since(*first)));
    let fits = |kept: Duration| (RETENTION / 2..RETENTION + Duration::from_secs(5)).contains(&kept);
    let odd: Vec<_> = kept.filter(|(_, kept)| !fits(*kept)).take(5).collect();
    findings.holds(odd.is_empty(), format!("kept for {RETENTION:?} instead: {odd:?}"));
}
