//! One shim's monitor socket: what it answers, as Go's net/http or as hyper in runtime-rs, and how it fails.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    fault::Fault,
    kind::{Kind, Runtime},
    page::{self, GuestLoad},
    process::ShimProcess,
    traffic::{self, Traffic},
    vm,
};

/// What tests ask a shim about.
#[derive(Debug)]
pub(crate) struct ShimState {
    pub(crate) kind: Kind,
    pub(crate) agent_url: String,
    pub(crate) load: GuestLoad,
    pub(crate) born: Instant,
    pub(crate) fault: Mutex<Option<Fault>>,
    pub(crate) traffic: Traffic,
    pub(crate) killed: AtomicU64,
    pub(crate) node_killed: Arc<AtomicU64>,
    /// The process that is this shim, if there is one.
    pub(crate) process: Option<Arc<Mutex<ShimProcess>>>,
    /// The shim's life: cancelled when it is stopped, killed or aborts.
    pub(crate) life: CancellationToken,
}

/// Serves until the shim's life ends; the listener is then dropped, so connecting is refused.
pub(crate) async fn serve(listener: UnixListener, state: Arc<ShimState>) {
    let life = state.life.clone();
    traffic::serve(listener, life, move |stream| connection(stream, Arc::clone(&state))).await;
}

async fn connection(mut stream: UnixStream, state: Arc<ShimState>) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(512);
    loop {
        while !buffer.windows(4).any(|w| w == b"\r\n\r\n") {
            if buffer.len() > 16_384 || stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8_lossy(&buffer).into_owned();
        buffer.clear();
        let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
        let close = head.to_ascii_lowercase().contains("connection: close");
        let keep = answer(&mut stream, &state, path.split('?').next().unwrap_or("/")).await?;
        if close || !keep {
            return stream.shutdown().await;
        }
    }
}

/// `false`: the connection ends here.
async fn answer(stream: &mut UnixStream, state: &ShimState, path: &str) -> std::io::Result<bool> {
    match (path, state.kind.runtime) {
        ("/metrics", _) => metrics(stream, state).await,
        ("/agent-url", runtime) => plain(stream, runtime, "200 OK", &state.agent_url).await,
        (_, Runtime::Go) => plain(stream, Runtime::Go, "404 Not Found", "404 page not found\n").await,
        (_, Runtime::Rs) => plain(stream, Runtime::Rs, "404 Not Found", "URL NOT FOUND").await,
    }
}

async fn plain(stream: &mut UnixStream, runtime: Runtime, status: &str, body: &str) -> std::io::Result<bool> {
    let kind = match runtime {
        Runtime::Go => "Content-Type: text/plain; charset=utf-8\r\n",
        Runtime::Rs => "",
    };
    let text = format!("HTTP/1.1 {status}\r\n{kind}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await?;
    Ok(true)
}

async fn chunk(stream: &mut UnixStream, body: &[u8]) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await?;
    stream.write_all(body).await?;
    stream.write_all(b"\r\n").await
}

const GO_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";

async fn metrics(stream: &mut UnixStream, state: &ShimState) -> std::io::Result<bool> {
    let _flight = state.traffic.start();
    if state.kind.dies_on_metrics() {
        state.killed.fetch_add(1, Ordering::Relaxed);
        state.node_killed.fetch_add(1, Ordering::Relaxed);
        if let Some(process) = &state.process {
            vm::locked(process).abort()?;
        }
        state.life.cancel(); // todo!() and abort(): every connection and the listener go at once
        return Ok(false);
    }
    let fault = state.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let template = page::template(state.kind.runtime);
    let host = template.host();
    let guest = template.guest(state.load, state.born.elapsed());
    match (fault, state.kind.runtime) {
        (None, runtime) => whole(stream, runtime, &host, &guest).await,
        (Some(Fault::Denied), runtime) => whole(stream, runtime, &host, "").await,
        (Some(Fault::Extra(lines)), runtime) => whole(stream, runtime, &host, &(guest + &lines)).await,
        (Some(Fault::Garbage), runtime) => {
            whole(stream, runtime, "\u{1}\u{fffd}{{{ not = metrics\n\n}} 7 7 7", "").await
        }
        (Some(Fault::AcceptThenClose), _) => Ok(false),
        (Some(Fault::HungGuest), Runtime::Go) => {
            stream.write_all(GO_HEAD).await?;
            chunk(stream, host.as_bytes()).await?;
            sleep(Duration::from_secs(30)).await;
            chunk(stream, b"# remainder\n").await?;
            stream.write_all(b"0\r\n\r\n").await?;
            Ok(true)
        }
        (Some(Fault::HungGuest), Runtime::Rs) => {
            sleep(Duration::from_secs(60)).await;
            whole(stream, Runtime::Rs, &host, "").await
        }
        (Some(Fault::HalfAnswer), _) => {
            let body = host + &guest;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body.as_bytes()[..body.len() / 2]).await?;
            Ok(false)
        }
        (Some(Fault::HugeBody(bytes)), _) => {
            stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").as_bytes()).await?;
            let block = b"kata_guest_load{item=\"load1\"} 0\n".repeat(2048);
            let mut left = bytes;
            while left > 0 {
                let part = usize::try_from(left).unwrap_or(block.len()).min(block.len());
                stream.write_all(&block[..part]).await?;
                left -= part as u64;
            }
            Ok(true)
        }
        (Some(Fault::Drip), _) => {
            stream.write_all(GO_HEAD).await?;
            loop {
                chunk(stream, b"#").await?;
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn whole(stream: &mut UnixStream, runtime: Runtime, host: &str, guest: &str) -> std::io::Result<bool> {
    match runtime {
        Runtime::Go => {
            stream.write_all(GO_HEAD).await?;
            chunk(stream, host.as_bytes()).await?;
            if !guest.is_empty() {
                chunk(stream, guest.as_bytes()).await?;
            }
            stream.write_all(b"0\r\n\r\n").await?;
        }
        Runtime::Rs => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", host.len() + guest.len());
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(guest.as_bytes()).await?;
            stream.write_all(host.as_bytes()).await?;
        }
    }
    Ok(true)
}
