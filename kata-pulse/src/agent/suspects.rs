//! Guests that hang, as one source found: the other leaves their shims alone for as long as these may still work on the
//! question.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sandbox::{Sandbox, SandboxId, Source};

/// As long as a shim works on a question of which nobody awaits the answer.
const HELD: Duration = Duration::from_secs(75);
const MAX: usize = 20_000;

#[derive(Clone, Debug, Default)]
pub(super) struct Suspects(Arc<Mutex<HashMap<SandboxId, Held>>>);

#[derive(Clone, Copy, Debug)]
struct Held {
    /// Tells lives of one id apart.
    inode: u64,
    by: Source,
    since: Instant,
}

impl Suspects {
    /// `source` got no answer in time.
    pub fn hold(&self, sandbox: &Sandbox, source: Source) {
        let now = Instant::now();
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, held| now.saturating_duration_since(held.since) < HELD);
        if held.len() < MAX {
            held.insert(sandbox.id.clone(), Held { inode: sandbox.directory_inode, by: source, since: now });
        }
    }

    /// Another source than `source` got no answer lately.
    pub fn is_held(&self, sandbox: &Sandbox, source: Source) -> bool {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&sandbox.id).is_some_and(|held| {
            held.inode == sandbox.directory_inode && held.by != source && held.since.elapsed() < HELD
        })
    }
}
