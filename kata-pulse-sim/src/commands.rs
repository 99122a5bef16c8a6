//! Carries out what [`crate::control`] was told.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::burn::{Burn, BurnTruth};
use crate::control::{BurnOptions, Create, Reply, Request, StormKind, StormOptions};
use crate::fault::AnyFault;
use crate::kind::{Runtime, SimError};
use crate::launch::Processes;
use crate::node::{Node, SandboxSpec};
use crate::storm::{self, Storm};
use crate::usage::ProcessUsage;

#[derive(Debug)]
pub(crate) struct Commander {
    node: Arc<Node>,
    simulator: PathBuf,
    next: AtomicU64,
}

impl Commander {
    pub(crate) fn new(node: Arc<Node>, simulator: PathBuf, first: u64) -> Self {
        Self { node, simulator, next: AtomicU64::new(first) }
    }

    pub(crate) async fn carry_out(&self, request: Request) -> Reply {
        match self.done(request).await {
            Ok(text) => Reply::Done(text),
            Err(error) => Reply::Failed(with_causes(&error)),
        }
    }

    async fn done(&self, request: Request) -> Result<String, SimError> {
        let node = &self.node;
        match request {
            Request::List => Ok(self.list()),
            Request::Create(create) => self.create(create).await,
            Request::Remove { sandbox } => node.remove(&self.find(&sandbox)?).await.map(|()| "removed".to_owned()),
            Request::Crash { sandbox } => node.crash(&self.find(&sandbox)?).await.map(|()| "crashed".to_owned()),
            Request::Fault { sandbox, fault } => self.fault(&self.find(&sandbox)?, fault.parse()?),
            Request::Hang { sandbox } => {
                drop(node.hang(&self.find(&sandbox)?)?);
                Ok("it hangs".to_owned())
            }
            Request::Heal { sandbox } => {
                node.set_fault(&self.find(&sandbox)?, None)?;
                Ok("healed".to_owned())
            }
            Request::Burn(options) => self.burn(&options),
            Request::Rest { sandbox } => node.stop_burning(&self.find(&sandbox)?).map(|truth| told(&truth)),
            Request::Usage { sandbox } => node.usage(&sandbox).map(|usages| account(&usages)),
            Request::Storm(options) => blow(options).await,
            Request::Forge { sandbox, seconds } => self.forge(&self.find(&sandbox)?, seconds).await,
        }
    }

    /// By id, by the beginning or end of one, by pod: exactly one must fit.
    fn find(&self, name: &str) -> Result<String, SimError> {
        let left: Vec<String> = self.node.leftovers().keys().cloned().collect();
        let sandboxes = self.node.lock();
        if sandboxes.contains_key(name) || left.iter().any(|id| id == name) {
            return Ok(name.to_owned());
        }
        let by_pod =
            sandboxes.iter().filter(|(_, sandbox)| sandbox.spec.pod.as_ref().is_some_and(|pod| pod.name == name));
        let by_id = sandboxes.keys().chain(&left).filter(|id| id.starts_with(name) || id.ends_with(name));
        let mut fitting: Vec<&String> = by_pod.map(|(id, _)| id).collect();
        if fitting.is_empty() && !name.is_empty() {
            fitting.extend(by_id);
        }
        match fitting[..] {
            [id] => Ok(id.clone()),
            [] => Err(SimError::UnknownSandbox(name.to_owned())),
            _ => Err(SimError::Ambiguous(name.to_owned(), fitting.len())),
        }
    }

    fn list(&self) -> String {
        let mut text = String::new();
        for id in self.node.ids() {
            let requests = self.node.requests(&id).unwrap_or_default();
            let pids = self.node.pids(&id).unwrap_or_default();
            let pids: Vec<String> = pids.iter().map(|(role, pid)| format!("{role}={pid}")).collect();
            let sandboxes = self.node.lock();
            let Some(sandbox) = sandboxes.get(&id) else { continue };
            let pod = sandbox.spec.pod.as_ref().map_or("-", |pod| pod.name.as_str());
            let _ = writeln!(text, "{id} {} {pod} {requests} {}", sandbox.spec.kind, pids.join(","));
        }
        for id in self.node.leftovers().keys() {
            let _ = writeln!(text, "{id} leftover");
        }
        text
    }

