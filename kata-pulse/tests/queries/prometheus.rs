//! What the queries ask of a Prometheus: a start with rules, answers by label, and how often it has scraped.

use std::time::{Duration, Instant};

pub use crate::driver::{Prometheus, version};
use crate::expect::Answer;
use crate::pace::Pace;

const SCRAPED: &str = "sum_over_time(up[60m])";

impl Prometheus {
    /// With the rules of testdata.
    pub fn start_with_rules(name: &str, jobs: &str, pace: &Pace) -> Self {
        let rules = std::fs::read_to_string(crate::table::folder().join("rules.yml")).unwrap();
        let ms = pace.interval.as_millis();
        let global =
            format!("global: {{scrape_interval: {ms}ms, scrape_timeout: {ms}ms, evaluation_interval: {ms}ms}}\n");
        let config = format!("{global}rule_files: [rules.yml]\nscrape_configs:\n{jobs}");
        Self::start(name, &config, &[("rules.yml", &pace.of_query(&rules))])
    }

    /// The answer by all labels, or by `only` these; two samples with equal labels are an error.
    pub fn answer(&self, query: &str, only: &[String]) -> Result<Answer, String> {
        let mut answer = Answer::new();
        for (mut labels, value) in self.vector(query)? {
            labels.retain(|label, _| only.is_empty() || only.contains(label));
            if answer.insert(labels.clone(), value).is_some() {
                return Err(format!("twice: {labels:?}"));
            }
        }
        Ok(answer)
    }

    /// Scrapes of the target that had most.
    pub fn scrapes(&self, pace: &Pace) -> usize {
        let found = self.vector(&pace.of_query(SCRAPED)).unwrap_or_default();
        found.iter().map(|(_, times)| *times as usize).max().unwrap_or(0)
    }

    /// Until each of so many targets was scraped so often.
    pub async fn until_scraped(&self, targets: usize, times: usize, pace: &Pace) {
        let started = Instant::now();
        let patience = pace.interval * u32::try_from(times).unwrap() + Duration::from_secs(60);
        let query = format!("{} >= {times}", pace.of_query(SCRAPED));
        while self.vector(&query).map_or(0, |found| found.len()) < targets {
            assert!(started.elapsed() < patience, "not {targets} targets that are up: {:?}", self.vector("up"));
            tokio::time::sleep(pace.interval / 20).await;
        }
    }
}
