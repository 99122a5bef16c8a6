//! Sandboxes that live shorter than anybody's interval, with real processes: each is told to have begun, to have ended,
//! and what it used.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use kata_pulse::config::{BaseDirectory, HostPaths};
use kata_pulse::discover::ebpf::{self, DirectoryMode, EbpfOptions, Mode};
use kata_pulse::discover::{self, Batch, DiscoveryCounters};
use kata_pulse::sandbox::{Change, DiscoveryEvent, Pid, ProcessExit, ProcessRole, Runtime};
use tokio::sync::mpsc;

use crate::burner::{self, Burner, Truth};

const SANDBOXES: u64 = 100;
/// At once.
const LANES: u64 = 10;
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(60);

fn id(number: u64) -> String {
    format!("{:064x}", 0xb1e_0000 + number)
}

/// Makes a sandbox, lets its VMM live and end, removes the sandbox. What the VMM used, by its pid.
fn live(base: &Path, program: &Path, number: u64) -> (Pid, Truth) {
    let directory = base.join(id(number));
    std::fs::create_dir(&directory).unwrap();
    let live = SHORTEST + (LONGEST - SHORTEST).mul_f64(number as f64 / (SANDBOXES - 1) as f64);
    let ready = directory.with_extension("ready");
    let burner = Burner { threads: 2, burn: Duration::from_millis(number % 7), live, ready, ..Burner::idle(base) };
    let child = burner.start(program, &id(number));
    let pid = Pid(child.id());
    let truth = burner::reap(child);
    std::fs::remove_dir(&directory).unwrap();
    (pid, truth)
}

#[derive(Default)]
struct Seen {
    started: Vec<Pid>,
    ended: BTreeMap<Pid, ProcessExit>,
    sources: BTreeMap<&'static str, usize>,
}

impl Seen {
    fn take(&mut self, event: DiscoveryEvent) {
        match event.change {
            Change::ProcessStarted(_, found) => self.started.push(found.process.pid),
            Change::ProcessEnded(_, process, exit) => {
                assert_eq!(process.role, ProcessRole::Vmm);
                assert!(self.started.contains(&process.pid), "ended before it began: {process:?}");
                assert_eq!(self.ended.insert(process.pid, exit), None, "ended twice: {process:?}");
                *self.sources.entry(event.source.as_str()).or_default() += 1;
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_brief_vms_used_is_told_of_every_one() {
    let options = EbpfOptions { mode: Mode::Require, directories: DirectoryMode::Auto, ..EbpfOptions::default() };
    let kernel = match tokio::task::spawn_blocking(move || ebpf::start(&options)).await.unwrap() {
        Ok(kernel) => kernel,
        Err(error) => {
            assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "eBPF is needed: {error}");
            println!("SKIPPED: eBPF cannot be used here: {error}");
            return;
        }
    };
    let folder = burner::folder();
    let (base, program) = (folder.path().join("sbs"), burner::install(folder.path()));
    std::fs::create_dir(&base).unwrap();
    let host = HostPaths {
        bases: vec![BaseDirectory { runtime: Some(Runtime::Go), path: base.clone() }],
        ..HostPaths::default()
    };
    let (sender, mut batches) = mpsc::channel::<Batch>(256);
    let counters = DiscoveryCounters::default();
    tokio::spawn(discover::run(host, Some(kernel), counters.clone(), sender));
    while !batches.recv().await.unwrap().first_scan {}
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            let (base, program) = (base.clone(), program.clone());
            let numbers = (0..SANDBOXES).filter(move |number| number % LANES == lane);
            std::thread::spawn(move || numbers.map(|number| live(&base, &program, number)).collect::<Vec<_>>())
        })
        .collect();
    let (mut seen, started) = (Seen::default(), Instant::now());
    while seen.ended.len() < SANDBOXES as usize {
        let left = PATIENCE.saturating_sub(started.elapsed());
        let batch = tokio::time::timeout(left, batches.recv()).await;
        let Ok(Some(batch)) = batch else {
            panic!("{} began and {} ended before the patience did", seen.started.len(), seen.ended.len());
        };
        batch.events.into_iter().for_each(|event| seen.take(event));
    }
    let truths: BTreeMap<Pid, Truth> = lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect();
    check(&seen, &truths);
    assert_eq!(counters.lost(), 0, "events of the host were lost");
}

fn check(seen: &Seen, truths: &BTreeMap<Pid, Truth>) {
    let (mut told, mut finals, mut worst) = (Duration::ZERO, 0, Duration::ZERO);
    for (pid, truth) in truths {
        let exit = seen.ended[pid];
        let account = exit.account.unwrap_or_else(|| panic!("no account of {pid}: {exit:?}"));
        let cpu = Duration::from_secs_f64(account.cpu.total());
        (told, finals) = (told + cpu, finals + usize::from(exit.account_is_final));
        worst = worst.max(cpu.abs_diff(truth.cpu()));
        assert_eq!(account.peak_rss_bytes, truth.peak_rss_bytes as f64);
        assert_eq!(account.minor_faults, truth.minor_faults as f64);
        if exit.account_is_final {
            assert!(cpu.abs_diff(truth.cpu()) <= Duration::from_micros(3), "{pid}: {cpu:?} for {truth:?}");
        }
    }
    let used: Duration = truths.values().map(Truth::cpu).sum();
    println!("{} VMs used {used:?}, told {told:?}, of one at most {worst:?} amiss", truths.len());
    println!("{finals} accounts are final; ends told by {:?}", seen.sources);
    assert!(used.abs_diff(told) <= used / 100, "{used:?} used, {told:?} told");
}
