//! The host's numbers against processes that use a known amount: CPU by role, faults, switches, bytes, pages,
//! descriptors, run delay, and packets of a known size through interfaces of a network namespace.
//!
//! The processes are this test again, under another name: see `worker`. What is true they say of themselves.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kata_pulse::collect::host::{HostOptions, HostReader, HostReading, NetworkReading, RoleReading, Target, Tiers};
use kata_pulse::config::HostPaths;
use kata_pulse::sandbox::{HostRole, Pid, Process, ProcessRole, SandboxId, Vmm};
use rustix::param::clock_ticks_per_second;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

const WORK: &str = "KATA_PULSE_TEST_WORK";
const FILE: &str = "KATA_PULSE_TEST_FILE";
const BLOCK: usize = 1 << 20;
const WRITTEN: u64 = 8 << 20;
const READ: u64 = 4 << 20;
const RESIDENT: usize = 64 << 20;
const FDS: u64 = 50;
const MAX_FDS: u64 = 777;
const SLEEPS: u64 = 200;

fn thread_cpu() -> f64 {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap().as_secs_f64()
}

/// User mode until this thread has used so much.
fn burn_user(seconds: f64) {
    while thread_cpu() < seconds {
        for number in 0..50_000_u32 {
            std::hint::black_box(number);
        }
    }
}

/// What the process has used by its own account: user, system, minor and major faults, switches, peak KiB.
#[expect(unsafe_code, reason = "no crate of ours has getrusage")]
fn usage() -> [f64; 7] {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a whole `rusage`, for which all zeros are valid, and it is only written to.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let count = |count: i64| count as f64;
    [
        seconds(usage.ru_utime),
        seconds(usage.ru_stime),
        count(usage.ru_minflt),
        count(usage.ru_majflt),
        count(usage.ru_nvcsw),
        count(usage.ru_nivcsw),
        count(usage.ru_maxrss),
    ]
}

/// Not a test: what the processes under test do. Prints `name number` for each truth, then waits to be ended.
#[test]
fn worker() {
    let Ok(work) = std::env::var(WORK) else { return };
    match work.as_str() {
        "everything" => everything(),
        "compete" => compete(),
        "send" => return send(),
        other => panic!("no work is called {other}"),
    }
    println!("done 0");
    let _ = std::io::stdin().read(&mut [0]);
}

/// Threads called as QEMU calls those that run the guest; each says what it used, and stays.
fn vcpus(count: u32, work: fn() -> f64) -> Vec<f64> {
    let (sender, truths) = mpsc::channel();
    for number in 0..count {
        let sender = sender.clone();
        let thread = std::thread::Builder::new().name(format!("CPU {number}/KVM"));
        thread
            .spawn(move || {
                sender.send(work()).unwrap();
                loop {
                    std::thread::park();
                }
            })
            .unwrap();
    }
    (0..count).map(|_| truths.recv().unwrap()).collect()
}

fn everything() {
    setrlimit(Resource::Nofile, Rlimit { current: Some(MAX_FDS), maximum: Some(MAX_FDS) }).unwrap();
    let spent = vcpus(2, || {
        burn_user(0.4);
        thread_cpu()
    });
    println!("vcpu {}", spent.iter().sum::<f64>());
    let zeros = File::open("/dev/zero").unwrap();
    let mut block = vec![0; BLOCK];
    let (started, before) = (thread_cpu(), usage());
    while thread_cpu() < started + 0.3 {
        zeros.read_exact_at(&mut block, 0).unwrap();
    }
    println!("system_at_least {}", (usage()[1] - before[1]) * 0.9);
    let path = PathBuf::from(std::env::var(FILE).unwrap());
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT);
    let file = options.open(&path).unwrap();
    // Aligned as unbuffered writes must be.
    let mut pages = vec![0x6b_u8; BLOCK + 4096];
    let start = pages.as_ptr().align_offset(4096);
    for at in 0..WRITTEN / BLOCK as u64 {
        file.write_all_at(&pages[start..start + BLOCK], at * BLOCK as u64).unwrap();
    }
    for at in 0..READ / BLOCK as u64 {
        file.read_exact_at(&mut pages[start..start + BLOCK], at * BLOCK as u64).unwrap();
    }
    let mut memory = vec![0_u8; RESIDENT];
    memory.iter_mut().step_by(1024).for_each(|byte| *byte = 1);
    let files: Vec<_> = (0..FDS).map(|_| zeros.try_clone().unwrap()).collect();
    for _ in 0..SLEEPS {
        std::thread::sleep(Duration::from_micros(200));
    }
    // The directory itself is open while it is read.
    println!("fds {}", std::fs::read_dir("/proc/self/fd").unwrap().count() - 1);
    for (name, truth) in ["user", "system", "minor", "major", "voluntary", "involuntary", "peak"].iter().zip(usage()) {
        println!("{name} {truth}");
    }
    // All of it stays.
    std::mem::forget((std::hint::black_box(memory), files, file, zeros));
}

