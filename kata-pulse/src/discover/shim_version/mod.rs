//! Which Kata release a running shim is. Two signs, the cheap one first: the `VERSION` file of its release
//! (`release`); where there is none, what the runtime's own configured shim says of itself (`ask`).
//!
//! In: the sandboxes, and the programs that the container runtime's configuration names. Out: versions. A task of its
//! own, since it may wait for a program; each program is asked once for as long as its file stays what it is.

mod ask;
pub(super) mod release;
mod trusted;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tracing::{debug, info};

pub use ask::parse;

use super::process;
use crate::config::HostPaths;
use crate::sandbox::{Process, ProcessRole, Runtime, Sandbox, SandboxId, Snapshot, Version};

/// No node has so many releases at once.
const MAX_PROGRAMS: usize = 64;

/// One version, for the shim that was running when it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub sandbox: SandboxId,
    pub shim: Process,
    pub version: Version,
}

/// What a program says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub runtime: Runtime,
    pub version: Version,
}

/// A file as it is now: replaced or changed, it is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FileKey {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A configured program that is the very file a shim runs, open.
struct Found {
    program: OwnedFd,
    path: PathBuf,
    key: FileKey,
}

/// Runs until a channel closes. `configured`: absolute paths on the host.
pub async fn run(
    host: HostPaths,
    mut configured: watch::Receiver<Arc<[PathBuf]>>,
    mut snapshots: watch::Receiver<Snapshot>,
    out: mpsc::Sender<Told>,
) {
    let mut asker = Asker { host, answers: HashMap::new(), of_shims: HashMap::new() };
    loop {
        let programs = configured.borrow_and_update().clone();
        let snapshot = snapshots.borrow_and_update().clone();
        asker
            .of_shims
            .retain(|shim, _| snapshot.values().any(|sandbox| sandbox.process(ProcessRole::Shim) == Some(shim)));
        for sandbox in snapshot.values().filter(|sandbox| sandbox.shim_version.is_none()) {
            let Some(told) = asker.version_of(sandbox, &programs).await else { continue };
            if out.send(told).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = configured.changed() => match changed {
                Ok(()) => asker.of_shims.clear(),
                Err(_) => return,
            },
            changed = snapshots.changed() => if changed.is_err() { return },
        }
    }
}

struct Asker {
    host: HostPaths,
    answers: HashMap<FileKey, Option<Answer>>,
    of_shims: HashMap<Process, Option<Answer>>,
}

impl Asker {
    async fn version_of(&mut self, sandbox: &Sandbox, programs: &Arc<[PathBuf]>) -> Option<Told> {
        let shim = *sandbox.process(ProcessRole::Shim)?;
        let answer = match self.of_shims.get(&shim) {
            Some(answer) => *answer,
            None if programs.is_empty() => return None,
            None => {
                let answer = self.ask(shim, programs).await;
                self.of_shims.insert(shim, answer);
                answer
            }
        }?;
        // A program that says it is the other runtime is not what this sandbox's directory says.
        let fits = sandbox.runtime.is_none_or(|runtime| runtime == answer.runtime);
        fits.then(|| Told { sandbox: sandbox.id.clone(), shim, version: answer.version })
    }

    async fn ask(&mut self, shim: Process, programs: &Arc<[PathBuf]>) -> Option<Answer> {
        let (host, programs) = (self.host.clone(), programs.clone());
        let found = tokio::task::spawn_blocking(move || find(&host, shim, &programs)).await.ok()??;
        if let Some(known) = self.answers.get(&found.key) {
            return *known;
        }
        let answer = ask::version(&found.program, &found.path).await;
        match answer {
            Some(answer) => {
                info!(program = %found.path.display(), version = %answer.version, runtime = answer.runtime.as_str(), "shim told its version");
            }
            None => info!(program = %found.path.display(), "the configured shim does not tell its version here"),
        }
        if self.answers.len() >= MAX_PROGRAMS {
            self.answers.clear();
        }
        self.answers.insert(found.key, answer);
        answer
    }
}

/// The configured program that `shim` runs, if only root can have put it there.
fn find(host: &HostPaths, shim: Process, programs: &[PathBuf]) -> Option<Found> {
    let running = std::fs::metadata(host.proc_file(shim.pid, "exe")).ok()?;
    // Where the host's files are seen, also from within a container.
    let root = host.proc_file(shim.pid, "root");
    let found = programs.iter().find_map(|path| same_file(&root, path, &running))?;
    let lives_on_the_host = process::read_mount_namespace(host, shim.pid)
        .is_some_and(|namespace| process::read_host_mount_namespace(host) == Some(namespace));
    // The pid is the shim's after all that, so it was before.
    let is_the_shim = process::is_running(host, shim.pid, shim.start_ticks).unwrap_or(false);
    (lives_on_the_host && is_the_shim).then_some(found)
}

fn same_file(root: &Path, path: &Path, running: &std::fs::Metadata) -> Option<Found> {
    let program = match trusted::open(root, path) {
        Ok(program) => program,
        Err(error) => {
            debug!(program = %path.display(), error = &error as &dyn std::error::Error, "configured shim is not asked");
            return None;
        }
    };
    let stat = rustix::fs::fstat(&program).ok()?;
    if (stat.st_dev, stat.st_ino) != (running.dev(), running.ino()) {
        return None;
    }
    let key = FileKey {
        device: running.dev(),
        inode: running.ino(),
        modified: (running.mtime(), running.mtime_nsec()),
        changed: (running.ctime(), running.ctime_nsec()),
    };
    Some(Found { program, path: path.to_owned(), key })
}
