//! Which processes of a scan are worth reading their arguments: those that something can prove. Pure.
//!
//! In: outlines, in any order. Out: the candidates, and who was refused. Any container can start processes of a
//! hypervisor's name by the thousand: of those only a few numbers each are kept, and not of all.

use std::collections::HashMap;

use super::membership::{self, Proven};
use super::process::Outline;
use crate::sandbox::Pid;

/// Refused processes that one scan remembers.
const MAX_REFUSED: usize = 1024;

/// A process that nothing supports: pid and start time.
pub type Refused = (Pid, u64);

#[derive(Debug)]
pub struct Sieve {
    proven: Proven,
    /// Start times of the candidates, whose children are candidates too.
    taken: HashMap<Pid, u64>,
    candidates: Vec<Outline>,
    /// Their parent may come later.
    undecided: Vec<Outline>,
    beyond: u64,
}

/// What came out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sifted {
    pub candidates: Vec<Outline>,
    pub refused: Vec<Refused>,
    /// Refused ones beyond those that are named.
    pub beyond: u64,
}

impl Sieve {
    pub fn new(proven: Proven) -> Self {
        Self { proven, taken: HashMap::new(), candidates: Vec::new(), undecided: Vec::new(), beyond: 0 }
    }

    pub fn add(&mut self, mut outline: Outline) {
        if membership::could_belong(&outline, &self.proven) || self.is_child(&outline) {
            self.take(outline);
        } else if self.undecided.len() < MAX_REFUSED {
            // They prove nothing, and are as long as their owner likes.
            outline.cgroups = Vec::new();
            self.undecided.push(outline);
        } else {
            self.beyond += 1;
        }
    }

    pub fn finish(mut self) -> Sifted {
        loop {
            let (children, others): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.undecided).into_iter().partition(|outline| self.is_child(outline));
            self.undecided = others;
            if children.is_empty() {
                break;
            }
            children.into_iter().for_each(|outline| self.take(outline));
        }
        let refused = self.undecided.iter().map(|outline| (outline.pid, outline.start_ticks)).collect();
        Sifted { candidates: self.candidates, refused, beyond: self.beyond }
    }

    fn take(&mut self, outline: Outline) {
        self.taken.insert(outline.pid, outline.start_ticks);
        self.candidates.push(outline);
    }

    fn is_child(&self, outline: &Outline) -> bool {
        self.taken.get(&outline.parent).is_some_and(|&start| start <= outline.start_ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: u64 = 1;

    fn outline(pid: u32, parent: u32, namespace: u64) -> Outline {
        Outline {
            pid: Pid(pid),
            parent: Pid(parent),
            start_ticks: u64::from(pid),
            executable: "/qemu-system-x86_64".into(),
            mount_namespace: Some(namespace),
            cgroups: vec!["/long".repeat(1000)],
            uid: 0,
        }
    }

    fn sieve() -> Sieve {
        Sieve::new(Proven { host_mount_namespace: Some(HOST), ..Proven::default() })
    }

    #[test]
    fn a_flood_of_forged_processes_is_refused_and_mostly_only_counted() {
        let mut sieve = sieve();
        (10..5010).for_each(|pid| sieve.add(outline(pid, 5, 999)));
        sieve.add(outline(6000, 1, HOST));
        let sifted = sieve.finish();
        assert_eq!(sifted.candidates, [outline(6000, 1, HOST)]);
        assert_eq!((sifted.refused.len(), sifted.beyond), (MAX_REFUSED, 5000 - MAX_REFUSED as u64));
    }

    #[test]
    fn descendants_of_candidates_are_candidates_in_whatever_order_they_come() {
        let mut sieve = sieve();
        for one in [outline(12, 11, 999), outline(11, 10, 999), outline(10, 1, HOST), outline(9, 10, 999)] {
            sieve.add(one);
        }
        let sifted = sieve.finish();
        let pids: Vec<u32> = sifted.candidates.iter().map(|outline| outline.pid.0).collect();
        assert_eq!(pids, [10, 11, 12]);
        assert_eq!(sifted.refused, [(Pid(9), 9)], "older than its parent: another process had that pid");
    }
}
