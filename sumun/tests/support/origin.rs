//! A small HTTP/1.1 server that writes down every request exactly as it came.
//!
//! It is stricter than any real server: what two readers could take in two ways is recorded as
//! ambiguous. It answers 200 and says `METHOD TARGET`; under `/stream` in chunks; an
//! expectation of 100 with 100; a whole WebSocket handshake with 101 and an echo, but not
//! under `/no-upgrade`.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use super::sockets::wait_until_read;

/// How long the connections may take to be read empty.
const SETTLE_BOUND: Duration = Duration::from_secs(5);
/// The answer to the handshake key of RFC 6455 section 1.3, the only one the tests use.
const SAMPLE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// One request as the server saw it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case; names and values as ISO 8859-1.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) state: State,
    /// The head as it came.
    pub(crate) raw_head: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum State {
    /// Its end has not come yet, or never will.
    #[default]
    Cut,
    Whole,
    /// Could be read in two ways; what was wrong.
    Ambiguous(String),
}

#[derive(Default)]
struct Record {
    seen: Vec<Seen>,
    /// Requests below this index were handed out already.
    taken: usize,
}

pub(crate) struct Origin {
    address: SocketAddr,
    record: Arc<Mutex<Record>>,
}

impl Origin {
    /// Listens on a free TCP port of 127.0.0.1 for as long as the test process lives.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free TCP port for the server");
        let address = listener.local_addr().expect("a bound socket has an address");
        let record = Arc::new(Mutex::new(Record::default()));
        let shared = Arc::clone(&record);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let record = Arc::clone(&shared);
                thread::spawn(move || serve(&stream, &record));
            }
        });
        Self { address, record }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that was seen since the last call, after all that has arrived was read.
    ///
    /// A connection's thread takes bytes out of the kernel only while it holds the record, so
    /// empty queues mean that every byte that was sent before this call is accounted for.
    pub(crate) fn take(&self) -> Vec<Seen> {
        assert!(wait_until_read(self.address, SETTLE_BOUND), "the recording server does not read");
        let mut record = lock(&self.record);
        let taken = record.taken;
        record.taken = record.seen.len();
        record.seen.iter().skip(taken).cloned().collect()
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    // A panic elsewhere already fails the test; what was recorded stays readable.
    record.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn serve(stream: &TcpStream, record: &Mutex<Record>) {
    // Small answers must not wait for acknowledgements.
    stream.set_nodelay(true).ok();
    let mut connection = Connection::default();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        // Peeking blocks without taking anything; the bytes leave the kernel under the lock.
        if let Err(error) = stream.peek(&mut [0])
            && error.kind() == ErrorKind::Interrupted
        {
            continue;
        }
        let mut record = lock(record);
        let received = (&*stream).read(&mut chunk).unwrap_or(0);
        let Some(bytes) = chunk.get(..received).filter(|bytes| !bytes.is_empty()) else {
            connection.ended(&mut record);
            return;
        };
        let answer = connection.received(bytes, &mut record);
        if (&*stream).write_all(&answer).is_err() || connection.phase == Phase::Closed {
            connection.ended(&mut record);
            stream.shutdown(Shutdown::Both).ok();
            return;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Head,
    /// Bytes of the body that are still to come.
    Length(usize),
    ChunkSize,
    /// Bytes of the chunk that are still to come, without the line end.
    ChunkData(usize),
    ChunkEnd,
    Trailers,
    Tunnel,
    Closed,
}

#[derive(Default)]
struct Connection {
    phase: Phase,
    buffer: Vec<u8>,
    /// Index of the request that is being read.
    current: Option<usize>,
}

impl Connection {
    /// Takes in bytes and returns what is to be sent.
    fn received(&mut self, bytes: &[u8], record: &mut Record) -> Vec<u8> {
        self.buffer.extend_from_slice(bytes);
        let mut answer = Vec::new();
        loop {
            match self.step(record, &mut answer) {
                Ok(true) => {}
                Ok(false) => return answer,
                Err(reason) => {
                    self.ambiguous(reason, record);
                    answer
                        .extend_from_slice(b"HTTP/1.1 400 Ambiguous\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                    return answer;
                }
            }
        }
    }

    /// One unit of the syntax; false if more bytes are needed.
    fn step(&mut self, record: &mut Record, answer: &mut Vec<u8>) -> Result<bool, String> {
        match self.phase {
            Phase::Head => {
                let Some(head) = self.take_until(b"\r\n\r\n") else {
                    return Ok(false);
                };
                self.begin(&head, record, answer)?;
            }
            Phase::Length(0) => self.finish(record, answer),
            Phase::Length(left) => {
                let taken = self.take_body(left, record);
                self.phase = Phase::Length(left - taken);
                return Ok(taken > 0);
            }
            Phase::ChunkSize => {
                let Some(line) = self.take_until(b"\r\n") else {
                    return Ok(false);
                };
                let size = chunk_size(line.strip_suffix(b"\r\n").unwrap_or_default())?;
                self.phase = if size == 0 { Phase::Trailers } else { Phase::ChunkData(size) };
            }
            Phase::ChunkData(0) => self.phase = Phase::ChunkEnd,
            Phase::ChunkData(left) => {
                let taken = self.take_body(left, record);
                self.phase = Phase::ChunkData(left - taken);
                return Ok(taken > 0);
            }
            Phase::ChunkEnd => {
                if self.buffer.len() < 2 {
                    return Ok(false);
                }
                if !self.buffer.starts_with(b"\r\n") {
                    return Err(String::from("no CRLF behind the chunk's data"));
                }
                self.buffer.drain(..2);
                self.phase = Phase::ChunkSize;
            }
            Phase::Trailers => {
                let Some(line) = self.take_until(b"\r\n") else {
                    return Ok(false);
                };
                let line = line.strip_suffix(b"\r\n").unwrap_or_default();
                if line.is_empty() {
                    self.finish(record, answer);
                } else {
                    let trailer = field_line(line)?;
                    if let Some(seen) = self.current.and_then(|index| record.seen.get_mut(index)) {
                        seen.trailers.push(trailer);
                    }
                }
            }
            Phase::Tunnel => {
                answer.append(&mut self.buffer);
                return Ok(false);
            }
            Phase::Closed => return Ok(false),
        }
        Ok(true)
    }

    fn begin(&mut self, head: &[u8], record: &mut Record, answer: &mut Vec<u8>) -> Result<(), String> {
        self.current = Some(record.seen.len());
        record.seen.push(Seen { raw_head: head.to_vec(), ..Seen::default() });
        let seen = read_head(head)?;
        self.phase = framing(&seen.headers)?;
        let waits = named(&seen.headers, "expect").any(|value| value.eq_ignore_ascii_case("100-continue"));
        if waits && self.phase != Phase::Length(0) {
            answer.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if let Some(slot) = record.seen.last_mut() {
            *slot = Seen { raw_head: head.to_vec(), ..seen };
        }
        Ok(())
    }

    /// The current request is whole: marks it and answers it.
    fn finish(&mut self, record: &mut Record, answer: &mut Vec<u8>) {
        self.phase = Phase::Head;
        let Some(index) = self.current.take() else {
            return;
        };
        let late = index < record.taken;
        let Some(seen) = record.seen.get_mut(index) else {
            return;
        };
        seen.state = State::Whole;
        let seen = seen.clone();
        if late {
            // It was handed out as cut short, and its end came after all.
            let state = State::Ambiguous(String::from("ended after its case was over"));
            record.seen.push(Seen { state, ..seen.clone() });
        }
        if switches(&seen) {
            self.phase = Phase::Tunnel;
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {SAMPLE_ACCEPT}\r\n\r\n"
            );
            answer.extend_from_slice(head.as_bytes());
            return;
        }
        let text = format!("{} {}\n", seen.method, seen.target);
        let streamed = seen.target.starts_with("/stream");
        let (framing, body) = if streamed {
            let size = text.len();
            (String::from("Transfer-Encoding: chunked"), format!("{size:x}\r\n{text}\r\n0\r\n\r\n"))
        } else {
            (format!("Content-Length: {}", text.len()), text)
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{framing}\r\n\r\n");
        answer.extend_from_slice(head.as_bytes());
        if seen.method != "HEAD" {
            answer.extend_from_slice(body.as_bytes());
        }
    }

    fn ambiguous(&mut self, reason: String, record: &mut Record) {
        self.phase = Phase::Closed;
        let state = State::Ambiguous(reason);
        match self.current.take().and_then(|index| record.seen.get_mut(index)) {
            Some(seen) => seen.state = state,
            None => record.seen.push(Seen { state, raw_head: self.buffer.clone(), ..Seen::default() }),
        }
    }

    /// The connection is over; a head that never ended is recorded as it came.
    fn ended(&mut self, record: &mut Record) {
        if self.phase == Phase::Head && !self.buffer.is_empty() {
            record.seen.push(Seen { raw_head: self.buffer.clone(), ..Seen::default() });
        }
        self.phase = Phase::Closed;
    }

    fn take_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let at = self.buffer.windows(end.len()).position(|window| window == end)?;
        Some(self.buffer.drain(..at + end.len()).collect())
    }

    /// Moves up to this many bytes into the body, and says how many there were.
    fn take_body(&mut self, left: usize, record: &mut Record) -> usize {
        let taken = left.min(self.buffer.len());
        let bytes: Vec<u8> = self.buffer.drain(..taken).collect();
        if let Some(seen) = self.current.and_then(|index| record.seen.get_mut(index)) {
            seen.body.extend_from_slice(&bytes);
        }
        taken
    }
}

fn read_head(head: &[u8]) -> Result<Seen, String> {
    let head = head.strip_suffix(b"\r\n\r\n").unwrap_or(head);
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
        let (line, more) = rest.split_at(at);
        lines.push(line);
        rest = more.strip_prefix(b"\r\n").unwrap_or_default();
    }
    lines.push(rest);

    let mut lines = lines.into_iter();
    let request_line = lines.next().unwrap_or_default();
    if !request_line.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return Err(String::from("a byte in the request line that does not belong there"));
    }
    let words: Vec<String> = request_line.split(|byte| *byte == b' ').map(latin1).collect();
    let [method, target, version] = words.as_slice() else {
        return Err(String::from("the request line is not three words"));
    };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err(String::from("the method is no token"));
    }
    let asterisk = target == "*" && method == "OPTIONS";
    if !target.starts_with('/') && !asterisk {
        return Err(String::from("the target is not in origin form"));
    }
    if version != "HTTP/1.1" {
        return Err(format!("the version is {version}"));
    }
    let headers = lines.map(field_line).collect::<Result<Vec<_>, _>>()?;
    let hosts = named(&headers, "host").count();
    if hosts != 1 {
        return Err(format!("{hosts} Host fields"));
    }
    Ok(Seen { method: method.clone(), target: target.clone(), headers, ..Seen::default() })
}

