//! ttrpc to a guest's agent: one connection, one question, one deadline over both. The guest is not trusted: its answer
//! is text like any other page, with the same cap.

use std::io;
use std::path::Path;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::proto::{Code, Request};

use super::Door;
use crate::sandbox::SourceState;

mod proto {
    tonic::include_proto!("grpc");
}

/// A handshake's answer is `OK`, a port and a line's end.
const HANDSHAKE_BYTES: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("connect to the guest's agent at {door:?}")]
    Connect {
        door: Door,
        #[source]
        source: io::Error,
    },
    #[error("the VMM at {door:?} opened no way to the guest's agent")]
    Handshake { door: Door },
    #[error("GetMetrics of the guest's agent at {door:?}")]
    Call {
        door: Door,
        #[source]
        source: ttrpc::Error,
    },
    #[error("the answer of the guest's agent at {door:?} is no page")]
    Answer { door: Door },
    #[error("no answer from the guest's agent at {door:?} within {deadline:?}")]
    Deadline { door: Door, deadline: Duration },
}

impl AgentError {
    pub fn state(&self) -> SourceState {
        match self {
            Self::Connect { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => SourceState::Gone,
                io::ErrorKind::PermissionDenied => SourceState::Denied,
                io::ErrorKind::Unsupported => SourceState::Unsupported,
                // This host has no AF_VSOCK, or none of it reaches guests.
                _ if is_unsupported(source) => SourceState::Unsupported,
                io::ErrorKind::TimedOut => SourceState::Timeout,
                _ => SourceState::Refused,
            },
            Self::Handshake { .. } => SourceState::Refused,
            Self::Call { source: ttrpc::Error::RpcStatus(status), .. } => match status.code() {
                Code::PERMISSION_DENIED => SourceState::Denied,
                Code::UNIMPLEMENTED | Code::NOT_FOUND => SourceState::Unsupported,
                Code::DEADLINE_EXCEEDED | Code::CANCELLED => SourceState::Timeout,
                _ => SourceState::BadPage,
            },
            Self::Call { .. } | Self::Answer { .. } => SourceState::BadPage,
            Self::Deadline { .. } => SourceState::Timeout,
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let known = [Errno::AFNOSUPPORT, Errno::NODEV, Errno::SOCKTNOSUPPORT, Errno::NOPROTOOPT];
    error.raw_os_error().is_some_and(|raw| known.iter().any(|known| known.raw_os_error() == raw))
}

/// The guest's page: `kata_agent_*` and `kata_guest_*`.
pub async fn ask(door: &Door, deadline: Duration) -> Result<Vec<u8>, AgentError> {
    let late = |_| AgentError::Deadline { door: door.clone(), deadline };
    timeout(deadline, exchange(door, deadline)).await.map_err(late)?
}

async fn exchange(door: &Door, deadline: Duration) -> Result<Vec<u8>, AgentError> {
    let socket = open(door).await?;
    // Its tasks end with it, or, if the guest takes no bytes, by the time that the request carries: later than ours, so
    // that it is ours that tells of a guest that hangs.
    let client = Client::new(socket);
    let request = Request {
        service: "grpc.AgentService".to_owned(),
        method: "GetMetrics".to_owned(),
        payload: proto::GetMetricsRequest {}.encode_to_vec(),
        timeout_nano: i64::try_from((deadline * 2).as_nanos()).unwrap_or(i64::MAX),
        ..Request::default()
    };
    let response = client.request(request).await.map_err(|source| AgentError::Call { door: door.clone(), source })?;
    let answer = proto::Metrics::decode(response.payload.as_slice());
    answer.map(|answer| answer.metrics.into_bytes()).map_err(|_| AgentError::Answer { door: door.clone() })
}

async fn open(door: &Door) -> Result<Socket, AgentError> {
    let connect = |source| AgentError::Connect { door: door.clone(), source };
    match door {
        Door::Vsock { cid, port } => Socket::connect(format!("vsock://{cid}:{port}")).await.map_err(connect),
        Door::Hybrid { socket, port } => {
            let mut stream = connect_unix(socket).await.map_err(connect)?;
            let greeted = greet(&mut stream, *port).await.map_err(connect)?;
            if greeted { Ok(Socket::new(stream)) } else { Err(AgentError::Handshake { door: door.clone() }) }
        }
    }
}

async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

/// `CONNECT <port>`, answered by `OK <host's port>`; read byte by byte, since the guest may speak right behind it.
async fn greet(stream: &mut UnixStream, port: u32) -> io::Result<bool> {
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut line = Vec::with_capacity(HANDSHAKE_BYTES);
    while line.len() < HANDSHAKE_BYTES {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(false);
        }
        if byte[0] == b'\n' {
            return Ok(line.starts_with(b"OK "));
        }
        line.push(byte[0]);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;
    use ttrpc::proto::{MESSAGE_TYPE_RESPONSE, Response, Status};

    const DEADLINE: Duration = Duration::from_millis(300);

    /// A frame as the protocol has it: length, stream, type, flags.
    fn frame(response: &Response) -> Vec<u8> {
        let payload = ttrpc::proto::Codec::encode(response).unwrap();
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(&1_u32.to_be_bytes());
        bytes.extend_from_slice(&[MESSAGE_TYPE_RESPONSE, 0]);
        bytes.extend_from_slice(&payload);
        bytes
    }

    /// Answers the handshake with `greeting` and the call with `bytes`, then stays until the client hangs up.
    async fn answer(greeting: &'static [u8], bytes: Vec<u8>) -> Result<Vec<u8>, AgentError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kata.hvsock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 13];
            stream.read_exact(&mut hello).await.unwrap();
            assert_eq!(&hello, b"CONNECT 1024\n");
            stream.write_all(greeting).await.unwrap();
            let mut request = [0; 1024];
            if stream.read(&mut request).await.unwrap_or(0) > 0 {
                let _ = stream.write_all(&bytes).await;
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
            }
        });
        let result = ask(&Door::Hybrid { socket: path, port: 1024 }, DEADLINE).await;
        server.await.unwrap();
        result
    }

