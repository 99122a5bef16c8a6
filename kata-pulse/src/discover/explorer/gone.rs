//! Sandboxes whose directory went a moment ago: what is told late of their processes is still theirs.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::sandbox::SandboxId;

/// A process is told and judged within this.
const MEMORY: Duration = Duration::from_secs(10);
const MAX_GONE: usize = 1024;

/// The last ones, the oldest first.
#[derive(Debug, Default)]
pub struct Gone(VecDeque<(Instant, SandboxId)>);

impl Gone {
    pub fn insert(&mut self, id: SandboxId) {
        let now = Instant::now();
        while self.0.len() >= MAX_GONE || self.0.front().is_some_and(|(when, _)| now.duration_since(*when) > MEMORY) {
            self.0.pop_front();
        }
        self.0.push_back((now, id));
    }

    /// It is there again.
    pub fn remove(&mut self, id: &SandboxId) {
        self.0.retain(|(_, gone)| gone != id);
    }

    pub fn contains(&self, id: &SandboxId) -> bool {
        self.0.iter().rev().any(|(when, gone)| gone == id && when.elapsed() <= MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_went_is_remembered_for_a_while_and_not_in_any_number() {
        let id = |number: usize| SandboxId::parse(&format!("id{number}")).unwrap();
        let mut gone = Gone::default();
        (0..MAX_GONE + 1).for_each(|number| gone.insert(id(number)));
        assert!(!gone.contains(&id(0)) && gone.contains(&id(1)) && gone.contains(&id(MAX_GONE)));
        gone.remove(&id(1));
        assert!(!gone.contains(&id(1)));
        tokio::time::advance(MEMORY + Duration::from_millis(1)).await;
        assert!(!gone.contains(&id(MAX_GONE)));
        gone.insert(id(7));
        assert_eq!(gone.0.len(), 1);
    }
}