/// Two on one CPU: what one has not of it, it waited for.
fn compete() {
    let truths = vcpus(2, || {
        let mut cpus = CpuSet::new();
        cpus.set(0);
        sched_setaffinity(None, &cpus).unwrap();
        let (started, before) = (Instant::now(), thread_cpu());
        burn_user(before + 0.5);
        started.elapsed().as_secs_f64() - (thread_cpu() - before)
    });
    println!("delay {}", truths.iter().sum::<f64>());
}

/// `<datagrams>x<bytes>` to whoever is there.
fn send() {
    let text = std::env::var(FILE).unwrap();
    let (count, bytes) = text.split_once('x').unwrap();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_broadcast(true).unwrap();
    for _ in 0..count.parse::<u32>().unwrap() {
        socket.send_to(&vec![0; bytes.parse().unwrap()], "10.99.0.255:9").unwrap();
    }
}

struct Worker {
    child: Child,
    truths: HashMap<String, f64>,
}

impl Worker {
    /// Starts one and waits for its work to be done.
    fn start(work: &str, file: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "worker", "--nocapture"]).env(WORK, work).env(FILE, file);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut truths = HashMap::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            let mut words = line.split(' ');
            if let (Some(name), Some(Ok(number))) = (words.next(), words.next().map(str::parse)) {
                truths.insert(name.to_owned(), number);
            }
            if line == "done 0" {
                return Self { child, truths };
            }
        }
        panic!("{work} was not done: {:?}", child.wait());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap()
}

fn reader() -> HostReader {
    HostReader::new(HostOptions { thread_detail: true, qdisc: true, ..HostOptions::new(&HostPaths::default()) })
        .unwrap()
}

fn read(reader: &HostReader, pid: u32) -> HostReading {
    let process = Process { role: ProcessRole::Vmm, pid: Pid(pid), start_ticks: start_ticks(pid) };
    let id = SandboxId::parse("sandbox").unwrap();
    let target = Target { id: &id, processes: &[process], vmm: Some(Vmm::Qemu), cgroup_parent: None };
    reader.read(&mut reader.book(), &target, Tiers::ALL)
}

fn role(reading: &HostReading, role: HostRole) -> &RoleReading {
    reading.roles.iter().find(|reading| reading.role == role).unwrap()
}

/// Prints both, and asserts that they differ by no more than `slack`.
fn compare(what: &str, truth: f64, seen: f64, slack: f64) {
    println!("{what}: true {truth:.3}, seen {seen:.3}, slack {slack:.3}");
    assert!((truth - seen).abs() <= slack, "{what}: true {truth}, seen {seen}, more than {slack} apart");
}

#[test]
fn what_a_process_used_is_what_is_read() {
    let reader = reader();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(); // on a disk
    let worker = Worker::start("everything", &folder.path().join("disk"));
    let reading = read(&reader, worker.child.id());
    let truth = |name: &str| worker.truths[name];
    let (vmm, vcpu) = (role(&reading, HostRole::Vmm), role(&reading, HostRole::Vcpu));
    let (vmm_cpu, vcpu_cpu) = (vmm.cpu.unwrap(), vcpu.cpu.unwrap());
    // Each process's and each thread's file has whole ticks.
    let tick = 1.0 / clock_ticks_per_second() as f64;
    compare("vCPU seconds", truth("vcpu"), vcpu_cpu.total(), 5.0 * tick);
    compare("user seconds", truth("user"), vmm_cpu.user + vcpu_cpu.user, 5.0 * tick);
    compare("system seconds", truth("system"), vmm_cpu.system + vcpu_cpu.system, 5.0 * tick);
    assert!(vmm_cpu.system >= truth("system_at_least") - tick && vcpu_cpu.guest == 0.0);
    compare("counted seconds", truth("user") + truth("system"), reading.counted.cpu_seconds, 5.0 * tick);
    let sum = |of: fn(&RoleReading) -> Option<f64>| of(vmm).unwrap() + of(vcpu).unwrap();
    compare("minor faults", truth("minor"), sum(|role| role.minor_faults), 50.0);
    compare("major faults", truth("major"), sum(|role| role.major_faults), 5.0);
    // It goes on to print and to wait; so does the thread of the test that waits for it.
    compare("voluntary switches", truth("voluntary"), sum(|role| role.voluntary_switches), 10.0);
    compare("involuntary switches", truth("involuntary"), sum(|role| role.involuntary_switches), 60.0);
    assert!(vmm.voluntary_switches.unwrap() >= SLEEPS as f64);
    let io = vmm.io.unwrap();
    let slack = (1 << 20) as f64; // the file system's own blocks
    compare("bytes written", WRITTEN as f64, io.written_bytes, slack);
    compare("bytes read", READ as f64, io.read_bytes, slack);
    assert_eq!((reading.counted.read_bytes, reading.counted.written_bytes), (io.read_bytes, io.written_bytes));
    let slack = (16 << 20) as f64; // the program itself
    for (what, bytes) in
        [("rss", vmm.memory.rss_bytes), ("pss", vmm.memory.pss_bytes), ("private", vmm.memory.private_bytes)]
    {
        compare(what, RESIDENT as f64, bytes.unwrap(), slack);
    }
    compare("peak", truth("peak") * 1024.0, vmm.peak_rss_bytes.unwrap(), (1 << 20) as f64);
    assert!(vmm.memory.page_tables_bytes.unwrap() >= RESIDENT as f64 / 512.0);
    assert_eq!(vmm.memory.swap_bytes, Some(0.0));
    compare("descriptors", truth("fds"), vmm.open_fds.unwrap(), 0.0);
    assert_eq!((vmm.max_fds, vcpu.threads, reading.vcpus), (Some(MAX_FDS as f64), Some(2.0), Some(2.0)));
    let names: Vec<_> = reading.threads.iter().filter(|thread| thread.role == HostRole::Vcpu).collect();
    assert_eq!(names.iter().map(|thread| thread.name.as_str()).collect::<Vec<_>>(), ["CPU 0/KVM", "CPU 1/KVM"]);
    assert!(names.iter().all(|thread| thread.cpu.total() > 0.3));
}

