//! What reading the host's own numbers costs: real processes that sleep, a VMM of 8 threads and a shim of 12 for each
//! sandbox. `cargo xtask bench --only host`, or this alone: `cargo bench --bench host -- [sandboxes]`.
//!
//! CPU of this process, all its threads, by tier and over whole rounds of turns as the agent takes them.

use std::io::{PipeReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kata_pulse::collect::host::{HostBook, HostOptions, HostReader, Target, Tiers};
use kata_pulse::config::HostPaths;
use kata_pulse::sandbox::{Pid, Process, ProcessRole, SandboxId, Vmm};
use rustix::time::{ClockId, clock_gettime};

const THREADS: &str = "KATA_PULSE_BENCH_THREADS";
const VMM_THREADS: usize = 8;
const SHIM_THREADS: usize = 12;
const VCPUS: usize = 2;
const INTERVAL_SECONDS: f64 = 15.0;
const BOUND_PERCENT: f64 = 4.0;
/// After these every tier had its turns.
const ROUND: u64 = 20;
const REPEATS: usize = 5;

struct Bench {
    reader: HostReader,
    sandboxes: Vec<(SandboxId, [Process; 2], HostBook)>,
    children: Vec<Child>,
}

impl Bench {
    fn start(count: usize) -> std::io::Result<Self> {
        let reader = HostReader::new(HostOptions::new(&HostPaths::default())).map_err(std::io::Error::other)?;
        let mut bench = Self { reader, sandboxes: Vec::new(), children: Vec::new() };
        let (life, end) = std::io::pipe()?;
        for number in 0..count {
            let vmm = bench.child(&life, VMM_THREADS, ProcessRole::Vmm)?;
            let shim = bench.child(&life, SHIM_THREADS, ProcessRole::Shim)?;
            let id = SandboxId::parse(&format!("{number:064x}")).map_err(std::io::Error::other)?;
            let book = bench.reader.book();
            bench.sandboxes.push((id, [vmm, shim], book));
        }
        // They end with this process.
        std::mem::forget(end);
        Ok(bench)
    }

    fn child(&mut self, life: &PipeReader, threads: usize, role: ProcessRole) -> std::io::Result<Process> {
        let mut command = Command::new(std::env::current_exe()?);
        let child = command.env(THREADS, threads.to_string()).stdin(life.try_clone()?).stdout(Stdio::null()).spawn()?;
        let pid = child.id();
        self.children.push(child);
        while std::fs::read_dir(format!("/proc/{pid}/task"))?.count() < threads {
            std::thread::sleep(Duration::from_micros(200));
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
        let start_ticks = start.ok_or_else(|| std::io::Error::other("no start time"))?;
        Ok(Process { role, pid: Pid(pid), start_ticks })
    }

    /// Microseconds of CPU for each sandbox.
    fn turn(&mut self, tiers: impl Fn(&SandboxId) -> Tiers) -> f64 {
        let before = cpu();
        for (id, processes, book) in &mut self.sandboxes {
            let target = Target { id, processes, vmm: Some(Vmm::Qemu), cgroup_parent: None };
            std::hint::black_box(self.reader.read(book, &target, tiers(id)));
        }
        (cpu() - before).as_secs_f64() * 1e6 / self.sandboxes.len() as f64
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

fn cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// So many threads that sleep, until the pipe ends; of a VMM two are called as QEMU calls those that run the guest.
fn sleep(threads: usize) {
    for number in 1..threads {
        let is_vcpu = threads == VMM_THREADS && number <= VCPUS;
        let name = if is_vcpu { format!("CPU {number}/KVM") } else { "worker".to_owned() };
        let thread = std::thread::Builder::new().name(name).stack_size(64 * 1024);
        let _ = thread.spawn(|| {
            loop {
                std::thread::park();
            }
        });
    }
    let _ = std::io::stdin().read(&mut [0]);
}

/// Middle, lowest and highest.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
    (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

fn main() -> std::io::Result<()> {
    if let Some(threads) = std::env::var(THREADS).ok().and_then(|threads| threads.parse().ok()) {
        sleep(threads);
        return Ok(());
    }
    let count = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1000);
    let mut bench = Bench::start(count)?;
    println!("{count} sandboxes, VMMs of {VMM_THREADS} threads ({VCPUS} vCPUs), shims of {SHIM_THREADS}");
    println!("| tier | µs of CPU for each sandbox: median (lowest to highest) |\n|---|---|");
    println!("| first reading, everything | {:.0} |", bench.turn(|_| Tiers::ALL));
    let tiers = [
        ("often", Tiers::OFTEN),
        ("often and sometimes", Tiers { sometimes: true, rarely: false }),
        ("often and rarely", Tiers { sometimes: false, rarely: true }),
        ("all", Tiers::ALL),
    ];
    for (name, tiers) in tiers {
        let (median, low, high) = spread((0..REPEATS).map(|_| bench.turn(|_| tiers)).collect());
        println!("| {name} | {median:.0} ({low:.0} to {high:.0}) |");
    }
    let (turn, low, high) = spread((0..ROUND).map(|turn| bench.turn(|id| Tiers::of_turn(id, turn))).collect());
    let percent = |micros: f64| micros * count as f64 / 1e6 / INTERVAL_SECONDS * 100.0;
    let kept = if percent(turn) <= BOUND_PERCENT { "kept" } else { "MISSED" };
    println!("a turn of the agent: {turn:.0} µs ({low:.0} to {high:.0}) for each sandbox");
    println!(
        "host accounting for {count} sandboxes every {INTERVAL_SECONDS} s: {:.2} % of one CPU ({:.2} to {:.2}); \
         bound: {BOUND_PERCENT} %: {kept}",
        percent(turn),
        percent(low),
        percent(high)
    );
    Ok(())
}