fn field_line(line: &[u8]) -> Result<(String, String), String> {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else {
        return Err(String::from("a field line without a colon"));
    };
    let (name, value) = line.split_at(colon);
    let value = trim(value.strip_prefix(b":").unwrap_or_default());
    if name.is_empty() || !name.iter().copied().all(is_token) {
        return Err(String::from("a field name that is no token"));
    }
    // RFC 9110 5.5: visible characters, obs-text, and white space between them.
    if !value.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f)) {
        return Err(String::from("a control character in a field value"));
    }
    Ok((latin1(name).to_ascii_lowercase(), latin1(value)))
}

/// Takes spaces and tabs off both ends, and nothing else (RFC 9110 5.6.3).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn framing(headers: &[(String, String)]) -> Result<Phase, String> {
    let lengths: Vec<_> = named(headers, "content-length").collect();
    let codings: Vec<_> = named(headers, "transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Phase::Length(0)),
        ([length], []) => match length.parse() {
            Ok(number) if length.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Phase::Length(number)),
            _ => Err(format!("Content-Length is {length:?}")),
        },
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Phase::ChunkSize),
        _ => Err(format!("framed by lengths {lengths:?} and codings {codings:?}")),
    }
}

/// Extensions end at the gateway, so a size line holds a size and nothing else.
fn chunk_size(line: &[u8]) -> Result<usize, String> {
    let text = latin1(line);
    match usize::from_str_radix(&text, 16) {
        Ok(size) if line.iter().all(u8::is_ascii_hexdigit) => Ok(size),
        _ => Err(format!("a chunk size line {text:?}")),
    }
}

/// A whole handshake of RFC 6455 section 4.2.1.
fn switches(seen: &Seen) -> bool {
    let lists = |name: &str, word: &str| {
        named(&seen.headers, name)
            .flat_map(|value| value.split(','))
            .any(|member| member.trim().eq_ignore_ascii_case(word))
    };
    seen.method == "GET"
        && !seen.target.starts_with("/no-upgrade")
        && lists("connection", "upgrade")
        && lists("upgrade", "websocket")
        && lists("sec-websocket-version", "13")
        && named(&seen.headers, "sec-websocket-key").count() == 1
}

/// Values of the field lines with this name, which is in lower case.
pub(crate) fn named<'a>(fields: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    fields.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
