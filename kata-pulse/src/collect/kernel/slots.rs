//! Which processes and threads are told to the kernel for which slot. No IO.
//!
//! A slot's number is never given twice, so that nothing that a sandbox left behind can be taken for another's. Cells are,
//! as late as can be: a program that looked one up has long added to it by then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kata_pulse_common::account::{CELLS, filter_bit};

use crate::sandbox::HostRole;

#[derive(Debug, Default)]
pub(super) struct Slots {
    last: u32,
    /// Roles that had a process or thread, with their cells as far as there were any.
    slots: BTreeMap<u32, BTreeMap<HostRole, Option<u32>>>,
    processes: BTreeMap<u32, Watched>,
    /// Never given yet.
    next_cell: u32,
    free_cells: VecDeque<u32>,
}

#[derive(Debug)]
pub(super) struct Watched {
    pub slot: u32,
    pub role: HostRole,
    pub cell: Option<u32>,
    /// Those with a role of their own.
    pub threads: BTreeSet<u32>,
}

impl Slots {
    pub(super) fn open(&mut self) -> u32 {
        self.last += 1;
        self.slots.insert(self.last, BTreeMap::new());
        self.last
    }

    pub(super) fn is_open(&self, slot: u32) -> bool {
        self.slots.contains_key(&slot)
    }

    pub(super) fn all(&self) -> Vec<u32> {
        self.slots.keys().copied().collect()
    }

    /// Roles and their cells.
    pub(super) fn roles(&self, slot: u32) -> impl Iterator<Item = (HostRole, Option<u32>)> {
        self.slots.get(&slot).into_iter().flatten().map(|(role, cell)| (*role, *cell))
    }

    /// The role's cell, where the slot has the role.
    pub(super) fn cell(&self, slot: u32, role: HostRole) -> Option<Option<u32>> {
        self.slots.get(&slot)?.get(&role).copied()
    }

    /// A cell for a role that is new to the slot. `None`: all are taken; the role is there without one.
    pub(super) fn add_role(&mut self, slot: u32, role: HostRole) -> Option<u32> {
        let roles = self.slots.get_mut(&slot)?;
        let cell = if self.next_cell < CELLS {
            self.next_cell += 1;
            Some(self.next_cell - 1)
        } else {
            self.free_cells.pop_front()
        };
        self.free_cells.extend(roles.insert(role, cell).flatten());
        cell
    }

    pub(super) fn forget_role(&mut self, slot: u32, role: HostRole) {
        self.free_cells.extend(self.slots.get_mut(&slot).and_then(|roles| roles.remove(&role)).flatten());
    }

    pub(super) fn add_process(&mut self, process: u32, watched: Watched) {
        self.processes.insert(process, watched);
    }

    /// Whether any process has this one's bit in the filter.
    pub(super) fn shares_bit(&self, process: u32) -> bool {
        self.processes.keys().any(|other| filter_bit(*other) == filter_bit(process))
    }

    pub(super) fn process_mut(&mut self, process: u32) -> Option<&mut Watched> {
        self.processes.get_mut(&process)
    }

    /// If it is, or was, the slot's: the pid may be another's by now.
    pub(super) fn remove_process_of(&mut self, slot: u32, process: u32) -> Option<Watched> {
        let is_its = self.processes.get(&process).is_some_and(|watched| watched.slot == slot);
        if is_its { self.processes.remove(&process) } else { None }
    }

    pub(super) fn slot_of(&self, process: u32) -> Option<u32> {
        self.processes.get(&process).map(|watched| watched.slot)
    }

    /// Its processes, which stay.
    pub(super) fn processes_of(&self, slot: u32) -> Vec<u32> {
        let of = self.processes.iter().filter(|(_, watched)| watched.slot == slot);
        of.map(|(&process, _)| process).collect()
    }

    pub(super) fn close(&mut self, slot: u32) {
        self.free_cells.extend(self.slots.remove(&slot).into_iter().flat_map(BTreeMap::into_values).flatten());
    }
}

/// The role's number in the kernel's maps.
pub(super) fn role_number(role: HostRole) -> u32 {
    HostRole::ALL.iter().position(|known| *known == role).map_or(u32::MAX >> 1, |at| at as u32)
}

pub(super) fn role_of_number(number: u32) -> Option<HostRole> {
    HostRole::ALL.get(number as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_never_given_twice() {
        let mut slots = Slots::default();
        let first = slots.open();
        slots.close(first);
        let second = slots.open();
        assert_ne!(first, second);
        assert!(!slots.is_open(first) && slots.is_open(second));
        assert_eq!(slots.add_role(first, HostRole::Vmm), None, "a closed slot takes no role");
    }

    #[test]
    fn a_cell_is_given_again_only_when_all_others_were() {
        let mut slots = Slots::default();
        let (first, second) = (slots.open(), slots.open());
        assert_eq!(slots.add_role(first, HostRole::Vmm), Some(0));
        assert_eq!(slots.add_role(second, HostRole::Vmm), Some(1));
        slots.close(second);
        slots.close(first);
        for cell in 2..CELLS {
            let slot = slots.open();
            assert_eq!(slots.add_role(slot, HostRole::Shim), Some(cell));
        }
        let last = slots.open();
        assert_eq!(slots.add_role(last, HostRole::Shim), Some(1), "that which is free for longest");
        assert_eq!(slots.add_role(last, HostRole::Vmm), Some(0));
        assert_eq!(slots.add_role(last, HostRole::Vcpu), None);
        assert_eq!(slots.cell(last, HostRole::Vcpu), Some(None), "it is known that it has none");
        slots.forget_role(last, HostRole::Vcpu);
        slots.forget_role(last, HostRole::Vmm);
        assert_eq!(slots.add_role(last, HostRole::Vcpu), Some(0));
        assert_eq!(slots.roles(last).collect::<Vec<_>>(), [(HostRole::Vcpu, Some(0)), (HostRole::Shim, Some(1))]);
    }

    #[test]
    fn a_bit_of_the_filter_is_kept_while_any_process_has_it() {
        let mut slots = Slots::default();
        let slot = slots.open();
        let watched = || Watched { slot, role: HostRole::Vmm, cell: None, threads: BTreeSet::new() };
        let (one, other) = (70_000, 70_000 - 65_536);
        slots.add_process(one, watched());
        assert!(slots.shares_bit(other) && !slots.shares_bit(other + 1) && !slots.shares_bit(other + 64));
        slots.add_process(other, watched());
        assert!(slots.remove_process_of(slot + 1, one).is_none(), "another's");
        slots.remove_process_of(slot, one);
        assert!(slots.shares_bit(one));
        slots.remove_process_of(slot, other);
        assert!(!slots.shares_bit(one));
    }

    #[test]
    fn roles_have_numbers_and_back() {
        for role in HostRole::ALL {
            assert_eq!(role_of_number(role_number(role)), Some(role));
        }
        assert_eq!(role_of_number(99), None);
    }
}
