//! Final accounts, shown for as long as the operator wants, whoever scrapes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::store::Ended;

/// More than that are not shown at once: the oldest go first. What they used stays in the totals.
const MAX_SHOWN: usize = 5000;

#[derive(Debug)]
pub(in crate::agent) struct Endings {
    agent_began: SystemTime,
    retention: Duration,
    kept: VecDeque<(Instant, Ended)>,
    shown: Arc<Vec<Ended>>,
    is_stale: bool,
}

impl Endings {
    pub fn new(retention: Duration, agent_began: SystemTime) -> Self {
        let (kept, shown) = (VecDeque::new(), Arc::default());
        Self { agent_began, retention, kept, shown, is_stale: false }
    }

    pub fn agent_began(&self) -> SystemTime {
        self.agent_began
    }

    /// Says whether another one had to go for it before its time.
    pub fn keep(&mut self, ended: Ended) -> bool {
        if self.retention.is_zero() {
            return false;
        }
        self.is_stale = true;
        self.kept.push_back((Instant::now(), ended));
        let is_full = self.kept.len() > MAX_SHOWN;
        if is_full {
            self.kept.pop_front();
        }
        is_full
    }

    /// Forgets those whose time is over. Says whether there were any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let is_over = |kept: &(Instant, Ended)| now.saturating_duration_since(kept.0) >= self.retention;
        let before = self.kept.len();
        while self.kept.front().is_some_and(is_over) {
            self.kept.pop_front();
        }
        let some = self.kept.len() < before;
        self.is_stale |= some;
        some
    }

    pub fn shown(&mut self) -> Arc<Vec<Ended>> {
        if std::mem::take(&mut self.is_stale) {
            self.shown = Arc::new(self.kept.iter().map(|(_, ended)| ended.clone()).collect());
        }
        self.shown.clone()
    }
}
