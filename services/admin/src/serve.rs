//! Connections: a small HTTP/1.1 server, everything in it bounded.

use std::io;
use std::sync::Arc;

use sumun_http::chunked::Decoder;
use sumun_http::scan::HeadScan;
use sumun_http::{BodyLength, Method, Reject, RequestHead};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::Shared;
use crate::guard::Door;
use crate::limits::{ACCEPT_PAUSE, BODY_BYTES, FIELDS, HEAD_BYTES, LINE_BYTES, LINGER, LINGER_BYTES, TIMEOUT};
use crate::respond::Response;
use crate::routes;

/// A request that is here as a whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) head: &'a RequestHead,
    /// The head's bytes.
    pub(crate) bytes: &'a [u8],
    pub(crate) body: &'a [u8],
}

/// Why there is no request.
enum NotReceived {
    /// The client went away, or never began.
    Gone,
    Refused(Box<Response>),
}

impl From<io::Error> for NotReceived {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<Reject> for NotReceived {
    fn from(reject: Reject) -> Self {
        Self::Refused(Box::new(Response::rejected(reject)))
    }
}

/// Accepts until the task is aborted; `next` waits for a connection.
pub(crate) async fn accept<Stream>(
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    next: impl AsyncFn() -> io::Result<(Stream, Door)>,
) where
    Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match next().await {
            Ok((stream, door)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    serve(stream, &shared, &door).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!("the admin listener cannot accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One request after the other, until one side has enough.
pub(crate) async fn serve<Stream>(mut stream: Stream, shared: &Shared, door: &Door)
where
    Stream: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = Vec::new();
    let mut head = RequestHead::default();
    loop {
        let mut begun = false;
        let mut answering = None;
        let received = timeout(TIMEOUT, receive(&mut stream, &mut input, &mut head, &mut begun)).await;
        let (response, keep_alive, is_head) = match received {
            Err(_) if input.is_empty() && !begun => return,
            Err(_) => (Response::error(408, "the request did not come in time"), false, false),
            Ok(Err(NotReceived::Gone)) => return,
            Ok(Err(NotReceived::Refused(response))) => (*response, false, false),
            Ok(Ok((head_bytes, body))) => {
                answering = Some(shared.begin_answer());
                let request = Request { head: &head, bytes: &head_bytes, body: &body };
                (routes::answer(shared, door, &request).await, head.keep_alive, head.method == Method::Head)
            }
        };
        let bytes = response.to_bytes(keep_alive, is_head);
        if !matches!(timeout(TIMEOUT, stream.write_all(&bytes)).await, Ok(Ok(()))) {
            return;
        }
        drop(answering);
        if !keep_alive {
            // Whether the client is still there does not matter any more.
            timeout(LINGER, close_gently(stream)).await.ok();
            return;
        }
    }
}

/// Reads one request, and leaves in `input` what came behind it; `begun` once its head is here.
/// Gives the head's bytes and the body.
async fn receive<Stream>(
    stream: &mut Stream,
    input: &mut Vec<u8>,
    head: &mut RequestHead,
    begun: &mut bool,
) -> Result<(Vec<u8>, Vec<u8>), NotReceived>
where
    Stream: AsyncRead + AsyncWrite + Unpin,
{
    let mut scan = HeadScan::default();
    let mut empty_lines = 0;
    let length = loop {
        // RFC 9112 section 2.2: an empty line before the request line is forgiven.
        while scan.is_fresh() && input.starts_with(b"\r\n") {
            empty_lines += 1;
            if empty_lines > sumun_http::limits::LEADING_EMPTY_LINES_MAX {
                return Err(Reject::LeadingEmptyLines.into());
            }
            input.drain(..2);
        }
        if input.as_slice() != b"\r"
            && let Some(length) = scan.advance(input, LINE_BYTES, HEAD_BYTES)?
        {
            break length;
        }
        read_more(stream, input, HEAD_BYTES).await?;
    };
    let rest = input.split_off(length);
    let bytes = std::mem::replace(input, rest);
    if head.parse(&bytes, FIELDS)? != Some(length) {
        return Err(Reject::FieldSyntax.into());
    }
    *begun = true;
    if matches!(head.body, BodyLength::Length(length) if length > BODY_BYTES as u64) {
        return Err(too_large());
    }
    if head.expect_continue && head.has_body() && input.is_empty() {
        // RFC 9110 section 10.1.1.
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let body = match head.body {
        BodyLength::None => Vec::new(),
        BodyLength::Length(length) => {
            // At most `BODY_BYTES`, as was seen above.
            let length = length as usize;
            while input.len() < length {
                let missing = length - input.len();
                read_more(stream, input, missing).await?;
            }
            let rest = input.split_off(length);
            std::mem::replace(input, rest)
        }
        BodyLength::Chunked => receive_chunked(stream, input).await?,
    };
    Ok((bytes, body))
}

async fn receive_chunked<Stream>(stream: &mut Stream, input: &mut Vec<u8>) -> Result<Vec<u8>, NotReceived>
where
    Stream: AsyncRead + Unpin,
{
    let mut decoder = Decoder::default();
    let mut body = Vec::new();
    while !decoder.is_done() {
        if input.is_empty() {
            read_more(stream, input, HEAD_BYTES).await?;
        }
        let step = decoder.decode(input)?;
        body.extend_from_slice(input.get(step.data).unwrap_or_default());
        input.drain(..step.consumed);
        if body.len() > BODY_BYTES {
            return Err(too_large());
        }
    }
    Ok(body)
}

async fn read_more<Stream>(stream: &mut Stream, input: &mut Vec<u8>, most: usize) -> Result<(), NotReceived>
where
    Stream: AsyncRead + Unpin,
{
    match stream.take(most as u64).read_buf(input).await? {
        0 => Err(NotReceived::Gone),
        _ => Ok(()),
    }
}

fn too_large() -> NotReceived {
    NotReceived::Refused(Box::new(Response::error(413, &format!("a body has at most {BODY_BYTES} bytes"))))
}

/// RFC 9112 section 9.6: a close with unread bytes would reset the connection and take the answer
/// with it.
async fn close_gently<Stream>(mut stream: Stream) -> io::Result<()>
where
    Stream: AsyncRead + AsyncWrite + Unpin,
{
    stream.shutdown().await?;
    let mut thrown_away = 0;
    let mut bytes = vec![0; 4096];
    while thrown_away < LINGER_BYTES {
        match stream.read(&mut bytes).await? {
            0 => break,
            count => thrown_away += count,
        }
    }
    Ok(())
}
