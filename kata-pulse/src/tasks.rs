//! Named tasks with one owner: every task ends when the agent does, and a panic in one stops the agent.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

/// Spawns, counts and stops the agent's tasks. Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// Runs `future` until it ends or the agent stops. A panic in it stops the agent: a part that silently does
    /// nothing would be worse than a restart by the kubelet.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = future => {}
                () = stop.cancelled_owned() => {}
            }
        });
        self.watch(name, task);
    }

    /// Like [`Tasks::spawn`] for a task that ends by itself when the agent stops, and is given the time for it.
    pub fn spawn_until_done<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.watch(name, tokio::spawn(future));
    }

    fn watch(&self, name: &'static str, task: tokio::task::JoinHandle<()>) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            if task.await.is_err_and(|error| error.is_panic()) {
                error!(task = name, "task panicked, stopping the agent");
                stop.cancel();
            }
        });
    }

    /// Cancelled when the agent stops, for whatever reason.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Ends all tasks; gives up after `patience`.
    pub async fn stop(&self, patience: Duration) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(patience, self.tracker.wait()).await.is_err() {
            warn!("tasks did not end in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_task_stops_the_agent() {
        let tasks = Tasks::default();
        tasks.spawn("bad", async { panic!("on purpose") });
        tasks.stopping().cancelled().await;
    }

    #[tokio::test]
    async fn stop_ends_tasks_that_would_run_for_ever() {
        let tasks = Tasks::default();
        tasks.spawn("forever", std::future::pending());
        tasks.stop(Duration::from_secs(5)).await;
        assert!(tasks.tracker.is_empty());
    }
}
