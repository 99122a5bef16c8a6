//! The running view: processes in, readings out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fmt, fs};

use aya::Ebpf;
use aya::maps::MapError;
use kata_pulse_common::NONE;
use kata_pulse_common::account as abi;
use kata_pulse_common::account::{BLOCK_WORDS, BlockKey, EXIT_CLASSES, HISTOGRAM_WORDS, Member};
use tracing::{info, warn};

use super::maps::{Maps, OPERATIONS, ignore_missing};
use super::slots::{Slots, Watched, role_number, role_of_number};
use super::types::histogram;
use super::{BlockReading, KernelOptions, KernelReading, ProgramGroup, devices, exits, load};
use crate::kernel::{ProgramStatus, RunStats, give_memory_back, run_stats};
use crate::sandbox::{HostRole, Pid};

/// A sandbox, to the kernel. Each is given once in the agent's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u32);

/// Why a process or thread is not watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("process {0} has ended, or is another one by now")]
    Gone(Pid),
    #[error("process {0} is not watched")]
    NotWatched(Pid),
    #[error("the slot was freed")]
    Freed,
    #[error("tell the kernel of process {process} in the map {map}")]
    Map { process: Pid, map: &'static str, source: Box<MapError> },
}

/// What a group of programs did so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    pub group: ProgramGroup,
    /// Events that went into a reading.
    pub accounted: u64,
    /// Events that did not, because a map was full, and roles or sandboxes none of whose events do for the same reason.
    pub lost: u64,
}

/// Counters of each group; `None` where nothing can be full.
const COUNTERS: [(ProgramGroup, u32, Option<u32>); 4] = [
    (ProgramGroup::Runqueue, abi::ACCOUNTED_RUNQUEUE, Some(abi::FULL_RUNQUEUE)),
    (ProgramGroup::Kvm, abi::ACCOUNTED_KVM, None),
    (ProgramGroup::Block, abi::ACCOUNTED_BLOCK, Some(abi::FULL_BLOCK)),
    (ProgramGroup::Oom, abi::ACCOUNTED_OOM, Some(abi::FULL_OOM)),
];

/// Programs in the kernel, and what they are told. Without any it works all the same and reads nothing. Dropping it
/// detaches them, which blocks: see [`KernelView::detach`].
pub struct KernelView {
    programs: Vec<ProgramStatus>,
    procfs: PathBuf,
    sysfs: PathBuf,
    state: Mutex<State>,
    ebpf: Option<Ebpf>,
}

struct State {
    slots: Slots,
    maps: Option<Maps>,
    /// Roles and sandboxes that are not counted, since a table was full.
    without_cell: u64,
    without_exits: u64,
}

impl fmt::Debug for KernelView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelView").field("programs", &self.programs).finish_non_exhaustive()
    }
}

impl KernelView {
    /// Attaches what the kernel takes; what it does not take is in [`Self::programs`] with its reason. Blocks for some
    /// 0.1 s.
    pub fn start(options: &KernelOptions) -> Self {
        let (mut ebpf, mut programs) = load::load(options);
        let maps = ebpf.as_mut().map(Maps::take).transpose().unwrap_or_else(|map| {
            for program in &mut programs {
                program.attached = false;
                program.reason = format!("the embedded object's map {map} is missing or another: build it again");
            }
            ebpf = None;
            None
        });
        for program in &programs {
            match program.attached {
                true => info!(program = program.name, hook = program.hook, "eBPF program attached"),
                false => info!(program = program.name, reason = program.reason, "eBPF program not attached"),
            }
        }
        give_memory_back();
        Self {
            programs,
            procfs: options.procfs.clone(),
            sysfs: options.sysfs.clone(),
            state: Mutex::new(State { slots: Slots::default(), maps, without_cell: 0, without_exits: 0 }),
            ebpf,
        }
    }

    /// Every program: attached, or why not.
    pub fn programs(&self) -> &[ProgramStatus] {
        &self.programs
    }

    /// Whether this group has its programs attached.
    pub fn has(&self, group: ProgramGroup) -> bool {
        self.programs.iter().any(|program| program.attached && program.feature == group.as_str())
    }

    /// Runs and time of the attached programs; `None` in it where the kernel does not count them.
    pub fn run_stats(&self) -> Vec<RunStats> {
        self.ebpf.as_ref().map(|ebpf| run_stats(ebpf, &self.programs)).unwrap_or_default()
    }

