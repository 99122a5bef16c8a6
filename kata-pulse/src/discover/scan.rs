//! The full walk over base directories and `/proc`: the truth that every other source only hastens.
//!
//! Blocking, so it runs on a thread of its own. Cost: one readlink per process of the host, a few small files per
//! sandbox; see docs/overhead.md. Whoever waits for it must give it up after a while: see [`memory`](super::memory).

use tracing::{debug, warn};

use super::directory;
use super::membership::Proven;
use super::memory::MemoryReads;
use super::process::{self, Outline, ProcessError, ProcessFacts};
use super::sieve::{Refused, Sieve, Sifted};
use super::state_files;
use crate::config::HostPaths;
use crate::sandbox::{Appeared, DirectoryFacts, Pid};

/// What one walk saw. Things that changed meanwhile are looked at again before anything follows from it.
#[derive(Debug, Default)]
pub struct ScanReport {
    /// With the index of the base; the same id below two bases is there twice.
    pub sandboxes: Vec<(usize, Appeared, DirectoryFacts)>,
    /// A base that could not be read: absence below it means nothing.
    pub unreadable_bases: Vec<usize>,
    /// Those that something could prove.
    pub processes: Vec<ProcessFacts>,
    /// Those of Kata's names that nothing can, and how many more there are.
    pub refused: Vec<Refused>,
    pub refused_beyond: u64,
    pub procfs_is_readable: bool,
}

/// `proven`: what is known when the walk begins.
pub fn walk(host: &HostPaths, mut proven: Proven, reads: &MemoryReads) -> ScanReport {
    let mut report = ScanReport::default();
    for (index, base) in host.bases.iter().enumerate() {
        match directory::read_base(base) {
            Ok(found) => {
                for appeared in found {
                    let facts = state_files::read_directory(&appeared.directory, &appeared.id, appeared.runtime);
                    proven.add_state(&appeared.id, &facts);
                    report.sandboxes.push((index, appeared, facts));
                }
            }
            Err(error) => {
                warn!(directory = %base.path.display(), error = &error as &dyn std::error::Error, "base directory is unreadable");
                report.unreadable_bases.push(index);
            }
        }
    }
    match process::read_pids(host) {
        Ok(pids) => {
            let Sifted { candidates, refused, beyond } = sift(host, &pids, proven);
            report.processes = candidates.into_iter().filter_map(|one| read_one(host, one, reads)).collect();
            report.refused = refused;
            report.refused_beyond = beyond;
            report.procfs_is_readable = true;
        }
        Err(error) => {
            warn!(procfs = %host.procfs.display(), error = &error as &dyn std::error::Error, "procfs is unreadable");
        }
    }
    report
}

fn sift(host: &HostPaths, pids: &[Pid], proven: Proven) -> Sifted {
    let mut sieve = Sieve::new(proven);
    let outlines = pids.iter().filter_map(|&pid| readable(pid, process::read_outline(host, pid)));
    outlines.for_each(|outline| sieve.add(outline));
    sieve.finish()
}

fn read_one(host: &HostPaths, outline: Outline, reads: &MemoryReads) -> Option<ProcessFacts> {
    readable(outline.pid, process::read_facts(host, outline, reads))
}

/// Processes end while we look, and kernel threads have no executable: both normal.
fn readable<T>(pid: Pid, result: Result<Option<T>, ProcessError>) -> Option<T> {
    match result {
        Ok(found) => found,
        Err(error) if error.is_gone() => None,
        Err(error) => {
            debug!(%pid, error = &error as &dyn std::error::Error, "process is unreadable");
            None
        }
    }
}
