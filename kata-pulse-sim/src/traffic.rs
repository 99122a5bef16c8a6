//! What every socket of the simulator does: serve while its owner lives, and count what is under way.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default)]
pub(crate) struct Traffic {
    requests: AtomicU64,
    in_flight: AtomicU64,
    max_in_flight: AtomicU64,
}

impl Traffic {
    /// Counts one request, which is under way until the answer is dropped.
    pub(crate) fn start(&self) -> Flight<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.max_in_flight.fetch_max(now, Ordering::Relaxed);
        Flight(self)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn max_in_flight(&self) -> u64 {
        self.max_in_flight.load(Ordering::Relaxed)
    }
}

pub(crate) struct Flight<'a>(&'a Traffic);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Until `life` ends; the listener is then dropped, so connecting is refused, and so are all connections.
pub(crate) async fn serve<C, F>(listener: UnixListener, life: CancellationToken, connection: C)
where
    C: Fn(UnixStream) -> F,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        let stream = tokio::select! {
            () = life.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
        };
        let (life, served) = (life.clone(), connection(stream));
        tokio::spawn(async move {
            tokio::select! {
                () = life.cancelled() => {}
                _ = served => {}
            }
        });
    }
}
