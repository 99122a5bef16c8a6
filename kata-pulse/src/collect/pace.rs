//! When do scrapes come? Learnt from when they came.
//!
//! A page whose values are older than the last scrape makes `irate` swing between zero and double, so collection
//! follows the scraper: once per period, between two scrapes. Pure; in: arrivals. Out: a [`Pace`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Steady periods that are followed. Asking a shim more often than every 10 s does harm (kata.md H5).
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
/// Scrapers that are told apart, by address.
const MAX_SCRAPERS: usize = 16;

/// How collection is timed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Nobody scrapes steadily.
    Interval(Duration),
    /// Once between two scrapes.
    Following { last: Instant, period: Duration },
}

#[derive(Clone, Copy, Debug)]
struct Scraper {
    /// The last arrival in its rhythm.
    last: Instant,
    /// The last arrival, in the rhythm or not.
    previous: Instant,
    period: Option<Duration>,
    /// A gap that was none of the rhythm's: a second one like it makes it the rhythm.
    candidate: Option<Duration>,
}

impl Scraper {
    fn new(now: Instant) -> Self {
        Self { last: now, previous: now, period: None, candidate: None }
    }

    /// A look by hand, from the scraper's own address, does not disturb the rhythm.
    fn arrived(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(std::mem::replace(&mut self.previous, now));
        let since = now.saturating_duration_since(self.last);
        let Some(period) = self.period else {
            if is_plausible(since) {
                (self.last, self.period) = (now, Some(since));
            } else if since > LONGEST {
                self.last = now;
            }
            return;
        };
        if is_like(since, period) {
            (self.last, self.candidate) = (now, None);
        } else if is_plausible(gap) && self.candidate.is_some_and(|candidate| is_like(gap, candidate)) {
            *self = Self { last: now, previous: now, period: Some(gap), candidate: None };
        } else {
            self.candidate = is_plausible(gap).then_some(gap);
            if since > period.mul_f64(1.5) {
                self.last = now;
            }
        }
    }
}

fn is_plausible(gap: Duration) -> bool {
    gap >= SHORTEST.mul_f64(0.9) && gap <= LONGEST.mul_f64(1.1)
}

fn is_like(gap: Duration, other: Duration) -> bool {
    gap.abs_diff(other) <= other.mul_f64(0.2)
}

/// Arrivals of scrapes, by address.
#[derive(Debug)]
pub struct ScrapeClock {
    interval: Duration,
    scrapers: HashMap<IpAddr, Scraper>,
    followed: Option<IpAddr>,
}

impl ScrapeClock {
    /// `interval`: the time between collections when nobody scrapes.
    pub fn new(interval: Duration) -> Self {
        Self { interval, scrapers: HashMap::new(), followed: None }
    }

    pub fn arrived(&mut self, from: IpAddr, now: Instant) {
        self.scrapers.retain(|_, scraper| now.saturating_duration_since(scraper.previous) <= 3 * LONGEST);
        if let Some(scraper) = self.scrapers.get_mut(&from) {
            scraper.arrived(now);
            return;
        }
        if self.scrapers.len() >= MAX_SCRAPERS {
            // Somebody who came once and has no rhythm makes room.
            let idle = self.scrapers.iter().filter(|(_, scraper)| scraper.period.is_none());
            let Some(idle) = idle.min_by_key(|(_, scraper)| scraper.previous).map(|(address, _)| *address) else {
                return;
            };
            self.scrapers.remove(&idle);
        }
        self.scrapers.insert(from, Scraper::new(now));
    }

    /// The pace of the fastest scraper that has not stayed away. Of two that are as fast the one that was followed before
    /// is: to be asked once per period suffices both.
    pub fn pace(&mut self, now: Instant) -> Pace {
        let rhythm = |scraper: &Scraper| {
            let period = scraper.period?;
            (now.saturating_duration_since(scraper.last) < period.mul_f64(2.5)).then_some((period, scraper.last))
        };
        let steady = self.scrapers.iter().filter_map(|(address, scraper)| Some((rhythm(scraper)?, *address)));
        let Some(((period, last), address)) = steady.min() else {
            self.followed = None;
            return Pace::Interval(self.interval);
        };
        let followed = self.followed.and_then(|address| rhythm(self.scrapers.get(&address)?));
        match followed.filter(|(followed, _)| period >= followed.mul_f64(0.8)) {
            Some((period, last)) => Pace::Following { last, period },
            None => {
                self.followed = Some(address);
                Pace::Following { last, period }
            }
        }
    }
}

impl Pace {
    /// When a sandbox that was last asked at `asked` is asked again. `phase`, 0 to 1, spreads sandboxes over the time.
    pub fn next(self, asked: Instant, phase: f64, now: Instant) -> Instant {
        match self {
            Self::Interval(interval) => asked + interval,
            Self::Following { last, period } => {
                let slot = last + period.mul_f64(0.1 + 0.75 * phase);
                // Asked since the last scrape: the next turn comes after the next scrape.
                if asked > last { slot + period } else { slot.max(now) }
            }
        }
    }

