//! The workload of a container and what it has used at an age. In: a [`ContainerSpec`]. Out: a [`Truth`], the same for
//! the same age, so that tests compare what an agent shows with what really was. Pure; costs nothing.
//! What shims make of a truth, with their defects, is in [`crate::metrics`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which cgroup hierarchy a guest or a host has mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupMode {
    V1,
    #[default]
    V2,
}

/// How the container runtime of the node names cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CgroupDriver {
    #[default]
    Cgroupfs,
    Systemd,
}

/// The quality of service of a pod, which is part of its cgroup's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum QosClass {
    Guaranteed,
    #[default]
    Burstable,
    BestEffort,
}

/// What kubelet asked for; zero is "none", as in CRI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContainerLimits {
    pub cpu_period: i64,
    /// Microseconds per period; zero or less: no quota.
    pub cpu_quota: i64,
    pub cpu_shares: i64,
    pub memory_limit: i64,
    /// Memory and swap together; equal to the memory limit: no swap.
    pub memory_swap_limit: i64,
}

/// Traffic of one block device of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceLoad {
    /// As the guest numbers it, e.g. 254 for virtio-blk; no such device exists on the host.
    pub major: u64,
    pub minor: u64,
    pub read_bytes_per_second: f64,
    pub written_bytes_per_second: f64,
    pub reads_per_second: f64,
    pub writes_per_second: f64,
}

/// What a container does all its life: rates grow from its start, amounts stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerLoad {
    pub user_cpus: f64,
    pub system_cpus: f64,
    /// Memory in use, page cache included.
    pub memory_bytes: u64,
    /// The most that ever was in use.
    pub memory_max_bytes: u64,
    pub swap_bytes: u64,
    pub inactive_file_bytes: u64,
    pub active_file_bytes: u64,
    pub inactive_anon_bytes: u64,
    /// Anonymous memory.
    pub rss: u64,
    pub cache: u64,
    pub mapped_file: u64,
    pub threads: u64,
    pub page_faults_per_second: f64,
    pub major_page_faults_per_second: f64,
    /// Periods of the CPU quota; without a quota there are none.
    pub periods_per_second: f64,
    pub throttled_periods_per_second: f64,
    /// Seconds of waiting for the quota per second.
    pub throttled_cpus: f64,
    /// None for a root file system through virtio-fs.
    pub devices: Vec<DeviceLoad>,
    /// The writable layer as the host's snapshotter sees it.
    pub layer_bytes: u64,
    pub layer_inodes: u64,
}

impl Default for ContainerLoad {
    /// A small server at work.
    fn default() -> Self {
        Self {
            user_cpus: 0.2,
            system_cpus: 0.05,
            memory_bytes: 48 << 20,
            memory_max_bytes: 64 << 20,
            swap_bytes: 0,
            inactive_file_bytes: 12 << 20,
            active_file_bytes: 4 << 20,
            inactive_anon_bytes: 30 << 20,
            rss: 30 << 20,
            cache: 16 << 20,
            mapped_file: 6 << 20,
            threads: 7,
            page_faults_per_second: 100.0,
            major_page_faults_per_second: 1.0,
            periods_per_second: 10.0,
            throttled_periods_per_second: 2.0,
            throttled_cpus: 0.03,
            devices: Vec::new(),
            layer_bytes: 28_672,
            layer_inodes: 9,
        }
    }
}

/// One container of a pod, as it is made.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSpec {
    /// 64 hexadecimal digits.
    pub id: String,
    pub name: String,
    /// The reference kubelet named, e.g. `docker.io/library/app:1`.
    pub image: String,
    /// How often it was restarted.
    pub attempt: u32,
    /// Zero: when the node makes it.
    pub created_unix_ns: i64,
    /// Zero: when the node makes it. May lie in the past, then the counters begin high.
    pub started_unix_ns: i64,
    pub limits: ContainerLimits,
    /// Soft and hard limit of open files.
    pub nofile: Option<(u64, u64)>,
    pub load: ContainerLoad,
}

impl ContainerSpec {
    /// A container of sandbox `sandbox_id` with an id made of both names, a CPU quota of one CPU and 256 MiB.
    pub fn named(sandbox_id: &str, name: &str) -> Self {
        let mib256 = 256 << 20;
        Self {
            id: id_of(sandbox_id, name, 0),
            name: name.to_owned(),
            image: format!("docker.io/library/{name}:1"),
            attempt: 0,
            created_unix_ns: 0,
            started_unix_ns: 0,
            limits: ContainerLimits {
                cpu_period: 100_000,
                cpu_quota: 100_000,
                cpu_shares: 1024,
                memory_limit: mib256,
                memory_swap_limit: mib256,
            },
            nofile: Some((1024, 524_288)),
            load: ContainerLoad::default(),
        }
    }

    /// The same container after a restart: a new id, one attempt more, times and counters from now on.
    pub fn restarted(&self, sandbox_id: &str) -> Self {
        let attempt = self.attempt + 1;
        let id = id_of(sandbox_id, &self.name, attempt);
        Self { id, attempt, created_unix_ns: 0, started_unix_ns: 0, ..self.clone() }
    }

