//! What a guest said of itself, in the guest's own units. Compact: one of these is kept per sandbox and no text.

/// Values by a fixed list of names; `None` where the guest said nothing, or nothing finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Items<const N: usize>(pub [Option<f64>; N]);

impl<const N: usize> Default for Items<N> {
    fn default() -> Self {
        Self([None; N])
    }
}

/// `kata_guest_cpu_time`; the unit depends on the guest's release. guest and guest_nice are contained in user and nice.
pub const CPU: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
/// `kata_guest_meminfo`: bytes.
pub const MEMORY: [&str; 14] = [
    "mem_total",
    "mem_free",
    "mem_available",
    "buffers",
    "cached",
    "active_file",
    "inactive_file",
    "anon_pages",
    "mapped",
    "swap_total",
    "swap_free",
    "shmem",
    "slab",
    "s_reclaimable",
];
/// `kata_guest_netdev_stat`: bytes and counts.
pub const NETWORK: [&str; 8] =
    ["recv_bytes", "recv_packets", "recv_errs", "recv_drop", "sent_bytes", "sent_packets", "sent_errs", "sent_drop"];
/// `kata_guest_diskstat`: requests, sectors of 512 bytes, milliseconds.
pub const DISK: [&str; 14] = [
    "reads",
    "sectors_read",
    "writes",
    "sectors_written",
    "merged",
    "time_reading",
    "writes_merged",
    "time_writing",
    "in_progress",
    "time_in_progress",
    "weighted_time_in_progress",
    "discards",
    "sectors_discarded",
    "flushes",
];
/// `kata_guest_load`.
pub const LOAD: [&str; 3] = ["load1", "load5", "load15"];
/// `kata_guest_filesystem_bytes` and `_inodes`.
pub const FILESYSTEM: [&str; 3] = ["total", "used", "available"];
/// `kata_guest_vm_stat`: counts.
pub const VM: [&str; 3] = ["pgfault", "pgmajfault", "oom_kill"];
/// `kata_guest_tasks`: `max` is the total of scheduling entities.
pub const TASKS: [&str; 2] = ["cur", "max"];

/// The guest's part of one page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShimSample {
    /// Any family of the guest or its agent was there.
    pub guest_answered: bool,
    pub cpu_total: Items<8>,
    /// CPU 0 alone: the one that is never hot-plugged.
    pub cpu_zero: Items<8>,
    pub memory: Items<14>,
    pub vm: Items<3>,
    pub tasks: Items<2>,
    pub load: Items<3>,
    pub interfaces: Vec<(Box<str>, Items<8>)>,
    pub disks: Vec<(Box<str>, Items<14>)>,
    pub filesystems: Vec<Filesystem>,
    pub dropped: Dropped,
}

/// One mounted file system of the guest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filesystem {
    pub mount: Box<str>,
    pub device: Box<str>,
    pub bytes: Items<3>,
    pub inodes: Items<3>,
}

/// What was left out of a page, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    pub malformed_lines: u64,
    pub non_finite: u64,
    pub duplicates: u64,
    /// Lines behind the cap on samples.
    pub samples: u64,
    /// Series of an interface or disk behind the cap, or with a name that is none.
    pub names: u64,
}

impl<const N: usize> Items<N> {
    pub fn get(&self, names: &[&str; N], name: &str) -> Option<f64> {
        names.iter().position(|known| *known == name).and_then(|at| self.0[at])
    }
}
