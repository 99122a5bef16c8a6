//! Processes with the names, arguments and parents of Kata's. The simulator's own program, under another name, plays
//! shim, VMM or virtiofsd; a shim may as well start a real QEMU.
//!
//! Everything ends with its parent, and the shim ends with its standard input, so that nothing outlives a test.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

/// Says to a role what to start, as JSON.
const CHILDREN: &str = "KATA_PULSE_SIM_CHILDREN";
/// Marks the worker among two processes with equal arguments.
const WORKER: &str = "KATA_PULSE_SIM_WORKER";

/// A program that a simulated shim starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Helper {
    /// How the test calls it: `vmm`, `virtiofsd`.
    pub role: String,
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// A running shim and the helpers it started.
#[derive(Debug)]
pub struct ShimProcess {
    child: Child,
    /// Pids of the helpers by role, as the shim told them.
    pub helpers: BTreeMap<String, u32>,
}

impl ShimProcess {
    /// Starts `program` (see [`install`]) with a shim's arguments for sandbox `id`.
    pub fn start(program: &Path, id: &str, helpers: &[Helper]) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(["-namespace", "k8s.io", "-address", "", "-publish-binary", "/usr/bin/containerd", "-id", id])
            .env(CHILDREN, serde_json::to_string(helpers)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let told = child.stdout.take().ok_or_else(|| io::Error::other("the shim has no output"))?;
        let mut pids = BTreeMap::new();
        for line in BufReader::new(told).lines().take(helpers.len()) {
            let line = line?;
            let (role, pid) = line.split_once(' ').ok_or_else(|| io::Error::other(format!("not told: {line}")))?;
            pids.insert(role.to_owned(), pid.parse().map_err(io::Error::other)?);
        }
        Ok(Self { child, helpers: pids })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets the shim end its helpers and itself.
    pub fn stop(mut self) -> io::Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().map(drop)
    }
}

impl Drop for ShimProcess {
    fn drop(&mut self) {
        // It ends its helpers and itself; after `stop` there is nothing left to wait for.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Puts the simulator's program `simulator` into `folder` under another name.
pub fn install(simulator: &Path, folder: &Path, name: &str) -> io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let to = folder.join(name);
    if !to.exists() {
        std::fs::copy(simulator, &to)?;
    }
    Ok(to)
}

/// What this process is to play, told by its own name; `None`: it is the simulator itself.
pub fn play() -> Option<ExitCode> {
    let name = std::env::args().next()?;
    let name = Path::new(&name).file_name()?.to_str()?.to_owned();
    let played = match name.as_str() {
        "containerd-shim-kata-v2" => shim(),
        "virtiofsd" | "nydusd" => file_server(),
        _ if ["qemu-system-", "cloud-hypervisor", "firecracker", "openvmm", "stratovirt"]
            .iter()
            .any(|vmm| name.starts_with(vmm)) =>
        {
            end_with_parent().map(|()| sleep())
        }
        _ => return None,
    };
    Some(match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    })
}

fn end_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

fn shim() -> io::Result<()> {
    end_with_parent()?;
    let helpers: Vec<Helper> = serde_json::from_str(&std::env::var(CHILDREN).unwrap_or_else(|_| "[]".to_owned()))?;
    let mut children = Vec::new();
    for helper in helpers {
        // setpriv becomes the program, which then ends with this shim whatever happens.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&helper.program);
        command.args(&helper.arguments).env_remove(CHILDREN).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn()?;
        println!("{} {}", helper.role, child.id());
        children.push(child);
    }
    io::stdout().flush()?;
    // Reaps a helper that ends before the shim does, as a real shim would.
    for child in children.iter().map(Child::id) {
        std::thread::spawn(move || reap(child));
    }
    io::copy(&mut io::stdin(), &mut io::sink())?;
    for mut child in children {
        let _ = child.kill();
    }
    Ok(())
}

fn reap(child: u32) {
    if let Some(pid) = i32::try_from(child).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
}

/// The parent only waits for its worker, which has the same arguments.
fn file_server() -> io::Result<()> {
    end_with_parent()?;
    if std::env::var_os(WORKER).is_some() {
        sleep();
        return Ok(());
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args().skip(1)).env(WORKER, "1").stdin(Stdio::null()).spawn()?.wait().map(drop)
}

fn sleep() {
    loop {
        std::thread::park();
    }
}
