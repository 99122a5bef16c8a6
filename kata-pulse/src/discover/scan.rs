//! The full walk over base directories and `/proc`: the truth that every other source only hastens.
//!
//! Blocking, so it runs on a thread of its own. Cost: one readlink per process of the host, a few small files per
//! sandbox; see docs/overhead.md.

use tracing::{debug, warn};

use super::directory;
use super::process::{self, ProcessFacts};
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
    pub processes: Vec<ProcessFacts>,
    pub procfs_is_readable: bool,
}

pub fn walk(host: &HostPaths) -> ScanReport {
    let mut report = ScanReport::default();
    for (index, base) in host.bases.iter().enumerate() {
        match directory::read_base(base) {
            Ok(found) => {
                for appeared in found {
                    let facts = state_files::read_directory(&appeared.directory, &appeared.id, appeared.runtime);
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
            report.processes = pids.into_iter().filter_map(|pid| read_one(host, pid)).collect();
            report.procfs_is_readable = true;
        }
        Err(error) => {
            warn!(procfs = %host.procfs.display(), error = &error as &dyn std::error::Error, "procfs is unreadable");
        }
    }
    report
}

/// Processes end while we look, and kernel threads have no executable: both normal.
fn read_one(host: &HostPaths, pid: Pid) -> Option<ProcessFacts> {
    match process::read_facts(host, pid) {
        Ok(facts) => facts,
        Err(error) if error.is_gone() => None,
        Err(error) => {
            debug!(%pid, error = &error as &dyn std::error::Error, "process is unreadable");
            None
        }
    }
}