    /// Of the groups that have programs attached.
    pub fn counted(&self) -> Vec<Counted> {
        let state = self.lock();
        let Some(maps) = &state.maps else { return Vec::new() };
        let attached = COUNTERS.into_iter().filter(|(group, ..)| self.has(*group));
        let counted = attached.map(|(group, accounted, lost)| Counted {
            group,
            accounted: maps.counter(accounted),
            lost: lost.map_or(0, |index| maps.counter(index)) + state.without_room(group),
        });
        counted.collect()
    }

    /// A slot for a sandbox that is new, without processes.
    pub fn open(&self) -> Slot {
        Slot(self.lock().slots.open())
    }

    /// Accounts to the slot what this process and its threads do from now on. The start time (clock ticks since boot)
    /// tells it from a later process with the same pid. A process that is watched already gets the new slot and role.
    pub fn watch(&self, slot: Slot, process: Pid, start_ticks: u64, role: HostRole) -> Result<(), WatchError> {
        let mut state = self.lock();
        if !state.slots.is_open(slot.0) {
            return Err(WatchError::Freed);
        }
        if let Some(before) = state.slots.slot_of(process.0) {
            state.remove_process(before, process.0);
        }
        let Prepared { cell, is_new } = self.prepare(&mut state, slot, role);
        let Some(maps) = &mut state.maps else { return Ok(()) };
        let told = maps.groups.insert(process.0, [slot.0, role_number(role), cell.unwrap_or(NONE)], 0);
        if let Err(source) = told {
            state.forget_role_if(is_new, slot, role);
            return Err(map_error(process, "GROUPS", source));
        }
        state.slots.add_process(process.0, Watched { slot: slot.0, role, cell, threads: BTreeSet::new() });
        // Only now it is sure that nobody took the pid in between.
        if read_start_ticks(&self.procfs, process) != Some(start_ticks) {
            state.remove_process(slot.0, process.0);
            state.forget_role_if(is_new, slot, role);
            return Err(WatchError::Gone(process));
        }
        let told =
            state.maps.as_mut().map_or(Ok(()), |maps| maps.changed().and_then(|()| maps.let_pass(process.0, true)));
        told.map_err(|source| map_error(process, "FILTER", source))
    }

    /// A thread of a watched process has a role of its own.
    pub fn watch_thread(&self, process: Pid, thread: Pid, role: HostRole) -> Result<(), WatchError> {
        let mut state = self.lock();
        if state.maps.is_none() || !self.has(ProgramGroup::Runqueue) {
            return Ok(());
        }
        let watched = state.slots.process_mut(process.0).ok_or(WatchError::NotWatched(process))?;
        let (slot, first) = (Slot(watched.slot), watched.threads.is_empty());
        let group = [slot.0, role_number(watched.role) | abi::HAS_THREADS, watched.cell.unwrap_or(NONE)];
        let Prepared { cell, is_new } = self.prepare(&mut state, slot, role);
        let State { slots, maps: Some(maps), .. } = &mut *state else { return Ok(()) };
        if let Err(source) = maps.threads.insert(thread.0, [process.0, cell.unwrap_or(NONE)], 0) {
            state.forget_role_if(is_new, slot, role);
            return Err(map_error(process, "THREADS", source));
        }
        if first {
            maps.groups.insert(process.0, group, 0).map_err(|source| map_error(process, "GROUPS", source))?;
        }
        maps.changed().map_err(|source| map_error(process, "EPOCH", source))?;
        if let Some(watched) = slots.process_mut(process.0) {
            watched.threads.insert(thread.0);
        }
        Ok(())
    }

    /// A thread that has ended, or has its process' role again.
    pub fn forget_thread(&self, process: Pid, thread: Pid) {
        let mut state = self.lock();
        let State { slots, maps: Some(maps), .. } = &mut *state else { return };
        if slots.process_mut(process.0).is_some_and(|watched| watched.threads.remove(&thread.0)) {
            report(maps.forget_thread(process.0, thread.0).and_then(|()| maps.changed()).err());
        }
    }

    /// A process of this slot that has ended: at once, since its pid may be taken. If it is taken already, by a process of
    /// another slot, that one stays. What it did stays in its slot's readings.
    pub fn forget_process(&self, slot: Slot, process: Pid) {
        self.lock().remove_process(slot.0, process.0);
    }

    /// The slot's last reading; the kernel forgets it, with its processes.
    pub fn free(&self, slot: Slot) -> KernelReading {
        let mut state = self.lock();
        for process in state.slots.processes_of(slot.0) {
            state.remove_process(slot.0, process);
        }
        let reading = self.read_one(&state, slot);
        state.close(slot.0);
        reading
    }

