//! exec, fork and exit under a hypervisor's name.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
};

use anyhow::{Context, ensure};
use kata_pulse_probe::ebpf::{Account, EbpfWatch, ExitStatus, KernelEvent, Origin, Program};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    child::FLAG,
    report::{Report, arrivals},
};

/// CPU time that a process is to use.
const BURN_MS: u64 = 60;

pub async fn check(watch: &mut EbpfWatch, place: &Path, no_btf: bool, report: &mut Report) {
    let vmm = match install(place) {
        Ok(vmm) => vmm,
        Err(error) => return report.check("install a file named qemu-system-x86_64", Err(error)),
    };
    if watch.sees("exit") {
        let result = code_and_argv(watch, &vmm, no_btf).await;
        report.check("exec with argv, exit with code", result);
        if no_btf {
            report.skip("what a process used", "without BTF nobody can say where the kernel keeps it");
        } else {
            report.check("what a process used", used(watch, &vmm).await);
        }
        report.check("exit by signal", signal(watch, &vmm, no_btf).await);
        report.check("threads that end are no process that ends", threads(watch, &vmm).await);
        report.check("a process that a tracked one forks", forked(watch, &vmm).await);
        report.check("a process tracked by its pid", tracked(watch).await);
    } else {
        report.require("what is forked is not followed", !watch.sees("fork"), "it could never be forgotten");
        report.check("the end of another's process by pidfd", by_pidfd(watch, &vmm).await);
    }
    report.check("other programs are not reported", unrelated(watch, place).await);
    if no_btf {
        report.skip("exec forged in another mount namespace", "without BTF only pid namespaces are told apart");
    } else {
        report.check("exec forged in another mount namespace", forged(watch, &vmm).await);
    }
}

fn install(place: &Path) -> anyhow::Result<PathBuf> {
    let vmm = place.join("qemu-system-x86_64");
    std::fs::copy(std::env::current_exe()?, &vmm)?;
    Ok(vmm)
}

fn spawn(vmm: &Path, id: &str, words: &[&str]) -> anyhow::Result<Child> {
    let mut command = Command::new(vmm);
    command.args(["-name", id, FLAG]).args(words);
    command.spawn().context("start the child")
}

async fn run(watch: &mut EbpfWatch, vmm: &Path, id: &str, words: &[&str]) -> anyhow::Result<(u32, Vec<KernelEvent>)> {
    let mut child = spawn(vmm, id, words)?;
    let pid = child.id();
    child.wait()?;
    Ok((pid, arrivals(watch).await))
}

fn exits(events: &[KernelEvent], pid: u32) -> Vec<Option<ExitStatus>> {
    let of = events.iter().filter_map(|event| match event {
        KernelEvent::Exit { process, status, .. } if process.pid == pid => Some(*status),
        _ => None,
    });
    of.collect()
}

async fn code_and_argv(watch: &mut EbpfWatch, vmm: &Path, no_btf: bool) -> anyhow::Result<()> {
    let (pid, events) = run(watch, vmm, "sandbox-abc,debug-threads=on", &["exit", "3"]).await?;
    let exec = events.iter().find_map(|event| match event {
        KernelEvent::Exec { process, program, file, argv } if process.pid == pid => {
            Some((process, program, file, argv))
        }
        _ => None,
    });
    let (process, program, file, argv) = exec.with_context(|| format!("no exec event in {events:?}"))?;
    ensure!(*program == Program::Hypervisor && process.comm == b"qemu-system-x86", "{process:?} {program:?}");
    ensure!(Path::new(std::str::from_utf8(file)?) == vmm, "file is {:?}", String::from_utf8_lossy(file));
    ensure!(process.origin == Origin::Host && process.boot_ns > 0, "{process:?}");
    if !no_btf {
        ensure!(argv.get(2).is_some_and(|id| id == b"sandbox-abc,debug-threads=on"), "argv is {argv:?}");
        ensure!(process.parent == std::process::id() && process.start_boot_ns > 0, "{process:?}");
    }
    let expected = if no_btf { None } else { Some(ExitStatus::Code(3)) };
    ensure!(exits(&events, pid) == [expected], "{:?}", exits(&events, pid));
    Ok(())
}

/// As the agent does where the kernel's programs do not tell it: at once, and before anybody waited for the process.
async fn by_pidfd(watch: &mut EbpfWatch, vmm: &Path) -> anyhow::Result<()> {
    let mut child = spawn(vmm, "sandbox-abc", &["hang"])?;
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).context("a pid")?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK)?;
    let ready = |seconds| {
        let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })).map(|count| count == 1)
    };
    ensure!(!ready(0)?, "it lives");
    child.kill()?;
    ensure!(ready(5)?, "its end was not told");
    child.wait()?;
    let events = arrivals(watch).await;
    let exits = events.iter().filter(|event| matches!(event, KernelEvent::Exit { .. }));
    ensure!(exits.count() == 0, "told by a program that cannot know: {events:?}");
    Ok(())
}

