//! Learns the end of a process at once, without eBPF: one pidfd per process of a sandbox.
//!
//! It cannot tell the exit code of somebody else's child; the eBPF programs can.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid as RawPid, PidfdFlags, pidfd_open};
use tokio::sync::{Semaphore, mpsc};

use crate::config::HostPaths;
use crate::sandbox::Pid;

use super::descriptor;
use super::process::read_stat;

/// A process ended: pid and start time.
pub type Ended = (Pid, u64);

/// Watches the ends of processes, no more at once than there is room for.
#[derive(Debug)]
pub struct Pidfds {
    room: Arc<Semaphore>,
    ended: mpsc::Sender<Ended>,
}

impl Pidfds {
    pub fn new(limit: usize, ended: mpsc::Sender<Ended>) -> Self {
        Self { room: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))), ended }
    }

    /// Reports the end of `pid`, `grace` after it: somebody else may tell it with its exit code. `false`: there is no
    /// room. An error means that pidfds cannot be had at all. Either way somebody else must see the end.
    pub fn watch(&self, host: &HostPaths, pid: Pid, start_ticks: u64, grace: Duration) -> io::Result<bool> {
        let Ok(permit) = self.room.clone().try_acquire_owned() else { return Ok(false) };
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let raw = RawPid::from_raw(i32::try_from(pid.0).map_err(|_| invalid())?).ok_or_else(invalid)?;
        let pidfd = match pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => Some(descriptor::register(pidfd)?),
            Err(Errno::SRCH) => None,
            Err(Errno::MFILE | Errno::NFILE) => {
                // Others need descriptors too: no more of ours than there are now.
                permit.forget();
                self.room.forget_permits(Semaphore::MAX_PERMITS);
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        // The descriptor may have caught a later process with the same pid.
        let same = read_stat(host, pid).is_ok_and(|(_, start)| start == start_ticks);
        let ended = self.ended.clone();
        tokio::spawn(async move {
            if let Some(pidfd) = pidfd.filter(|_| same) {
                tokio::select! {
                    // An error here cannot happen on an open descriptor; if it did, the scan would find the truth.
                    _ = pidfd.readable() => {}
                    () = ended.closed() => return,
                }
                drop(pidfd);
                drop(permit);
                tokio::time::sleep(grace).await;
            }
            // The receiver is gone only when the agent stops.
            let _ = ended.send((pid, start_ticks)).await;
        });
        Ok(true)
    }
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
        assert!(Pidfds::new(8, sender).watch(&host, pid, start, Duration::ZERO).unwrap());
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
        assert!(Pidfds::new(8, sender).watch(&host, me, 1, Duration::ZERO).unwrap());
        assert_eq!(receiver.recv().await, Some((me, 1)));
    }

    #[tokio::test]
    async fn there_are_no_more_than_there_is_room_for_until_one_ends() {
        let host = HostPaths::default();
        let (sender, mut receiver) = mpsc::channel(8);
        let pidfds = Pidfds::new(2, sender);
        let mut children: Vec<_> =
            (0..3).map(|_| std::process::Command::new("sleep").arg("1000").spawn().unwrap()).collect();
        let watch = |pid: u32| {
            let start = read_stat(&host, Pid(pid)).unwrap().1;
            pidfds.watch(&host, Pid(pid), start, Duration::ZERO).unwrap()
        };
        let watched: Vec<bool> = children.iter().map(|child| watch(child.id())).collect();
        assert_eq!(watched, [true, true, false]);
        children[0].kill().unwrap();
        assert_eq!(receiver.recv().await.unwrap().0, Pid(children[0].id()));
        assert!(watch(children[2].id()));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
