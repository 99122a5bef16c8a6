//! A step of `cargo xtask test`: a command with progress, a log of its own and a deadline.
//!
//! It runs in a process group of its own, which ends as a whole: at the deadline, and when xtask itself is told to end,
//! since the terminal's Ctrl-C reaches only the group in front.

use std::convert::Infallible;
use std::fs::{self, File};
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::steps;

/// A step that says nothing for this long is reported as still running.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// What a group gets to clean up after SIGTERM: the simulated node has processes and directories to remove.
const GRACE: Duration = Duration::from_secs(5);

pub struct Step {
    pub name: &'static str,
    pub command: Command,
    pub deadline: Duration,
    /// The steps after it make no sense without it.
    pub needed: bool,
}

/// How a step went.
#[derive(Debug)]
pub struct Outcome {
    pub name: &'static str,
    pub success: bool,
    pub took: Duration,
    pub log: PathBuf,
}

impl Outcome {
    pub fn text(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

/// How the waiting ended.
enum End {
    /// Of its own accord.
    Exit(bool),
    Deadline,
    Told,
}

/// Runs a step with all its output in `target/xtask/<name>.log`.
pub fn run(step: Step) -> anyhow::Result<Outcome> {
    let log = steps::root().join("target/xtask").join(format!("{}.log", step.name));
    fs::create_dir_all(steps::root().join("target/xtask"))?;
    println!("==> {}", step.name);
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let end = runtime.block_on(attend(step.command, step.name, step.deadline, &log))?;
    let outcome = Outcome { name: step.name, success: matches!(end, End::Exit(true)), took: started.elapsed(), log };
    let word = match end {
        End::Exit(true) => "ok".into(),
        End::Exit(false) => "FAILED".into(),
        End::Deadline => format!("FAILED, killed at its deadline of {} s,", step.deadline.as_secs()),
        End::Told => bail!("{} was ended by a signal", step.name),
    };
    println!("    {}: {word} after {:.1} s", step.name, outcome.took.as_secs_f64());
    Ok(outcome)
}

async fn attend(command: Command, name: &str, deadline: Duration, log: &Path) -> anyhow::Result<End> {
    let mut signals =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
    let mut child = command.spawn().with_context(|| format!("start {name}"))?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("a child without a pid")?;
    let end = tokio::select! {
        status = child.wait() => return Ok(End::Exit(status?.success())),
        () = sleep(deadline) => End::Deadline,
        () = any(&mut signals) => End::Told,
        never = report(name, log) => match never {},
    };
    let _ = kill_process_group(group, Signal::TERM);
    // Its children may outlive it.
    let gone = async {
        let _ = child.wait().await;
        while test_kill_process_group(group).is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(GRACE, gone).await.is_err() {
        let _ = kill_process_group(group, Signal::KILL);
        child.wait().await?;
    }
    Ok(end)
}

async fn any(signals: &mut [Listener]) {
    poll_fn(|context| {
        let mut polled = signals.iter_mut().map(|one| one.poll_recv(context));
        if polled.any(|one| one.is_ready()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn report(name: &str, log: &Path) -> Infallible {
    let started = Instant::now();
    loop {
        sleep(HEARTBEAT).await;
        println!("    {name}: {} s, at: {}", started.elapsed().as_secs(), last_line(log));
    }
}

fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().last().unwrap_or("").trim().chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &'static str, script: &str, deadline: Duration) -> Outcome {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(Step { name, command, deadline, needed: false }).unwrap()
    }

    #[test]
    fn a_step_at_its_deadline_fails_and_ends_with_its_children() {
        let outcome = shell("test-of-deadline", "sleep 1000 & echo $!; wait", Duration::from_millis(500));
        assert!(!outcome.success && outcome.took < Duration::from_secs(10), "{outcome:?}");
        let pid = outcome.text().trim().to_owned();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(pid.parse::<u32>().is_ok() && (stat.is_empty() || stat.contains(") Z ")), "{pid}: {stat}");
    }

    #[test]
    fn the_exit_code_decides_and_all_output_is_in_the_log() {
        let minute = Duration::from_secs(60);
        let outcome = shell("test-of-success", "echo out; echo error >&2", minute);
        assert!(outcome.success && outcome.text() == "out\nerror\n", "{outcome:?}");
        assert!(!shell("test-of-failure", "exit 3", minute).success);
    }
}
