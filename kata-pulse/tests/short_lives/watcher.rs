//! Reads the page every second while other things happen, as Prometheus would, and notes what must never be seen.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use kata_pulse_sim::judge::Page;

const EVERY: Duration = Duration::from_secs(1);
/// Of the same kind; more would hide the others.
const NOTED: usize = 20;

/// What was seen over all pages.
#[derive(Debug, Default)]
pub struct Seen {
    pub pages: usize,
    /// Counters that fell, and series of containers beside the end of their sandbox.
    pub wrong: Vec<String>,
    /// When each sandbox that had ended was first and last on a page.
    pub retained: BTreeMap<String, (Instant, Instant)>,
}

impl Seen {
    fn take(&mut self, before: &Page, now: &Page) {
        let at = Instant::now();
        self.wrong.extend(before.fallen(now));
        for ended in now.all("kata_sandbox_ended", &[]) {
            let (id, pod) = (&ended.labels["sandbox_id"], &ended.labels["pod"]);
            let left = now.starting("container_").filter(|sample| sample.labels.get("pod") == Some(pod)).count();
            if left > 0 && !pod.is_empty() {
                self.wrong.push(format!("{left} series of containers beside the end of {pod}"));
            }
            self.retained.entry(id.clone()).or_insert((at, at)).1 = at;
        }
        self.wrong.truncate(NOTED);
        self.pages += 1;
    }
}

/// Until the other end of `stop` is dropped; `read` gives a page. Blocks.
pub fn watch(read: impl Fn() -> Page, stop: &Receiver<()>) -> Seen {
    let (mut seen, mut last) = (Seen::default(), read());
    while stop.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        let page = read();
        seen.take(&last, &page);
        last = page;
    }
    seen
}