    fn with_status(code: Code) -> Vec<u8> {
        let mut response = Response::default();
        let mut status = Status::default();
        status.set_code(code);
        response.status = Some(status).into();
        frame(&response)
    }

    #[tokio::test]
    async fn a_page_comes_through_the_handshake() {
        let payload = proto::Metrics { metrics: "kata_guest_load{item=\"load1\"} 1\n".into() }.encode_to_vec();
        let response = Response { payload, ..Response::default() };
        let page = answer(b"OK 1073741824\n", frame(&response)).await.unwrap();
        assert_eq!(page, b"kata_guest_load{item=\"load1\"} 1\n");
    }

    #[tokio::test]
    async fn denied_is_told_from_hung_and_from_nonsense() {
        let state = |result: Result<Vec<u8>, AgentError>| result.unwrap_err().state();
        assert_eq!(state(answer(b"OK 1\n", with_status(Code::PERMISSION_DENIED)).await), SourceState::Denied);
        assert_eq!(state(answer(b"OK 1\n", with_status(Code::UNIMPLEMENTED)).await), SourceState::Unsupported);
        assert_eq!(state(answer(b"OK 1\n", Vec::new()).await), SourceState::Timeout);
        assert_eq!(state(answer(b"no\n", Vec::new()).await), SourceState::Refused);
        let endless: &[u8] = &[b'x'; 64];
        assert_eq!(state(answer(endless, Vec::new()).await), SourceState::Refused);
        let garbage = Response { payload: vec![0xff; 9], ..Response::default() };
        assert_eq!(state(answer(b"OK 1\n", frame(&garbage)).await), SourceState::BadPage);
        let missing = Door::Hybrid { socket: "/nonexistent/x".into(), port: 1024 };
        assert_eq!(state(ask(&missing, DEADLINE).await), SourceState::Gone);
    }

    #[tokio::test]
    async fn a_frame_larger_than_the_protocol_allows_is_no_page() {
        let mut oversized = (64_u32 << 20).to_be_bytes().to_vec();
        oversized.extend_from_slice(&[0, 0, 0, 1, MESSAGE_TYPE_RESPONSE, 0]);
        let result = answer(b"OK 1\n", oversized).await;
        assert!(matches!(result.unwrap_err().state(), SourceState::Timeout | SourceState::BadPage));
    }

    /// No guest is reachable here: what is tested is that it is said, whatever this kernel offers.
    #[tokio::test]
    async fn vsock_without_a_guest_is_an_error_with_a_state() {
        let error = ask(&Door::Vsock { cid: 4_000_000_000, port: 1024 }, DEADLINE).await.unwrap_err();
        assert!(!matches!(error.state(), SourceState::Ok | SourceState::Denied), "{error:?}");
    }
}