#[test]
fn threads_that_wait_for_one_cpu_show_it() {
    let worker = Worker::start("compete", Path::new(""));
    let reading = read(&reader(), worker.child.id());
    let (truth, seen) = (worker.truths["delay"], reading.vcpu_run_delay_seconds.unwrap());
    assert!(truth > 0.3, "they did not compete: {truth}");
    // The rest is what the kernel and interrupts took of the time.
    compare("run delay", truth, seen, 0.05 + truth * 0.1);
}

#[test]
fn a_process_that_ends_keeps_its_counters_and_loses_its_gauges() {
    let reader = reader();
    let mut worker = Worker::start("compete", Path::new(""));
    let pid = worker.child.id();
    let process = Process { role: ProcessRole::Vmm, pid: Pid(pid), start_ticks: start_ticks(pid) };
    let id = SandboxId::parse("sandbox").unwrap();
    let (mut book, target) =
        (reader.book(), Target { id: &id, processes: &[process], vmm: Some(Vmm::Qemu), cgroup_parent: None });
    let running = reader.read(&mut book, &target, Tiers::OFTEN);
    worker.child.kill().unwrap();
    worker.child.wait().unwrap();
    let ended = reader.read(&mut book, &target, Tiers::ALL);
    let (before, after) = (role(&running, HostRole::Vmm), role(&ended, HostRole::Vmm));
    assert_eq!((before.cpu, before.io, before.minor_faults), (after.cpu, after.io, after.minor_faults));
    assert!(before.memory.rss_bytes.is_some() && before.threads.is_some());
    assert_eq!((after.memory.rss_bytes, after.threads, after.open_fds, ended.vcpus), (None, None, None, None));
    assert_eq!(ended.vcpu_run_delay_seconds, running.vcpu_run_delay_seconds);
    // Another process under that pid is another process.
    let other = Process { start_ticks: process.start_ticks + 1, pid: Pid(std::process::id()), ..process };
    let target = Target { processes: &[other], ..target };
    assert_eq!(reader.read(&mut book, &target, Tiers::ALL).counted, running.counted);
}

/// Two network namespaces with a wire between them.
struct Wire {
    pod: String,
    far: String,
}

impl Wire {
    /// `None`, after saying why: it cannot be had here.
    fn make() -> Option<Self> {
        let number = std::process::id();
        let wire = Self { pod: format!("kp-pod-{number}"), far: format!("kp-far-{number}") };
        let (pod, far) = (&wire.pod, &wire.far);
        let steps = [
            format!("ip netns add {pod}"),
            format!("ip netns add {far}"),
            // Otherwise the kernel sends packets of its own.
            format!(
                "ip netns exec {pod} sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"
            ),
            format!(
                "ip netns exec {far} sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"
            ),
            format!("ip link add eth0 netns {pod} type veth peer name far0 netns {far}"),
            format!("ip -n {pod} address add 10.99.0.2/24 broadcast 10.99.0.255 dev eth0"),
            format!("ip -n {far} address add 10.99.0.1/24 broadcast 10.99.0.255 dev far0"),
            format!("ip -n {pod} link set eth0 up"),
            format!("ip -n {far} link set far0 up"),
        ];
        match steps.iter().try_for_each(|step| run(step)) {
            Ok(()) => Some(wire),
            Err(error) => {
                assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "namespaces are needed: {error}");
                println!("SKIPPED: no network namespaces here: {error}");
                None
            }
        }
    }

    fn send(&self, from: &str, datagrams: &str) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", from]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "worker"]).env(WORK, "send").env(FILE, datagrams);
        assert!(command.stdout(Stdio::null()).status().unwrap().success());
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in [&self.pod, &self.far] {
            let _ = run(&format!("ip netns del {name}"));
        }
    }
}

