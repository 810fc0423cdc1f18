//! Heads as text: what the path writes for a client or a server, taken apart; and what a server of
//! HTTP/2 answers, as the path reads it.

use sumun_http::{Field, Known, ResponseBody, ResponseHead};

use crate::path::phrase;

/// How the body behind a head is framed, and what else a stream has to know of it.
#[derive(Debug, Default)]
pub(super) struct Facts<'a> {
    pub(super) content_length: Option<u64>,
    pub(super) is_chunked: bool,
    /// `Upgrade: websocket`.
    pub(super) websocket: bool,
    pub(super) host: &'a [u8],
    pub(super) websocket_key: &'a [u8],
}

/// The text of a response.
pub(super) struct ResponseText<'a> {
    pub(super) status: u16,
    pub(super) lines: &'a [u8],
    pub(super) facts: Facts<'a>,
    /// Of the whole head.
    pub(super) length: usize,
}

/// The text of a request.
pub(super) struct RequestText<'a> {
    pub(super) method: &'a [u8],
    pub(super) target: &'a [u8],
    pub(super) lines: &'a [u8],
    pub(super) facts: Facts<'a>,
    /// Of the whole head.
    pub(super) length: usize,
}

impl<'a> ResponseText<'a> {
    /// `None` where that is no head, or not all of one.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (line, lines, length) = parts(bytes)?;
        let digits = line.get(9..12)?;
        let status = digits
            .iter()
            .try_fold(0_u16, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u16::from(digit - b'0')))?;
        Some(Self { status, lines, facts: Facts::of(lines), length })
    }
}

impl<'a> RequestText<'a> {
    /// `None` where that is no head, or not all of one.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (line, lines, length) = parts(bytes)?;
        let space = memchr::memchr(b' ', line)?;
        let (method, rest) = line.split_at_checked(space)?;
        let target = rest.get(1..)?.strip_suffix(b" HTTP/1.1")?;
        Some(Self { method, target, lines, facts: Facts::of(lines), length })
    }
}

/// First line, field lines, and the length of a whole head.
fn parts(bytes: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 2;
    let line_end = memchr::memchr(b'\r', bytes)?;
    Some((bytes.get(..line_end)?, bytes.get(line_end + 2..end).unwrap_or_default(), end + 2))
}

/// Names and values of field lines that the gateway wrote itself.
pub(crate) fn fields(lines: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = lines;
    std::iter::from_fn(move || {
        loop {
            let end = memchr::memchr(b'\n', rest)?;
            let (line, after) = rest.split_at_checked(end + 1)?;
            rest = after;
            // What is no field is passed over: the gateway writes none.
            if let Some(colon) = memchr::memchr(b':', line).filter(|colon| *colon > 0) {
                let (name, value) = line.split_at_checked(colon)?;
                return Some((name, value.get(1..)?.trim_ascii()));
            }
        }
    })
}

impl<'a> Facts<'a> {
    fn of(lines: &'a [u8]) -> Self {
        let mut facts = Self::default();
        for (name, value) in fields(lines) {
            match name.len() {
                4 if name.eq_ignore_ascii_case(b"host") => facts.host = value,
                7 if name.eq_ignore_ascii_case(b"upgrade") => {
                    facts.websocket = value.eq_ignore_ascii_case(b"websocket");
                }
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    facts.content_length = sumun_http::request::parse_length(value);
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => facts.is_chunked = true,
                17 if name.eq_ignore_ascii_case(b"sec-websocket-key") => facts.websocket_key = value,
                _ => {}
            }
        }
        facts
    }
}

/// How the body behind an answer will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// As it is: nothing, or as many bytes as the head says.
    Plain,
    Chunked,
    /// Another head: this was an interim one.
    Head,
    /// Whatever both sides send.
    Tunnel,
}

/// What was asked, as far as the text of the answer hangs on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) is_head: bool,
    /// `Sec-WebSocket-Accept` for who asked for a WebSocket.
    pub(super) websocket_accept: Option<&'a [u8]>,
}