    /// About how long it is from one turn to the next.
    pub fn period(self) -> Duration {
        match self {
            Self::Interval(interval) => interval,
            Self::Following { period, .. } => period,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn clock(arrivals: &[(IpAddr, u64)]) -> (ScrapeClock, Instant) {
        let start = Instant::now();
        let mut clock = ScrapeClock::new(seconds(60));
        for &(from, at) in arrivals {
            clock.arrived(from, start + seconds(at));
        }
        (clock, start)
    }

    #[test]
    fn a_steady_scraper_is_followed_and_one_that_left_is_not() {
        let (mut clock, start) = clock(&[(A, 0), (A, 30), (A, 60)]);
        let following = Pace::Following { last: start + seconds(60), period: seconds(30) };
        assert_eq!(clock.pace(start + seconds(61)), following);
        assert_eq!(clock.pace(start + seconds(60 + 75)), Pace::Interval(seconds(60)));
    }

    #[test]
    fn one_scrape_is_no_rhythm_and_a_fast_one_is_not_followed() {
        let (mut clock, start) = clock(&[(A, 0), (B, 0), (B, 2), (B, 4)]);
        assert_eq!(clock.pace(start + seconds(5)), Pace::Interval(seconds(60)));
    }

    #[test]
    fn the_faster_of_two_is_followed() {
        let (mut clock, start) = clock(&[(A, 0), (B, 7), (A, 60), (B, 22)]);
        assert_eq!(clock.pace(start + seconds(23)).period(), seconds(15));
    }

    #[test]
    fn a_look_by_hand_does_not_disturb() {
        let (mut clock, start) = clock(&[(A, 0), (A, 30), (A, 33), (A, 60)]);
        assert_eq!(clock.pace(start + seconds(60)).period(), seconds(30));
    }

    #[test]
    fn looks_by_hand_from_the_scrapers_own_address_do_not_disturb() {
        let (mut clock, start) = clock(&[(A, 0), (A, 30), (A, 50), (A, 60), (A, 75), (A, 81), (A, 90), (A, 120)]);
        let following = Pace::Following { last: start + seconds(120), period: seconds(30) };
        assert_eq!(clock.pace(start + seconds(121)), following);
    }

    #[test]
    fn a_scraper_that_changes_its_rhythm_is_followed_after_two_gaps() {
        let (mut slower, start) = clock(&[(A, 0), (A, 30), (A, 90), (A, 150)]);
        assert_eq!(slower.pace(start + seconds(151)).period(), seconds(60));
        let (mut faster, start) = clock(&[(A, 0), (A, 60), (A, 75), (A, 90)]);
        assert_eq!(faster.pace(start + seconds(91)).period(), seconds(15));
    }

    #[test]
    fn two_scrapers_behind_one_address_are_followed_as_one() {
        let (mut clock, start) = clock(&[(A, 0), (A, 7), (A, 15), (A, 22), (A, 30), (A, 37)]);
        assert_eq!(clock.pace(start + seconds(38)).period(), seconds(15));
    }

    #[test]
    fn strangers_do_not_lock_a_scraper_out() {
        let strangers = (0..100_u8).map(|last| (IpAddr::from([10, 1, 0, last]), 0));
        let arrivals: Vec<_> = strangers.chain([(A, 1), (A, 31)]).collect();
        let (mut clock, start) = clock(&arrivals);
        assert_eq!(clock.pace(start + seconds(32)).period(), seconds(30));
    }

    #[test]
    fn of_two_that_are_as_fast_one_is_followed_whatever_their_jitter() {
        let start = Instant::now();
        let mut clock = ScrapeClock::new(seconds(60));
        let mut followed = Vec::new();
        for round in 0..10_u64 {
            let jitter = Duration::from_millis(7 * (round % 3));
            for (from, offset) in [(A, 0), (B, 15)] {
                let now = start + seconds(30 * round + offset) + jitter;
                clock.arrived(from, now);
                if let Pace::Following { last, .. } = clock.pace(now) {
                    followed.push((last - start).as_secs() % 30);
                }
            }
        }
        assert!(followed.len() > 10 && followed.iter().all(|offset| *offset == followed[0]), "{followed:?}");
    }

    proptest::proptest! {
        /// Whatever the phase, between two scrapes of a steady scraper there is exactly one turn.
        #[test]
        fn every_scrape_gets_values_younger_than_the_last(phase in 0.0..1.0f64, period in 10u64..300, jitter in 0u64..500) {
            let start = Instant::now();
            let period = Duration::from_secs(period);
            let mut asked = start;
            for scrape in 0..20u32 {
                let last = start + period * scrape + Duration::from_millis(if scrape % 2 == 0 { 0 } else { jitter });
                let pace = Pace::Following { last, period };
                let turn = pace.next(asked, phase, last);
                let next_scrape = start + period * (scrape + 1);
                proptest::prop_assert!(turn > last && turn < next_scrape, "scrape {scrape}");
                asked = turn;
                let after = pace.next(asked, phase, turn);
                proptest::prop_assert!(after >= next_scrape);
            }
        }
    }
}
