//! How fast a run goes: the interval of scrapes and rules, and every window of a query in proportion to it.

use std::time::Duration;

/// The interval that the documents, rules and dashboards are written for.
const WRITTEN_FOR_MS: u64 = 30_000;

#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub interval: Duration,
    /// How far a rate may be off, as a part of it.
    pub rate_tolerance: f64,
    /// The same for a sum over the samples of a window, where one more or less is right.
    pub sample_tolerance: f64,
}

impl Pace {
    /// As operators run it: a window of five minutes needs six and a half of real time.
    pub const REAL: Self = Self { interval: Duration::from_secs(30), rate_tolerance: 0.03, sample_tolerance: 0.11 };
    /// Everything fifteen times as fast; a scrape that comes 50 ms late is 2.5 % of a rate.
    pub const QUICK: Self = Self { interval: Duration::from_secs(2), rate_tolerance: 0.12, sample_tolerance: 0.11 };

    fn scaled_ms(&self, written_ms: u64) -> u64 {
        written_ms * u64::try_from(self.interval.as_millis()).unwrap() / WRITTEN_FOR_MS
    }

    pub fn window_seconds(&self) -> f64 {
        self.scaled_ms(300_000) as f64 / 1e3
    }

    pub fn samples_per_window(&self) -> f64 {
        300_000.0 / WRITTEN_FOR_MS as f64
    }

    /// Configuration with intervals of 30 s.
    pub fn of_config(&self, text: &str) -> String {
        text.replace("interval: 30s", &format!("interval: {}ms", self.interval.as_millis()))
    }

    /// A query or rule with ranges and subqueries for an interval of 30 s.
    pub fn of_query(&self, text: &str) -> String {
        let text = text.replace("$__rate_interval", "2m");
        let mut parts = text.split('[');
        let mut scaled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (range, rest) = part.split_once(']').unwrap();
            let ranges: Vec<String> =
                range.split(':').map(|one| format!("{}ms", self.scaled_ms(milliseconds(one)))).collect();
            scaled += &format!("[{}]{rest}", ranges.join(":"));
        }
        scaled
    }
}

/// `5m`, `120s`.
fn milliseconds(duration: &str) -> u64 {
    let (number, unit) = duration.split_at(duration.len() - 1);
    let number: u64 = number.parse().unwrap_or_else(|_| panic!("duration {duration:?}"));
    match unit {
        "s" => number * 1000,
        "m" => number * 60_000,
        "h" => number * 3_600_000,
        _ => panic!("duration {duration:?}"),
    }
}

#[test]
fn windows_keep_their_proportion_to_the_interval() {
    assert_eq!(Pace::REAL.of_query("rate(x[5m])"), "rate(x[300000ms])");
    assert_eq!(
        Pace::QUICK.of_query("max(rate(x[2m])[5m:1m]) + y[$__rate_interval]"),
        "max(rate(x[8000ms])[20000ms:4000ms]) + y[8000ms]"
    );
}
