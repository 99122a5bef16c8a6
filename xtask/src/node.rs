//! A simulated node and an agent that watches it, as child processes that end with this value.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::http;

pub struct Node {
    children: Vec<(&'static str, Child)>,
    pub root: PathBuf,
    pub address: SocketAddr,
    /// From the agent's start until it called itself ready, all sandboxes being there before.
    pub ready_after: Duration,
}

impl Node {
    /// Starts the simulator below a new directory, whose name is short since socket paths are limited, and, when its CRI socket is there, the agent.
    pub fn start(binaries: &Path, sandboxes: u32) -> anyhow::Result<Self> {
        Self::start_with(binaries, sandboxes, &[], &[])
    }

    /// The same with further flags for the simulator and for the agent.
    pub fn start_with(binaries: &Path, sandboxes: u32, simulated: &[&str], more: &[&str]) -> anyhow::Result<Self> {
        Self::start_by(binaries, Command::new(binaries.join("kata-pulse")), sandboxes, simulated, more)
    }

    /// The same with a command that becomes the agent.
    pub fn start_by(
        simulator: &Path,
        mut agent: Command,
        sandboxes: u32,
        simulated: &[&str],
        more: &[&str],
    ) -> anyhow::Result<Self> {
        let root = scratch();
        std::fs::create_dir_all(&root)?;
        let mut node = Self { children: Vec::new(), root, address: free_port()?, ready_after: Duration::ZERO };
        let mut simulator = Command::new(simulator.join("kata-pulse-sim"));
        simulator.arg("run").arg("--root").arg(&node.root).arg("--sandboxes").arg(sandboxes.to_string());
        simulator.args(simulated);

        node.spawn("simulator", &mut simulator)?;
        let cri = node.root.join("run/containerd/containerd.sock");
        node.wait_until("the simulator's CRI socket", Duration::from_secs(60), |_| Ok(cri.exists()))?;
        node.wait_until("the simulator's sandboxes", Duration::from_secs(60), |node| {
            Ok(sockets(&node.root) >= sandboxes as usize)
        })?;
        agent.arg("--listen-address").arg(node.address.to_string()).arg("--runtime-endpoint").arg(&cri);
        for (runtime, directory) in [("go", "run/vc/sbs"), ("rust", "run/kata")] {
            agent.arg("--sandbox-dir").arg(format!("{runtime}:{}", node.root.join(directory).display()));
        }
        agent.args(more);
        let started = Instant::now();
        node.spawn("agent", &mut agent)?;
        let address = node.address;
        node.wait_until("the agent to be ready", Duration::from_secs(30), |_| {
            Ok(http::get(address, "/readyz").is_ok_and(|(status, _)| status == 200))
        })?;
        node.ready_after = started.elapsed();
        Ok(node)
    }

    pub fn agent_pid(&self) -> Option<u32> {
        self.children.iter().find(|(name, _)| *name == "agent").map(|(_, child)| child.id())
    }

    fn spawn(&mut self, name: &'static str, command: &mut Command) -> anyhow::Result<()> {
        let child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
        self.children.push((name, child));
        Ok(())
    }

    /// Fails at once if a child has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for (name, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!("the {name} has ended: {status}");
            }
        }
        Ok(())
    }

    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut reached: impl FnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        while !reached(self)? {
            self.check()?;
            if started.elapsed() > limit {
                bail!("waited {limit:?} for {what}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Node {
    /// SIGTERM first, so that the simulator ends the processes it made; the agent before the simulator.
    fn drop(&mut self) {
        for (_, child) in self.children.iter_mut().rev() {
            if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
                let _ = kill_process(pid, Signal::TERM);
            }
            let started = Instant::now();
            while matches!(child.try_wait(), Ok(None)) && started.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Below which a simulated node of this process lies.
pub fn scratch() -> PathBuf {
    PathBuf::from(format!("/tmp/k{:x}", std::process::id()))
}

/// Sandboxes whose shim can be reached.
fn sockets(root: &Path) -> usize {
    let of = |base: &str| {
        let directories = std::fs::read_dir(root.join(base)).into_iter().flatten();
        directories
            .filter(|entry| entry.as_ref().is_ok_and(|one| one.path().join("shim-monitor.sock").exists()))
            .count()
    };
    of("run/vc/sbs") + of("run/kata")
}

fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
