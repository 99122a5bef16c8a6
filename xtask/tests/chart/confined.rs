//! The agent in a container of runc, with the arguments, rights and directories that the chart gives it and with the
//! chart's seccomp profile, on a simulated node that appears after it: it knows as much as one without bounds.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::tools::{self, KUBERNETES, chart, container, daemon_set, root};

const DEADLINE: Duration = Duration::from_secs(90);
const SANDBOXES: usize = 4;
/// Numbers of the kernel.
const CAPABILITIES: [(&str, u32); 4] = [("DAC_READ_SEARCH", 2), ("SYS_PTRACE", 19), ("PERFMON", 38), ("BPF", 39)];

/// Told to end and waited for.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = fs::File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.0.id().cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let started = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && started.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `runc run` in the foreground, which passes signals on to the agent.
struct Container<'f> {
    _process: Process,
    id: String,
    state: &'f Path,
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let mut delete = runc(self.state);
        let _ = delete.args(["delete", "--force", &self.id]).stderr(Stdio::null()).status();
    }
}

fn runc(state: &Path) -> Command {
    let mut command = Command::new("runc");
    command.arg("--root").arg(state);
    command
}

/// What the runtime makes of the pod; only the places on the node are those of the simulated one.
fn bundle(daemon_set: &Value, node: &Path, program: &Path) -> Value {
    let container = container(daemon_set);
    let context = &container["securityContext"];
    let added = context["capabilities"]["add"].as_array().unwrap();
    let capabilities: Vec<String> = added.iter().map(|name| format!("CAP_{}", name.as_str().unwrap())).collect();
    let mut args = vec![json!("/kata-pulse")];
    args.extend(container["args"].as_array().unwrap().iter().cloned());
    let bind = |source: &Path, place: &Path| json!({"destination": place, "source": source, "type": "bind", "options": ["rbind", "ro", "rslave"]});
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
        bind(program, Path::new("/kata-pulse")),
        // Simulated shims name their guests' sockets by where the simulator has made them.
        bind(node, node),
    ];
    for mount in container["volumeMounts"].as_array().unwrap() {
        assert_eq!((&mount["readOnly"], &mount["mountPropagation"]), (&json!(true), &json!("HostToContainer")));
        let place = Path::new(mount["mountPath"].as_str().unwrap());
        let is_simulated = place.starts_with("/run");
        let source = if is_simulated { node.join(place.strip_prefix("/").unwrap()) } else { place.to_owned() };
        mounts.push(bind(&source, place));
    }
    // Of a build that is not static, unlike the image's.
    mounts.extend(["/lib", "/lib64", "/usr/lib"].map(Path::new).iter().filter(|p| p.exists()).map(|p| bind(p, p)));
    let seccomp: Value =
        serde_json::from_str(&fs::read_to_string(chart().join("files/seccomp.json")).unwrap()).unwrap();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"]},
            "args": args,
            "cwd": "/",
            "env": [],
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": !context["allowPrivilegeEscalation"].as_bool().unwrap(),
        },
        "root": {"path": "rootfs", "readonly": context["readOnlyRootFilesystem"]},
        "mounts": mounts,
        "linux": {
            // No pid namespace: hostPID. The network is the test's, which asks for the page.
            "namespaces": [{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
            "cgroupsPath": format!("/kata-pulse-chart-{}", std::process::id()),
            "seccomp": seccomp,
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// `None`: nobody answers, or not 200.
fn get(port: u16, path: &str) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

fn sandboxes(port: u16) -> Vec<Value> {
    get(port, "/sandboxes").and_then(|body| serde_json::from_str(&body).ok()).unwrap_or_default()
}

/// Name, state and how each source fares, of every sandbox.
fn knowledge(port: u16) -> Vec<Value> {
    let keys = ["sandbox_id", "pod_name", "state", "runtime", "vmm", "sources"];
    let of = |one: &Value| keys.iter().map(|&key| (key.to_owned(), one[key].clone())).collect();
    sandboxes(port).iter().map(of).map(Value::Object).collect()
}

/// `reached` says what is not as it should be.
fn wait_for(what: &str, logs: &[&Path], mut reached: impl FnMut() -> Result<(), String>) {
    let started = Instant::now();
    while let Err(why) = reached() {
        if started.elapsed() > DEADLINE {
            let texts: Vec<_> = logs.iter().map(|log| fs::read_to_string(log).unwrap_or_default()).collect();
            panic!("waited {DEADLINE:?} for {what}: {why}\n{}", texts.join("\n---\n"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn answers(port: u16, path: &str) -> Result<(), String> {
    get(port, path).map(|_| ()).ok_or_else(|| format!("no answer to {path}"))
}

/// Why there can be no container here.
fn hindrance() -> Option<&'static str> {
    let has_runc = Command::new("runc").arg("--version").output().is_ok_and(|output| output.status.success());
    match (rustix::process::geteuid().is_root(), has_runc) {
        (false, _) => Some("only root may make containers"),
        (_, false) => Some("no runc"),
        _ => None,
    }
}

fn build() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "kata-pulse", "--package", "kata-pulse-sim"]);
    assert!(cargo.current_dir(root()).status().unwrap().success());
}

#[test]
fn the_agent_knows_as_much_within_the_chart_s_bounds_as_without() {
    if !tools::are_there() {
        return;
    }
    if let Some(why) = hindrance() {
        assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "{why}");
        println!("SKIPPED: {why}");
        return;
    }
    build();
    let binaries = root().join("target/debug").canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Sockets have long paths below it, and those are limited.
    let node = tempfile::Builder::new().prefix("k").rand_bytes(5).tempdir_in("/tmp").unwrap();
    let (node, state) = (node.path(), folder.path().join("state"));
    fs::create_dir_all(node.join("run")).unwrap();
    fs::create_dir_all(folder.path().join("rootfs")).unwrap();
    let log = |name: &str| folder.path().join(name);
    let (inside, outside) = (free_port(), free_port());

    let values = format!(
        "{{config: {{listenAddress: \"127.0.0.1:{inside}\", hostIntervalSecs: 1}}, security: {{seccompProfile: x.json}}}}"
    );
    let config = bundle(&daemon_set(&values, KUBERNETES), node, &binaries.join("kata-pulse"));
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let id = format!("kata-pulse-chart-{}", std::process::id());
    let mut run = runc(&state);
    run.args(["run", "--bundle"]).arg(folder.path()).arg(&id);
    let confined = Container { _process: Process::start(&mut run, &log("confined.log")), id, state: &state };
    // Neither base directory nor runtime is there yet.
    wait_for("the confined agent", &[&log("confined.log")], || answers(inside, "/healthz"));
    assert!(!node.join("run/vc").exists() && sandboxes(inside).is_empty());

    let mut simulator = Command::new(binaries.join("kata-pulse-sim"));
    simulator.arg("run").arg("--root").arg(node).args(["--processes", "--agents"]);
    let _simulator = Process::start(simulator.args(["--sandboxes", &SANDBOXES.to_string()]), &log("simulator.log"));
    let logs = [&*log("confined.log"), &log("free.log"), &log("simulator.log")];
    let mut within = Vec::new();
    wait_for("the confined agent to know all", &logs, || {
        within = knowledge(inside);
        if within.len() == SANDBOXES && within.iter().all(is_complete) { Ok(()) } else { Err(format!("{within:#?}")) }
    });
    wait_for("readiness", &logs, || answers(inside, "/readyz"));
    let mut page = String::new();
    // Programs that count come when the kernel has looked at them, and readiness does not wait for them.
    wait_for("the confined agent to tell of the programs that count", &logs, || {
        page = get(inside, "/metrics").unwrap_or_default();
        let is_told = page.contains("kata_pulse_ebpf_program_attached{program=\"runqueue_switch\"");
        if is_told { Ok(()) } else { Err(page.clone()) }
    });
    let used = page.lines().filter(|line| line.starts_with("container_cpu_usage_seconds_total{container=\"app"));
    assert!(used.count() >= SANDBOXES, "{page}");
    check_bounds(&confined);
    // One at a time: a shim takes few questions.
    drop(confined);

    let mut free = Command::new(binaries.join("kata-pulse"));
    free.arg("--listen-address").arg(format!("127.0.0.1:{outside}")).args(["--host-interval-secs", "1"]);
    free.arg("--runtime-endpoint").arg(node.join("run/containerd/containerd.sock"));
    for (runtime, base) in [("go", "run/vc/sbs"), ("rust", "run/kata")] {
        free.arg("--sandbox-dir").arg(format!("{runtime}:{}", node.join(base).display()));
    }
    let _free = Process::start(&mut free, &log("free.log"));
    wait_for("the agent without bounds to know the same", &logs, || {
        let without = knowledge(outside);
        if without == within { Ok(()) } else { Err(format!("{without:#?}\nwithin bounds: {within:#?}")) }
    });
    // Whatever the kernel grants an agent without bounds it grants the other.
    wait_for("the agent without bounds to have the same programs", &logs, || {
        let without = get(outside, "/metrics").unwrap_or_default();
        let (bounded, free) = (attached(&page), attached(&without));
        if bounded == free { Ok(()) } else { Err(format!("{free:#?}\nwithin bounds: {bounded:#?}")) }
    });
}

/// Named, counted by runtime and host, and its guest asked by the way that is right for it.
fn is_complete(one: &Value) -> bool {
    let (state, sources) = (&one["state"], &one["sources"]);
    let asked = match (one["runtime"].as_str(), one["vmm"].as_str()) {
        (Some("rust"), Some("qemu")) => sources["shim"] == "unsafe" && sources["agent"] == "ok",
        _ => sources["shim"] == "ok",
    };
    let others = ["runtime", "cri", "host"].into_iter().all(|source| sources[source] == "ok");
    asked && state == "running" && one["pod_name"] != "" && others
}

/// Programs of the kernel that serve the agent.
fn attached(page: &str) -> Vec<&str> {
    let of_programs = |line: &&str| line.starts_with("kata_pulse_ebpf_program_attached{") && line.ends_with(" 1");
    page.lines().filter(of_programs).collect()
}

/// The kernel's own account of the confined agent.
fn check_bounds(container: &Container<'_>) {
    let state = runc(container.state).args(["state", &container.id]).output().unwrap();
    let state: Value = serde_json::from_slice(&state.stdout).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", state["pid"])).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let expected: u64 = CAPABILITIES.iter().map(|(_, bit)| 1u64 << bit).sum();
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), expected, "{set}");
    }
    assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2".into(), "1".into()));
}
