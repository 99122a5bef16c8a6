//! What a process had used when it ended, by the kernel's own account: the truth that an agent's final account is held
//! against. In: the pid of a child of this process. Out: [`ProcessUsage`], once that child has ended, and it is reaped.
//!
//! CPU, faults and switches are those of `wait4`, to the microsecond; bytes are those of `/proc/<pid>/io`, which the
//! kernel keeps until the process is reaped. Both contain the children that it has waited for: see [`ProcessUsage::without`].

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

/// One process that has ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessUsage {
    /// `shim`, `vmm`, `virtiofsd`, `virtiofsd-worker`.
    pub role: String,
    pub pid: u32,
    pub user_seconds: f64,
    pub system_seconds: f64,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
    pub peak_rss_bytes: u64,
    /// `None`: this kernel does not account it.
    pub io: Option<IoUsage>,
    /// As `wait` has it; see [`Self::status`].
    pub(crate) wait_status: i32,
}

/// `/proc/<pid>/io`: calls, and bytes that reached storage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoUsage {
    pub read_calls: u64,
    pub write_calls: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

impl ProcessUsage {
    pub fn cpu_seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }

    pub fn status(&self) -> ExitStatus {
        ExitStatus::from_raw(self.wait_status)
    }

    /// What it used itself: `children` are those that it has waited for.
    pub(crate) fn without(&self, children: &[Self]) -> Self {
        let mut own = self.clone();
        for child in children {
            own.user_seconds -= child.user_seconds;
            own.system_seconds -= child.system_seconds;
            own.minor_faults = own.minor_faults.saturating_sub(child.minor_faults);
            own.major_faults = own.major_faults.saturating_sub(child.major_faults);
            own.voluntary_switches = own.voluntary_switches.saturating_sub(child.voluntary_switches);
            own.involuntary_switches = own.involuntary_switches.saturating_sub(child.involuntary_switches);
            own.io = own.io.zip(child.io).map(|(own, child)| own.without(child));
        }
        own
    }
}

impl IoUsage {
    fn without(self, child: Self) -> Self {
        Self {
            read_calls: self.read_calls.saturating_sub(child.read_calls),
            write_calls: self.write_calls.saturating_sub(child.write_calls),
            read_bytes: self.read_bytes.saturating_sub(child.read_bytes),
            written_bytes: self.written_bytes.saturating_sub(child.written_bytes),
        }
    }

    /// Of a process that lives or has not been waited for.
    pub fn of(pid: u32) -> io::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
        Self::parse(&text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/io lacks a line")))
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
            line.parse().ok()
        };
        Some(Self {
            read_calls: value("syscr")?,
            write_calls: value("syscw")?,
            read_bytes: value("read_bytes")?,
            written_bytes: value("write_bytes")?,
        })
    }
}

/// Waits until the child has ended, and reaps it. An error if it is nobody's child of ours.
pub(crate) fn wait(pid: u32) -> io::Result<ProcessUsage> {
    waitid(WaitId::Pid(parse_pid(pid)?), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    // What is not accounted here cannot be read, which is no reason to leave a zombie.
    let io = IoUsage::of(pid).ok();
    reap(pid).map(|usage| ProcessUsage { io, ..usage })
}

/// `None`: it runs.
pub(crate) fn try_wait(pid: u32) -> io::Result<Option<ProcessUsage>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    match waitid(WaitId::Pid(parse_pid(pid)?), options)? {
        Some(_) => wait(pid).map(Some),
        None => Ok(None),
    }
}

fn parse_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("not a pid"))
}

/// Of a child that has ended.
#[expect(unsafe_code, reason = "no safe crate offers wait4, and nothing else tells what one child has used")]
fn reap(pid: u32) -> io::Result<ProcessUsage> {
    let number = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut wait_status = 0;
    // SAFETY: a `rusage` is integers only, for which zeros are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers lead to values of this frame, of the types that wait4 writes.
    let reaped = unsafe { libc::wait4(number, &raw mut wait_status, 0, &raw mut usage) };
    if reaped != number {
        return Err(io::Error::last_os_error());
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let count = |number: libc::c_long| number.max(0).cast_unsigned();
    Ok(ProcessUsage {
        role: String::new(),
        pid,
        user_seconds: seconds(usage.ru_utime),
        system_seconds: seconds(usage.ru_stime),
        minor_faults: count(usage.ru_minflt),
        major_faults: count(usage.ru_majflt),
        voluntary_switches: count(usage.ru_nvcsw),
        involuntary_switches: count(usage.ru_nivcsw),
        peak_rss_bytes: count(usage.ru_maxrss) * 1024,
        io: None,
        wait_status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_has_ended_is_told_once_with_its_code() {
        let pid = std::process::Command::new("sh").args(["-c", "exit 7"]).spawn().expect("sh").id();
        let usage = wait(pid).expect("its usage");
        assert_eq!((usage.pid, usage.status().code()), (pid, Some(7)));
        assert!(usage.minor_faults > 0 && usage.peak_rss_bytes > 0);
        assert!(wait(pid).is_err(), "it was reaped");
    }

    #[test]
    fn what_children_used_is_not_the_parents() {
        let io = |written_bytes| Some(IoUsage { written_bytes, ..IoUsage::default() });
        let child = ProcessUsage { user_seconds: 1.0, voluntary_switches: 3, io: io(10), ..ProcessUsage::default() };
        let both = ProcessUsage { user_seconds: 1.5, voluntary_switches: 5, io: io(12), ..ProcessUsage::default() };
        let own = both.without(&[child]);
        assert_eq!((own.user_seconds, own.voluntary_switches, own.io), (0.5, 2, io(2)));
    }
}
