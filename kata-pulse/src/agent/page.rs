//! What the HTTP server shows, joined from registry and scraper.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::collect::schedule::Scraped;
use crate::discover::DiscoveryCounters;
use crate::sandbox::{Sandbox, SandboxId, Source, SourceState};
use crate::scrape::{Format, MetricsQuery, Scraper, UnknownSandbox};
use crate::serve::PageSource;

/// Discovery turns at least every half minute: when it has not for so long, it hangs.
const LONGEST_TURN: Duration = Duration::from_secs(60);

/// How far the start has come.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    pub scanned: AtomicBool,
    pub collected: AtomicBool,
    pub stopping: AtomicBool,
}

pub(super) struct Pages {
    pub scraper: Scraper,
    pub readiness: Arc<Readiness>,
    pub discovery: DiscoveryCounters,
    pub scrapes: Vec<mpsc::Sender<Scraped>>,
}

impl PageSource for Pages {
    fn metrics(&self, query: &MetricsQuery, format: Format, gzip: bool) -> Result<Bytes, UnknownSandbox> {
        self.scraper.page(query, format, gzip)
    }

    fn sandboxes(&self) -> Arc<BTreeMap<SandboxId, Arc<Sandbox>>> {
        self.scraper.snapshot()
    }

    fn source_states(&self, id: &SandboxId) -> Vec<(Source, SourceState)> {
        self.scraper.snapshot().get(id).map(|sandbox| self.scraper.source_states(sandbox)).unwrap_or_default()
    }

    fn health(&self) -> Result<(), String> {
        if self.readiness.stopping.load(Ordering::Relaxed) {
            return Err("stopping".into());
        }
        is_alive(self.discovery.last_turn())
    }

    fn ready(&self) -> Result<(), String> {
        self.health()?;
        if !self.readiness.scanned.load(Ordering::Acquire) {
            return Err("the first scan is not done yet".into());
        }
        if !self.readiness.collected.load(Ordering::Acquire) {
            return Err("the first collection is under way".into());
        }
        Ok(())
    }

    fn note_scrape(&self, peer: SocketAddr) {
        // A full queue means that the scheduler has enough scrapes to learn from.
        for scrapes in &self.scrapes {
            let _ = scrapes.try_send(Scraped { from: peer.ip(), at: Instant::now() });
        }
    }
}

fn is_alive(last_turn: Duration) -> Result<(), String> {
    if last_turn > LONGEST_TURN {
        return Err(format!("discovery has not turned for {} s", last_turn.as_secs()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discovery_that_hangs_is_not_healthy() {
        assert_eq!(is_alive(LONGEST_TURN), Ok(()));
        let reason = is_alive(LONGEST_TURN + Duration::from_secs(1)).unwrap_err();
        assert_eq!(reason, "discovery has not turned for 61 s");
    }
}
