//! What must be remembered of a guest from page to page, so that it cannot make a counter fall or series grow without
//! end. One per sandbox, for its whole life.

use std::collections::HashMap;

use super::unit::UnitFinder;

/// Distinct interfaces, disks, and mounts, over the life of a sandbox.
const MAX_DEVICES: usize = 64;

/// What conversion left out, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConvertDropped {
    /// Counters that were lower than before.
    pub fallen: u64,
    /// Devices behind the cap over a sandbox's life.
    pub devices: u64,
}

#[derive(Clone, Debug, Default)]
pub struct GuestHistory {
    pub(super) unit: UnitFinder,
    /// user, system, page faults, major page faults, OOM kills.
    pub(super) counters: Highest<5>,
    pub(super) modes: Highest<8>,
    pub(super) interfaces: Devices<8>,
    pub(super) disks: Devices<14>,
    pub(super) mounts: Devices<0>,
}

/// The highest value so far of some counters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Highest<const N: usize>([f64; N]);

impl<const N: usize> Default for Highest<N> {
    fn default() -> Self {
        Self([0.0; N])
    }
}

impl<const N: usize> Highest<N> {
    /// The value, unless it is lower than an earlier one: then nothing, since a counter that stays below is no
    /// counter, and one that was shown falling would be taken for a restart.
    pub(super) fn pass(&mut self, at: usize, value: Option<f64>, dropped: &mut ConvertDropped) -> Option<f64> {
        let value = value?;
        if value < self.0[at] {
            dropped.fallen += 1;
            return None;
        }
        self.0[at] = value;
        Some(value)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Devices<const N: usize>(HashMap<Box<str>, Highest<N>>);

impl<const N: usize> Devices<N> {
    pub(super) fn get(&mut self, name: &str, dropped: &mut ConvertDropped) -> Option<&mut Highest<N>> {
        if !self.0.contains_key(name) {
            if self.0.len() >= MAX_DEVICES {
                dropped.devices += 1;
                return None;
            }
            self.0.insert(name.into(), Highest::default());
        }
        self.0.get_mut(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_behind_the_cap_is_refused_and_a_known_one_is_not() {
        let (mut devices, mut dropped) = (Devices::<4>::default(), ConvertDropped::default());
        for n in 0..100 {
            devices.get(&format!("d{n}"), &mut dropped);
        }
        assert_eq!(dropped.devices, 36);
        assert!(devices.get("d0", &mut dropped).is_some() && devices.get("d99", &mut dropped).is_none());
    }
}
