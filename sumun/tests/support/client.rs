//! A client that sends raw bytes and reads responses strictly.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A response as the client saw it.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case; names and values as ISO 8859-1.
    pub(crate) headers: Vec<(String, String)>,
    /// After the transfer coding is undone.
    pub(crate) body: Vec<u8>,
}

/// Why no more bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Reset,
    /// Nothing came until the deadline.
    TimedOut,
}

/// The reading side of a connection.
pub(crate) struct Reader<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
    /// What came and was not consumed.
    buffer: Vec<u8>,
    /// Everything that came, for the report.
    pub(crate) received: Vec<u8>,
}

/// Connects, with small writes sent at once.
pub(crate) fn connect(address: SocketAddr, bound: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, bound)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(bound))?;
    Ok(stream)
}

/// One GET on a connection of its own.
pub(crate) fn fetch(address: SocketAddr, target: &str, bound: Duration) -> Result<Response, String> {
    let stream = connect(address, bound).map_err(|error| format!("{address}: {error}"))?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n");
    (&stream).write_all(request.as_bytes()).map_err(|error| format!("{target}: {error}"))?;
    let mut reader = Reader::new(&stream, Instant::now() + bound);
    let response = reader.response(false)?.ok_or_else(|| format!("{target}: no answer"))?;
    stream.shutdown(Shutdown::Both).ok();
    Ok(response)
}

impl<'a> Reader<'a> {
    pub(crate) fn new(stream: &'a TcpStream, deadline: Instant) -> Self {
        Self { stream, deadline, buffer: Vec::new(), received: Vec::new() }
    }

    pub(crate) fn extend_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Sends on the same connection.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let mut sink = self.stream;
        sink.write_all(bytes)
    }

    /// Bytes that came and belong to no response yet.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.buffer
    }

    /// Waits for more bytes.
    pub(crate) fn more(&mut self) -> Result<(), End> {
        let mut chunk = [0; 16 * 1024];
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return Err(End::TimedOut);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(End::Closed),
                Ok(count) => {
                    let bytes = chunk.get(..count).unwrap_or_default();
                    self.buffer.extend_from_slice(bytes);
                    self.received.extend_from_slice(bytes);
                    return Ok(());
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Err(End::TimedOut),
                    _ => return Err(End::Reset),
                },
            }
        }
    }

    /// Reads until the connection ends, and says how.
    pub(crate) fn end(&mut self) -> End {
        loop {
            if let Err(end) = self.more() {
                return end;
            }
        }
    }

    /// The next response, interim ones among them; `None` if the connection ended before its
    /// first byte. `no_body`: it answers a HEAD.
    pub(crate) fn response(&mut self, no_body: bool) -> Result<Option<Response>, String> {
        let head = loop {
            if let Some(head) = self.take_until(b"\r\n\r\n") {
                break head;
            }
            match self.more() {
                Ok(()) => {}
                Err(End::TimedOut) => return Err(String::from("no answer in time")),
                Err(End::Closed) if self.buffer.is_empty() => return Ok(None),
                Err(end) => return Err(format!("the connection ended ({end:?}) in an answer")),
            }
        };
        let (status, headers) = parse_head(&head)?;
        let value = |name: &str| {
            let mut values = super::origin::named(&headers, name);
            match (values.next(), values.next()) {
                (_, Some(_)) => Err(format!("{name} twice in an answer")),
                (value, None) => Ok(value.map(String::from)),
            }
        };
        let (coding, length) = (value("transfer-encoding")?, value("content-length")?);
        let body = if no_body || status < 200 || status == 204 || status == 304 {
            Vec::new()
        } else {
            match (coding, length) {
                (Some(coding), None) if coding == "chunked" => self.chunked()?,
                (None, Some(length)) => {
                    let length = length.parse().map_err(|_| format!("length {length}"))?;
                    self.exactly(length)?
                }
                (None, None) => match self.end() {
                    End::Closed => std::mem::take(&mut self.buffer),
                    end => return Err(format!("a body without length ended by {end:?}")),
                },
                (coding, length) => {
                    return Err(format!("an answer framed by {coding:?} and {length:?}"));
                }
            }
        };
        Ok(Some(Response { status, headers, body }))
    }

    fn chunked(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let text: String = line.iter().copied().map(char::from).collect();
            let size = usize::from_str_radix(&text, 16).map_err(|_| format!("chunk {text:?}"))?;
            if size == 0 {
                // Trailers are the server's business; the empty line ends them.
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            body.append(&mut self.exactly(size)?);
            if !self.line()?.is_empty() {
                return Err(String::from("no CRLF behind a chunk's data"));
            }
        }
    }

    fn line(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(mut line) = self.take_until(b"\r\n") {
                line.truncate(line.len() - 2);
                return Ok(line);
            }
            self.more().map_err(|end| format!("the connection ended ({end:?}) in a body"))?;
        }
    }

    fn exactly(&mut self, size: usize) -> Result<Vec<u8>, String> {
        while self.buffer.len() < size {
            self.more().map_err(|end| format!("the connection ended ({end:?}) in a body"))?;
        }
        Ok(self.buffer.drain(..size).collect())
    }

    fn take_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let at = self.buffer.windows(end.len()).position(|window| window == end)?;
        Some(self.buffer.drain(..at + end.len()).collect())
    }
}

/// Status and fields of a response's head.
type Head = (u16, Vec<(String, String)>);

fn parse_head(head: &[u8]) -> Result<Head, String> {
    let text: String = head.iter().copied().map(char::from).collect();
    let mut lines = text.strip_suffix("\r\n\r\n").unwrap_or(&text).split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.split(' ').next())
        .filter(|digits| digits.len() == 3)
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| format!("a status line {status_line:?}"))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("a field line {line:?}"))?;
        if name.is_empty() || line.contains(['\r', '\n', '\0']) || name.contains(' ') {
            return Err(format!("a field line {line:?}"));
        }
        headers.push((name.to_ascii_lowercase(), String::from(value.trim_matches([' ', '\t']))));
    }
    Ok((status, headers))
}
