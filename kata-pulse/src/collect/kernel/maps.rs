//! The maps of the object, with the errors that matter told apart.

use std::collections::BTreeMap;
use std::io;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use kata_pulse_common::account as abi;
use kata_pulse_common::account::{BLOCK_WORDS, BlockKey, EXIT_CLASSES, Group, HISTOGRAM_WORDS, Member, Thread};

pub(super) struct Maps {
    pub groups: HashMap<MapData, u32, Group>,
    filter: Array<MapData, u64>,
    epoch: Array<MapData, u32>,
    pub threads: HashMap<MapData, u32, Thread>,
    pub runqueue: Array<MapData, [u64; HISTOGRAM_WORDS]>,
    pub kvm: HashMap<MapData, u32, [u64; EXIT_CLASSES]>,
    pub block: HashMap<MapData, BlockKey, [u64; BLOCK_WORDS]>,
    devices: HashMap<MapData, u32, u32>,
    pub oom: HashMap<MapData, Member, u64>,
    pub counters: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// `Err`: the name of the map that the object lacks, or whose type is another.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, &'static str> {
        macro_rules! map {
            ($name:literal) => {
                ebpf.take_map($name).and_then(|map| map.try_into().ok()).ok_or($name)?
            };
        }
        Ok(Self {
            groups: map!("GROUPS"),
            filter: map!("FILTER"),
            epoch: map!("EPOCH"),
            threads: map!("THREADS"),
            runqueue: map!("RUNQUEUE"),
            kvm: map!("KVM"),
            block: map!("BLOCK"),
            devices: map!("DEVICES"),
            oom: map!("OOM"),
            counters: map!("COUNTERS"),
        })
    }

    /// Whether threads of this process are looked at when they wait.
    pub(super) fn let_pass(&mut self, process: u32, passes: bool) -> Result<(), MapError> {
        let (word, bit) = abi::filter_bit(process);
        let bits = self.filter.get(&word, 0)?;
        self.filter.set(word, if passes { bits | bit } else { bits & !bit }, 0)
    }

    /// What the programs keep of groups and threads is out of date.
    pub(super) fn changed(&mut self) -> Result<(), MapError> {
        let epoch = self.epoch.get(&0, 0)?;
        self.epoch.set(0, epoch.wrapping_add(1), 0)
    }

    /// A thread of this process; its id may be another's by now.
    pub(super) fn forget_thread(&mut self, process: u32, thread: u32) -> Result<(), MapError> {
        match self.threads.get(&thread, 0) {
            Ok([owner, _]) if owner == process => ignore_missing(self.threads.remove(&thread)),
            Ok(_) => Ok(()),
            Err(error) => ignore_missing(Err(error)),
        }
    }

    /// Sum over all CPUs.
    pub(super) fn counter(&self, index: u32) -> u64 {
        self.counters.get(&index, 0).map_or(0, |values| values.iter().sum())
    }

    /// All block I/O of all slots.
    pub(super) fn all_block(&self) -> BTreeMap<BlockKey, [u64; BLOCK_WORDS]> {
        self.block.iter().take(MOST).filter_map(Result::ok).collect()
    }

    /// That of one slot, looked for on each device that anybody used: on a node there are few.
    pub(super) fn block_of(&self, slot: u32) -> BTreeMap<BlockKey, [u64; BLOCK_WORDS]> {
        let devices = self.devices.keys().take(MOST).filter_map(Result::ok);
        let keys = devices.flat_map(|device| OPERATIONS.map(|(operation, _)| [slot, device, operation]));
        keys.filter_map(|key| Some((key, self.block.get(&key, 0).ok()?))).collect()
    }

    pub(super) fn all_oom(&self) -> BTreeMap<Member, u64> {
        self.oom.iter().take(MOST).filter_map(Result::ok).collect()
    }
}

/// Operations by their numbers in the kernel's maps.
pub(super) const OPERATIONS: [(u32, &str); 4] =
    [(abi::OP_READ, "read"), (abi::OP_WRITE, "write"), (abi::OP_DISCARD, "discard"), (abi::OP_FLUSH, "flush")];

/// Elements read of one map: more than the largest has. A map that changes meanwhile may begin anew.
const MOST: usize = 65_536;

/// An element that was not there is no error.
pub(super) fn ignore_missing(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
