//! What a test tells the shims and what they tell it, as small files in one folder. Orders are read again at each call;
//! `shim.json` is for all sandboxes, `<sandbox id>.json` for one. What was asked of a sandbox is in `<sandbox id>.asked`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    container::{CgroupMode, ContainerLoad},
    stats::StatsFault,
};

/// The environment variable, set for containerd, that names the folder; without it, it is the sandbox's bundle.
pub const FOLDER: &str = "KATA_PULSE_SIM_SHIM";

/// How Stats is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatsOrder {
    #[default]
    Answer,
    Error,
    Never,
    /// Without a message: containerd 1.6 crashes of it.
    Empty,
}

/// What a test wants of the shims.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Orders {
    /// Sandbox directories are made below it.
    pub root: PathBuf,
    /// Where shims listen for containerd.
    pub sockets: PathBuf,
    /// Runtime and VMM, e.g. `go-qemu`, `rs-dragonball`.
    pub kind: String,
    pub host: CgroupMode,
    pub guest: CgroupMode,
    pub stats: StatsOrder,
    /// Stats is answered so much later.
    pub delay_ms: u64,
    /// By container name; others have the default load.
    pub loads: BTreeMap<String, ContainerLoad>,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            root: "/".into(),
            sockets: "/run/containerd/s".into(),
            kind: "go-qemu".to_owned(),
            host: CgroupMode::default(),
            guest: CgroupMode::default(),
            stats: StatsOrder::default(),
            delay_ms: 0,
            loads: BTreeMap::new(),
        }
    }
}

impl Orders {
    /// To all shims that have no orders of their own.
    pub fn give(&self, folder: &Path) -> io::Result<()> {
        replace(&folder.join("shim.json"), &serde_json::to_vec(self)?)
    }

    /// To the shim of one sandbox.
    pub fn give_to(&self, folder: &Path, sandbox: &str) -> io::Result<()> {
        replace(&folder.join(format!("{sandbox}.json")), &serde_json::to_vec(self)?)
    }

    /// Those of the sandbox, else those for all, else the default.
    pub(super) fn read(folder: &Path, sandbox: &str) -> io::Result<Self> {
        for name in [sandbox, "shim"] {
            match fs::read(folder.join(format!("{name}.json"))) {
                Ok(text) => return Ok(serde_json::from_slice(&text)?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self::default())
    }

    pub(super) fn fault(&self) -> Option<StatsFault> {
        match self.stats {
            StatsOrder::Answer if self.delay_ms == 0 => None,
            StatsOrder::Answer => Some(StatsFault::Slow(std::time::Duration::from_millis(self.delay_ms))),
            StatsOrder::Error => Some(StatsFault::Error),
            StatsOrder::Never => Some(StatsFault::Never),
            StatsOrder::Empty => Some(StatsFault::Empty),
        }
    }
}

/// What the shim of a sandbox was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Asked {
    /// Stats calls, one for each task.
    pub stats: u64,
    /// The most of them at once.
    pub max_in_flight: u64,
}

impl Asked {
    /// Nothing, if the shim was never asked.
    pub fn read(folder: &Path, sandbox: &str) -> io::Result<Self> {
        match fs::read(folder.join(format!("{sandbox}.asked"))) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write(&self, folder: &Path, sandbox: &str) -> io::Result<()> {
        replace(&folder.join(format!("{sandbox}.asked")), &serde_json::to_vec(self)?)
    }
}

/// In one step, so that no reader sees half of it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, bytes)?;
    fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_for_one_sandbox_come_before_those_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let read = |sandbox| Orders::read(folder.path(), sandbox).unwrap().delay_ms;
        assert_eq!(read("s"), 0);
        Orders { delay_ms: 1, ..Orders::default() }.give(folder.path()).unwrap();
        Orders { delay_ms: 2, ..Orders::default() }.give_to(folder.path(), "s").unwrap();
        assert_eq!((read("s"), read("other")), (2, 1));
    }
}
