//! What a bundle's `config.json` says: sandbox or container, of which pod, with which limits.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    container::{ContainerLimits, ContainerSpec},
    node::Pod,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Bundle {
    annotations: HashMap<String, String>,
    linux: Linux,
    process: Process,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    resources: Option<Resources>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Resources {
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cpu {
    period: i64,
    quota: i64,
    shares: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Memory {
    limit: i64,
    swap: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Process {
    rlimits: Option<Vec<Rlimit>>,
}

#[derive(Debug, Deserialize)]
struct Rlimit {
    r#type: String,
    soft: u64,
    hard: u64,
}

impl Bundle {
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(folder.join("config.json"))?)?)
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(&format!("io.kubernetes.cri.{name}")).map(String::as_str)
    }

    /// The sandbox that a container belongs to; `None` for a sandbox.
    pub(super) fn sandbox(&self) -> Option<&str> {
        self.annotation("sandbox-id").filter(|_| self.annotation("container-type") == Some("container"))
    }

    /// The name kubelet gave the container.
    pub(super) fn container_name(&self) -> &str {
        self.annotation("container-name").unwrap_or_default()
    }

    /// `None`: not made through CRI.
    pub(super) fn pod(&self) -> Option<Pod> {
        self.annotation("sandbox-id")?;
        let said = |name: &str| self.annotation(name).unwrap_or_default().to_owned();
        Some(Pod {
            name: said("sandbox-name"),
            namespace: said("sandbox-namespace"),
            uid: said("sandbox-uid"),
            handler: "kata".to_owned(),
        })
    }

    /// Named by its id: names are not unique while an old container is still there.
    pub(super) fn container(&self, id: &str) -> ContainerSpec {
        let resources = self.linux.resources.as_ref();
        let cpu = resources.and_then(|resources| resources.cpu.as_ref());
        let memory = resources.and_then(|resources| resources.memory.as_ref());
        let rlimits = self.process.rlimits.as_deref().unwrap_or_default();
        let nofile = rlimits.iter().find(|rlimit| rlimit.r#type == "RLIMIT_NOFILE");
        ContainerSpec {
            id: id.to_owned(),
            limits: ContainerLimits {
                cpu_period: cpu.map_or(0, |cpu| cpu.period),
                cpu_quota: cpu.map_or(0, |cpu| cpu.quota),
                cpu_shares: cpu.map_or(0, |cpu| cpu.shares),
                memory_limit: memory.map_or(0, |memory| memory.limit),
                memory_swap_limit: memory.map_or(0, |memory| memory.swap),
            },
            nofile: nofile.map(|rlimit| (rlimit.soft, rlimit.hard)),
            ..ContainerSpec::named(id, id)
        }
    }
}

/// Where orders are: in the folder the environment names, else in the sandbox's bundle.
pub(super) fn orders_folder(bundle: &Path) -> PathBuf {
    std::env::var_os(super::FOLDER).map_or_else(|| bundle.to_owned(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_knows_its_sandbox_and_limits() {
        let json = r#"{"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"s",
            "io.kubernetes.cri.container-name":"app"},"linux":{"resources":{"cpu":{"shares":2,"quota":50000,
            "period":100000},"memory":{"limit":1048576}}},"process":{"rlimits":[
            {"type":"RLIMIT_NOFILE","hard":9,"soft":8}]}}"#;
        let bundle: Bundle = serde_json::from_str(json).unwrap();
        assert_eq!((bundle.sandbox(), bundle.container_name()), (Some("s"), "app"));
        let container = bundle.container("c");
        assert_eq!((container.limits.cpu_quota, container.limits.memory_limit), (50_000, 1 << 20));
        assert_eq!(container.nofile, Some((8, 9)));
    }

    #[test]
    fn a_sandbox_belongs_to_none_and_nulls_are_nothing() {
        let json = r#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox","io.kubernetes.cri.sandbox-id":"s"},
            "linux":{"resources":{"cpu":null}},"process":{"rlimits":null}}"#;
        let bundle: Bundle = serde_json::from_str(json).unwrap();
        assert_eq!(bundle.sandbox(), None);
        assert!(bundle.pod().is_some());
        assert_eq!(bundle.container("c").limits, ContainerLimits::default());
    }
}
