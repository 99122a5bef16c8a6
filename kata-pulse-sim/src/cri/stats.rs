//! CRI's stats of containers, made of the shims' messages as each runtime makes them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::atomic::Ordering,
};

use prost::Message;
use prost_types::Any;
use tonic::Status;

use super::{CriFlavour, Service, containers::RUNNING, proto::*};
use crate::{
    metrics::{V1_TYPE, v1, v2},
    stats::Task,
    workload::unix_now_ns,
};

/// Limits above this are none.
const UNLIMITED: u64 = 1 << 62;
const SNAPSHOTS: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs";

/// What is left of a shim's message.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    usage_ns: u64,
    usage: u64,
    limit: u64,
    inactive_file: u64,
    rss: u64,
    faults: u64,
    major_faults: u64,
}

fn figures(data: &Any) -> Option<Figures> {
    if data.type_url == V1_TYPE {
        let metrics = v1::Metrics::decode(data.value.as_slice()).ok()?;
        let memory = metrics.memory.unwrap_or_default();
        let usage = memory.usage.unwrap_or_default();
        return Some(Figures {
            usage_ns: metrics.cpu.and_then(|cpu| cpu.usage)?.total,
            usage: usage.usage,
            limit: usage.limit,
            inactive_file: memory.total_inactive_file,
            rss: memory.total_rss,
            faults: memory.total_pg_fault,
            major_faults: memory.total_pg_maj_fault,
        });
    }
    let metrics = v2::Metrics::decode(data.value.as_slice()).ok()?;
    let memory = metrics.memory.unwrap_or_default();
    Some(Figures {
        usage_ns: metrics.cpu?.usage_usec * 1000,
        usage: memory.usage,
        limit: memory.usage_limit,
        inactive_file: memory.inactive_file,
        rss: memory.anon,
        faults: memory.pgfault,
        major_faults: memory.pgmajfault,
    })
}

type Answers = HashMap<String, (i64, Option<Any>)>;

/// One shim call after the other; those that fail are left out.
async fn ask(tasks: Vec<Task>) -> Answers {
    let mut answers = Answers::new();
    for task in tasks {
        let now = unix_now_ns();
        if let Ok(data) = task.stats(now).await {
            answers.insert(task.id, (now, data));
        }
    }
    answers
}

impl Service {
    /// Stats of the containers that `filter` fits; without a filter, of all.
    pub(super) async fn list_stats(&self, filter: Option<ContainerStatsFilter>) -> Result<Vec<ContainerStats>, Status> {
        let everybody = filter.is_none();
        let filter = filter.unwrap_or_default();
        self.note_stopping(everybody, &filter);
        let containers = self.containers(&ContainerFilter {
            id: filter.id,
            state: None,
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
        });
        match self.flavour {
            CriFlavour::Containerd => self.containerd_stats(containers, everybody).await,
            CriFlavour::CriO => self.crio_stats(containers).await,
        }
    }

    fn note_stopping(&self, everybody: bool, filter: &ContainerStatsFilter) {
        let named = [&filter.id, &filter.pod_sandbox_id].map(String::as_str);
        self.node.note_stats_of_stopping(|id| everybody || named.iter().any(|n| !n.is_empty() && id.starts_with(n)));
    }

    /// Containers that do not run, or whose shim failed, are there without CPU and memory.
    async fn containerd_stats(
        &self,
        containers: Vec<Container>,
        everybody: bool,
    ) -> Result<Vec<ContainerStats>, Status> {
        let ids: BTreeSet<&str> = containers.iter().map(|container| container.id.as_str()).collect();
        // An empty list of ids is "no filter" to the task service.
        if !everybody && ids.is_empty() {
            self.asked_everybody.fetch_add(1, Ordering::Relaxed);
        }
        let mut tasks = self.node.tasks(|id| everybody || ids.is_empty() || ids.contains(id));
        tasks.retain(|task| task.namespace == "k8s.io");
        let answers = ask(tasks).await;
        if answers.values().any(|(_, data)| data.is_none()) {
            return Err(Status::unknown("failed to decode container metrics: metrics data is nil"));
        }
        Ok(containers.into_iter().map(|container| self.entry(container, &answers)).collect())
    }

