//! The machine of one connection.

mod control;
mod data;
mod headers;
mod receive;
mod send;
mod time;

use std::collections::VecDeque;

use sumun_http::{Reject, RequestHead, ResponseHead};

use crate::budget::Budgets;
use crate::closed::{Closed, ClosedStreams};
use crate::error::{ConnectionError, ErrorCode};
use crate::event::{Cause, Event, StreamId};
use crate::frame::{self, FrameHeader, setting};
use crate::hpack::{Decoder, Encoder};
use crate::limits::{
    OUTPUT_BYTES_MAX, OUTPUT_IDLE_BYTES, OUTPUT_KEPT_BYTES, STALL_PROGRESS_BYTES, STREAMS_AT_FIRST, TABLE_BYTES_MAX,
    WINDOW_DEFAULT,
};
use crate::message::{Asked, Bounds, FieldSet, RequestExtra, Section};
use crate::output::Output;
use crate::settings::Settings;
use crate::stream::{Streams, Waiting};
use crate::{Abuse, PREFACE};

pub use send::{Fields, RequestLine, SendError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

/// What the next bytes of the input are.
#[derive(Debug, Clone, Copy)]
enum Reading {
    /// So much of the client's preface has come.
    Preface(usize),
    Header,
    /// The first byte of a padded DATA frame.
    PadLength(FrameHeader),
    Data(DataFrame),
    /// Padding, or what nobody wants, bytes.
    Skip(usize),
    Payload(FrameHeader),
}

/// A DATA frame that is being handed out.
#[derive(Debug, Clone, Copy)]
struct DataFrame {
    stream: StreamId,
    /// Data that has not come, and padding behind it, bytes.
    left: usize,
    padding: usize,
    end: bool,
}

/// A header block that has begun.
#[derive(Debug, Clone, Copy)]
struct OpenBlock {
    stream: StreamId,
    end: bool,
    depends_on_itself: bool,
    continuations: u32,
}

/// The section that waits to be taken.
#[derive(Debug, Clone, Copy)]
struct Ready {
    end: bool,
    status: u16,
    asked: Asked,
}

/// What the peer asked of us.
#[derive(Debug, Clone, Copy)]
struct PeerSettings {
    initial_window: u32,
    streams_max: u32,
    extended_connect: bool,
}

/// How far a graceful end has come (RFC 9113 section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    No,
    /// New streams are taken until the PING behind the first GOAWAY is answered, or until then.
    Announced {
        until_ms: u64,
    },
    /// Streams above the last one named are ignored.
    Last(StreamId),
}

/// When the peer last took data that was worth it.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    since_ms: u64,
    sent: u32,
}

impl Progress {
    fn note(&mut self, now_ms: u64, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes as u32);
        if self.sent >= STALL_PROGRESS_BYTES {
            *self = Self { since_ms: now_ms, sent: 0 };
        }
    }
}

/// One end of an HTTP/2 connection. See the crate's documentation for its course.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    settings: Settings,

    reading: Reading,
    /// A frame that has come in part: its header, or its payload.
    stash: Vec<u8>,
    /// Fragments of the header block that has begun.
    block: Vec<u8>,
    open_block: Option<OpenBlock>,
    /// When the last HEADERS frame began.
    block_began_ms: u64,
    decoder: Decoder,
    section: Section,
    ready: Ready,

    output: Output,
    encoder: Encoder,

    peer: PeerSettings,
    settings_came: bool,
    /// When our settings have to be acknowledged at last.
    settings_due_ms: Option<u64>,
    /// The connection's own windows, as those of a stream.
    send_window: i64,
    receive_window: i64,
    released: u32,

    streams: Streams,
    closed: ClosedStreams,
    /// The highest stream that was opened: by the peer of a server, by a client itself; 0 is none.
    highest: StreamId,
    /// Streams that wait for their turn to send, in order.
    turns: VecDeque<StreamId>,
    /// How many streams have data that no window lets through.
    stalled: usize,
    budgets: Budgets,
    drain: Drain,
    progress: Progress,
    /// Streams of ours above this were not processed, said the peer; and whether some of them are
    /// to be told still.
    refused_above: Option<StreamId>,
    refusing: bool,
    over: bool,
}

impl Connection {
    /// The end that is asked. Its settings lie in the output.
    #[must_use]
    pub fn server(settings: &Settings, now_ms: u64) -> Self {
        Self::new(Role::Server, settings, now_ms)
    }

    /// The end that asks. The preface and its settings lie in the output; requests may follow at
    /// once (RFC 9113 section 3.4).
    #[must_use]
    pub fn client(settings: &Settings, now_ms: u64) -> Self {
        Self::new(Role::Client, settings, now_ms)
    }

