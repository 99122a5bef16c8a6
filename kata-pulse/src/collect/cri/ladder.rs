//! How long until the next list: soon after something happened, ever less often while a sandbox has no name yet.

use std::time::Duration;

use super::LIST_INTERVAL;

const FIRST: Duration = Duration::from_millis(15);
/// While a sandbox of this node has no name: it may take its virtual machine long to boot.
const LONGEST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Ladder {
    step: Duration,
    pending: bool,
    /// A burst follows every hint: the runtime's list lags behind its events.
    burst_until: Option<u32>,
}

impl Default for Ladder {
    fn default() -> Self {
        Self { step: FIRST, pending: false, burst_until: None }
    }
}

impl Ladder {
    pub(super) fn restart(&mut self) {
        self.step = FIRST;
        self.burst_until = Some(4);
    }

    pub(super) fn pending(&mut self, pending: bool) {
        self.pending = pending;
    }

    /// A sandbox of this node has no name yet.
    pub(super) fn is_pending(&self) -> bool {
        self.pending
    }

    pub(super) fn next(&mut self) -> Duration {
        let bursting = self.burst_until.is_some_and(|left| left > 0);
        self.burst_until = self.burst_until.and_then(|left| left.checked_sub(1));
        if !self.pending && !bursting {
            self.step = FIRST;
            return LIST_INTERVAL;
        }
        let step = self.step;
        self.step = (step * 2).min(LONGEST);
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_when_all_have_names() {
        assert_eq!(Ladder::default().next(), LIST_INTERVAL);
    }

    #[test]
    fn a_hint_brings_a_few_quick_looks_and_then_quiet() {
        let mut ladder = Ladder::default();
        ladder.restart();
        let steps: Vec<u128> = (0..5).map(|_| ladder.next().as_millis()).collect();
        assert_eq!(steps, [15, 30, 60, 120, LIST_INTERVAL.as_millis()]);
    }

    #[test]
    fn a_sandbox_without_name_is_looked_for_ever_less_often() {
        let mut ladder = Ladder::default();
        ladder.pending(true);
        let steps: Vec<u128> = (0..9).map(|_| ladder.next().as_millis()).collect();
        assert_eq!(steps, [15, 30, 60, 120, 240, 480, 960, 1000, 1000]);
    }
}
