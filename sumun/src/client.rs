//! A small HTTP/1.1 client for the control socket: one request, one answer, all bounded.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sumun_host::pass::{PeerCredentials, peer_credentials};
use sumun_host::process;

use crate::limits::{ANSWER_BYTES, ANSWER_TIMEOUT};

/// What the API answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `Null` when the body is empty or no JSON.
    pub(crate) body: Value,
}

#[derive(Debug)]
pub(crate) enum ClientError {
    /// Nobody listens on the control socket.
    NotRunning {
        control: PathBuf,
    },
    Failed {
        control: PathBuf,
        error: io::Error,
    },
}

impl fmt::Display for ClientError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning { control } => {
                write!(out, "no instance is running (nobody listens on {})", control.display())
            }
            Self::Failed { control, error } => {
                write!(out, "the instance at {} does not answer: {error}", control.display())
            }
        }
    }
}

/// Connects to the instance behind the control socket, and says who that is.
pub(crate) fn connect(control: &Path) -> Result<(UnixStream, PeerCredentials), ClientError> {
    let failed = |error| ClientError::Failed { control: control.to_owned(), error };
    let stream = UnixStream::connect(control).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning { control: control.to_owned() }
        }
        _ => failed(error),
    })?;
    let peer = peer_credentials(&stream).map_err(failed)?;
    let we = process::effective_uid();
    // Another user may have been first with a socket of this name.
    if peer.uid != we && peer.uid != 0 && we != 0 {
        let text = format!("it belongs to another user (uid {})", peer.uid);
        return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, text)));
    }
    Ok((stream, peer))
}

/// Sends one request and waits for the whole answer.
pub(crate) fn request(control: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, ClientError> {
    let (mut stream, _) = connect(control)?;
    exchange(&mut stream, method, path, body)
        .map_err(|error| ClientError::Failed { control: control.to_owned(), error })
}

/// A pool's or server's name as one segment of a path: everything but unreserved characters is
/// percent-encoded (RFC 3986 section 2.3).
pub(crate) fn segment(name: &str) -> String {
    let mut encoded = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

fn exchange(stream: &mut UnixStream, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells "too long" from "just fits".
    stream.take(ANSWER_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > ANSWER_BYTES {
        return Err(broken("its answer is too long"));
    }
    parse(&bytes)
}

/// A whole answer, as it was read up to the end of the connection.
fn parse(bytes: &[u8]) -> io::Result<Answer> {
    const HEAD_END: &[u8] = b"\r\n\r\n";
    let end = bytes
        .windows(HEAD_END.len())
        .position(|window| window == HEAD_END)
        .ok_or_else(|| broken("its answer has no end of head"))?;
    let (head, rest) = bytes.split_at(end);
    let rest = rest.get(HEAD_END.len()..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| broken("its answer is not HTTP"))?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok())
        .ok_or_else(|| broken("its answer is not HTTP/1.1"))?;
    let field = |wanted: &str| {
        lines
            .clone()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(name, value)| name.eq_ignore_ascii_case(wanted).then(|| value.trim()))
    };
    let body = if field("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        unchunk(rest)?
    } else if let Some(length) = field("content-length") {
        let length: usize = length.parse().map_err(|_| broken("its answer has no valid length"))?;
        rest.get(..length).ok_or_else(|| broken("its answer was cut short"))?.to_vec()
    } else {
        rest.to_vec()
    };
    Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

/// RFC 9112 section 7.1, of a body that is there as a whole; trailers are not looked at.
fn unchunk(mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let cut_short = || broken("its answer was cut short");
    let mut body = Vec::new();
    loop {
        let line = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(cut_short)?;
        let (size, rest) = bytes.split_at(line + 1);
        let size = std::str::from_utf8(size).ok().and_then(|text| text.split([';', '\r']).next());
        let size = size.and_then(|digits| usize::from_str_radix(digits.trim(), 16).ok());
        let size = size.ok_or_else(|| broken("its answer has a broken chunk"))?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..size).ok_or_else(cut_short)?);
        bytes = rest.get(size..).and_then(|rest| rest.strip_prefix(b"\r\n")).ok_or_else(cut_short)?;
    }
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_in_each_framing() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}rest",
            "HTTP/1.1 200 OK\r\n\r\n{\"a\":1}",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n",
        ] {
            let expected = Answer { status: 200, body: json!({"a": 1}) };
            assert_eq!(parse(text.as_bytes()).unwrap(), expected, "{text}");
        }
        assert_eq!(parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().body, Value::Null);
    }

    #[test]
    fn what_is_cut_short_is_no_answer() {
        for text in [
            "",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"a\":1}",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7\r\n{\"a\":1}\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn nobody_there_is_said_so() {
        let path = std::env::temp_dir().join(format!("sumun-nobody-{}", std::process::id()));
        drop(UnixListener::bind(&path).unwrap());
        let text = connect(&path).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(text.starts_with("no instance is running"), "{text}");
        assert!(matches!(connect(&path), Err(ClientError::NotRunning { .. })));
    }

    #[test]
    fn names_are_one_segment() {
        assert_eq!(segment("[::1]:80/x y"), "%5B%3A%3A1%5D%3A80%2Fx%20y");
        assert_eq!(segment("10.0.0.1-a_b~"), "10.0.0.1-a_b~");
    }

    proptest! {
        #[test]
        fn no_answer_hurts(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let chunked = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", bytes.as_slice()].concat();
            for bytes in [bytes.as_slice(), chunked.as_slice()] {
                if let Ok(answer) = parse(bytes) {
                    prop_assert!(answer.status <= 999);
                }
            }
        }
    }
}
