//! What the simulator's own program does under another name: Kata's shim, a VMM, Firecracker's jailer, virtiofsd.
//!
//! In: its name, and orders on its standard input (see `channel.rs`). Each ends when that channel closes; one that was
//! started without a channel ends with its parent. Cost while idle: one blocked thread each.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, Uid, set_child_subreaper, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};
use rustix::thread::set_thread_uid;
use serde::{Deserialize, Serialize};

use crate::burn::{Burn, BurnTruth, Burning};
use crate::channel::Channel;
use crate::children::Children;
use crate::usage::ProcessUsage;

pub use crate::process::{Helper, ShimProcess, install};

/// Marks the worker among two processes with equal arguments.
const WORKER: &str = "KATA_PULSE_SIM_WORKER";
/// Tells the jailer where the program lies in the jail.
pub(crate) const JAILED: &str = "KATA_PULSE_SIM_JAILED";
/// Tells a VMM to lead a session of its own.
const DAEMON: &str = "KATA_PULSE_SIM_DAEMON";
/// Tells a VMM whose it is to be.
pub(crate) const USER: &str = "KATA_PULSE_SIM_USER";

/// A program that a shim starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

/// What a simulated process is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// To a shim: the descriptor, if any, becomes the program's standard input; without one it ends with the shim.
    Start(Start),
    /// To a shim: the descriptor is a bound socket; who listens is who a peer sees.
    Listen,
    /// To a shim: become the parent of what its children leave behind.
    Adopt,
    /// To a shim: wait for these, as far as they are its children, and tell what all that have ended used.
    Reap(Vec<u32>),
    /// To a shim: end as a panic in runtime-rs does.
    Abort,
    /// To a shim: end as runtime-rs does when the guest's agent is lost.
    Exit,
    Burn(Burn),
    Stop,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    Started(u32),
    Truth(BurnTruth),
    Ended(Vec<ProcessUsage>),
    Failed(String),
}

/// What a VMM or virtiofsd of the simulator says first.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) pid: u32,
    pub(crate) worker: Option<u32>,
}