/// Appends the answer of a server of HTTP/2 as one of HTTP/1.1. `bytes` are those that `head` was
/// taken with; `end`: there is no body.
pub(super) fn write_response(
    output: &mut Vec<u8>,
    head: &ResponseHead,
    bytes: &[u8],
    end: bool,
    asked: Asked<'_>,
) -> Behind {
    let status = head.status;
    let opens_tunnel = asked.websocket_accept.filter(|_| (200..300).contains(&status));
    // There is no framing to spare behind a length: trailers, without which gRPC cannot say how a
    // call went, need chunks.
    let is_grpc = head.known(bytes, Known::ContentType).is_some_and(is_grpc);
    let behind = match head.body {
        _ if opens_tunnel.is_some() => Behind::Tunnel,
        _ if status < 200 => Behind::Head,
        ResponseBody::None => Behind::Plain,
        ResponseBody::Length(_) if !is_grpc => Behind::Plain,
        _ => Behind::Chunked,
    };
    let is_dropped = |field: &Field| match behind {
        Behind::Chunked => field.known == Known::ContentLength,
        Behind::Tunnel => {
            let name = field.name.of_bytes(bytes);
            field.known == Known::ContentLength || name.eq_ignore_ascii_case(b"sec-websocket-accept")
        }
        Behind::Plain | Behind::Head => false,
    };
    let shown = if opens_tunnel.is_some() { 101 } else { status };
    output.extend_from_slice(b"HTTP/1.1 ");
    output.extend_from_slice(itoa::Buffer::new().format(shown).as_bytes());
    output.push(b' ');
    output.extend_from_slice(phrase(shown).as_bytes());
    output.extend_from_slice(b"\r\n");
    if head.fields.iter().any(is_dropped) {
        for field in head.fields.iter().filter(|field| !is_dropped(field)) {
            output.extend_from_slice(field.name.of_bytes(bytes));
            output.extend_from_slice(b": ");
            output.extend_from_slice(field.value.of_bytes(bytes));
            output.extend_from_slice(b"\r\n");
        }
    } else if let Some(first) = head.fields.first() {
        // All lines in one piece; the empty one behind them belongs to the head.
        let lines = bytes.get(first.name.start as usize..bytes.len().saturating_sub(2));
        output.extend_from_slice(lines.unwrap_or_default());
    }
    match behind {
        Behind::Chunked => output.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Behind::Plain if end && !asked.is_head && head.content_length.is_none() && !matches!(status, 204 | 304) => {
            output.extend_from_slice(b"Content-Length: 0\r\n");
        }
        Behind::Tunnel => {
            output.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ");
            output.extend_from_slice(opens_tunnel.unwrap_or_default());
            output.extend_from_slice(b"\r\n");
        }
        Behind::Plain | Behind::Head => {}
    }
    output.extend_from_slice(b"\r\n");
    behind
}

/// A content type of gRPC: it streams in both directions, and ends with trailers.
pub(crate) fn is_grpc(content_type: &[u8]) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let (Some(name), behind) = (content_type.get(..TYPE.len()), content_type.get(TYPE.len())) else { return false };
    name.eq_ignore_ascii_case(TYPE) && matches!(behind, None | Some(b'+' | b';' | b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_taken_apart() {
        let text = b"POST /a?b HTTP/1.1\r\nHost: a.example\r\nContent-Length: 12\r\nX: \r\n\r\nbody";
        let request = RequestText::parse(text).unwrap();
        assert_eq!(
            (request.method, request.target, request.facts.host),
            (&b"POST"[..], &b"/a?b"[..], &b"a.example"[..])
        );
        assert_eq!((request.facts.content_length, request.length), (Some(12), text.len() - 4));
        let names: Vec<&[u8]> = fields(request.lines).map(|(name, _)| name).collect();
        assert_eq!(names, [&b"Host"[..], b"Content-Length", b"X"]);
        let response = ResponseText::parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        assert_eq!((response.status, response.lines, response.length), (204, &b""[..], 27));
        assert!(ResponseText::parse(b"HTTP/1.1 200 OK\r\nA: b\r\n").is_none(), "not all of it");
    }

    #[test]
    fn content_types_of_grpc() {
        for yes in ["application/grpc", "application/grpc+proto", "Application/GRPC; x=y"] {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in ["", "application/grpc-web", "application/json"] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }
}