    async fn create(&self, create: Create) -> Result<String, SimError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut spec = SandboxSpec::numbered(number, create.kind.parse()?);
        spec.variant = create.variant();
        spec.agent = create.agent;
        spec.processes = create.processes.then(|| Processes::of(&self.simulator));
        if create.no_pod {
            spec.pod = None;
        }
        if let Some(id) = create.id {
            // It becomes part of paths.
            let plain = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
            let known = self.node.ids().contains(&id);
            if known || !id.starts_with(|first: char| first.is_ascii_alphanumeric()) || !id.chars().all(plain) {
                return Err(SimError::BadId(id));
            }
            spec.id = id;
        }
        let id = spec.id.clone();
        self.node.create(spec).await?;
        Ok(id)
    }

    fn fault(&self, id: &str, fault: AnyFault) -> Result<String, SimError> {
        match fault {
            AnyFault::Shim(fault) => self.node.set_fault(id, Some(fault))?,
            AnyFault::Agent(fault) => self.node.set_agent_fault(id, Some(fault))?,
        }
        Ok("it fails".to_owned())
    }

    fn burn(&self, options: &BurnOptions) -> Result<String, SimError> {
        let burn = Burn {
            vcpu_user: options.cpus,
            threads: options.threads,
            vmm_io_bytes_per_second: options.io_bytes_per_second,
            resident_bytes: options.resident_bytes,
            ..Burn::default()
        };
        self.node.burn(&self.find(&options.sandbox)?, &burn)?;
        Ok("it burns".to_owned())
    }

    async fn forge(&self, victim: &str, seconds: u64) -> Result<String, SimError> {
        let folder = self.node.root().join("forger");
        let (base, victim) = (self.node.base(Runtime::Go), victim.to_owned());
        blocking(move || {
            std::fs::create_dir_all(&base)?;
            let mut forger = storm::forge(&folder, &base, &victim)?;
            let forged = watch(&mut forger, Duration::from_secs(seconds));
            let _ = forger.kill();
            forger.wait()?;
            forged.map(|()| format!("forged for {seconds} s"))
        })
        .await
    }
}

/// An early end is a failure.
fn watch(forger: &mut Child, longest: Duration) -> std::io::Result<()> {
    let started = Instant::now();
    while started.elapsed() < longest {
        if let Some(status) = forger.try_wait()? {
            return Err(std::io::Error::other(format!("the forger ended ({status}): it needs root and unshare")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

async fn blow(options: StormOptions) -> Result<String, SimError> {
    blocking(move || blown(&options)).await
}

/// A storm by its options, and what it came to.
pub fn blown(options: &StormOptions) -> std::io::Result<String> {
    let storm = match options.kind {
        StormKind::Exec => Storm::Exec,
        StormKind::Mkdir => Storm::Mkdir,
        StormKind::Syscall => Storm::Syscall,
    };
    let (done, took) = storm::blow(storm, &options.folder, options.count, Duration::from_secs(options.seconds))?;
    Ok(format!("{done} in {took:?}: {:.0} a second", done as f64 / took.as_secs_f64()))
}

async fn blocking(work: impl FnOnce() -> std::io::Result<String> + Send + 'static) -> Result<String, SimError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(SimError::io("make noise in", "/tmp"))
}

fn told(truth: &BurnTruth) -> String {
    format!(
        "{:.2} s of CPU in {:.2} s, {} bytes written, {} bytes resident",
        truth.cpu_seconds(),
        truth.seconds,
        truth.written_bytes,
        truth.resident_bytes
    )
}

fn account(usages: &[ProcessUsage]) -> String {
    let mut text = String::new();
    for usage in usages {
        let (user, system) = (usage.user_seconds, usage.system_seconds);
        let _ = write!(text, "{} {}: {user:.3} s user, {system:.3} s system", usage.role, usage.pid);
        if let Some(io) = usage.io {
            let _ = write!(text, ", {} bytes read, {} written", io.read_bytes, io.written_bytes);
        }
        let _ = writeln!(text, ", {} bytes at most, {}", usage.peak_rss_bytes, usage.status());
    }
    text
}

fn with_causes(error: &SimError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        let _ = write!(text, ": {deeper}");
        cause = deeper.source();
    }
    text
}
