//! What the HTTP server shows, joined from registry and scraper.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::collect::schedule::Scraped;
use crate::sandbox::{Sandbox, SandboxId, Source, SourceState};
use crate::scrape::{Format, MetricsQuery, Scraper, UnknownSandbox};
use crate::serve::PageSource;

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
        if self.readiness.stopping.load(Ordering::Relaxed) { Err("stopping".into()) } else { Ok(()) }
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
