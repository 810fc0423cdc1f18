//! A health check that speaks HTTP/2.

use sumun_http::ResponseHead;
use sumun_http2::{Connection, ErrorCode, Event, RequestLine, Settings};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::limits::CHECK_HEAD_BYTES;

/// How much is read at once. Bytes.
const READ_BYTES: usize = 4 * 1024;

/// The check's own timeout is the only one.
const NOW_MS: u64 = 0;

/// The status code of the final answer. Its body is not read.
pub(super) async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    scheme: &str,
    path: &str,
    host: &str,
) -> Result<u16, String> {
    let settings = Settings { head_bytes: CHECK_HEAD_BYTES, ..Settings::default() };
    let mut machine = Connection::client(&settings, NOW_MS);
    let line = RequestLine {
        method: b"GET",
        scheme: scheme.as_bytes(),
        authority: host.as_bytes(),
        path: path.as_bytes(),
        protocol: None,
    };
    let asked = machine.send_request(&line, true, |fields| {
        fields.add(b"user-agent", b"sumun-health");
        fields.add(b"accept", b"*/*");
    });
    asked.map_err(|error| format!("the request could not be sent: {error:?}"))?;
    let mut bytes = vec![0; READ_BYTES];
    loop {
        write(&mut stream, &mut machine).await.map_err(|error| format!("the request could not be sent: {error}"))?;
        let count = match stream.read(&mut bytes).await {
            Ok(0) => return Err("closed before the answer was complete".to_owned()),
            Ok(count) => count,
            Err(error) => return Err(format!("no answer: {error}")),
        };
        if let Some(status) = take(&mut machine, bytes.get(..count).unwrap_or_default())? {
            machine.close(ErrorCode::NO_ERROR);
            // Whether the goodbye arrives changes nothing.
            drop(write(&mut stream, &mut machine).await);
            return Ok(status);
        }
    }
}

/// Gives the machine what was read; the status, once the final head is here.
fn take(machine: &mut Connection, mut input: &[u8]) -> Result<Option<u16>, String> {
    loop {
        let step = machine
            .receive(NOW_MS, input)
            .map_err(|error| format!("not an HTTP/2 answer: {}", error.fault.reason()))?;
        input = input.get(step.consumed..).unwrap_or_default();
        match step.event {
            None => return Ok(None),
            Some(Event::Head { .. }) => {
                let mut head = ResponseHead::default();
                let taken = machine.take_response(&mut head, &mut Vec::new());
                taken.map_err(|reject| format!("not an HTTP/2 answer: {}", reject.reason()))?;
                if head.status >= 200 {
                    return Ok(Some(head.status));
                }
            }
            Some(Event::Reset { code, cause, .. }) => {
                return Err(format!("the stream was reset: {}, {}", code.name(), cause.reason()));
            }
            Some(_) => {}
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), machine: &mut Connection) -> std::io::Result<()> {
    while !machine.output().is_empty() {
        let count = stream.write(machine.output()).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        machine.consume(count);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a check finds at a server that answers each request like this; `wrong` bytes in place
    /// of an answer.
    async fn found(statuses: &'static [u16], wrong: &'static [u8]) -> Result<u16, String> {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let server = tokio::spawn(async move {
            if !wrong.is_empty() {
                theirs.write_all(wrong).await.unwrap();
                return;
            }
            let mut machine = Connection::server(&Settings::default(), NOW_MS);
            let mut bytes = vec![0; READ_BYTES];
            while let Ok(count @ 1..) = theirs.read(&mut bytes).await {
                let mut input = &bytes[..count];
                loop {
                    let step = machine.receive(NOW_MS, input).unwrap();
                    input = &input[step.consumed..];
                    match step.event {
                        None => break,
                        Some(Event::Head { stream, .. }) => {
                            for status in statuses {
                                machine.send_response(stream, *status, *status >= 200, |_| {}).unwrap();
                            }
                            if statuses.is_empty() {
                                machine.reset(stream, ErrorCode::REFUSED_STREAM);
                            }
                        }
                        Some(_) => {}
                    }
                }
                write(&mut theirs, &mut machine).await.unwrap();
            }
        });
        let status = ask(ours, "http", "/healthz", "a.example").await;
        server.await.unwrap();
        status
    }

    #[tokio::test]
    async fn answers() {
        assert_eq!(found(&[204], b"").await, Ok(204));
        assert_eq!(found(&[103, 503], b"").await, Ok(503));
        assert_eq!(found(&[], b"").await.unwrap_err(), "the stream was reset: REFUSED_STREAM, h2_reset_by_peer");
        let wrong = found(&[], b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.unwrap_err();
        assert!(wrong.starts_with("not an HTTP/2 answer: h2_"), "{wrong}");
        assert_eq!(found(&[], b"\0").await.unwrap_err(), "closed before the answer was complete");
    }
}