    /// `None` of a slot that was freed.
    pub fn read(&self, slot: Slot) -> Option<KernelReading> {
        let state = self.lock();
        state.slots.is_open(slot.0).then(|| self.read_one(&state, slot))
    }

    /// All slots. Cheaper than reading each of them.
    pub fn read_all(&self) -> BTreeMap<Slot, KernelReading> {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(maps) = &mut state.maps else {
            return state.slots.all().into_iter().map(|slot| (Slot(slot), KernelReading::default())).collect();
        };
        let (mut block, mut oom) = (maps.all_block(), maps.all_oom());
        // A program that had looked up a process just before its slot was freed may have written after that.
        block.retain(|key, _| state.slots.is_open(key[0]) || maps.block.remove(key).is_err());
        oom.retain(|key, _| state.slots.is_open(key[0]) || maps.oom.remove(key).is_err());
        let mut names = BTreeMap::new();
        let read = state.slots.all().into_iter().map(|slot| {
            let own = block.range([slot, 0, 0]..=[slot, u32::MAX, u32::MAX]);
            let kills = oom.range([slot, 0]..=[slot, u32::MAX]);
            let reading = KernelReading {
                block: self.block(own, &mut names),
                oom_kills: self.killed(&state.slots, slot, kills),
                ..self.by_slot(maps, &state.slots, slot)
            };
            (Slot(slot), reading)
        });
        read.collect()
    }

    /// Detaches all. Blocks 50-90 ms for each plain tracepoint: on a thread for that.
    pub fn detach(self) {
        if self.ebpf.is_none() {
            warn!("no accounting program is attached");
        }
        drop(self);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for what the slot's processes of this role will do; the programs make none for themselves. The cell of the
    /// role's waits.
    fn prepare(&self, state: &mut State, slot: Slot, role: HostRole) -> Prepared {
        let known = state.slots.cell(slot.0, role);
        let State { slots, maps: Some(maps), without_cell, without_exits } = state else { return Prepared::default() };
        if let Some(cell) = known {
            return Prepared { cell, is_new: false };
        }
        if slots.roles(slot.0).next().is_none() && self.has(ProgramGroup::Kvm) {
            let made = maps.kvm.insert(slot.0, [0; EXIT_CLASSES], 0);
            *without_exits += u64::from(made.is_err());
        }
        let mut cell = slots.add_role(slot.0, role);
        if self.has(ProgramGroup::Runqueue) {
            // Another sandbox may have had it.
            cell = cell.filter(|cell| maps.runqueue.set(*cell, [0; HISTOGRAM_WORDS], 0).is_ok());
            *without_cell += u64::from(cell.is_none());
        }
        Prepared { cell, is_new: true }
    }

    fn read_one(&self, state: &State, slot: Slot) -> KernelReading {
        let Some(maps) = &state.maps else { return KernelReading::default() };
        KernelReading {
            block: self.block(&maps.block_of(slot.0), &mut BTreeMap::new()),
            oom_kills: self.killed(&state.slots, slot.0, maps.all_oom().range([slot.0, 0]..=[slot.0, u32::MAX])),
            ..self.by_slot(maps, &state.slots, slot.0)
        }
    }

    /// What is kept by slot.
    fn by_slot(&self, maps: &Maps, slots: &Slots, slot: u32) -> KernelReading {
        // A cell that nobody counts in holds zeros.
        let roles = slots.roles(slot).filter(|_| self.has(ProgramGroup::Runqueue));
        let of_role = |(role, cell): (_, Option<u32>)| Some((role, histogram(&maps.runqueue.get(&cell?, 0).ok()?)));
        KernelReading {
            runqueue: roles.filter_map(of_role).collect(),
            kvm_exits: maps.kvm.get(&slot, 0).map(|classes| exits::named(&classes)).unwrap_or_default(),
            ..KernelReading::default()
        }
    }

    /// A role that has a process and was not killed has a count, too: it is known.
    fn killed<'a>(
        &self,
        slots: &Slots,
        slot: u32,
        kills: impl Iterator<Item = (&'a Member, &'a u64)>,
    ) -> Vec<(HostRole, u64)> {
        // Threads are not killed alone.
        let roles = slots.roles(slot).filter(|(role, _)| self.has(ProgramGroup::Oom) && *role != HostRole::Vcpu);
        let mut counts: BTreeMap<HostRole, u64> = roles.map(|(role, _)| (role, 0)).collect();
        counts.extend(kills.filter_map(|([_, role], count)| Some((role_of_number(*role)?, *count))));
        counts.into_iter().collect()
    }

