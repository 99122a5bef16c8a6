//! Makes the `/proc` and `/run` of a host out of a description in `testdata/host/`: see the README there.
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made ends the test")]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Mount and network namespace of process 1.
const HOST_MOUNTS: &str = "4026531841";
const HOST_NETWORK: &str = "4026531840";
/// The controllers of a v1 host that matter to anyone, as `/proc/<pid>/cgroup` numbers them.
const V1_CONTROLLERS: [&str; 5] = ["5:memory", "4:cpu,cpuacct", "3:blkio", "2:pids", "1:name=systemd"];

/// What a description says, and the tree that was made of it.
pub struct Host {
    pub root: PathBuf,
    /// Sandbox id and the answer of its socket to `/agent-url`.
    pub addresses: Vec<(String, String)>,
    /// So many seconds pass after the scan.
    pub later_seconds: u64,
    pub expected: Vec<String>,
    pub expects_nothing: bool,
    /// What the host's own files say of the sandboxes, where the description says anything of it.
    pub readings: Vec<String>,
}

#[derive(Default)]
struct Process {
    pid: u32,
    parent: u32,
    start: u64,
    state: char,
    uid: u32,
    /// Of a kernel thread; a program's is that of its executable.
    comm: String,
    exe: String,
    argv: Vec<String>,
    mounts: String,
    network: String,
    cgroup: String,
    threads: Vec<Thread>,
    used: Used,
    fds: Vec<String>,
}

struct Thread {
    tid: u32,
    comm: String,
    cgroup: Option<String>,
    used: Used,
}

/// Ticks of user time (with the guest's), system time and guest time.
#[derive(Clone, Copy)]
struct Used(u64, u64, u64);

impl Default for Used {
    fn default() -> Self {
        Self(250, 40, 0)
    }
}

/// Makes the tree of `description` below `root`, which must be short: it holds sockets.
pub fn build(description: &str, root: &Path) -> Host {
    let mut host = Host {
        root: root.into(),
        addresses: Vec::new(),
        later_seconds: 0,
        expected: Vec::new(),
        expects_nothing: false,
        readings: Vec::new(),
    };
    let mut processes = vec![init(), kthreadd()];
    for raw in description.lines() {
        let line = expand(raw.split(" #").next().unwrap().trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "dir" => make_dir(&root.join(first), second),
            "file" => write_file(&root.join(first), second),
            "link" => make_link(&root.join(first), second),
            "socket" => make_socket(&root.join(first)),
            "owner" => chown(root.join(first), Some(second.parse().unwrap()), None).unwrap(),
            "process" => processes.push(process(rest)),
            "address" => host.addresses.push((first.into(), second.into())),
            "later" => host.later_seconds = first.parse().unwrap(),
            // Nothing at all is expected too.
            "expect" if rest == "nothing" => host.expects_nothing = true,
            "expect" => host.expected.push(rest.into()),
            "reads" => host.readings.push(rest.into()),
            _ => detail(processes.last_mut().unwrap(), word, rest),
        }
    }
    write_file(&root.join("proc/sys/kernel/osrelease"), "5.10.0-28-amd64\n");
    for process in &processes {
        process.write(&root.join("proc"));
        process.write_cgroups(&root.join("sys/fs/cgroup"));
    }
    host
}

/// `{a}` is an id of 64 letters, `{a:32}` what Firecracker under Go knows of it.
fn expand(line: &str) -> String {
    let mut line = line.to_owned();
    for letter in 'a'..='f' {
        for (short, length) in [(format!("{{{letter}}}"), 64), (format!("{{{letter}:32}}"), 32)] {
            line = line.replace(&short, &letter.to_string().repeat(length));
        }
    }
    line
}

fn init() -> Process {
    let mut init = process("1 parent 0 start 1");
    init.exe = "/usr/lib/systemd/systemd".into();
    init.argv = vec!["/sbin/init".into()];
    init
}

fn kthreadd() -> Process {
    Process { comm: "kthreadd".into(), ..process("2 parent 0 start 1") }
}

