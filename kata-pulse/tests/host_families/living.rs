//! What the kernel says of processes that live: read by the test itself.

use std::collections::BTreeMap;
use std::fs;

/// The processes of one role.
#[derive(Debug, Clone)]
pub struct Living(pub Vec<u32>);

impl Living {
    /// `vmm`, `virtiofsd` with its worker, `shim`.
    pub fn of(pids: &BTreeMap<String, u32>, role: &str) -> Self {
        let names = [role.to_owned(), format!("{role}-worker")];
        Self(names.iter().filter_map(|name| pids.get(name).copied()).collect())
    }

    /// The sum of a line with kilobytes.
    fn kilobytes(&self, file: &str, starts: &str) -> f64 {
        let of = |pid: &u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(starts)).unwrap_or_default();
            line.split_ascii_whitespace().next().map_or(0.0, |number| number.parse::<f64>().unwrap())
        };
        self.0.iter().map(of).sum()
    }

    /// Bytes by the page's types.
    pub fn memory(&self) -> [(&'static str, f64); 5] {
        let rollup = |line| self.kilobytes("smaps_rollup", line) * 1024.0;
        let status = |line| self.kilobytes("status", line) * 1024.0;
        [
            ("rss", rollup("Rss:")),
            ("pss", rollup("Pss:")),
            ("private", rollup("Private_Clean:") + rollup("Private_Dirty:")),
            ("swap", rollup("Swap:")),
            ("page_tables", status("VmPTE:")),
        ]
    }

    /// Bytes.
    pub fn peak(&self) -> f64 {
        self.kilobytes("status", "VmHWM:") * 1024.0
    }

    fn entries(&self, folder: &str) -> f64 {
        self.0.iter().map(|pid| fs::read_dir(format!("/proc/{pid}/{folder}")).unwrap().count() as f64).sum()
    }

    pub fn threads(&self) -> f64 {
        self.entries("task")
    }

    /// Of the process with most: all have the same limit.
    pub fn open_fds(&self) -> f64 {
        let of = |pid: &u32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as f64;
        self.0.iter().map(of).fold(0.0, f64::max)
    }

    /// The lowest soft limit.
    pub fn max_fds(&self) -> f64 {
        let of = |pid: &u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
            line.split_ascii_whitespace().next().unwrap().parse::<f64>().unwrap()
        };
        self.0.iter().map(of).fold(f64::INFINITY, f64::min)
    }
}
