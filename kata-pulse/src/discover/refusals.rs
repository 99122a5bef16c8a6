//! Whose claim was refused already: the same process is counted once, however often it is looked at. No IO.

use std::collections::{HashSet, VecDeque};

use super::sieve::Refused;

/// Twice what a scan names, so that two scans in a row find each other's.
const MAX_REMEMBERED: usize = 4096;

#[derive(Debug, Default)]
pub struct Refusals {
    known: HashSet<Refused>,
    oldest_first: VecDeque<Refused>,
    /// Of the last scan, those that it could only count.
    beyond: u64,
}

impl Refusals {
    /// Whether this one was never refused before, as far as we remember.
    pub fn is_new(&mut self, refused: Refused) -> bool {
        if !self.known.insert(refused) {
            return false;
        }
        self.oldest_first.push_back(refused);
        if self.oldest_first.len() > MAX_REMEMBERED
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// How many more than last time a scan could only count.
    pub fn grown(&mut self, beyond: u64) -> u64 {
        beyond.saturating_sub(std::mem::replace(&mut self.beyond, beyond))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Pid;

    #[test]
    fn a_process_is_new_once_and_the_memory_is_bounded() {
        let mut refusals = Refusals::default();
        assert!(refusals.is_new((Pid(1), 5)) && !refusals.is_new((Pid(1), 5)));
        assert!(refusals.is_new((Pid(1), 6)), "another process with the same pid");
        (0..3 * MAX_REMEMBERED as u64).for_each(|start| assert!(refusals.is_new((Pid(2), start))));
        assert_eq!((refusals.known.len(), refusals.oldest_first.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
    }

    #[test]
    fn what_is_only_counted_is_not_counted_by_each_scan_again() {
        let mut refusals = Refusals::default();
        assert_eq!([7, 7, 9, 2, 3].map(|beyond| refusals.grown(beyond)), [7, 0, 2, 0, 1]);
    }
}
