//! One line per check, and the sum.

use std::{fmt, time::Duration};

use kata_pulse_probe::ebpf::{EbpfWatch, KernelEvent};

#[derive(Default)]
pub struct Report {
    pub rung: &'static str,
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
}

impl Report {
    pub fn check(&mut self, name: &str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok   {}: {name}", self.rung);
            }
            Err(error) => {
                self.failed += 1;
                println!("FAIL {}: {name}: {error:#}", self.rung);
            }
        }
    }

    pub fn require(&mut self, name: &str, holds: bool, otherwise: &str) {
        self.check(name, if holds { Ok(()) } else { Err(anyhow::anyhow!("{otherwise}")) });
    }

    pub fn skip(&mut self, name: &str, reason: &str) {
        self.skipped += 1;
        println!("skip {}: {name}: {reason}", self.rung);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Everything that arrives until it has been quiet for a while.
pub async fn arrivals(watch: &mut EbpfWatch) -> Vec<KernelEvent> {
    let mut events = Vec::new();
    // Emulated machines are slow; nothing is waited for longer than this.
    while let Ok(result) = tokio::time::timeout(Duration::from_millis(250), watch.next_batch(&mut events)).await {
        if result.is_err() {
            break;
        }
    }
    events
}
