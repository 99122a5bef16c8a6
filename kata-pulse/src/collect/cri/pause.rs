//! Pauses between tries, spread so that the agents of many nodes do not come together.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Between three and five quarters of `pause`.
pub(super) fn spread(pause: Duration) -> Duration {
    // Every new state is keyed at random.
    scaled(pause, RandomState::new().hash_one(pause))
}

fn scaled(pause: Duration, random: u64) -> Duration {
    pause.mul_f64(0.75 + 0.5 * (random as f64 / u64::MAX as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn pauses_differ_and_stay_near_what_was_asked() {
        let second = Duration::from_secs(1);
        assert_eq!(scaled(second, 0), Duration::from_millis(750));
        assert_eq!(scaled(second, u64::MAX), Duration::from_millis(1250));
        let pauses: BTreeSet<Duration> = (0..50).map(|_| spread(second)).collect();
        assert!(pauses.len() > 10, "{pauses:?}");
        assert!(pauses.iter().all(|pause| (750..=1250).contains(&pause.as_millis())));
    }
}
