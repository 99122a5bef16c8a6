//! Cgroups as a container sees them that has a cgroup namespace of its own, made by this machine's kernel: the paths in
//! `/proc` must come out as the host's.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kata_pulse::config::{CgroupNamespace, HostPaths};
use kata_pulse::discover::cgroup_namespace;

/// Cgroups of this test, and its processes in them.
struct Cgroups {
    root: PathBuf,
    processes: Vec<Child>,
}

impl Cgroups {
    /// `None`, after saying why.
    fn make() -> Option<Self> {
        let unified = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let made = unified.into_iter().find(|root| root.join("cgroup.procs").exists() && is_v2(root)).map(|root| {
            let root = root.join(format!("kata-pulse-test-{}", std::process::id()));
            fs::create_dir_all(root.join("pods/agent/inner"))
                .and_then(|()| fs::create_dir_all(root.join("pods/sid")))
                .map(|()| root)
        });
        match made {
            Some(Ok(root)) => Some(Self { root, processes: Vec::new() }),
            why => {
                assert!(
                    std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(),
                    "needed here: a unified hierarchy: {why:?}"
                );
                println!("SKIPPED: no unified hierarchy of cgroups that this test may write to: {why:?}");
                None
            }
        }
    }

    /// A shell in this cgroup runs the script.
    fn run(&mut self, cgroup: &str, script: &str) -> &mut Child {
        let procs = self.root.join(cgroup).join("cgroup.procs");
        let script = format!("echo $$ > {} && {script}", procs.display());
        let mut command = Command::new("sh");
        let child = command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        self.processes.push(child);
        self.processes.last_mut().unwrap()
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        for cgroup in ["pods/agent/inner", "pods/agent", "pods/sid", "pods", ""] {
            let _ = fs::remove_dir(self.root.join(cgroup));
        }
    }
}

fn is_v2(root: &Path) -> bool {
    root.join("cgroup.controllers").exists()
}

fn lines(child: &mut Child, count: usize) -> Vec<String> {
    let lines: Vec<String> =
        BufReader::new(child.stdout.as_mut().unwrap()).lines().take(count).map(Result::unwrap).collect();
    assert_eq!(lines.len(), count, "{lines:?}");
    lines
}

#[test]
fn paths_are_the_host_s_whatever_namespace_they_are_read_in() {
    let Some(mut cgroups) = Cgroups::make() else { return };
    let vmm = cgroups.run("pods/sid", "echo there; read x");
    let vmm_pid = vmm.id();
    lines(vmm, 1);
    let own = cgroups.root.strip_prefix("/sys/fs/cgroup").unwrap().to_owned();
    let own = Path::new("/").join(own.strip_prefix("unified").unwrap_or(&own));
    let expected = own.join("pods/sid").display().to_string();

    // The namespace begins where the process is when it makes it: at the agent's cgroup, and above it.
    for (begins, sits) in [("pods/agent", "pods/agent"), ("pods/agent", "pods/agent/inner")] {
        let procs = cgroups.root.join(sits).join("cgroup.procs");
        let see = "for pid in self $1; do sed -n s/^0:://p /proc/$pid/cgroup; done";
        let script = format!("exec unshare -C sh -c 'echo $$ > {}; {see}; read x' sh {vmm_pid}", procs.display());
        let agent = cgroups.run(begins, &script);
        let (pid, seen) = (agent.id(), lines(agent, 2));
        assert!(seen[1].starts_with("/.."), "{seen:?}: this kernel shows no relative paths");

        let procfs = tempfile::tempdir().unwrap();
        fs::create_dir(procfs.path().join(pid.to_string())).unwrap();
        std::os::unix::fs::symlink(pid.to_string(), procfs.path().join("self")).unwrap();
        // `sed` was a child of the shell, in the same cgroup.
        fs::write(procfs.path().join("self/cgroup"), format!("0::{}\n", seen[0])).unwrap();
        let host = HostPaths { procfs: procfs.path().into(), ..HostPaths::default() };
        let namespace = cgroup_namespace::read(&host).unwrap();
        assert_eq!(namespace.absolute(&seen[1]), expected, "{seen:?} {namespace:?}");
    }
    // On the host itself.
    assert_eq!(cgroup_namespace::read(&HostPaths::default()).unwrap(), CgroupNamespace::HOST);
}
