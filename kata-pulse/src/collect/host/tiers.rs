//! What is read how often, by its price.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::sandbox::SandboxId;

const SOMETIMES_EVERY: u64 = 4;
const RARELY_EVERY: u64 = 20;

/// What one reading reads besides what every one does: CPU, faults, resident memory, I/O, run delay, network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiers {
    /// Context switches, swap, page tables, open descriptors, cgroups, and all threads of a VMM.
    pub sometimes: bool,
    /// Shared and private pages, limits, virtual CPUs.
    pub rarely: bool,
}

impl Tiers {
    pub const OFTEN: Self = Self { sometimes: false, rarely: false };
    pub const ALL: Self = Self { sometimes: true, rarely: true };

    /// Those of a sandbox's n-th turn: not all sandboxes have the dear ones in the same.
    pub fn of_turn(id: &SandboxId, turn: u64) -> Self {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let turn = turn.wrapping_add(hasher.finish());
        Self { sometimes: turn.is_multiple_of(SOMETIMES_EVERY), rarely: turn.is_multiple_of(RARELY_EVERY) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dear_reads_are_spread_over_the_turns() {
        let ids: Vec<_> = (0..1000).map(|number| SandboxId::parse(&format!("sandbox-{number}")).unwrap()).collect();
        for turn in 0..RARELY_EVERY {
            let count = |which: fn(Tiers) -> bool| ids.iter().filter(|id| which(Tiers::of_turn(id, turn))).count();
            assert!((180..320).contains(&count(|tiers| tiers.sometimes)));
            assert!((20..90).contains(&count(|tiers| tiers.rarely)));
        }
        for id in &ids {
            let turns = |which: fn(Tiers) -> bool| (0..60).filter(|&turn| which(Tiers::of_turn(id, turn))).count();
            assert_eq!((turns(|tiers| tiers.sometimes), turns(|tiers| tiers.rarely)), (15, 3));
        }
    }
}
