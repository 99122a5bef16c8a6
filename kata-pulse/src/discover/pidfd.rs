//! Learns the end of a process at once, without eBPF: one pidfd per process of a sandbox.
//!
//! It cannot tell the exit code of somebody else's child; the eBPF programs can.

use std::io;
use std::time::Duration;

use rustix::process::{Pid as RawPid, PidfdFlags, pidfd_open};
use tokio::sync::mpsc;

use crate::config::HostPaths;
use crate::sandbox::Pid;

use super::descriptor;
use super::process::read_stat;

/// A process ended: pid and start time.
pub type Ended = (Pid, u64);

/// Reports the end of `pid` to `ended`, `grace` after it: somebody else may tell it with its exit code. An error means that pidfds cannot be had; the scan sees the end then.
pub fn watch(
    host: &HostPaths,
    pid: Pid,
    start_ticks: u64,
    grace: Duration,
    ended: mpsc::Sender<Ended>,
) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let raw = RawPid::from_raw(i32::try_from(pid.0).map_err(|_| invalid())?).ok_or_else(invalid)?;
    let pidfd = match pidfd_open(raw, PidfdFlags::NONBLOCK) {
        Ok(pidfd) => Some(descriptor::register(pidfd)?),
        Err(rustix::io::Errno::SRCH) => None,
        Err(error) => return Err(error.into()),
    };
    // The descriptor may have caught a later process with the same pid.
    let same = read_stat(host, pid).is_ok_and(|(_, start)| start == start_ticks);
    tokio::spawn(async move {
        if let Some(pidfd) = pidfd.filter(|_| same) {
            tokio::select! {
                // An error here cannot happen on an open descriptor; if it did, the scan would find the truth.
                _ = pidfd.readable() => {}
                () = ended.closed() => return,
            }
            tokio::time::sleep(grace).await;
        }
        // The receiver is gone only when the agent stops.
        let _ = ended.send((pid, start_ticks)).await;
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_real_process_is_told() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid(child.id());
        let host = HostPaths::default();
        let (_, start) = read_stat(&host, pid).unwrap();
        let (sender, mut receiver) = mpsc::channel(1);
        watch(&host, pid, start, Duration::ZERO, sender).unwrap();
        assert!(receiver.try_recv().is_err());
        child.kill().unwrap();
        assert_eq!(receiver.recv().await, Some((pid, start)));
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_reused_pid_is_an_ended_process() {
        let host = HostPaths::default();
        let me = Pid(std::process::id());
        let (sender, mut receiver) = mpsc::channel(1);
        watch(&host, me, 1, Duration::ZERO, sender).unwrap();
        assert_eq!(receiver.recv().await, Some((me, 1)));
    }
}
