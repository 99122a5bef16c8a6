//! A machine that shares one CPU with busy loops: what its vCPUs waited for a CPU is on the page. Its disk is written
//! through the page cache, so that part of its bytes is the kernel's to write.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kata_pulse_sim::IoUsage;
use kata_pulse_sim::judge::Findings;
use kata_pulse_sim::machine::DiskCache;

use crate::host::{Host, has_ebpf};
use crate::rig::{Boot, ONE_AT_A_TIME, Running, device_of};

const RUN_DELAY: &str = "kata_sandbox_vcpu_run_delay_seconds_total";
const QUEUE: &str = "kata_sandbox_runqueue_latency_seconds";
const STARVED_FOR: Duration = Duration::from_secs(4);
const LOOPS: usize = 2;
/// Of the time that two busy vCPUs are starved; four share one CPU, so each waits three quarters of it.
const LEAST_SHARE: f64 = 0.25;

/// Seconds that the vCPU threads were runnable and did not run.
fn run_delay(vmm: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{vmm}/task")).unwrap().map(|task| task.unwrap().path());
    let vcpus = tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("CPU ")));
    let delays = vcpus.map(|task| {
        let text = fs::read_to_string(task.join("schedstat")).unwrap();
        text.split_ascii_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1e9
    });
    delays.sum()
}

/// Busy loops on one CPU; they end with the test.
struct Load(Vec<Child>);

impl Load {
    fn on(cpu: &str) -> Self {
        let start = |_| {
            let mut command = Command::new("setpriv");
            command.args([
                "--pdeathsig",
                "KILL",
                "--",
                "taskset",
                "--cpu-list",
                cpu,
                "sh",
                "-c",
                "while :; do :; done",
            ]);
            command.stdin(Stdio::null()).spawn().unwrap()
        };
        Self((0..LOOPS).map(start).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The first CPU that this process may use.
fn a_cpu() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().split(['-', ',']).next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_starved_machine_shows_how_long_its_vcpus_waited() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some(boot) = Boot::prepare() else { return };
    let host = Host::start(1, 60).await;
    let mut machine = Running::start(&host, &boot, 1, Some(boot.disk(DiskCache::Writeback)), None).await;
    let before = host.settle(|page| machine.of(page, RUN_DELAY, &[]).is_some()).await;
    let delay_before = run_delay(machine.vmm);

    let cpu = a_cpu();
    let pinned = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", &cpu, &machine.vmm.to_string()])
        .stdout(Stdio::null())
        .status();
    assert!(pinned.unwrap().success());
    let (load, started) = (Load::on(&cpu), Instant::now());
    let busy = "(while :; do :; done) &";
    machine.run(&format!("{busy} first=$!; {busy} second=$!"));
    std::thread::sleep(STARVED_FOR);
    let starved = started.elapsed().as_secs_f64();
    drop(load);
    machine.run("kill $first $second");
    let delay = run_delay(machine.vmm) - delay_before;
    println!("the vCPUs waited {delay:.3} s while they were starved for {starved:.3} s");
    assert!(delay >= LEAST_SHARE * starved, "they were not starved");

    let grown = |now: Option<f64>, then: Option<f64>| now.map(|now| now - then.unwrap_or(0.0));
    let of = |page: &_, family: &str, labels: &[_]| machine.of(page, family, labels);
    let was = of(&before, RUN_DELAY, &[]);
    let (vcpu, sum) = ([("role", "vcpu")], format!("{QUEUE}_sum"));
    let queued_before = of(&before, &sum, &vcpu);
    // What the kernel counted is read apart from the processes, a little earlier or later.
    let with_ebpf = has_ebpf(&before, "histograms of the run queue");
    let has_both = |page: &_| {
        grown(of(page, RUN_DELAY, &[]), was) >= Some(delay * 0.98)
            && (!with_ebpf || grown(of(page, &sum, &vcpu), queued_before) >= Some(delay * 0.95))
    };
    let page = host.settle(has_both).await;
    let mut findings = Findings::default();
    // An idle guest's timer still waits now and then.
    let tolerance = 0.1 * delay + 0.1;
    let seen = grown(of(&page, RUN_DELAY, &[]), was);
    findings.near("run delay of the vCPUs", seen, delay, tolerance);
    findings.between("run delay of the vCPUs", seen, LEAST_SHARE * starved, f64::INFINITY);
    if with_ebpf {
        let count = format!("{QUEUE}_count");
        let seen = grown(of(&page, &sum, &vcpu), queued_before);
        findings.near("sum of the run queue's histogram", seen, delay, 0.15 * delay + 0.1);
        let counted = grown(of(&page, &count, &vcpu), of(&before, &count, &vcpu));
        findings.between("waits in the run queue's histogram", counted, 10.0, f64::INFINITY);
        // Time slices are milliseconds: most of the time that was waited was waited in long waits.
        let buckets = format!("{QUEUE}_bucket");
        let short = |page: &kata_pulse_sim::judge::Page| {
            let all = page.all(&buckets, &[("sandbox_id", machine.id.as_str()), ("role", "vcpu")]);
            let bound = |le: &str| if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() };
            let below = all.into_iter().filter(|sample| bound(&sample.labels["le"]) <= 0.0005);
            below.map(|sample| sample.value).fold(0.0, f64::max)
        };
        let long = counted.map(|counted| counted - (short(&page) - short(&before)));
        findings.between("waits longer than half a millisecond", long, 10.0, f64::INFINITY);
    }
    buffered(&host, &mut machine, &boot, &mut findings).await;
    drop(machine);
    host.end().await;
    findings.end();
}

/// Bytes are the VMM's when it made them dirty; which of them a device wrote for it, depends on who waits for that.
async fn buffered(host: &Host, machine: &mut Running, boot: &Boot, findings: &mut Findings) {
    const WRITTEN: u64 = 16 << 20;
    const IO_BYTES: &str = "kata_sandbox_io_bytes_total";
    const BLOCK_BYTES: &str = "kata_sandbox_block_io_bytes_total";
    let io_before = IoUsage::of(machine.vmm).unwrap();
    let attributed = |page: &_| machine.of(page, BLOCK_BYTES, &[("operation", "write")]);
    let before = attributed(&host.page()).unwrap_or(0.0);
    machine.run("dd if=/dev/zero of=/dev/vda bs=1M count=16 conv=fsync 2>/dev/null");
    let io = IoUsage::of(machine.vmm).unwrap();
    let wrote = io.written_bytes - io_before.written_bytes;
    println!("the kernel counts {wrote} bytes made dirty by the VMM");
    assert!(wrote >= WRITTEN, "they went through the page cache");
    let labels = [("direction", "write"), ("role", "vmm")];
    let truth = io.written_bytes as f64;
    let page = host.settle(|page| machine.of(page, IO_BYTES, &labels) >= Some(truth)).await;
    findings.near("buffered bytes of the VMM", machine.of(&page, IO_BYTES, &labels), truth, 1024.0 * 1024.0);
    let Some(device) = device_of(&boot.disk_file()).filter(|_| has_ebpf(&page, "bytes by device")) else { return };
    let seen = machine.of(&page, BLOCK_BYTES, &[("device", &device), ("operation", "write")]);
    // Of what none was there is no series.
    let attributed = seen.map_or(0.0, |seen| seen - before);
    println!("of {WRITTEN} buffered bytes {attributed} were written to {device} in the VMM's name");
    // The guest flushes and the VMM waits, so most are in its name; what the kernel's own thread took first is not.
    findings.between("buffered bytes written to the device in its name", Some(attributed), 0.0, WRITTEN as f64 * 1.1);
}