    fn new(role: Role, settings: &Settings, now_ms: u64) -> Self {
        let settings = settings.within_bounds();
        let mut connection = Self {
            role,
            settings,
            reading: if role == Role::Server { Reading::Preface(0) } else { Reading::Header },
            stash: Vec::new(),
            block: Vec::new(),
            open_block: None,
            block_began_ms: now_ms,
            decoder: Decoder::default(),
            section: Section::default(),
            ready: Ready { end: false, status: 0, asked: Asked::Other },
            output: Output::default(),
            encoder: Encoder::default(),
            peer: PeerSettings {
                initial_window: WINDOW_DEFAULT,
                streams_max: STREAMS_AT_FIRST,
                extended_connect: false,
            },
            settings_came: false,
            settings_due_ms: Some(now_ms.saturating_add(settings.settings_ack_ms)),
            send_window: i64::from(WINDOW_DEFAULT),
            receive_window: i64::from(settings.connection_window),
            released: 0,
            streams: Streams::default(),
            closed: ClosedStreams::default(),
            highest: 0,
            turns: VecDeque::new(),
            stalled: 0,
            budgets: Budgets::default(),
            drain: Drain::No,
            progress: Progress::default(),
            refused_above: None,
            refusing: false,
            over: false,
        };
        connection.greet();
        connection.check_invariants();
        connection
    }

    fn greet(&mut self) {
        let head_bytes = u32::try_from(self.settings.head_bytes).unwrap_or(u32::MAX);
        let window = (setting::INITIAL_WINDOW_SIZE, self.settings.stream_window);
        let heads = (setting::MAX_HEADER_LIST_SIZE, head_bytes);
        let no_priorities = (setting::NO_RFC7540_PRIORITIES, 1);
        let frames = self.output.frames();
        match self.role {
            Role::Server => {
                let streams = (setting::MAX_CONCURRENT_STREAMS, self.settings.streams_max);
                let connect = (setting::ENABLE_CONNECT_PROTOCOL, u32::from(self.settings.extended_connect));
                frame::settings(frames, &[streams, window, heads, connect, no_priorities]);
            }
            Role::Client => {
                frames.extend_from_slice(PREFACE);
                frame::settings(frames, &[(setting::ENABLE_PUSH, 0), window, heads, no_priorities]);
            }
        }
        // No setting reaches the connection's window (RFC 9113 section 6.9.2).
        let above = self.settings.connection_window.saturating_sub(WINDOW_DEFAULT);
        if above > 0 {
            frame::window_update(self.output.frames(), 0, above);
        }
    }

    /// Takes the request of the last `Event::Head`: `head` and `bytes`, what it was parsed from,
    /// are swapped for memory that the next one is decoded into.
    ///
    /// # Errors
    /// What an HTTP/1 request would be refused for too: answer it with that status. The head is
    /// there as far as it goes.
    pub fn take_request(&mut self, head: &mut RequestHead, bytes: &mut Vec<u8>) -> Result<RequestExtra, Reject> {
        self.section.take_request(head, bytes, self.ready.end)
    }

    /// Takes the response of the last `Event::Head`, as `take_request` does. A status below 200 is
    /// an interim response. Says which fields were never to be indexed.
    ///
    /// # Errors
    /// A head that is too large. It is there as far as it goes.
    pub fn take_response(&mut self, head: &mut ResponseHead, bytes: &mut Vec<u8>) -> Result<FieldSet, Reject> {
        let Ready { end, status, asked } = self.ready;
        self.section.take_response(head, bytes, status, end, asked)
    }

    /// Takes the trailer section of the last `Event::Trailers`: lines of `name: value CRLF`, those
    /// that may be passed on.
    pub fn take_trailers(&mut self, lines: &mut Vec<u8>) {
        self.section.take_trailers(lines);
    }

