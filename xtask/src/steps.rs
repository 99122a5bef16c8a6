//! Running commands: from the workspace's root, with progress, each to its own log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// A step that says nothing for this long is reported as still running.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The cargo that started us.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// This binary with another command.
pub fn xtask(args: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("path of xtask")?);
    command.args(args);
    Ok(command)
}

/// Runs with our own input and output; an error if it fails.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{} {:?}: {status}", command.get_program().display(), command.get_args());
    }
    Ok(())
}

/// How a logged step went.
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

/// Runs a step with all its output in `target/xtask/<name>.log`.
pub fn logged(name: &'static str, command: &mut Command) -> anyhow::Result<Outcome> {
    let log = root().join("target/xtask").join(format!("{name}.log"));
    fs::create_dir_all(root().join("target/xtask"))?;
    let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    println!("==> {name}");
    let (started, mut reported) = (Instant::now(), Instant::now());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if reported.elapsed() >= HEARTBEAT {
            reported = Instant::now();
            println!("    {name}: {} s, at: {}", started.elapsed().as_secs(), last_line(&log));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let outcome = Outcome { name, success: status.success(), took: started.elapsed(), log };
    let word = if outcome.success { "ok" } else { "FAILED" };
    println!("    {name}: {word} after {:.1} s", outcome.took.as_secs_f64());
    Ok(outcome)
}

fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().last().unwrap_or("").trim().chars().take(100).collect()
}
