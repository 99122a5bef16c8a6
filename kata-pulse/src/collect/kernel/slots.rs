//! Which processes and threads are told to the kernel for which slot. No IO.
//!
//! A slot's number is never given twice, so that nothing that a sandbox left behind can be taken for another's.

use std::collections::{BTreeMap, BTreeSet};

use crate::sandbox::HostRole;

#[derive(Debug, Default)]
pub(super) struct Slots {
    last: u32,
    /// Roles that had a process or thread.
    slots: BTreeMap<u32, BTreeSet<HostRole>>,
    processes: BTreeMap<u32, Watched>,
}

#[derive(Debug)]
pub(super) struct Watched {
    pub slot: u32,
    pub role: HostRole,
    /// Those with a role of their own.
    pub threads: BTreeSet<u32>,
}

impl Slots {
    pub(super) fn open(&mut self) -> u32 {
        self.last += 1;
        self.slots.insert(self.last, BTreeSet::new());
        self.last
    }

    pub(super) fn is_open(&self, slot: u32) -> bool {
        self.slots.contains_key(&slot)
    }

    pub(super) fn all(&self) -> Vec<u32> {
        self.slots.keys().copied().collect()
    }

    pub(super) fn roles(&self, slot: u32) -> Vec<HostRole> {
        self.slots.get(&slot).map(|roles| roles.iter().copied().collect()).unwrap_or_default()
    }

    /// Whether the role is new to the slot.
    pub(super) fn add_role(&mut self, slot: u32, role: HostRole) -> bool {
        self.slots.get_mut(&slot).is_some_and(|roles| roles.insert(role))
    }

    pub(super) fn forget_role(&mut self, slot: u32, role: HostRole) {
        if let Some(roles) = self.slots.get_mut(&slot) {
            roles.remove(&role);
        }
    }

    pub(super) fn add_process(&mut self, process: u32, slot: u32, role: HostRole) {
        self.processes.insert(process, Watched { slot, role, threads: BTreeSet::new() });
    }

    pub(super) fn process_mut(&mut self, process: u32) -> Option<&mut Watched> {
        self.processes.get_mut(&process)
    }

    pub(super) fn remove_process(&mut self, process: u32) -> Option<Watched> {
        self.processes.remove(&process)
    }

    /// Its processes, which stay.
    pub(super) fn processes_of(&self, slot: u32) -> Vec<u32> {
        let of = self.processes.iter().filter(|(_, watched)| watched.slot == slot);
        of.map(|(&process, _)| process).collect()
    }

    pub(super) fn close(&mut self, slot: u32) {
        self.slots.remove(&slot);
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
        slots.add_process(7, first, HostRole::Vmm);
        slots.close(first);
        let second = slots.open();
        assert_ne!(first, second);
        assert!(!slots.is_open(first) && slots.is_open(second));
        assert!(!slots.add_role(first, HostRole::Vmm), "a closed slot takes no role");
    }

    #[test]
    fn roles_have_numbers_and_back() {
        for role in HostRole::ALL {
            assert_eq!(role_of_number(role_number(role)), Some(role));
        }
        assert_eq!(role_of_number(99), None);
    }
}
