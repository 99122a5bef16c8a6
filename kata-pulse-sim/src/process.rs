//! The simulator's hold on the processes of one sandbox: starts them, gives orders, ends them, tells how they ended.
//!
//! Dropping a [`ShimProcess`] ends the shim and everything it started.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::burn::{Burn, BurnTruth};
use crate::channel::Channel;
use crate::role::{Answer, Hello, Order, Start};
use crate::usage::{self, ProcessUsage};

/// Ending a process takes the kernel some milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program, the simulator's or not, that a shim is to start.
#[derive(Clone, Debug)]
pub struct Helper {
    /// How the test calls it: `vmm`, `virtiofsd`.
    pub role: String,
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// A program that a shim has started.
#[derive(Debug)]
struct Hold {
    /// `None`: a program of others, which takes no orders.
    channel: Option<Channel>,
    /// The program, then what ends with it.
    pidfds: Vec<OwnedFd>,
}

/// A program that was written a moment ago may still be open in a child that another thread was just making.
fn spawn(command: &mut Command) -> io::Result<Child> {
    let started = Instant::now();
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// A running shim and the helpers it started.
#[derive(Debug)]
pub struct ShimProcess {
    child: Child,
    /// The other end is the shim's standard output, which nobody else has: its end is the shim's.
    life: UnixStream,
    channel: Channel,
    held: BTreeMap<String, Hold>,
    /// The shim's own end.
    ended: Option<ProcessUsage>,
    /// Of helpers that have ended.
    usages: Vec<ProcessUsage>,
    /// Pids of the helpers by role; virtiofsd's worker is `virtiofsd-worker`.
    pub helpers: BTreeMap<String, u32>,
}

impl ShimProcess {
    /// Starts `program` (see [`install`]) with a Go shim's arguments for sandbox `id`. The helpers end with the shim.
    pub fn start(program: &Path, id: &str, helpers: &[Helper]) -> io::Result<Self> {
        let arguments = ["-namespace", "k8s.io", "-address", "", "-publish-binary", "/usr/bin/containerd", "-id", id];
        let mut shim = Self::alone(Command::new(program).args(arguments))?;
        for Helper { role, program, arguments } in helpers {
            let start = Start { program: program.clone(), arguments: arguments.clone(), environment: Vec::new() };
            shim.start_foreign(role, start)?;
        }
        Ok(shim)
    }

    /// Lets the shim start a program of others; it ends with the shim.
    pub(crate) fn start_foreign(&mut self, role: &str, start: Start) -> io::Result<u32> {
        let Answer::Started(pid) = self.order(&Order::Start(start), None)? else {
            return Err(io::Error::other("the shim did not say what it started"));
        };
        self.helpers.insert(role.to_owned(), pid);
        self.held.insert(role.to_owned(), Hold { channel: None, pidfds: vec![open(pid)?] });
        Ok(pid)
    }

    /// The shim without helpers; its standard input is taken.
    pub(crate) fn alone(command: &mut Command) -> io::Result<Self> {
        let (channel, theirs) = Channel::pair()?;
        let (life, output) = UnixStream::pair()?;
        command.stdin(Stdio::from(theirs)).stdout(Stdio::from(OwnedFd::from(output)));
        let child = spawn(command)?;
        // The command keeps its copies of the shim's ends until others take their place.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let (held, helpers) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { child, life, channel, held, ended: None, usages: Vec::new(), helpers })
    }

    /// Lets the shim start a program of the simulator's, which survives the shim's death, as Kata's do.
    pub(crate) fn start_simulated(&mut self, role: &str, start: Start) -> io::Result<u32> {
        let (channel, theirs) = Channel::pair()?;
        self.order(&Order::Start(start), Some(theirs.as_fd()))?;
        drop(theirs);
        let Hello { pid, worker } = channel.expect()?;
        let mut pidfds = vec![open(pid)?];
        self.helpers.insert(role.to_owned(), pid);
        if let Some(worker) = worker {
            pidfds.push(open(worker)?);
            self.helpers.insert(format!("{role}-worker"), worker);
        }
        self.held.insert(role.to_owned(), Hold { channel: Some(channel), pidfds });
        Ok(pid)
    }

    /// Makes the shim the one whom peers of `socket` see.
    pub(crate) fn listen(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.order(&Order::Listen, Some(socket)).map(drop)
    }

    fn order(&self, order: &Order, descriptor: Option<BorrowedFd<'_>>) -> io::Result<Answer> {
        settle(self.channel.ask(order, descriptor)?)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Readable once the shim has ended.
    pub(crate) fn life(&self) -> io::Result<UnixStream> {
        self.life.set_nonblocking(true)?;
        self.life.try_clone()
    }

    /// SIGABRT from within, after a panic. Returns once it has ended.
    pub fn abort(&mut self) -> io::Result<ExitStatus> {
        self.channel.send(&Order::Abort, None)?;
        self.reap()
    }

    /// Exit code 1, without a word to anybody.
    pub fn exit(&mut self) -> io::Result<ExitStatus> {
        self.channel.send(&Order::Exit, None)?;
        self.reap()
    }

    /// SIGKILL; VMM and virtiofsd live on without a parent.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        if self.ended.is_none() {
            self.child.kill()?;
        }
        self.reap()
    }

    /// How the shim ended, if it has.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = usage::try_wait(self.child.id())?;
        }
        Ok(self.ended.as_ref().map(ProcessUsage::status))
    }

    /// Waits for a shim that is at its end.
    pub(crate) fn reap(&mut self) -> io::Result<ExitStatus> {
        let ended = match self.ended.take() {
            Some(ended) => ended,
            None => usage::wait(self.child.id())?,
        };
        Ok(self.ended.insert(ended).status())
    }

    /// What each process had used when it ended, the shim's without its children's. Helpers that a dead shim left to
    /// others are missing.
    pub(crate) fn usages(&self) -> Vec<ProcessUsage> {
        let shim = self.ended.iter().map(|shim| ProcessUsage { role: "shim".into(), ..shim.without(&self.usages) });
        self.usages.iter().cloned().chain(shim).collect()
    }

    /// Who does the work of `role`: Dragonball's VMM is the shim.
    fn worker(&self, role: &str) -> io::Result<&Channel> {
        let Some(held) = self.held.get(role) else { return Ok(&self.channel) };
        held.channel.as_ref().ok_or_else(|| io::Error::other(format!("the {role} is no program of the simulator's")))
    }

    /// Makes `vmm` (or, without one of its own, the shim) work from now on.
    pub fn burn(&self, role: &str, burn: &Burn) -> io::Result<()> {
        settle(self.worker(role)?.ask(&Order::Burn(burn.clone()), None)?).map(drop)
    }

    /// Ends that work and tells what it was.
    pub fn stop_burning(&self, role: &str) -> io::Result<BurnTruth> {
        match settle(self.worker(role)?.ask(&Order::Stop, None)?)? {
            Answer::Truth(truth) => Ok(truth),
            other => Err(io::Error::other(format!("not a truth: {other:?}"))),
        }
    }

    /// SIGKILL to a helper; returns once it has ended and, if the shim lives, was reaped.
    pub fn end_helper(&mut self, role: &str) -> io::Result<()> {
        let Some(held) = self.held.remove(role) else { return Ok(()) };
        let roles: BTreeMap<u32, String> = self.helpers.iter().map(|(role, pid)| (*pid, role.clone())).collect();
        let gone: Vec<u32> =
            [role, &format!("{role}-worker")].into_iter().filter_map(|role| self.helpers.remove(role)).collect();
        // A dead shim cannot.
        let _ = self.order(&Order::Adopt, None);
        if let Some(program) = held.pidfds.first() {
            // It may have ended by itself.
            let _ = pidfd_send_signal(program, Signal::KILL);
        }
        held.pidfds.iter().try_for_each(wait)?;
        if let Ok(Answer::Ended(ended)) = self.order(&Order::Reap(gone), None) {
            let named = |usage: ProcessUsage| {
                let role = roles.get(&usage.pid).map_or_else(|| role.to_owned(), Clone::clone);
                ProcessUsage { role, ..usage }
            };
            self.usages.extend(ended.into_iter().map(named));
        }
        Ok(())
    }

    /// Ends the helpers, then the shim.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    pub(crate) fn end(&mut self) -> io::Result<()> {
        for role in ["vmm", "virtiofsd"] {
            self.end_helper(role)?;
        }
        // A closed channel is what the shim ends by.
        let (closed, _) = Channel::pair()?;
        drop(std::mem::replace(&mut self.channel, closed));
        self.reap().map(drop)
    }
}

impl Drop for ShimProcess {
    fn drop(&mut self) {
        // After `stop` there is nothing left to end.
        let _ = self.end();
    }
}

fn settle(answer: Answer) -> io::Result<Answer> {
    match answer {
        Answer::Failed(why) => Err(io::Error::other(why)),
        answer => Ok(answer),
    }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("not a pid"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn wait(pidfd: &OwnedFd) -> io::Result<()> {
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&patience))? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "a killed process has not ended")),
        _ => Ok(()),
    }
}

/// Puts the simulator's program `simulator` into `folder` under another name: a link where that is possible.
pub fn install(simulator: &Path, folder: &Path, name: &str) -> io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let to = folder.join(name);
    if !to.exists() && std::fs::hard_link(simulator, &to).is_err() {
        std::fs::copy(simulator, &to)?;
    }
    Ok(to)
}
