//! A client that keeps its connection and tells how an answer was framed, and where it broke off.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::client::{self, End};
use super::instance::PATIENCE;
use super::show;

/// How the end of a body was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Framing {
    #[default]
    None,
    Length,
    Chunked,
    UntilClose,
}

/// An answer as the client saw it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case; names and values as ISO 8859-1.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) framing: Framing,
    /// Status of each answer that came before this one, and its fields.
    pub(crate) interim: Vec<(u16, Vec<(String, String)>)>,
}

impl Answer {
    /// The first field of this name, which is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Fails the test unless the status is this one.
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?}\n{}", self.headers, show(&self.body));
        self
    }
}

/// An answer that was not whole: what came of it, and how it ended.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) answer: Answer,
    pub(crate) end: End,
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    /// It speaks over TLS. An end without a word of it counts as [`End::Reset`].
    pub(crate) tls: Option<Box<ClientConnection>>,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = client::connect(address, PATIENCE).unwrap_or_else(|error| panic!("{address}: {error}"));
        Self::of(stream)
    }

    /// Asks for the server of this name over TLS; the handshake happens as soon as it has to.
    pub(crate) fn secure(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Self {
        let name = ServerName::try_from(name.to_owned()).expect("a server's name");
        let tls = ClientConnection::new(Arc::clone(config), name).expect("a client's side of TLS");
        Self { tls: Some(Box::new(tls)), ..Self::connect(address) }
    }

    /// Does the handshake now.
    pub(crate) fn handshake(&mut self) -> std::io::Result<()> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        let tls = self.tls.as_mut().expect("a connection over TLS");
        while tls.is_handshaking() {
            tls.complete_io(&mut self.stream)?;
        }
        Ok(())
    }

    /// A connection whose kernel takes few bytes before its owner has read them.
    pub(crate) fn of(stream: TcpStream) -> Self {
        Self { stream, tls: None, buffer: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        let sent = match &mut self.tls {
            None => self.stream.write_all(bytes),
            Some(tls) => {
                let mut stream = rustls::Stream::new(&mut **tls, &mut self.stream);
                stream.write_all(bytes).and_then(|()| stream.flush())
            }
        };
        sent.expect("the gateway takes what the client sends");
        self
    }

    /// Ends the client's direction.
    pub(crate) fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            tls.complete_io(&mut self.stream).expect("the connection is there");
        }
        self.stream.shutdown(Shutdown::Write).expect("the connection is there");
    }

    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.get_with(target, "")
    }

    /// `fields` are whole lines, CRLF included.
    pub(crate) fn get_with(&mut self, target: &str, fields: &str) -> Answer {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")).answer()
    }

    /// Any method; a body is sent with its length.
    pub(crate) fn request(&mut self, method: &str, target: &str, fields: &str, body: &[u8]) -> Answer {
        let length = if body.is_empty() && matches!(method, "GET" | "HEAD" | "DELETE" | "OPTIONS") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{fields}{length}\r\n");
        self.send([head.as_bytes(), body].concat());
        let answer = if method == "HEAD" { self.try_answer(true) } else { self.try_answer(false) };
        answer.unwrap_or_else(|cut| panic!("{method} {target}: {cut:?}"))
    }

    /// The next answer, which has to be whole.
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer(false).unwrap_or_else(|cut| panic!("no whole answer: {cut:?}"))
    }

    /// The next answer to a HEAD.
    pub(crate) fn answer_to_head(&mut self) -> Answer {
        self.try_answer(true).unwrap_or_else(|cut| panic!("no whole answer: {cut:?}"))
    }

    /// The next answer, or what came of it.
    pub(crate) fn try_answer(&mut self, no_body: bool) -> Result<Answer, Box<Cut>> {
        let mut answer = Answer::default();
        let until = Instant::now() + PATIENCE;
        match self.fill(&mut answer, no_body, until) {
            Ok(()) => Ok(answer),
            Err(end) => Err(Box::new(Cut { answer, end })),
        }
    }

    /// Reads a head only, interim or final.
    pub(crate) fn head(&mut self) -> (u16, Vec<(String, String)>) {
        let until = Instant::now() + PATIENCE;
        let head = self.take_until(b"\r\n\r\n", until).unwrap_or_else(|end| panic!("no head: {end:?}"));
        parse_head(&head)
    }

    /// Exactly this many bytes, whatever they are.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let until = Instant::now() + PATIENCE;
        while self.buffer.len() < count {
            if let Err(end) = self.more(until) {
                panic!("{end:?} after {} of {count} bytes: {}", self.buffer.len(), show(&self.buffer));
            }
        }
        self.buffer.drain(..count).collect()
    }

    /// Breaks the connection off, as the kernel does for a program that was killed in the middle.
    pub(crate) fn reset(self) {
        let linger = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        linger.expect("the connection is there");
    }

    /// What came and was not looked at.
    pub(crate) fn buffered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// The next chunk of a body whose head was read; an empty one is the last.
    pub(crate) fn chunk(&mut self) -> Vec<u8> {
        let until = Instant::now() + PATIENCE;
        let mut chunk = Answer::default();
        let size = self.next_chunk(&mut chunk, until).unwrap_or_else(|end| panic!("no chunk: {end:?}"));
        debug_assert_eq!(size, chunk.body.len());
        chunk.body
    }

    /// Reads a body in chunks to its end and gives its size.
    pub(crate) fn chunked_size(&mut self) -> usize {
        let sizes = std::iter::repeat_with(|| self.chunk().len());
        sizes.take_while(|size| *size > 0).sum()
    }

    /// Waits for the end of the connection; bytes before it fail the test.
    pub(crate) fn end(&mut self) -> End {
        let until = Instant::now() + PATIENCE;
        match self.more(until) {
            Ok(()) => panic!("bytes behind the last answer: {}", show(&self.buffer)),
            Err(end) => {
                assert!(self.buffer.is_empty(), "bytes behind the last answer: {}", show(&self.buffer));
                end
            }
        }
    }

    fn fill(&mut self, answer: &mut Answer, no_body: bool, until: Instant) -> Result<(), End> {
        loop {
            let head = self.take_until(b"\r\n\r\n", until)?;
            let (status, headers) = parse_head(&head);
            if status >= 200 || status == 101 {
                (answer.status, answer.headers) = (status, headers);
                break;
            }
            answer.interim.push((status, headers));
        }
        let value = |name: &str| answer.header(name).map(String::from);
        let (coding, length) = (value("transfer-encoding"), value("content-length"));
        assert!(coding.is_none() || length.is_none(), "framed in two ways: {:?}", answer.headers);
        if no_body || answer.status == 101 || answer.status == 204 || answer.status == 304 {
            return Ok(());
        }
        if let Some(coding) = coding {
            assert_eq!(coding, "chunked");
            answer.framing = Framing::Chunked;
            return self.chunks(answer, until);
        }
        if let Some(length) = length {
            answer.framing = Framing::Length;
            let length: usize = length.parse().expect("a length is a number");
            return self.move_to(&mut answer.body, length, until);
        }
        answer.framing = Framing::UntilClose;
        loop {
            answer.body.append(&mut self.buffer);
            match self.more(until) {
                Ok(()) => {}
                Err(End::Closed) => return Ok(()),
                Err(end) => return Err(end),
            }
        }
    }

    fn chunks(&mut self, answer: &mut Answer, until: Instant) -> Result<(), End> {
        loop {
            let line = self.take_until(b"\r\n", until)?;
            let text = String::from_utf8_lossy(&line);
            let size =
                usize::from_str_radix(text.trim_end(), 16).unwrap_or_else(|_| panic!("a chunk of size {text:?}"));
            if size == 0 {
                break;
            }
            self.move_to(&mut answer.body, size, until)?;
            let end = self.take_until(b"\r\n", until)?;
            assert_eq!(end, b"\r\n", "behind a chunk");
        }
        loop {
            let line = self.take_until(b"\r\n", until)?;
            let text = String::from_utf8_lossy(&line);
            let Some((name, value)) = text.trim_end().split_once(':') else { return Ok(()) };
            answer.trailers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// One chunk, without what follows the last one.
    fn next_chunk(&mut self, answer: &mut Answer, until: Instant) -> Result<usize, End> {
        let line = self.take_until(b"\r\n", until)?;
        let text = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(text.trim_end(), 16).unwrap_or_else(|_| panic!("a chunk of size {text:?}"));
        if size > 0 {
            self.move_to(&mut answer.body, size, until)?;
            assert_eq!(self.take_until(b"\r\n", until)?, b"\r\n", "behind a chunk");
        }
        Ok(size)
    }

    fn move_to(&mut self, body: &mut Vec<u8>, mut count: usize, until: Instant) -> Result<(), End> {
        loop {
            let here = count.min(self.buffer.len());
            body.extend(self.buffer.drain(..here));
            count -= here;
            if count == 0 {
                return Ok(());
            }
            self.more(until)?;
        }
    }

    fn take_until(&mut self, end: &[u8], until: Instant) -> Result<Vec<u8>, End> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            self.more(until)?;
        }
    }

    fn more(&mut self, until: Instant) -> Result<(), End> {
        let mut chunk = [0; 64 * 1024];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return Err(End::TimedOut);
            }
            let read = match &mut self.tls {
                None => self.stream.read(&mut chunk),
                Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read(&mut chunk),
            };
            match read {
                Ok(0) => return Err(End::Closed),
                Ok(count) => {
                    self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
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
}

fn parse_head(head: &[u8]) -> (u16, Vec<(String, String)>) {
    let text: String = head.iter().copied().map(char::from).collect();
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    let status = status.unwrap_or_else(|| panic!("a status line {status_line:?}"));
    let fields = lines.map(|line| {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("a field line {line:?}"));
        (name.to_ascii_lowercase(), value.trim().to_owned())
    });
    (status, fields.collect())
}
