//! Each right proven: the agent works with the least privilege that the chart gives it; without one of its rights one
//! thing stops, and one line of the log names that right.
//!
//! A further right is a row of [`RIGHTS`], what a further right is for is a [`Feature`].
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod confined;
mod seccomp;
mod world;

use std::path::Path;

use confined::{Confined, command};
use world::{ROOTLESS_USER, World};

/// Something that works with all rights, and how it shows that it does not.
struct Feature {
    name: &'static str,
    works: fn(&World, &Confined) -> bool,
    fails: fn(&World, &Confined) -> bool,
}

const EBPF: Feature = Feature {
    name: "eBPF",
    works: |world, agent| world.source(agent, "ebpf", "ok") && attached(agent) > 0,
    fails: |world, agent| world.source(agent, "ebpf", "unsupported") && attached(agent) == 0,
};
const PROCESSES: Feature = Feature { name: "processes", works: World::all_processes, fails: World::no_process };
const ROOTLESS: Feature = Feature {
    name: "the guest's agent of a rootless VMM",
    works: |world, agent| world.rootless_agent(agent, "ok"),
    fails: |world, agent| world.rootless_agent(agent, "denied"),
};
const NAMES: Feature = Feature {
    name: "names by the runtime's socket",
    works: |world, agent| world.source(agent, "cri", "ok"),
    fails: |world, agent| world.source(agent, "cri", "refused"),
};

const FEATURES: [Feature; 4] = [EBPF, PROCESSES, ROOTLESS, NAMES];

/// The chart's capabilities, what stops without each, and how the agent calls it.
const RIGHTS: [(&str, &Feature, &str); 4] = [
    ("bpf", &EBPF, "missing capability CAP_BPF: "),
    ("perfmon", &EBPF, "missing capability CAP_PERFMON: "),
    ("sys_ptrace", &PROCESSES, "missing capability CAP_SYS_PTRACE: "),
    ("dac_read_search", &ROOTLESS, "missing capability CAP_DAC_READ_SEARCH: "),
];

fn attached(agent: &Confined) -> usize {
    let page = agent.get("/metrics?filter_family=kata_pulse_ebpf_program_attached").1;
    page.lines().filter(|line| line.starts_with("kata_pulse_ebpf_program_attached{") && line.ends_with(" 1")).count()
}

/// `None`, after saying why: this test cannot be had here.
async fn world() -> Option<World> {
    let required = std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_some();
    let root = rustix::process::geteuid().is_root();
    let why = if !root {
        "root is needed, whose rights are taken away"
    } else if !Path::new("/usr/bin/setpriv").exists() {
        "setpriv of util-linux is needed"
    } else if !kata_pulse::discover::ebpf::embedded() {
        "the agent is built without eBPF: cargo xtask build-ebpf"
    } else {
        return Some(World::make().await);
    };
    assert!(!required, "{why}");
    println!("SKIPPED: {why}");
    None
}

/// As a container runtime does it: root with a bounding set, and no way to more.
fn with_only<'a>(capabilities: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let added: String = capabilities.into_iter().map(|name| format!(",+{name}")).collect();
    let words = ["setpriv", "--no-new-privs", "--inh-caps=-all", &format!("--bounding-set=-all{added}")];
    words.map(str::to_owned).into()
}

fn all() -> impl Iterator<Item = &'static str> {
    RIGHTS.iter().map(|(name, ..)| *name)
}

fn all_works(world: &World, agent: &Confined) {
    for feature in &FEATURES {
        agent.until(feature.name, |agent| (feature.works)(world, agent));
    }
}