/// By its own clock, and again when it is released.
async fn used(watch: &mut EbpfWatch, vmm: &Path) -> anyhow::Result<()> {
    let (pid, events) = run(watch, vmm, "sandbox-abc", &["burn", &BURN_MS.to_string()]).await?;
    let at_exit = events.iter().find_map(|event| match event {
        KernelEvent::Exit { process, account, .. } if process.pid == pid => *account,
        _ => None,
    });
    let at_release = events.iter().find_map(|event| match event {
        KernelEvent::Released { process, account, .. } if process.pid == pid => *account,
        _ => None,
    });
    let (first, last) = (at_exit.context("no account at its exit")?, at_release.context("none at its release")?);
    let ns = |account: &Account| account.user_ns + account.system_ns + account.guest_ns;
    println!("     burnt {BURN_MS} ms: {} us at its exit, {} us at its release", ns(&first) / 1000, ns(&last) / 1000);
    // Its threads are four; a clock tick is at most 10 ms.
    ensure!(ns(&first) + 10_000_000 >= BURN_MS * 1_000_000 && ns(&last) >= BURN_MS * 1_000_000, "{first:?} {last:?}");
    ensure!(ns(&last) >= ns(&first) && last.is_final && !first.is_final, "{first:?} {last:?}");
    ensure!(last.minor_faults > 0 && last.peak_rss > 0 && last.voluntary_switches > 0, "{last:?}");
    ensure!(last.io.is_none_or(|io| io.read_calls > 0), "{last:?}");
    Ok(())
}

async fn signal(watch: &mut EbpfWatch, vmm: &Path, no_btf: bool) -> anyhow::Result<()> {
    let mut child = spawn(vmm, "sandbox-abc", &["hang"])?;
    let before = arrivals(watch).await;
    ensure!(exits(&before, child.id()).is_empty(), "it ended: {before:?}");
    child.kill()?;
    child.wait()?;
    let events = arrivals(watch).await;
    let expected = if no_btf { None } else { Some(ExitStatus::Signal(9)) };
    ensure!(exits(&events, child.id()) == [expected], "{events:?}");
    Ok(())
}

async fn threads(watch: &mut EbpfWatch, vmm: &Path) -> anyhow::Result<()> {
    let (pid, events) = run(watch, vmm, "sandbox-abc", &["threads", "0"]).await?;
    ensure!(exits(&events, pid).len() == 1, "{events:?}");
    let is_its = |event: &&KernelEvent| matches!(event, KernelEvent::Fork { process, may_be_thread: false } if process.parent == pid);
    let forks = events.iter().filter(is_its);
    ensure!(forks.count() == 0, "threads reported as processes: {events:?}");
    Ok(())
}

async fn forked(watch: &mut EbpfWatch, vmm: &Path) -> anyhow::Result<()> {
    let (pid, events) = run(watch, vmm, "sandbox-abc", &["fork", "4"]).await?;
    let child = events.iter().find_map(|event| match event {
        KernelEvent::Fork { process, .. } if process.parent == pid => Some(process.pid),
        _ => None,
    });
    let child = child.with_context(|| format!("no fork event in {events:?}"))?;
    ensure!(exits(&events, child).len() == 1 && exits(&events, pid).len() == 1, "{events:?}");
    Ok(())
}

/// As the agent does with what it finds in /proc.
async fn tracked(watch: &mut EbpfWatch) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.args([FLAG, "hang"]).spawn()?;
    arrivals(watch).await;
    watch.track(child.id(), 0)?;
    child.kill()?;
    child.wait()?;
    let events = arrivals(watch).await;
    ensure!(exits(&events, child.id()).len() == 1, "{events:?}");
    Ok(())
}

async fn unrelated(watch: &mut EbpfWatch, place: &Path) -> anyhow::Result<()> {
    let other = place.join("other");
    std::fs::copy(std::env::current_exe()?, &other)?;
    let (pid, events) = run(watch, &other, "sandbox-abc", &["exit", "0"]).await?;
    let seen = events.iter().any(|event| matches!(event, KernelEvent::Exec { process, .. } if process.pid == pid));
    ensure!(!seen && exits(&events, pid).is_empty(), "{events:?}");
    Ok(())
}

async fn forged(watch: &mut EbpfWatch, vmm: &Path) -> anyhow::Result<()> {
    let file = vmm.to_str().context("the path is text")?;
    let mut command = Command::new(std::env::current_exe()?);
    let status = command.args([FLAG, "forge-exec", file, "sandbox-victim"]).status()?;
    ensure!(status.success(), "the forger failed: {status}");
    let events = arrivals(watch).await;
    // Whatever else the machine does is not the forger's.
    let is_its = |argv: &[Vec<u8>]| argv.iter().any(|word| word == b"sandbox-victim");
    let forged = |event: &&KernelEvent| matches!(event, KernelEvent::Exec { argv, .. } if is_its(argv));
    let origins: Vec<Origin> = events.iter().filter(forged).map(KernelEvent::origin).collect();
    ensure!(origins == [Origin::Foreign], "{events:?}");
    Ok(())
}
