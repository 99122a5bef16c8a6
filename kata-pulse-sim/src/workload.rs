//! The container runtime's side of a sandbox: which containers it has and how they come and go. In: calls of a test.
//! Out: what CRI and containerd's services tell, and events. A container that ended stays listed until it is
//! forgotten, or until the next of its name ends, as kubelet keeps one.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{
    container::{ContainerSpec, Truth},
    containerd::events::Happening,
    kind::SimError,
    node::{Node, Sandbox, SandboxSpec},
    stats::{StatsFault, StatsState},
};

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    Running,
    Exited { at_unix_ns: i64, code: i32, oom: bool },
}

/// A container that exists, with its times filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub spec: ContainerSpec,
    pub state: ContainerState,
}

impl Container {
    fn start(mut spec: ContainerSpec) -> Self {
        let now = unix_now_ns();
        for time in [&mut spec.created_unix_ns, &mut spec.started_unix_ns] {
            if *time == 0 {
                *time = now;
            }
        }
        Self { spec, state: ContainerState::Running }
    }

    pub fn is_running(&self) -> bool {
        self.state == ContainerState::Running
    }

    /// What it has used at that time: what a test compares an answer with, by the answer's own timestamp.
    pub fn truth_at(&self, unix_ns: i64) -> Truth {
        let age = u64::try_from(unix_ns - self.spec.started_unix_ns).unwrap_or_default();
        self.spec.truth(Duration::from_nanos(age))
    }
}

/// The containers of one sandbox and the state of its stats.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) containers: Vec<Container>,
    pub(crate) stats: Arc<StatsState>,
}

impl Workload {
    pub(crate) fn start(spec: &SandboxSpec) -> Self {
        let containers = spec.containers.iter().cloned().map(Container::start).collect();
        Self { containers, stats: Arc::default() }
    }

    fn running(&mut self, name: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.is_running() && container.spec.name == name)
    }
}

/// Nanoseconds since 1970, as all runtimes count.
pub(crate) fn unix_now_ns() -> i64 {
    let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)
}

impl Node {
    /// The containers of a sandbox, ended ones too.
    pub fn containers(&self, sandbox: &str) -> Result<Vec<Container>, SimError> {
        self.with_sandbox(sandbox, |sandbox| Ok(sandbox.workload.containers.clone()))
    }

    /// Starts another container in a running sandbox.
    pub fn add_container(&self, sandbox: &str, spec: ContainerSpec) -> Result<(), SimError> {
        self.with_sandbox(sandbox, |sandbox| {
            let id = spec.id.clone();
            sandbox.workload.containers.push(Container::start(spec));
            self.events.publish(sandbox, &id, &Happening::START);
            Ok(())
        })
    }

    /// A container ends by itself. Of its name, only the last that ended stays listed.
    pub fn stop_container(&self, sandbox: &str, name: &str, code: i32) -> Result<(), SimError> {
        self.end_container(sandbox, name, code, false).map(drop)
    }

    /// The guest's kernel kills a container for want of memory.
    pub fn oom_container(&self, sandbox: &str, name: &str) -> Result<(), SimError> {
        self.end_container(sandbox, name, 137, true).map(drop)
    }

    /// A container ends and starts again: a new id, which is returned, one attempt more, counters from zero.
    pub fn restart_container(&self, sandbox: &str, name: &str) -> Result<String, SimError> {
        let next = self.end_container(sandbox, name, 1, false)?.restarted(sandbox);
        let id = next.id.clone();
        self.add_container(sandbox, next)?;
        Ok(id)
    }

    fn end_container(&self, sandbox: &str, name: &str, code: i32, oom: bool) -> Result<ContainerSpec, SimError> {
        self.with_sandbox(sandbox, |sandbox| {
            let unknown = || SimError::UnknownContainer(name.to_owned());
            let ending = sandbox.workload.running(name).ok_or_else(unknown)?;
            ending.state = ContainerState::Exited { at_unix_ns: unix_now_ns(), code, oom };
            let spec = ending.spec.clone();
            if oom {
                self.events.publish(sandbox, &spec.id, &[Happening::Oom]);
            }
            self.events.publish(sandbox, &spec.id, &Happening::EXIT);
            self.forget(sandbox, |old| old.spec.name == name && old.spec.id != spec.id);
            Ok(spec)
        })
    }

    /// Removes the containers that ended, as kubelet does in time.
    pub fn forget_exited(&self, sandbox: &str) -> Result<(), SimError> {
        self.with_sandbox(sandbox, |sandbox| {
            self.forget(sandbox, |_| true);
            Ok(())
        })
    }

    fn forget(&self, sandbox: &mut Sandbox, which: impl Fn(&Container) -> bool) {
        let (gone, kept) = std::mem::take(&mut sandbox.workload.containers)
            .into_iter()
            .partition(|container| !container.is_running() && which(container));
        sandbox.workload.containers = kept;
        let gone: Vec<Container> = gone;
        for container in gone {
            self.events.publish(sandbox, &container.spec.id, &[Happening::ContainerDelete]);
        }
    }

    /// The pod is being stopped: its containers end, CRI says NOTREADY; directories, shim and sandbox task are still
    /// there until [`Node::remove`]. From now on every stats call for it is counted as a mistake.
    pub fn stop_sandbox(&self, id: &str) -> Result<(), SimError> {
        self.with_sandbox(id, |sandbox| {
            sandbox.workload.stats.stop();
            let ended = ContainerState::Exited { at_unix_ns: unix_now_ns(), code: 137, oom: false };
            let mut ids = Vec::new();
            for container in sandbox.workload.containers.iter_mut().filter(|container| container.is_running()) {
                container.state = ended;
                ids.push(container.spec.id.clone());
            }
            for id in ids {
                self.events.publish(sandbox, &id, &Happening::EXIT);
            }
            Ok(())
        })
    }

    /// What the sandbox's shim does wrong with Stats; `None` heals it.
    pub fn set_stats_fault(&self, id: &str, fault: Option<StatsFault>) -> Result<(), SimError> {
        self.with_sandbox(id, |sandbox| {
            sandbox.workload.stats.set_fault(fault);
            Ok(())
        })
    }

    /// Stats calls that reached the sandbox's shim, one for each task asked about, the sandbox's own included.
    pub fn stats_calls(&self, id: &str) -> Result<u64, SimError> {
        self.with_sandbox(id, |sandbox| Ok(sandbox.workload.stats.calls()))
    }

    /// The most Stats calls that the sandbox's shim had to answer at once.
    pub fn stats_max_in_flight(&self, id: &str) -> Result<u64, SimError> {
        self.with_sandbox(id, |sandbox| Ok(sandbox.workload.stats.max_in_flight()))
    }

    /// Requests for stats that named this sandbox, or everybody, while it was stopping.
    pub fn stats_calls_while_stopping(&self, id: &str) -> Result<u64, SimError> {
        self.with_sandbox(id, |sandbox| Ok(sandbox.workload.stats.calls_while_stopping()))
    }

    pub(crate) fn with_sandbox<T>(
        &self,
        id: &str,
        act: impl FnOnce(&mut Sandbox) -> Result<T, SimError>,
    ) -> Result<T, SimError> {
        let mut sandboxes = self.lock();
        act(sandboxes.get_mut(id).ok_or_else(|| SimError::UnknownSandbox(id.to_owned()))?)
    }
}