/// `<pid> parent <pid> start <ticks> [state <letter>]`
fn process(line: &str) -> Process {
    let words: Vec<&str> = line.split(' ').collect();
    let after = |name: &str| words.iter().position(|word| *word == name).map(|at| words[at + 1]);
    Process {
        pid: words[0].parse().unwrap(),
        parent: after("parent").unwrap().parse().unwrap(),
        start: after("start").unwrap().parse().unwrap(),
        state: after("state").unwrap_or("S").chars().next().unwrap(),
        mounts: HOST_MOUNTS.into(),
        network: HOST_NETWORK.into(),
        cgroup: "0::/system.slice/containerd.service\n".into(),
        ..Process::default()
    }
}

fn detail(process: &mut Process, word: &str, rest: &str) {
    match word {
        "comm" => process.comm = rest.into(),
        "exe" => process.exe = rest.into(),
        "argv" => process.argv = rest.split(' ').map(|argument| argument.replace("\"\"", "")).collect(),
        "mounts" => process.mounts = rest.into(),
        "network" => process.network = rest.into(),
        "uid" => process.uid = rest.parse().unwrap(),
        "cgroup" => process.cgroup = cgroup_file(rest),
        "thread" => {
            let mut words = rest.splitn(3, ' ');
            let tid = words.next().unwrap().parse().unwrap();
            let comm = words.next().unwrap().replace('+', " ");
            let cgroup = words.next().map(cgroup_file);
            process.threads.push(Thread { tid, comm, cgroup, used: Used(0, 0, 0) });
        }
        "used" => {
            let ticks: Vec<u64> = rest.split(' ').map(|ticks| ticks.parse().unwrap()).collect();
            let used = Used(ticks[0], ticks[1], ticks[2]);
            match process.threads.last_mut() {
                Some(thread) => thread.used = used,
                None => process.used = used,
            }
        }
        "fd" => process.fds.push(rest.into()),
        _ => panic!("{word} is no word of a fixture"),
    }
}

/// `v2 /path`, or `v1 /path`, which stands for the same path in every hierarchy.
fn cgroup_file(text: &str) -> String {
    let (version, path) = text.split_once(' ').unwrap();
    match version {
        "v2" => format!("0::{path}\n"),
        "v1" => V1_CONTROLLERS.iter().map(|controllers| format!("{controllers}:{path}\n")).collect(),
        _ => panic!("{version} is no version of cgroups"),
    }
}

impl Process {
    fn write(&self, procfs: &Path) {
        let folder = procfs.join(self.pid.to_string());
        fs::create_dir_all(folder.join("ns")).unwrap();
        let name = Path::new(self.exe.trim_end_matches(" (deleted)")).file_name();
        let name = name.map_or(self.comm.as_str(), |name| name.to_str().unwrap());
        let comm = &name[..name.len().min(15)];
        // Kernel threads and the dead have neither executable nor arguments.
        let is_program = !self.exe.is_empty() && self.state != 'Z';
        let argv: String = self.argv.iter().map(|argument| format!("{argument}\0")).collect();
        fs::write(folder.join("cmdline"), if is_program { argv.as_str() } else { "" }).unwrap();
        if is_program {
            symlink(&self.exe, folder.join("exe")).unwrap();
        }
        symlink(format!("mnt:[{}]", self.mounts), folder.join("ns/mnt")).unwrap();
        symlink(format!("net:[{}]", self.network), folder.join("ns/net")).unwrap();
        fs::create_dir_all(folder.join("fd")).unwrap();
        for (number, target) in self.fds.iter().enumerate() {
            symlink(target, folder.join("fd").join(number.to_string())).unwrap();
        }
        self.write_task(&folder, self.pid, comm, &self.cgroup, self.used);
        let task = |tid: u32| folder.join("task").join(tid.to_string());
        self.write_task(&task(self.pid), self.pid, comm, &self.cgroup, Used(0, 0, 0));
        for Thread { tid, comm, cgroup, used } in &self.threads {
            let cgroup = cgroup.as_ref().unwrap_or(&self.cgroup);
            self.write_task(&task(*tid), *tid, comm, cgroup, *used);
            fs::create_dir_all(task(*tid).join("ns")).unwrap();
            symlink(format!("net:[{}]", self.network), task(*tid).join("ns/net")).unwrap();
        }
        chown(&folder, Some(self.uid), Some(self.uid)).unwrap();
    }