fn run(line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let output =
        Command::new(words.next().unwrap()).args(words).output().map_err(|error| format!("{line}: {error}"))?;
    let error = || format!("{line}: {}", String::from_utf8_lossy(&output.stderr));
    output.status.success().then_some(()).ok_or_else(error)
}

/// In the pod's namespace, with the tap that Kata would mirror to; nothing runs in it.
fn vmm_with_tap(wire: &Wire) -> Option<Worker> {
    const QEMU: &str = "qemu-system-x86_64";
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &wire.pod, QEMU, "-machine", "none", "-nographic", "-monitor", "stdio"]);
    command.args(["-netdev", "tap,id=n,ifname=tap0_kata,script=no,downscript=no"]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().ok()?;
    let mut worker = Worker { child, truths: HashMap::new() };
    let started = Instant::now();
    while run(&format!("ip -n {} link set tap0_kata up", wire.pod)).is_err() {
        let over = worker.child.try_wait().unwrap().is_some();
        if over || started.elapsed() > Duration::from_secs(20) {
            assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "{QEMU} with a tap is needed");
            println!("SKIPPED: no {QEMU} with a tap here");
            return None;
        }
        std::thread::yield_now();
    }
    Some(worker)
}

#[test]
fn packets_are_the_pod_s_in_its_direction_and_mirrored_ones_are_told_apart() {
    let Some(wire) = Wire::make() else { return };
    let Some(mut vmm) = vmm_with_tap(&wire) else { return };
    let pod = &wire.pod;
    let mirror = [
        format!("tc -n {pod} qdisc add dev eth0 ingress"),
        format!(
            "tc -n {pod} filter add dev eth0 ingress protocol all u32 match u8 0 0 action mirred egress redirect dev tap0_kata"
        ),
    ];
    mirror.iter().try_for_each(|step| run(step)).unwrap();
    let reader = reader();
    let pid = vmm.child.id();
    let before = read(&reader, pid).network;
    let names: Vec<_> = before.interfaces.iter().map(|one| (one.name.as_str(), one.is_tap)).collect();
    assert_eq!((before.is_hosts, names), (false, vec![("eth0", false), ("tap0_kata", true)]));
    wire.send(&wire.far, "500x1000");
    let started = Instant::now();
    let through =
        |network: &NetworkReading| network.interfaces[1].receive.packets + network.interfaces[1].receive.drops;
    let mut after = read(&reader, pid).network;
    while through(&after) < 500.0 && started.elapsed() < Duration::from_secs(20) {
        std::thread::yield_now();
        after = read(&reader, pid).network;
    }
    let header = 14.0 + 20.0 + 8.0;
    let received = 500.0 * (1000.0 + header);
    let (eth, tap) = (&after.interfaces[0], &after.interfaces[1]);
    compare("eth0 received", received, eth.receive.bytes - before.interfaces[0].receive.bytes, 0.0);
    compare("eth0 received packets", 500.0, eth.receive.packets - before.interfaces[0].receive.packets, 0.0);
    compare("tap0_kata received or dropped, packets", 500.0, through(&after), 0.0);
    compare("tap0_kata received", received * tap.receive.packets / 500.0, tap.receive.bytes, 0.0);
    assert!(tap.receive.packets > 0.0 && (tap.transmit.bytes, eth.transmit.bytes) == (0.0, 0.0));
    // What is sent to everybody comes back to the sender, and through the mirror: only the wire is looked at.
    wire.send(&wire.pod, "300x400");
    let last = read(&reader, pid).network;
    compare("eth0 transmitted", 300.0 * (400.0 + header), last.interfaces[0].transmit.bytes, 0.0);
    run(&format!("tc -n {pod} qdisc add dev eth0 root tbf rate 8kbit burst 2kb limit 4kb")).unwrap();
    wire.send(&wire.pod, "300x400");
    let (queued, seen) = (read(&reader, pid).network, "packets that eth0's queueing discipline dropped or has still");
    let sent = queued.interfaces[0].transmit.packets - last.interfaces[0].transmit.packets;
    // It may hold 4 KiB yet.
    compare(seen, 300.0 - sent, queued.interfaces[0].qdisc_drops.unwrap(), 10.0);
    assert!(queued.interfaces[0].qdisc_drops.unwrap() > 200.0);
    let _ = writeln!(vmm.child.stdin.take().unwrap(), "quit");
}