    /// What is to be written to the socket.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.output.pending()
    }

    /// So many bytes of the output are written.
    pub fn consume(&mut self, bytes: usize) {
        let kept = if self.streams.length() == 0 { OUTPUT_IDLE_BYTES } else { OUTPUT_KEPT_BYTES };
        self.output.consume(bytes, kept);
    }

    /// Streams that are open, or half closed.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.length()
    }

    /// How many requests `send_request` would take now, but for the room in the output (client).
    #[must_use]
    pub fn capacity(&self) -> usize {
        if self.over || self.refused_above.is_some() || self.drain != Drain::No || self.next_own().is_none() {
            return 0;
        }
        (self.settings.streams_max.min(self.peer.streams_max) as usize).saturating_sub(self.streams.length())
    }

    /// The server takes extended CONNECT (RFC 8441 section 3).
    #[must_use]
    pub fn allows_extended_connect(&self) -> bool {
        self.peer.extended_connect
    }

    /// Nothing more will come of this connection: after an error, or after `close`. Write what is in
    /// the output, then close the socket.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// A graceful end has come to its end: nobody opens streams any more, and all that were open are
    /// done.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let nothing_new = matches!(self.drain, Drain::Last(_)) || self.refused_above.is_some();
        self.over || (nothing_new && self.streams.length() == 0)
    }

    fn bounds(&self) -> Bounds {
        Bounds { bytes: self.settings.head_bytes, fields: self.settings.fields_max }
    }

    /// The next stream of a client; `None` after 2^30 of them.
    fn next_own(&self) -> Option<StreamId> {
        let next = if self.highest == 0 { 1 } else { self.highest + 2 };
        (next <= frame::IDENTIFIER_MASK).then_some(next)
    }

    /// Nobody has opened this stream yet.
    fn is_idle(&self, stream: StreamId) -> bool {
        // Those of even number are a server's, who opens none.
        stream > self.highest || stream.is_multiple_of(2)
    }

    /// After its last GOAWAY a server does not even look at streams above (RFC 9113 section 6.8).
    fn is_ignored(&self, stream: StreamId) -> bool {
        matches!(self.drain, Drain::Last(last) if stream > last) && self.role == Role::Server
    }

    /// Ends the connection for what the peer did.
    fn fail(&mut self, error: ConnectionError) {
        self.end(error.code, error.fault.reason());
    }

    fn end(&mut self, code: ErrorCode, text: &str) {
        if !self.over {
            let last = self.last_of_peer();
            frame::go_away(self.output.frames(), last, code, text);
            self.over = true;
            self.streams.clear();
            self.stalled = 0;
            self.turns.clear();
            self.stash = Vec::new();
            self.block = Vec::new();
            self.open_block = None;
        }
    }

    /// Ends one stream for what the peer did on it.
    ///
    /// # Errors
    /// The peer makes us do that too often.
    fn fail_stream(
        &mut self,
        now_ms: u64,
        stream: StreamId,
        code: ErrorCode,
        cause: Cause,
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        self.budgets.take(now_ms, Abuse::MadeReset)?;
        self.drop_stream(stream, code);
        Ok(Some(Event::Reset { stream, code, cause }))
    }

    /// Resets a stream, whether it is open or not.
    fn drop_stream(&mut self, stream: StreamId, code: ErrorCode) {
        self.forget(stream);
        self.closed.was_reset(stream, true);
        frame::reset(self.output.frames(), stream, code);
    }

    /// Takes a stream out. What its reader still holds counts as released: it will be dropped.
    fn forget(&mut self, stream: StreamId) {
        if let Some(gone) = self.streams.remove(stream) {
            if gone.waiting == Waiting::Turn {
                self.turns.retain(|waiting| *waiting != stream);
            }
            self.stalled -= usize::from(gone.stalled_since_ms.is_some());
            self.release_connection(gone.unreleased);
        }
    }

    fn forget_if_ended(&mut self, stream: StreamId) {
        if self.streams.find(stream).is_some_and(|stream| stream.remote_ended && stream.local_ended) {
            self.forget(stream);
            // Who lets as many streams end well as it resets does no harm.
            self.budgets.earn(Abuse::RapidReset, 1);
        }
    }

    /// What to make of a frame on a stream that is not open and was not to be expected.
    ///
    /// # Errors
    /// Too many of them.
    fn look_up_closed(&mut self, now_ms: u64, stream: StreamId) -> Result<Closed, ConnectionError> {
        self.budgets.take(now_ms, Abuse::ClosedStream)?;
        Ok(if self.is_ignored(stream) { Closed::ByUs } else { self.closed.look_up(stream) })
    }

    fn check_invariants(&self) {
        if cfg!(debug_assertions) {
            assert!(self.streams.length() <= self.settings.streams_max as usize);
            assert!(self.receive_window >= 0 && self.receive_window <= i64::from(self.settings.connection_window));
            assert!(self.send_window <= i64::from(crate::limits::WINDOW_MAX));
            let unreleased: i64 = self.streams.iter().map(|stream| i64::from(stream.unreleased)).sum();
            let lent = i64::from(self.settings.connection_window) - self.receive_window;
            assert!(self.over || lent >= unreleased + i64::from(self.released), "window lost: {lent} {unreleased}");
            for stream in self.streams.iter() {
                assert!(!self.is_idle(stream.id));
                assert!(!stream.remote_ended || !stream.local_ended);
                assert!(stream.receive_window <= i64::from(self.settings.stream_window));
                let turns = self.turns.iter().filter(|waiting| **waiting == stream.id).count();
                assert_eq!(turns, usize::from(stream.waiting == Waiting::Turn));
            }
            assert!(self.turns.len() <= self.streams.length());
            assert_eq!(self.stalled, self.streams.iter().filter(|stream| stream.stalled_since_ms.is_some()).count());
            assert!(self.over || self.output.length() <= 2 * OUTPUT_BYTES_MAX);
        }
    }
}

const _: () = assert!(TABLE_BYTES_MAX == 4_096, "the default, which greet does not say");