    /// Containers that do not run, or whose shim failed, are left out. The caller's deadline stops nothing: the shims
    /// go on being asked, under the lock of the node.
    async fn crio_stats(&self, mut containers: Vec<Container>) -> Result<Vec<ContainerStats>, Status> {
        containers.retain(|container| container.state == RUNNING);
        let ids: BTreeSet<String> = containers.iter().map(|container| container.id.clone()).collect();
        let tasks = self.node.tasks(|id| ids.contains(id));
        let lock = std::sync::Arc::clone(&self.stats_lock);
        let asking = tokio::spawn(async move {
            let _guard = lock.lock_owned().await;
            ask(tasks).await
        });
        let answers = asking.await.map_err(|error| Status::internal(error.to_string()))?;
        containers.retain(|container| matches!(answers.get(&container.id), Some((_, Some(_)))));
        Ok(containers.into_iter().map(|container| self.entry(container, &answers)).collect())
    }

    /// `None`: CRI knows no such container.
    pub(super) async fn stats_of(&self, id: String) -> Result<Option<ContainerStats>, Status> {
        self.note_stopping(false, &ContainerStatsFilter { id: id.clone(), ..Default::default() });
        let wanted = ContainerFilter { id, ..Default::default() };
        let Some(container) = self.containers(&wanted).into_iter().next() else {
            return Ok(None);
        };
        let found = match self.flavour {
            CriFlavour::Containerd => self.containerd_stats(vec![container], false).await?,
            CriFlavour::CriO => self.crio_stats(vec![container]).await?,
        };
        let answered = found.into_iter().next().filter(|stats| stats.cpu.is_some());
        answered.map(Some).ok_or_else(|| Status::unknown("unexpected metrics response: []"))
    }

    fn entry(&self, container: Container, answers: &Answers) -> ContainerStats {
        let answer = answers.get(&container.id);
        let known = answer.and_then(|(time, data)| Some((*time, figures(data.as_ref()?)?)));
        ContainerStats {
            writable_layer: self.writable_layer(&container),
            attributes: Some(ContainerAttributes {
                id: container.id,
                metadata: container.metadata,
                labels: container.labels,
                annotations: container.annotations,
            }),
            cpu: known.map(|(timestamp, figures)| CpuUsage {
                timestamp,
                usage_core_nano_seconds: value(figures.usage_ns),
                usage_nano_cores: value(0),
            }),
            memory: known.map(|(timestamp, figures)| memory(timestamp, figures)),
        }
    }

    /// CRI-O knows nothing of a VM's layers.
    fn writable_layer(&self, container: &Container) -> Option<FilesystemUsage> {
        if self.flavour == CriFlavour::CriO {
            return None;
        }
        let sandboxes = self.node.lock();
        let mut containers = sandboxes.get(&container.pod_sandbox_id)?.workload.containers.iter();
        let load = &containers.find(|one| one.spec.id == container.id)?.spec.load;
        Some(FilesystemUsage {
            timestamp: unix_now_ns(),
            fs_id: Some(FilesystemIdentifier { mountpoint: SNAPSHOTS.to_owned() }),
            used_bytes: value(load.layer_bytes),
            inodes_used: value(load.layer_inodes),
        })
    }
}

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn memory(timestamp: i64, figures: Figures) -> MemoryUsage {
    let working_set = figures.usage.saturating_sub(figures.inactive_file);
    let limited = figures.limit > 0 && figures.limit < UNLIMITED;
    let available = if limited { figures.limit.saturating_sub(working_set) } else { 0 };
    MemoryUsage {
        timestamp,
        working_set_bytes: value(working_set),
        available_bytes: value(available),
        usage_bytes: value(figures.usage),
        rss_bytes: value(figures.rss),
        page_faults: value(figures.faults),
        major_page_faults: value(figures.major_faults),
    }
}
