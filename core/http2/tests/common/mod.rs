//! Frames by hand, and a connection that is fed with them.

// Each test file uses a part of it.
#![allow(dead_code)]

use sumun_http::{RequestHead, ResponseHead};
use sumun_http2::{Connection, ConnectionError, ErrorCode, Event, PREFACE, Settings};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const PRIORITY_UPDATE: u8 = 16;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 32;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Fields as literals that are not indexed.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            if text.len() < 127 {
                bytes.push(text.len() as u8);
            } else {
                let rest = text.len() - 127;
                bytes.extend_from_slice(&[127, rest as u8 | 0x80, (rest >> 7) as u8 | 0x80, (rest >> 14) as u8]);
            }
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

pub(crate) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];
pub(crate) const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];
pub(crate) const OK: [(&str, &str); 1] = [(":status", "200")];

/// A whole field section in one HEADERS frame.
pub(crate) fn headers(stream: u32, fields: &[(&str, &str)], flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(fields))
}

/// A GET without a body.
pub(crate) fn get(stream: u32) -> Vec<u8> {
    headers(stream, &GET, END_STREAM)
}

/// A POST whose body follows.
pub(crate) fn post(stream: u32) -> Vec<u8> {
    headers(stream, &POST, 0)
}

pub(crate) fn data(stream: u32, bytes: &[u8], flags: u8) -> Vec<u8> {
    frame(DATA, flags, stream, bytes)
}

pub(crate) fn setting(identifier: u16, value: u32) -> Vec<u8> {
    let mut payload = identifier.to_be_bytes().to_vec();
    payload.extend_from_slice(&value.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

pub(crate) fn word(kind: u8, stream: u32, value: u32) -> Vec<u8> {
    frame(kind, 0, stream, &value.to_be_bytes())
}

pub(crate) fn go_away(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// A frame that came out.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "kind {} flags {:#x} stream {} {} bytes",
            self.kind,
            self.flags,
            self.stream,
            self.payload.len()
        )
    }
}

impl Sent {
    pub(crate) fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Sent> {
    let mut frames = Vec::new();
    while let [l0, l1, l2, kind, flags, s0, s1, s2, s3, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
        let stream = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
        frames.push(Sent { kind: *kind, flags: *flags, stream, payload: rest[..length].to_vec() });
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "a frame is cut off");
    frames
}

/// A connection, the time, and what it said.
pub(crate) struct Play {
    pub(crate) connection: Connection,
    pub(crate) now_ms: u64,
    /// `Debug` of each event; data of one stream in one piece.
    pub(crate) events: Vec<String>,
    /// Heads and trailers as text, in order.
    pub(crate) texts: Vec<String>,
    pub(crate) error: Option<ConnectionError>,
    is_client: bool,
}

impl Play {
    /// A server past the preface and both settings.
    pub(crate) fn server(settings: &Settings) -> Self {
        let mut play = Self::of(Connection::server(settings, 0));
        play.feed(PREFACE);
        play.begin();
        play
    }

    /// A client past both settings.
    pub(crate) fn client(settings: &Settings) -> Self {
        let mut play = Self { is_client: true, ..Self::of(Connection::client(settings, 0)) };
        play.begin();
        play
    }

    pub(crate) fn of(connection: Connection) -> Self {
        Self { connection, now_ms: 0, events: Vec::new(), texts: Vec::new(), error: None, is_client: false }
    }

    fn begin(&mut self) {
        self.feed(&frame(SETTINGS, 0, 0, &[]));
        self.feed(&frame(SETTINGS, ACK, 0, &[]));
        self.sent();
        self.events.clear();
    }

    pub(crate) fn feed(&mut self, input: &[u8]) -> &mut Self {
        let mut rest = input;
        loop {
            let step = match self.connection.receive(self.now_ms, rest) {
                Ok(step) => step,
                Err(error) => {
                    assert!(self.error.replace(error).is_none(), "two errors");
                    assert!(self.connection.is_over());
                    return self;
                }
            };
            rest = &rest[step.consumed..];
            let Some(event) = step.event else {
                assert!(rest.is_empty(), "{} bytes are left", rest.len());
                return self;
            };
            self.events.push(format!("{event:?}"));
            match event {
                Event::Head { .. } => self.take_head(),
                Event::Trailers { .. } => {
                    let mut lines = Vec::new();
                    self.connection.take_trailers(&mut lines);
                    self.texts.push(String::from_utf8_lossy(&lines).into_owned());
                }
                _ => {}
            }
        }
    }

    fn take_head(&mut self) {
        let mut bytes = Vec::new();
        let (mut request, mut response) = (RequestHead::default(), ResponseHead::default());
        let (verdict, fields) = if self.is_client {
            (self.connection.take_response(&mut response, &mut bytes).err(), response.fields)
        } else {
            (self.connection.take_request(&mut request, &mut bytes).err(), request.fields)
        };
        self.texts.push(match verdict {
            Some(reject) => format!("{reject:?}"),
            None => {
                let part = |span: sumun_http::Span| String::from_utf8_lossy(span.of_bytes(&bytes)).into_owned();
                let fields = fields.iter().map(|field| format!("{}={}", part(field.name), part(field.value)));
                fields.collect::<Vec<_>>().join("&")
            }
        });
    }

    /// What came out since the last time; it is written.
    pub(crate) fn sent(&mut self) -> Vec<Sent> {
        let output = self.connection.output();
        let sent = frames(output.strip_prefix(PREFACE).unwrap_or(output));
        self.connection.consume(usize::MAX);
        sent
    }

    /// Codes of the RST_STREAM frames among what came out, and of the GOAWAY.
    pub(crate) fn codes(&mut self) -> (Vec<(u32, ErrorCode)>, Option<ErrorCode>) {
        let sent = self.sent();
        let resets = sent.iter().filter(|sent| sent.kind == RST_STREAM);
        let resets = resets.map(|sent| (sent.stream, ErrorCode(sent.word(0)))).collect();
        let end = sent.iter().find(|sent| sent.kind == GOAWAY).map(|sent| ErrorCode(sent.word(4)));
        (resets, end)
    }

    /// Answers a request in full.
    pub(crate) fn answer(&mut self, stream: u32) {
        self.connection.send_response(stream, 200, true, |_| {}).unwrap();
    }
}