fn complaints(agent: &Confined) -> Vec<String> {
    let words = ["missing capability", "not root", "pid namespace", "is denied", "no eBPF", "refused although"];
    agent.log().into_iter().filter(|line| words.iter().any(|word| line.contains(word))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_with_the_least_privilege_on_a_read_only_root() {
    let Some(world) = world().await else { return };
    let read_only = "mount -o remount,bind,ro / && exec \"$@\"";
    let unshared = ["unshare", "--mount", "--propagation", "private", "sh", "-c", read_only, "sh"].map(str::to_owned);
    let wrapper: Vec<String> = unshared.into_iter().chain(with_only(all())).collect();
    let agent = Confined::start(command(&world.root, &wrapper));
    all_works(&world, &agent);
    assert_eq!(complaints(&agent), Vec::<String>::new());
    let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", agent.pid())).unwrap();
    let root = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some("/")).unwrap();
    assert!(root.split(' ').nth(3).unwrap().starts_with("ro,"), "{root}");
    drop(agent);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_one_right_one_thing_stops_and_one_line_names_the_right() {
    let Some(world) = world().await else { return };
    for (right, stopped, line) in RIGHTS {
        let agent = Confined::start(command(&world.root, &with_only(all().filter(|name| *name != right))));
        for feature in &FEATURES {
            if feature.name == stopped.name {
                agent.until(&format!("{} fails without {right}", feature.name), |agent| (feature.fails)(&world, agent));
            } else {
                agent.until(&format!("{} works without {right}", feature.name), |agent| (feature.works)(&world, agent));
            }
        }
        assert!((stopped.fails)(&world, &agent), "{} still fails without {right}", stopped.name);
        let named: Vec<_> = agent.log().into_iter().filter(|said| said.starts_with("missing capability")).collect();
        assert!(named.len() == 1 && named[0].starts_with(line), "{right}: {named:#?}");
        println!("without {right}: {}", named[0]);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_needs_neither_right_of_ebpf() {
    let Some(world) = world().await else { return };
    let rights = all().filter(|name| !["bpf", "perfmon"].contains(name)).chain(["sys_admin"]);
    let agent = Confined::start(command(&world.root, &with_only(rights)));
    all_works(&world, &agent);
    // It may do what no other may: have the kernel count how long programs run.
    agent.until("run time of eBPF programs", |agent| {
        let page = agent.get("/metrics?filter_family=kata_pulse_ebpf_program_run_seconds_total").1;
        page.contains("\nkata_pulse_ebpf_program_run_seconds_total{program=\"exec_btf\"}")
    });
    assert_eq!(complaints(&agent), Vec::<String>::new());
    drop(agent);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_that_only_a_flag_needs_is_named_with_the_flag() {
    let Some(world) = world().await else { return };
    let start = |rights: Vec<String>| {
        let mut command = command(&world.root, &rights);
        command.arg("--qdisc");
        Confined::start(command)
    };
    let without = complaints(&start(with_only(all())));
    assert!(without.len() == 1 && without[0].starts_with("missing capability CAP_SYS_ADMIN: "), "{without:#?}");
    println!("{}", without[0]);
    assert_eq!(complaints(&start(with_only(all().chain(["sys_admin"])))), Vec::<String>::new());
    world.end().await;
}

/// A socket is connected to by who may write it: that of another user's VMM needs a right that the chart does not give.
#[tokio::test(flavor = "multi_thread")]
async fn a_rootless_vmms_own_socket_needs_more_than_to_be_found() {
    let Some(world) = world().await else { return };
    std::os::unix::fs::chown(world.rootless_socket(), Some(ROOTLESS_USER), None).unwrap();
    let agent = Confined::start(command(&world.root, &with_only(all())));
    agent.until("it is denied", |agent| (ROOTLESS.fails)(&world, agent));
    drop(agent);
    let agent = Confined::start(command(&world.root, &with_only(all().chain(["dac_override"]))));
    all_works(&world, &agent);
    drop(agent);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_reaches_no_socket_and_is_told_so() {
    let Some(world) = world().await else { return };
    let user = ["setpriv", "--reuid=4321", "--clear-groups"].map(str::to_owned);
    let added: String = all().map(|name| format!(",+{name}")).collect();
    let ambient = [format!("--inh-caps=-all{added}"), format!("--ambient-caps=-all{added}")];
    let wrapper: Vec<String> = user.into_iter().chain(ambient).collect();
    let agent = Confined::start(command(&world.root, &wrapper));
    agent.until("no names", |agent| (NAMES.fails)(&world, agent));
    agent.until("processes all the same", |agent| (PROCESSES.works)(&world, agent));
    let complaints = complaints(&agent);
    assert!(complaints.len() == 1 && complaints[0].starts_with("not root but user 4321: "), "{complaints:#?}");
    drop(agent);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pid_namespace_of_its_own_is_named() {
    let Some(world) = world().await else { return };
    let wrapper = ["unshare", "--pid", "--mount-proc", "--kill-child"].map(str::to_owned);
    let agent = Confined::start(command(&world.root, &wrapper));
    let named: Vec<_> = complaints(&agent).into_iter().filter(|line| line.contains("hostPID: true")).collect();
    assert_eq!(named.len(), 1, "{:#?}", agent.log());
    assert!(world.no_process(&agent), "{:#}", agent.sandboxes());
    drop(agent);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn required_ebpf_ends_the_agent_with_the_right_that_is_missing() {
    let Some(world) = world().await else { return };
    for (right, _, line) in RIGHTS.iter().filter(|(_, feature, _)| feature.name == EBPF.name) {
        let mut command = command(&world.root, &with_only(all().filter(|name| name != right)));
        let output = command.args(["--ebpf", "require"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(last.starts_with("kata-pulse: eBPF is required by --ebpf require: ") && last.contains(line), "{said}");
    }
    world.end().await;
}

/// RuntimeDefault denies AF_VSOCK; an old one also denies bpf to whoever has the capability.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_seccomp_profile_denies_is_named_although_the_capabilities_are_there() {
    let Some(world) = world().await else { return };
    let mut confined = command(&world.root, &with_only(all()));
    seccomp::deny_vsock_and_bpf(&mut confined);
    let agent = Confined::start(confined);
    agent.until("no eBPF", |agent| (EBPF.fails)(&world, agent));
    for start in ["AF_VSOCK is denied: ", "no eBPF: "] {
        let lines: Vec<_> = complaints(&agent).into_iter().filter(|line| line.starts_with(start)).collect();
        assert!(lines.len() == 1 && lines[0].contains("a seccomp profile filters this process"), "{lines:#?}");
    }
    agent.until("processes all the same", |agent| (PROCESSES.works)(&world, agent));
    drop(agent);
    world.end().await;
}
