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
use crate::sandbox::{EventSource, Pid, ProcessExit};

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

/// A process that is to be looked at.
#[derive(Debug)]
pub struct Subject {
    pub hint: Hint,
    pub outline: Outline,
    /// What the kernel's programs told of it when it became this program: that is believed when it ends too soon.
    pub told: Option<ProcessFacts>,
    /// It ended before anybody looked.
    pub is_gone: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Looked {
    pid: Pid,
    hint: Hint,
    facts: Option<ProcessFacts>,
    is_gone: bool,
}

/// The end of a process, told while it was looked at.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub start_ticks: Option<u64>,
    pub exit: ProcessExit,
    pub hint: Hint,
}

/// A look that is done: judge the facts, then let the end follow.
#[derive(Debug)]
pub struct Done {
    pub pid: Pid,
    pub hint: Hint,
    pub facts: Option<ProcessFacts>,
    /// The facts are what the kernel's programs told.
    pub is_gone: bool,
    pub ended: Option<Ended>,
}

#[derive(Debug)]
pub struct Looks {
    host: HostPaths,
    reads: MemoryReads,
    under_way: HashMap<Pid, Option<Ended>>,
    waiting: Vec<(Subject, Option<Ended>)>,
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
    pub fn wait(&mut self, subject: Subject, ended: Option<Ended>) -> bool {
        let room = self.waiting.len() < MAX_WAITING;
        if room {
            self.waiting.push((subject, ended));
        }
        room
    }

    /// Must be called inside the runtime.
    pub fn begin(&mut self, subject: Subject, ended: Option<Ended>) {
        let Subject { hint, outline, told, is_gone } = subject;
        let pid = outline.pid;
        self.under_way.insert(pid, ended);
        let (host, reads, done) = (self.host.clone(), self.reads.clone(), self.done.clone());
        tokio::spawn(async move {
            let read = if is_gone { None } else { read(&host, outline, reads).await };
            let is_gone = is_gone || read.is_none() && told.as_ref().is_some_and(|told| has_ended(&host, told));
            let facts = read.or(told.filter(|_| is_gone));
            // The receiver is gone only when the agent stops.
            let _ = done.send(Looked { pid, hint, facts, is_gone }).await;
        });
    }

    /// Keeps the end of a process that is being looked at, which would be none of ours yet.
    pub fn ended(&mut self, pid: Pid, ended: Ended) {
        if let Some(kept) = self.under_way.get_mut(&pid) {
            keep(kept, ended);
        }
        for (subject, kept) in &mut self.waiting {
            if subject.outline.pid == pid && ended.start_ticks.is_none_or(|start| start == subject.outline.start_ticks)
            {
                keep(kept, ended);
            }
        }
    }

    /// A process has become one of Kata's programs: what was told before as its end, that it became another one, was a
    /// step on the way.
    pub fn lives_on(&mut self, pid: Pid) {
        if let Some(kept) = self.under_way.get_mut(&pid) {
            *kept = None;
        }
        self.waiting.iter_mut().filter(|(subject, _)| subject.outline.pid == pid).for_each(|(_, kept)| *kept = None);
    }

    pub fn finish(&mut self, looked: Looked) -> Done {
        let ended = self.under_way.remove(&looked.pid).flatten();
        Done { pid: looked.pid, hint: looked.hint, facts: looked.facts, is_gone: looked.is_gone, ended }
    }

    /// Those that waited, in their order.
    pub fn take_waiting(&mut self) -> Vec<(Subject, Option<Ended>)> {
        std::mem::take(&mut self.waiting)
    }
}

/// What cannot be read now, the next scan tries again.
async fn read(host: &HostPaths, outline: Outline, reads: MemoryReads) -> Option<ProcessFacts> {
    let host = host.clone();
    let reading = tokio::task::spawn_blocking(move || process::read_facts(&host, outline, &reads));
    tokio::time::timeout(PATIENCE, reading).await.ok()?.ok()?.ok()?
}

fn has_ended(host: &HostPaths, told: &ProcessFacts) -> bool {
    process::is_running(host, told.outline.pid, told.outline.start_ticks).is_ok_and(|running| !running)
}

/// The end may be told in parts.
fn keep(kept: &mut Option<Ended>, ended: Ended) {
    match kept {
        Some(before) if before.start_ticks == ended.start_ticks => before.exit.learn(ended.exit),
        _ => *kept = Some(ended),
    }
}
