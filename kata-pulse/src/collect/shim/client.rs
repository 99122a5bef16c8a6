//! Talks to a shim's monitor socket: HTTP/1.1 over a Unix socket, one request per connection.
//!
//! The socket also takes requests that change the sandbox; only the two of [`Question`] can be sent from here.
//! Every exchange has one deadline over all of it and a cap on the body; what came before the deadline is given back.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::sandbox::SourceState;

/// The only requests there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Metrics,
    AgentUrl,
}

impl Question {
    fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/metrics",
            Self::AgentUrl => "/agent-url",
        }
    }
}

/// What one exchange may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub deadline: Duration,
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(3), body_bytes: 4 << 20 }
    }
}

/// A body, whole or as far as it came.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub body: Vec<u8>,
    /// `None`: whole. Else what cut it short: the deadline or the peer.
    pub cut: Option<Cut>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Deadline,
    Peer,
}

#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("connect to {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("exchange HTTP with {}", path.display())]
    Http {
        path: PathBuf,
        #[source]
        source: hyper::Error,
    },
    #[error("{} answered {status} to GET {question}", path.display())]
    Status { path: PathBuf, question: &'static str, status: StatusCode },
    #[error("the body from {} is larger than {limit} bytes", path.display())]
    TooLarge { path: PathBuf, limit: usize },
    #[error("no answer from {} within {deadline:?}", path.display())]
    Deadline { path: PathBuf, deadline: Duration },
}

impl ShimError {
    pub fn state(&self) -> SourceState {
        match self {
            Self::Connect { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => SourceState::Gone,
                io::ErrorKind::PermissionDenied => SourceState::Denied,
                _ => SourceState::Refused,
            },
            Self::Http { .. } | Self::TooLarge { .. } => SourceState::BadPage,
            Self::Status { status, .. } if *status == StatusCode::NOT_FOUND => SourceState::Unsupported,
            Self::Status { .. } => SourceState::BadPage,
            Self::Deadline { .. } => SourceState::Timeout,
        }
    }
}

/// Asks one question. An answer that was cut short is an answer if anything of its body came.
pub async fn ask(socket: &Path, question: Question, limits: Limits) -> Result<Page, ShimError> {
    let mut body = Vec::new();
    let end = timeout(limits.deadline, exchange(socket, question, limits, &mut body)).await;
    let cut = match end {
        Ok(Ok(())) => None,
        Ok(Err(ShimError::Http { .. })) if !body.is_empty() => Some(Cut::Peer),
        Ok(Err(error)) => return Err(error),
        Err(_) if !body.is_empty() => Some(Cut::Deadline),
        Err(_) => return Err(ShimError::Deadline { path: socket.into(), deadline: limits.deadline }),
    };
    Ok(Page { body, cut })
}

async fn exchange(socket: &Path, question: Question, limits: Limits, body: &mut Vec<u8>) -> Result<(), ShimError> {
    let http = |source| ShimError::Http { path: socket.into(), source };
    let stream =
        UnixStream::connect(socket).await.map_err(|source| ShimError::Connect { path: socket.into(), source })?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(256 * 1024).handshake(TokioIo::new(stream)).await.map_err(http)?;
    let request = Request::get(question.path())
        .header("host", "shim")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .expect("a constant path and constant headers make a request");
    let answer = async {
        let response = sender.send_request(request).await.map_err(http)?;
        read_body(socket, question, limits, response, body).await
    };
    // Driven here and not in a task of its own: dropping this future ends the connection.
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            result = &mut answer => return result,
            // Its error reaches the answer, which says what was lost.
            _ = &mut connection, if open => open = false,
        }
    }
}

async fn read_body(
    socket: &Path,
    question: Question,
    limits: Limits,
    response: Response<Incoming>,
    body: &mut Vec<u8>,
) -> Result<(), ShimError> {
    let status = response.status();
    if status != StatusCode::OK {
        return Err(ShimError::Status { path: socket.into(), question: question.path(), status });
    }
    let mut incoming = response.into_body();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|source| ShimError::Http { path: socket.into(), source })?;
        let Ok(data) = frame.into_data() else { continue };
        if body.len() + data.len() > limits.body_bytes {
            return Err(ShimError::TooLarge { path: socket.into(), limit: limits.body_bytes });
        }
        if body.is_empty() {
            body.reserve(data.len().max(64 * 1024).min(limits.body_bytes));
        }
        body.extend_from_slice(&data);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    /// Answers one connection with these bytes, then closes it or holds it open.
    async fn answer(bytes: &'static [u8], hold: bool, limits: Limits) -> (Result<Page, ShimError>, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            request.truncate(length);
            stream.write_all(bytes).await.unwrap();
            if hold {
                // Until the client hangs up.
                let _ = stream.read(&mut [0; 1]).await;
            }
            request
        });
        let result = ask(&path, Question::Metrics, limits).await;
        (result, server.await.unwrap())
    }

    fn body(result: Result<Page, ShimError>) -> (String, Option<Cut>) {
        let page = result.unwrap();
        (String::from_utf8(page.body).unwrap(), page.cut)
    }

    fn quick() -> Limits {
        Limits { deadline: Duration::from_millis(200), ..Limits::default() }
    }

    #[tokio::test]
    async fn every_framing_is_understood_and_the_request_is_the_harmless_one() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\na \r\n2\r\n1\n\r\n0\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na 1\n",
            b"HTTP/1.0 200 OK\r\n\r\na 1\n",
        ] {
            let (result, request) = answer(bytes, false, Limits::default()).await;
            assert_eq!(body(result), ("a 1\n".into(), None));
            let request = String::from_utf8(request).unwrap().to_lowercase();
            assert!(request.starts_with("get /metrics http/1.1\r\n") && request.contains("host: "), "{request}");
        }
    }

    #[tokio::test]
    async fn half_an_answer_is_given_back_as_such() {
        let half = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\na 1\n\r\n";
        assert_eq!(body(answer(half, true, quick()).await.0), ("a 1\n".into(), Some(Cut::Deadline)));
        assert_eq!(body(answer(half, false, Limits::default()).await.0), ("a 1\n".into(), Some(Cut::Peer)));
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let state = |result: Result<Page, ShimError>| result.unwrap_err().state();
        let limits = Limits::default();
        let not_found = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(state(answer(not_found, false, limits).await.0), SourceState::Unsupported);
        assert_eq!(state(answer(b"\x00garbage\r\n\r\n", false, limits).await.0), SourceState::BadPage);
        assert_eq!(state(answer(b"", false, limits).await.0), SourceState::BadPage);
        assert_eq!(state(answer(b"", true, quick()).await.0), SourceState::Timeout);
        let small = Limits { body_bytes: 3, ..limits };
        let large = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na 1\n";
        assert!(matches!(answer(large, false, small).await.0, Err(ShimError::TooLarge { limit: 3, .. })));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert_eq!(state(ask(&path, Question::Metrics, limits).await), SourceState::Gone);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(state(ask(&path, Question::Metrics, limits).await), SourceState::Refused);
    }
}
