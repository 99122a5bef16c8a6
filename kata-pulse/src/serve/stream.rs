//! A TCP stream that gives up: on a request that does not end, on silence, on a reader that does not read.
//!
//! hyper bounds only the time of a header; its idle time is the same number and its writes have none. Here a
//! deadline starts when a wait starts and is not moved by drops of progress: the header's runs from its first byte,
//! the answer's from its first blocked write until all of it is flushed.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    pub header: Duration,
    pub idle: Duration,
    pub write: Duration,
}

#[derive(Debug)]
pub(super) struct TimedStream {
    stream: TcpStream,
    deadlines: Deadlines,
    /// Bytes came since the last answer: a request is under way.
    in_request: bool,
    reading: Deadline,
    writing: Deadline,
}

impl TimedStream {
    pub(super) fn new(stream: TcpStream, deadlines: Deadlines) -> Self {
        Self { stream, deadlines, in_request: false, reading: Deadline::default(), writing: Deadline::default() }
    }

    fn blocked_write<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.writing.poll(cx, self.deadlines.write));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Something was sent: the request that it answers is over.
    fn answered(&mut self) {
        self.in_request = false;
        self.reading.clear();
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            if buf.filled().len() > before && !this.in_request {
                this.in_request = true;
                this.reading.clear();
                this.reading.start(this.deadlines.header);
            }
            return Poll::Ready(result);
        }
        let limit = if this.in_request { this.deadlines.header } else { this.deadlines.idle };
        ready!(this.reading.poll(cx, limit));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, buf) {
            Poll::Pending => self.blocked_write(cx),
            done => {
                self.answered();
                done
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(cx, bufs) {
            Poll::Pending => self.blocked_write(cx),
            done => {
                self.answered();
                done
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when its buffers are empty: the answer is with the kernel.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing.clear();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Starts at the first wait and stays until cleared.
#[derive(Debug, Default)]
struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    fn start(&mut self, limit: Duration) -> &mut Pin<Box<Sleep>> {
        self.0.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)))
    }

    fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        self.start(limit).as_mut().poll(cx)
    }

    fn clear(&mut self) {
        self.0 = None;
    }
}