    /// What it has used when it has run for so long.
    pub fn truth(&self, age: Duration) -> Truth {
        let (load, seconds) = (&self.load, age.as_secs_f64());
        let quota = self.limits.cpu_quota > 0;
        let when_limited = |rate: f64| if quota { grown(rate, seconds) } else { 0 };
        let (user_ns, system_ns) = (grown(load.user_cpus * 1e9, seconds), grown(load.system_cpus * 1e9, seconds));
        Truth {
            usage_ns: user_ns + system_ns,
            user_ns,
            system_ns,
            memory_bytes: load.memory_bytes,
            memory_max_bytes: load.memory_max_bytes,
            swap_bytes: load.swap_bytes,
            inactive_file_bytes: load.inactive_file_bytes,
            active_file_bytes: load.active_file_bytes,
            inactive_anon_bytes: load.inactive_anon_bytes,
            rss: load.rss,
            cache: load.cache,
            mapped_file: load.mapped_file,
            threads: load.threads,
            page_faults: grown(load.page_faults_per_second, seconds),
            major_page_faults: grown(load.major_page_faults_per_second, seconds),
            periods: when_limited(load.periods_per_second),
            throttled_periods: when_limited(load.throttled_periods_per_second),
            throttled_ns: when_limited(load.throttled_cpus * 1e9),
            devices: load.devices.iter().map(|device| device.after(seconds)).collect(),
        }
    }
}

impl DeviceLoad {
    fn after(&self, seconds: f64) -> DeviceTruth {
        DeviceTruth {
            major: self.major,
            minor: self.minor,
            read_bytes: grown(self.read_bytes_per_second, seconds),
            written_bytes: grown(self.written_bytes_per_second, seconds),
            reads: grown(self.reads_per_second, seconds),
            writes: grown(self.writes_per_second, seconds),
        }
    }
}

/// What one block device has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceTruth {
    pub major: u64,
    pub minor: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// What a container has really used; what is reported of it depends on guest, shim and host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Truth {
    pub usage_ns: u64,
    pub user_ns: u64,
    pub system_ns: u64,
    pub memory_bytes: u64,
    pub memory_max_bytes: u64,
    pub swap_bytes: u64,
    pub inactive_file_bytes: u64,
    pub active_file_bytes: u64,
    pub inactive_anon_bytes: u64,
    pub rss: u64,
    pub cache: u64,
    pub mapped_file: u64,
    pub threads: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
    pub devices: Vec<DeviceTruth>,
}

impl Truth {
    /// The pause process of a sandbox, which uses next to nothing and never more.
    pub fn of_pause() -> Self {
        Self {
            usage_ns: 94_764_000,
            user_ns: 37_081_000,
            system_ns: 57_682_000,
            memory_bytes: 1_703_936,
            memory_max_bytes: 2_031_616,
            inactive_file_bytes: 1_544_192,
            inactive_anon_bytes: 45_056,
            threads: 1,
            page_faults: 102,
            major_page_faults: 14,
            ..Self::default()
        }
    }
}

fn grown(per_second: f64, seconds: f64) -> u64 {
    (per_second * seconds).round() as u64
}

/// 64 digits that differ between containers, attempts and sandboxes: FNV-1a of all three, four times.
pub(crate) fn id_of(sandbox_id: &str, name: &str, attempt: u32) -> String {
    let text = format!("{sandbox_id}/{name}/{attempt}");
    let hash = |salt: u64| {
        text.bytes().fold(0xcbf2_9ce4_8422_2325 ^ salt, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    (1..=4).map(|salt| format!("{:016x}", hash(salt))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_grow_with_age_and_amounts_stay() {
        let spec = ContainerSpec::named("s", "app");
        let (early, late) = (spec.truth(Duration::ZERO), spec.truth(Duration::from_secs(10)));
        assert_eq!((early.usage_ns, early.page_faults), (0, 0));
        assert_eq!((late.user_ns, late.system_ns, late.usage_ns), (2_000_000_000, 500_000_000, 2_500_000_000));
        assert_eq!((late.page_faults, late.periods, late.throttled_ns), (1000, 100, 300_000_000));
        assert_eq!(early.memory_bytes, late.memory_bytes);
    }

    #[test]
    fn without_a_quota_nothing_is_throttled() {
        let mut spec = ContainerSpec::named("s", "app");
        spec.limits.cpu_quota = 0;
        assert_eq!(spec.truth(Duration::from_secs(10)).periods, 0);
    }

    #[test]
    fn a_restart_is_a_new_id_and_one_attempt_more() {
        let first = ContainerSpec { started_unix_ns: 5, ..ContainerSpec::named("s", "app") };
        let second = first.restarted("s");
        assert_ne!(first.id, second.id);
        assert_eq!((second.id.len(), second.attempt, second.started_unix_ns), (64, 1, 0));
        assert_eq!(second.load, first.load);
    }
}
