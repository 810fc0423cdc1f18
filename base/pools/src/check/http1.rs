//! A health check that speaks HTTP/1.1.

use sumun_http::{Method, Received, ResponseHead, ResponseReceiver};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::limits::CHECK_HEAD_BYTES;

/// The status code of the final answer. Its body is not read.
pub(super) async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    host: &str,
) -> Result<u16, String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sumun-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("the request could not be sent: {error}"))?;
    let mut bytes = Vec::with_capacity(1024);
    let mut head = ResponseHead::default();
    let mut receiver = ResponseReceiver::default();
    loop {
        let received = receiver.receive(&mut head, &bytes, Method::Get, CHECK_HEAD_BYTES);
        match received.map_err(|reject| format!("not an HTTP answer: {}", reject.reason()))? {
            Received::Final(_) => return Ok(head.status),
            // The next head may be here already.
            Received::Interim(length) => {
                bytes.drain(..length);
                continue;
            }
            Received::Partial => {}
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) => return Err("closed before the answer was complete".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(format!("no answer: {error}")),
        }
    }
}

/// Of good statuses, in words.
pub(super) fn ranges(status: &[(u16, u16)]) -> String {
    let range = |(low, high): &(u16, u16)| {
        if low == high { low.to_string() } else { format!("{low}-{high}") }
    };
    status.iter().map(range).collect::<Vec<_>>().join(", ")
}