/// What this process is to play, told by its own name; `None`: it is the simulator itself.
pub fn play() -> Option<ExitCode> {
    let name = std::env::args().next()?;
    let name = Path::new(&name).file_name()?.to_str()?.to_owned();
    let vmms = ["qemu-system-", "cloud-hypervisor", "firecracker", "openvmm", "stratovirt"];
    let played = match name.as_str() {
        "containerd-shim-kata-v2" => shim(),
        "virtiofsd" | "nydusd" => file_server(),
        "jailer" => jailer(),
        _ if vmms.iter().any(|vmm| name.starts_with(vmm)) => vmm(&name),
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

/// Names of vCPU threads (kata.md 4.4); QEMU's have the process's name unless it debugs, and cannot be told apart.
fn vcpu_name(program: &str, number: u32) -> Option<String> {
    match program {
        "containerd-shim-kata-v2" => Some(format!("db_vcpu{number}")),
        _ if program.starts_with("cloud-hypervisor") => Some(format!("vcpu{number}")),
        "firecracker" => Some(format!("fc_vcpu {number}")),
        "openvmm" => Some(format!("vp-{number}")),
        _ => None,
    }
}

fn sleep_with_parent() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    sleep()
}

fn sleep() -> ! {
    loop {
        std::thread::park();
    }
}

fn shim() -> io::Result<()> {
    match Channel::inherited() {
        Some(channel) => obey(&channel, "containerd-shim-kata-v2"),
        None => sleep_with_parent(),
    }
}

fn vmm(name: &str) -> io::Result<()> {
    let Some(channel) = Channel::inherited() else { return sleep_with_parent() };
    if std::env::var_os(DAEMON).is_some() {
        rustix::process::setsid()?;
    }
    if let Ok(user) = std::env::var(USER) {
        become_user(user.parse().map_err(io::Error::other)?)?;
    }
    channel.send(&Hello { pid: std::process::id(), worker: None }, None)?;
    obey(&channel, name)
}

/// While there is one thread, its user is the process's. What /proc says of it belongs to that user as well, as it
/// does when the user is changed before the program starts.
fn become_user(user: u32) -> io::Result<()> {
    set_thread_uid(Uid::from_raw(user))?;
    Ok(set_dumpable_behavior(DumpableBehavior::Dumpable)?)
}

/// Until the channel closes.
fn obey(channel: &Channel, name: &str) -> io::Result<()> {
    let (mut burning, children) = (None, Children::default());
    while let Some((order, descriptor)) = channel.receive()? {
        let answer = carry_out(order, descriptor, name, &mut burning, &children);
        channel.send(&answer.unwrap_or_else(|error| Answer::Failed(error.to_string())), None)?;
    }
    Ok(())
}

fn carry_out(
    order: Order,
    descriptor: Option<OwnedFd>,
    name: &str,
    burning: &mut Option<Burning>,
    children: &Children,
) -> io::Result<Answer> {
    match order {
        Order::Start(program) => start(&program, descriptor, children).map(Answer::Started),
        Order::Adopt => {
            set_child_subreaper(Some(rustix::process::getpid()))?;
            Ok(Answer::Done)
        }
        Order::Reap(pids) => children.reap(&pids).map(Answer::Ended),
        Order::Listen => {
            let socket = descriptor.ok_or_else(|| io::Error::other("no socket to listen on"))?;
            rustix::net::listen(&socket, 1024)?;
            Ok(Answer::Done)
        }
        Order::Abort => {
            setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
            std::process::abort()
        }
        Order::Exit => std::process::exit(1),
        Order::Burn(burn) => {
            if let Some(before) = burning.take() {
                before.stop()?;
            }
            *burning = Some(Burning::start(&burn, |number| vcpu_name(name, number))?);
            Ok(Answer::Done)
        }
        Order::Stop => {
            let burning = burning.take().ok_or_else(|| io::Error::other("nothing burns"))?;
            burning.stop().map(Answer::Truth)
        }
    }
}

/// A program of the simulator's lives by its channel; any other by setpriv, which becomes it. It is that when this
/// returns: before, it could outlive us.
fn start(start: &Start, channel: Option<OwnedFd>, children: &Children) -> io::Result<u32> {
    let by_setpriv = channel.is_none();
    let mut command = match channel {
        Some(channel) => {
            let mut command = Command::new(&start.program);
            command.stdin(Stdio::from(channel));
            command
        }
        None => {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(&start.program).stdin(Stdio::null());
            command
        }
    };
    let environment = start.environment.iter().map(|(name, value)| (name, value));
    let pid = command.args(&start.arguments).envs(environment).stdout(Stdio::null()).spawn()?.id();
    children.follow(pid);
    let executable = format!("/proc/{pid}/exe");
    while by_setpriv && std::fs::read_link(&executable)?.ends_with("setpriv") {
        std::thread::yield_now();
    }
    Ok(pid)
}

/// The parent only waits; its worker has the same arguments and ends with it.
fn file_server() -> io::Result<()> {
    if let Some(parent) = std::env::var_os(WORKER) {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // One that ended before that sends no signal any more.
        if parent.to_str() == Some(&parent_id().to_string()) {
            sleep()
        }
        return Ok(());
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args().skip(1)).env(WORKER, std::process::id().to_string()).stdin(Stdio::null());
    let worker = command.spawn()?;
    let Some(channel) = Channel::inherited() else { return sleep_with_parent() };
    channel.send(&Hello { pid: std::process::id(), worker: Some(worker.id()) }, None)?;
    obey(&channel, "virtiofsd")
}

/// Firecracker's: with `--daemonize` the program is nobody's child, else the jailer becomes it.
fn jailer() -> io::Result<()> {
    let jailed = std::env::var_os(JAILED).ok_or_else(|| io::Error::other("no program in the jail"))?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (own, theirs) = match arguments.iter().position(|argument| argument == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (&arguments[..], &[][..]),
    };
    let id = own.iter().skip_while(|argument| *argument != "--id").nth(1).map_or("", String::as_str);
    let times = ["--start-time-us", "1", "--start-time-cpu-us", "1", "--parent-cpu-time-us", "1"];
    let mut command = Command::new(jailed);
    command.arg0("/firecracker").args(["--id", id]).args(times).args(theirs);
    if own.iter().any(|argument| argument == "--daemonize") {
        command.env(DAEMON, "1").spawn().map(drop)
    } else {
        Err(command.exec())
    }
}