    /// Its directories in all hierarchies, as a host has them for whatever sits there.
    fn write_cgroups(&self, root: &Path) {
        let threads = self.threads.iter().filter_map(|thread| thread.cgroup.as_ref());
        for line in std::iter::once(&self.cgroup).chain(threads).flat_map(|file| file.lines()) {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next().unwrap(), parts.next().unwrap().trim_start_matches('/'));
            let files: &[(&str, &str)] = match controllers {
                "" => &[("cpu.stat", "user_usec 3000000\nsystem_usec 1000000\n"), ("memory.current", "8192\n")],
                "memory" => &[("memory.usage_in_bytes", "4096\n")],
                "cpu,cpuacct" => &[("cpuacct.stat", "user 200\nsystem 100\n")],
                _ => &[],
            };
            for (name, text) in files.iter().filter(|_| !path.starts_with("..")) {
                write_file(&root.join(controllers).join(path).join(name), text);
            }
        }
    }

    fn write_task(&self, folder: &Path, tid: u32, comm: &str, cgroup: &str, used: Used) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("comm"), format!("{comm}\n")).unwrap();
        fs::write(folder.join("cgroup"), cgroup).unwrap();
        fs::write(folder.join("stat"), self.stat(tid, comm, used)).unwrap();
        fs::write(folder.join("schedstat"), format!("{} 500000000 7\n", (used.0 + used.1) * 10_000_000)).unwrap();
        fs::write(folder.join("status"), self.status(tid, comm)).unwrap();
    }

    fn stat(&self, tid: u32, comm: &str, Used(user, system, guest): Used) -> String {
        let (state, parent, start, threads) = (self.state, self.parent, self.start, self.threads.len() + 1);
        let mut line = format!("{tid} ({comm}) {state} {parent} {} {} 0 -1 4194560", self.pid, self.pid);
        let _ = write!(
            line,
            " 2500 0 12 0 {user} {system} 0 0 20 0 {threads} 0 {start} 2400000000 51200 18446744073709551615"
        );
        line + &format!(" 1 1 0 0 0 0 0 4096 17642 0 0 0 17 1 0 0 0 {guest} 0 0 0 0 0 0 0 0 0\n")
    }

    fn status(&self, tid: u32, comm: &str) -> String {
        let (pid, parent, uid, state) = (self.pid, self.parent, self.uid, self.state);
        format!(
            "Name:\t{comm}\nUmask:\t0022\nState:\t{state}\nTgid:\t{pid}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{parent}\n\
             TracerPid:\t0\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{uid}\t{uid}\t{uid}\t{uid}\nFDSize:\t64\n\
             VmPeak:\t 2343750 kB\nVmSize:\t 2343750 kB\nVmHWM:\t  204800 kB\nVmRSS:\t  204800 kB\nThreads:\t{}\n\
             voluntary_ctxt_switches:\t1500\nnonvoluntary_ctxt_switches:\t20\n",
            self.threads.len() + 1
        )
    }
}

fn parent_of(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
}

fn make_dir(path: &Path, mode: &str) {
    fs::create_dir_all(path).unwrap();
    if !mode.is_empty() {
        let mode = u32::from_str_radix(mode, 8).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn write_file(path: &Path, text: &str) {
    parent_of(path);
    fs::write(path, text.replace("\\n", "\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

fn make_link(path: &Path, target: &str) {
    parent_of(path);
    symlink(target, path).unwrap();
}

/// Nobody listens on it any more: a file of this kind is all that discovery looks for.
fn make_socket(path: &Path) {
    parent_of(path);
    drop(UnixListener::bind(path).unwrap());
}
