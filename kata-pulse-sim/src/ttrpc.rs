//! ttrpc, the server's side of unary calls, by our own hands so that it can also be done wrongly: a header of 10 bytes
//! (length, stream, type, flags), then a protobuf message. In: a byte stream. Out: requests; answers the other way.

use std::io;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What both sides refuse to go beyond (4 MiB).
pub(crate) const MESSAGE_BYTES: usize = 4 << 20;
const HEADER_BYTES: usize = 10;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// gRPC's codes, as far as they are used.
pub(crate) const PERMISSION_DENIED: i32 = 7;
pub(crate) const UNIMPLEMENTED: i32 = 12;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(string, tag = "1")]
    pub(crate) service: String,
    #[prost(string, tag = "2")]
    pub(crate) method: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(crate) timeout_nano: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) payload: Vec<u8>,
}

impl Response {
    pub(crate) fn ok(payload: &impl Message) -> Self {
        Self { status: Some(Status::default()), payload: payload.encode_to_vec() }
    }

    pub(crate) fn error(code: i32, message: impl Into<String>) -> Self {
        Self { status: Some(Status { code, message: message.into() }), payload: Vec::new() }
    }
}

/// The next request with its stream; `None`: the peer is done.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(u32, Request)>> {
    let mut header = [0; HEADER_BYTES];
    if let Err(error) = stream.read_exact(&mut header).await {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let [a, b, c, d, e, f, g, h, kind, _flags] = header;
    let (length, number) = (u32::from_be_bytes([a, b, c, d]) as usize, u32::from_be_bytes([e, f, g, h]));
    if length > MESSAGE_BYTES || kind != REQUEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a request"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let request = Request::decode(&body[..]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some((number, request)))
}

/// Any bytes as the answer on stream `number`, too many of them as well.
pub(crate) async fn write_raw(stream: &mut (impl AsyncWrite + Unpin), number: u32, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&number.to_be_bytes());
    frame.extend_from_slice(&[RESPONSE, 0]);
    frame.extend_from_slice(body);
    stream.write_all(&frame).await
}

pub(crate) async fn write_response(
    stream: &mut (impl AsyncWrite + Unpin),
    number: u32,
    response: &Response,
) -> io::Result<()> {
    write_raw(stream, number, &response.encode_to_vec()).await
}
