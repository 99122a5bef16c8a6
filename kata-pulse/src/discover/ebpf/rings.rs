//! The two ring buffers: the host's events at once and all of them, foreign ones some at a time.

use std::{io, time::Duration};

use aya::maps::{MapData, RingBuf};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, sleep_until},
};

use super::KernelEvent;

/// Records of the host taken in one go.
const HOST_BATCH: usize = 1024;
/// Foreign records taken in one go, and how long until the next: 3,200 a second at most.
const FOREIGN_BATCH: usize = 64;
const FOREIGN_PAUSE: Duration = Duration::from_millis(20);

type Ring = RingBuf<MapData>;

pub(super) struct Rings {
    host: AsyncFd<Ring>,
    foreign: AsyncFd<Ring>,
    /// Foreign records may be waiting.
    foreign_waits: bool,
    foreign_next: Instant,
    pub(super) undecoded: u64,
}

impl Rings {
    /// In a tokio runtime.
    pub(super) fn new(host: Ring, foreign: Ring) -> io::Result<Self> {
        Ok(Self {
            host: register(host)?,
            foreign: register(foreign)?,
            foreign_waits: true,
            foreign_next: Instant::now(),
            undecoded: 0,
        })
    }

    /// Waits for events; cancelling loses none.
    pub(super) async fn next_batch(&mut self, out: &mut Vec<KernelEvent>) -> io::Result<()> {
        let before = out.len();
        loop {
            // Every round drains first: readiness may have been consumed by a call that took only a part.
            drain(self.host.get_mut(), HOST_BATCH, out, &mut self.undecoded);
            self.drain_foreign(out);
            if out.len() > before {
                return Ok(());
            }
            self.wait().await?;
        }
    }

    fn drain_foreign(&mut self, out: &mut Vec<KernelEvent>) {
        if !self.foreign_waits || Instant::now() < self.foreign_next {
            return;
        }
        let ring = self.foreign.get_mut();
        self.foreign_waits = !drain(ring, FOREIGN_BATCH, out, &mut self.undecoded);
        self.foreign_next = Instant::now() + FOREIGN_PAUSE;
    }

    async fn wait(&mut self) -> io::Result<()> {
        tokio::select! {
            guard = self.host.readable_mut() => {
                // Nothing has been read since the ring was empty, or the kernel will say so again.
                guard?.clear_ready();
            }
            guard = self.foreign.readable_mut(), if !self.foreign_waits => {
                guard?.clear_ready();
                self.foreign_waits = true;
            }
            () = sleep_until(self.foreign_next), if self.foreign_waits => {}
        }
        Ok(())
    }
}

#[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
fn register(ring: Ring) -> io::Result<AsyncFd<Ring>> {
    // SAFETY: the ring owns its map's descriptor and gives the same one until it is dropped; the `AsyncFd`
    // owns the ring, and nothing here takes it out again.
    unsafe { AsyncFd::register(ring) }.map_err(io::Error::from)
}

/// Takes up to `limit` records; whether the ring is empty now.
fn drain(ring: &mut Ring, limit: usize, out: &mut Vec<KernelEvent>, undecoded: &mut u64) -> bool {
    for _ in 0..limit {
        let Some(record) = ring.next() else {
            return true;
        };
        match KernelEvent::parse(&record) {
            Some(event) => out.push(event),
            // A record that is understood and about nothing of ours is no fault.
            None => *undecoded += u64::from(kata_pulse_common::decode(&record).is_none()),
        }
    }
    false
}
