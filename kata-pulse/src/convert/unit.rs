//! In which unit does a guest count its CPU time? Seconds, ticks or milliseconds, by its agent's release, which the
//! host cannot know. So it is told from how fast the numbers of CPU 0 grow (kata.md 3.6).

/// Growth of CPU 0's times per second of wall clock, one class per unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuUnit {
    Seconds,
    Ticks,
    Milliseconds,
}

impl CpuUnit {
    pub fn per_second(self) -> f64 {
        match self {
            Self::Seconds => 1.0,
            Self::Ticks => 100.0,
            Self::Milliseconds => 1000.0,
        }
    }

    /// The unit whose rate is within a factor of `tolerance`; a paused guest grows too slowly for any.
    fn of_rate(rate: f64, tolerance: f64) -> Option<Self> {
        [Self::Seconds, Self::Ticks, Self::Milliseconds].into_iter().find(|unit| {
            let share = rate / unit.per_second();
            share >= 1.0 / tolerance && share <= tolerance
        })
    }
}

/// Shorter spans are too coarse for counters that step by 10 ms.
const SHORTEST_SPAN_SECONDS: f64 = 0.5;
/// A guest that was paused for nine tenths of its life counts as slowly as one that counts in ticks: only a young
/// one is judged by its age.
const OLDEST_BY_AGE_SECONDS: f64 = 600.0;

/// Learns the unit; once learnt it stays, since a series that changed its unit would jump.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnitFinder {
    unit: Option<CpuUnit>,
    last: Option<(f64, f64)>,
}

impl UnitFinder {
    /// `sum`: all times of CPU 0, idle included, at `now_seconds`. `age_seconds`: how long the VMM has been running.
    pub fn observe(&mut self, sum: f64, now_seconds: f64, age_seconds: Option<f64>) -> Option<CpuUnit> {
        if self.unit.is_none() {
            self.unit = self.by_growth(sum, now_seconds).or_else(|| by_age(sum, age_seconds?));
        }
        // The first sample stays until it is far enough away.
        if self.last.is_none_or(|(_, at)| now_seconds - at >= SHORTEST_SPAN_SECONDS) {
            self.last = Some((sum, now_seconds));
        }
        self.unit
    }

    fn by_growth(&self, sum: f64, now_seconds: f64) -> Option<CpuUnit> {
        let (last_sum, last_at) = self.last?;
        let span = now_seconds - last_at;
        (span >= SHORTEST_SPAN_SECONDS).then(|| CpuUnit::of_rate((sum - last_sum) / span, 2.0))?
    }
}

fn by_age(sum: f64, age_seconds: f64) -> Option<CpuUnit> {
    let fits = (2.0..=OLDEST_BY_AGE_SECONDS).contains(&age_seconds);
    fits.then(|| CpuUnit::of_rate(sum / age_seconds, 2.0))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_samples_tell_the_unit() {
        for unit in [CpuUnit::Seconds, CpuUnit::Ticks, CpuUnit::Milliseconds] {
            let mut finder = UnitFinder::default();
            assert_eq!(finder.observe(5.0 * unit.per_second(), 0.0, None), None);
            assert_eq!(finder.observe(15.0 * unit.per_second(), 10.0, None), Some(unit));
        }
    }

    #[test]
    fn one_sample_of_a_young_guest_tells_it_too() {
        let age = Some(10.0);
        assert_eq!(UnitFinder::default().observe(8.2, 0.0, age), Some(CpuUnit::Seconds));
        assert_eq!(UnitFinder::default().observe(820.0, 0.0, age), Some(CpuUnit::Ticks));
        assert_eq!(UnitFinder::default().observe(8200.0, 0.0, age), Some(CpuUnit::Milliseconds));
        assert_eq!(UnitFinder::default().observe(8200.0, 0.0, Some(3600.0)), None, "too old to tell");
    }

    #[test]
    fn a_paused_guest_tells_nothing_and_changes_nothing() {
        let mut finder = UnitFinder::default();
        finder.observe(1000.0, 0.0, None);
        assert_eq!(finder.observe(1300.0, 10.0, None), None);
        assert_eq!(finder.observe(11_300.0, 20.0, None), Some(CpuUnit::Milliseconds));
        assert_eq!(finder.observe(12_300.0, 30.0, None), Some(CpuUnit::Milliseconds), "100 a second now");
    }

    proptest! {
        #[test]
        fn a_unit_once_learnt_stays(samples in prop::collection::vec((0.0..1e9f64, 0.0..100.0f64), 2..30)) {
            let mut finder = UnitFinder::default();
            let (mut now, mut learnt) = (0.0, None);
            for (sum, gap) in samples {
                now += gap;
                let unit = finder.observe(sum, now, None);
                prop_assert!(learnt.is_none() || unit == learnt);
                learnt = unit;
            }
        }
    }
}