    /// By name: a disk and its partitions are one.
    fn block<'a>(
        &self,
        entries: impl IntoIterator<Item = (&'a BlockKey, &'a [u64; BLOCK_WORDS])>,
        names: &mut BTreeMap<u32, String>,
    ) -> Vec<BlockReading> {
        let mut found: BTreeMap<(String, u32), BlockReading> = BTreeMap::new();
        for ([_, device, number], words) in entries {
            let Some((_, operation)) = OPERATIONS.iter().find(|(known, _)| known == number) else { continue };
            let name = names.entry(*device).or_insert_with(|| devices::read_name(&self.sysfs, *device)).clone();
            // A histogram comes first.
            let Some(latency) = words.first_chunk().map(histogram) else { continue };
            let (bytes, requests) = (words[abi::BYTES], words[abi::REQUESTS]);
            let place = found.entry((name.clone(), *number));
            place
                .and_modify(|reading| {
                    reading.bytes += bytes;
                    reading.requests += requests;
                    reading.latency.add(&latency);
                })
                .or_insert(BlockReading { device: name, operation, bytes, requests, latency });
        }
        found.into_values().collect()
    }
}

/// Where a role's waits are counted; `None` where there is no room.
#[derive(Default)]
struct Prepared {
    cell: Option<u32>,
    is_new: bool,
}

impl State {
    /// The process and its threads, if it is the slot's.
    fn remove_process(&mut self, slot: u32, process: u32) {
        let Some(watched) = self.slots.remove_process_of(slot, process) else { return };
        let Some(maps) = &mut self.maps else { return };
        let mut failed = ignore_missing(maps.groups.remove(&process)).err();
        for thread in &watched.threads {
            failed = maps.forget_thread(process, *thread).err().or(failed);
        }
        if !self.slots.shares_bit(process) {
            failed = failed.or(maps.let_pass(process, false).err());
        }
        report(failed.or(maps.changed().err()));
    }

    /// A role whose first process was none after all has nothing to show.
    fn forget_role_if(&mut self, is_new: bool, slot: Slot, role: HostRole) {
        if is_new {
            self.slots.forget_role(slot.0, role);
        }
    }

    fn without_room(&self, group: ProgramGroup) -> u64 {
        match group {
            ProgramGroup::Runqueue => self.without_cell,
            ProgramGroup::Kvm => self.without_exits,
            ProgramGroup::Block | ProgramGroup::Oom => 0,
        }
    }

    /// What the kernel has of the slot.
    fn close(&mut self, slot: u32) {
        self.slots.close(slot);
        let Some(maps) = &mut self.maps else { return };
        let mut results = vec![maps.kvm.remove(&slot)];
        let block: Vec<BlockKey> = maps.block_of(slot).into_keys().collect();
        results.extend(block.iter().map(|key| maps.block.remove(key)));
        let oom: Vec<Member> = maps.all_oom().into_keys().filter(|key| key[0] == slot).collect();
        results.extend(oom.iter().map(|key| maps.oom.remove(key)));
        report(results.into_iter().find_map(|removed| ignore_missing(removed).err()));
    }
}

/// Removing fails only if the map is not what it should be; then events of one process go on being counted.
fn report(failed: Option<MapError>) {
    if let Some(error) = failed {
        warn!(error = &error as &dyn std::error::Error, "the kernel could not be told to forget a process");
    }
}

fn map_error(process: Pid, map: &'static str, source: MapError) -> WatchError {
    WatchError::Map { process, map, source: Box::new(source) }
}

/// Field 22 of `/proc/<pid>/stat`; read here, since the probe compiles this module without its neighbours. `None`:
/// ended, or unreadable.
fn read_start_ticks(procfs: &Path, process: Pid) -> Option<u64> {
    let text = fs::read(procfs.join(process.to_string()).join("stat")).ok()?;
    parse_start_ticks(&text)
}

/// The name before may hold anything, closing parentheses too.
fn parse_start_ticks(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = b"7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 4242 9 9";
        assert_eq!(parse_start_ticks(stat), Some(4242));
        assert_eq!(parse_start_ticks(b"7 (a"), None);
        assert_eq!(parse_start_ticks(b"7 (a) S 1"), None);
        assert!(read_start_ticks(Path::new("/proc"), Pid(std::process::id())).is_some());
    }
}
