//! The maps of the object, with the errors that matter told apart.

use std::collections::BTreeMap;
use std::io;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use kata_pulse_common::account::{BLOCK_WORDS, BlockKey, EXIT_CLASSES, HISTOGRAM_WORDS, Member, Thread};

pub(super) struct Maps {
    pub groups: HashMap<MapData, u32, Member>,
    pub threads: HashMap<MapData, u32, Thread>,
    pub runqueue: HashMap<MapData, Member, [u64; HISTOGRAM_WORDS]>,
    pub kvm: HashMap<MapData, u32, [u64; EXIT_CLASSES]>,
    pub block: HashMap<MapData, BlockKey, [u64; BLOCK_WORDS]>,
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
            threads: map!("THREADS"),
            runqueue: map!("RUNQUEUE"),
            kvm: map!("KVM"),
            block: map!("BLOCK"),
            oom: map!("OOM"),
            counters: map!("COUNTERS"),
        })
    }

    /// Sum over all CPUs.
    pub(super) fn counter(&self, index: u32) -> u64 {
        self.counters.get(&index, 0).map_or(0, |values| values.iter().sum())
    }

    /// All block I/O of all slots.
    pub(super) fn all_block(&self) -> BTreeMap<BlockKey, [u64; BLOCK_WORDS]> {
        self.block.iter().take(MOST).filter_map(Result::ok).collect()
    }

    /// That of one slot: only its own values are fetched.
    pub(super) fn block_of(&self, slot: u32) -> BTreeMap<BlockKey, [u64; BLOCK_WORDS]> {
        let keys = self.block.keys().take(MOST).filter_map(Result::ok);
        let own = keys.filter(|key| key[0] == slot);
        own.filter_map(|key| Some((key, self.block.get(&key, 0).ok()?))).collect()
    }

    pub(super) fn all_oom(&self) -> BTreeMap<Member, u64> {
        self.oom.iter().take(MOST).filter_map(Result::ok).collect()
    }
}

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
