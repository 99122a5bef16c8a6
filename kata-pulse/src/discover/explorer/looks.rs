//! Looks at single processes, off the discovery task: reading a process's arguments may hang.
//!
//! In: hints with the outline of their process. Out: [`Looked`], by channel, in the order in which the reads end. A look
//! at a process whose parent is still being looked at waits for it: the parent may be what proves it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::HostPaths;
use crate::discover::memory::MemoryReads;
use crate::discover::process::{self, Outline, ProcessFacts};
use crate::sandbox::{EventSource, ExitStatus, Pid};

/// A process that cannot be read within this is left to the scan.
const PATIENCE: Duration = Duration::from_secs(1);
/// Looks under way, each on a thread, and looks that wait.
const MAX_LOOKS: usize = 8;
const MAX_WAITING: usize = 4096;

/// Why a process is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Hint {
    pub source: EventSource,
    pub at_boot: Option<Duration>,
}

/// What came of it.
#[derive(Debug)]
pub struct Looked {
    pid: Pid,
    hint: Hint,
    facts: Option<ProcessFacts>,
}

/// The end of a process, told while it was looked at.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub start_ticks: Option<u64>,
    pub status: Option<ExitStatus>,
    pub hint: Hint,
}

/// A look that is done: judge the facts, then let the end follow.
#[derive(Debug)]
pub struct Done {
    pub pid: Pid,
    pub hint: Hint,
    pub facts: Option<ProcessFacts>,
    pub ended: Option<Ended>,
}

#[derive(Debug)]
pub struct Looks {
    host: HostPaths,
    reads: MemoryReads,
    under_way: HashMap<Pid, Option<Ended>>,
    waiting: Vec<(Hint, Outline)>,
    done: mpsc::Sender<Looked>,
}

impl Looks {
    pub fn new(host: HostPaths, done: mpsc::Sender<Looked>) -> Self {
        Self { host, reads: MemoryReads::default(), under_way: HashMap::new(), waiting: Vec::new(), done }
    }

    pub fn reads(&self) -> &MemoryReads {
        &self.reads
    }

    pub fn is_under_way(&self, pid: Pid) -> bool {
        self.under_way.contains_key(&pid)
    }

    /// Whether this one has to wait: for its parent, for an earlier look at itself, or for room.
    pub fn must_wait(&self, outline: &Outline) -> bool {
        self.under_way.len() >= MAX_LOOKS || self.is_under_way(outline.pid) || self.is_under_way(outline.parent)
    }

    /// `false`: too many wait, the scan must do.
    pub fn wait(&mut self, hint: Hint, outline: Outline) -> bool {
        let room = self.waiting.len() < MAX_WAITING;
        if room {
            self.waiting.push((hint, outline));
        }
        room
    }

    /// Must be called inside the runtime.
    pub fn begin(&mut self, hint: Hint, outline: Outline) {
        let pid = outline.pid;
        self.under_way.insert(pid, None);
        let (host, reads, done) = (self.host.clone(), self.reads.clone(), self.done.clone());
        let reading = tokio::task::spawn_blocking(move || process::read_facts(&host, outline, &reads));
        tokio::spawn(async move {
            // What cannot be read now, the next scan tries again.
            let read = tokio::time::timeout(PATIENCE, reading).await;
            let facts = read.ok().and_then(Result::ok).and_then(Result::ok).flatten();
            // The receiver is gone only when the agent stops.
            let _ = done.send(Looked { pid, hint, facts }).await;
        });
    }

    /// Keeps the end of a process that is being looked at, which would be none of ours yet.
    pub fn ended(&mut self, pid: Pid, ended: Ended) {
        if let Some(kept) = self.under_way.get_mut(&pid) {
            *kept = Some(ended);
        }
    }

    pub fn finish(&mut self, looked: Looked) -> Done {
        let ended = self.under_way.remove(&looked.pid).flatten();
        Done { pid: looked.pid, hint: looked.hint, facts: looked.facts, ended }
    }

    /// Those that waited, in their order.
    pub fn take_waiting(&mut self) -> Vec<(Hint, Outline)> {
        std::mem::take(&mut self.waiting)
    }
}
