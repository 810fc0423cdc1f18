//! What our side says.

use sumun_http::Known;

use super::{Connection, Drain};
use crate::Abuse;
use crate::error::ErrorCode;
use crate::event::StreamId;
use crate::frame::{self, HEADER_BYTES, flag, kind};
use crate::hpack::Encoder;
use crate::limits::{FRAME_BYTES_MAX, STALL_PROGRESS_BYTES, WINDOW_UPDATE_EARNED_BYTES};
use crate::message::{Asked, FINAL_STATUS};
use crate::stream::{Stream, Waiting};

/// Why nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// The output is full. `next_writable` will name the stream; a request is tried again once the
    /// output has been written.
    Busy,
    /// The stream, or our side of it, has ended: reset by the peer, most of all.
    Gone,
    /// As many streams are open as may be; this connection has none left, or the peer goes away:
    /// take another one (`send_request` only).
    NoStream,
}

/// The pseudo-fields of a request (RFC 9113 section 8.3.1).
#[derive(Debug, Clone, Copy)]
pub struct RequestLine<'a> {
    pub method: &'a [u8],
    /// Not sent with a plain CONNECT, and neither is the path.
    pub scheme: &'a [u8],
    pub authority: &'a [u8],
    /// With its query.
    pub path: &'a [u8],
    /// Of an extended CONNECT (RFC 8441), where `allows_extended_connect`.
    pub protocol: Option<&'a [u8]>,
}

/// Takes the fields of a section, in order.
#[derive(Debug)]
pub struct Fields<'a> {
    encoder: &'a mut Encoder,
    output: &'a mut Vec<u8>,
}

impl Fields<'_> {
    /// A field; its name may be in any case. Those that HTTP/2 forbids (RFC 9113 section 8.2.2) are
    /// left out; credentials and cookies stay out of tables.
    #[inline]
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        debug_assert!(!name.is_empty() && !value.iter().any(|byte| b"\r\n\0".contains(byte)), "{name:?}: {value:?}");
        match treatment(name, value) {
            Treatment::Indexed => self.encoder.field(self.output, name, value),
            Treatment::NeverIndexed => self.encoder.never_indexed(self.output, name, value),
            Treatment::LeftOut => {}
        }
    }

    /// A field whose name is known: `add` without a look at its letters.
    #[inline]
    pub fn add_known(&mut self, known: Known, value: &[u8]) {
        debug_assert!(
            known != Known::Other && !value.iter().any(|byte| b"\r\n\0".contains(byte)),
            "{known:?}: {value:?}"
        );
        let name = known.name().as_bytes();
        match known {
            Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade
            | Known::Te
            | Known::Cookie
            | Known::SetCookie
            | Known::Authorization
            | Known::ProxyAuthorization => self.add(name, value),
            _ => self.encoder.add(self.output, name, value),
        }
    }

    /// The same for a field that no table may keep: one that came so, above all.
    pub fn add_never_indexed(&mut self, name: &[u8], value: &[u8]) {
        if treatment(name, value) != Treatment::LeftOut {
            self.encoder.never_indexed(self.output, name, value);
        }
    }

    /// Lines of `name: value CRLF`, such as a trailer section; what is none is left out.
    pub fn add_lines(&mut self, lines: &[u8]) {
        for line in lines.split(|&byte| byte == b'\n') {
            if let Some(colon) = line.iter().position(|&byte| byte == b':')
                && let (name @ [_, ..], [_, value @ ..]) = line.split_at(colon)
            {
                self.add(name, value.trim_ascii());
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Treatment {
    Indexed,
    NeverIndexed,
    LeftOut,
}

#[inline]
fn treatment(name: &[u8], value: &[u8]) -> Treatment {
    use Treatment::{Indexed, LeftOut, NeverIndexed};
    let one_of = |names: &[&str], treatment: Treatment| {
        if names.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes())) { treatment } else { Indexed }
    };
    match name.len() {
        2 if !value.eq_ignore_ascii_case(b"trailers") => one_of(&["te"], LeftOut),
        6 => one_of(&["cookie"], NeverIndexed),
        7 => one_of(&["upgrade"], LeftOut),
        10 => match one_of(&["set-cookie"], NeverIndexed) {
            Indexed => one_of(&["connection", "keep-alive"], LeftOut),
            never_indexed => never_indexed,
        },
        13 => one_of(&["authorization"], NeverIndexed),
        16 => one_of(&["proxy-connection"], LeftOut),
        17 => one_of(&["transfer-encoding"], LeftOut),
        19 => one_of(&["proxy-authorization"], NeverIndexed),
        _ => Indexed,
    }
}

impl Connection {
    /// Opens a stream with a request (client). `end`: it has no body.
    ///
    /// # Errors
    /// `Busy`, `NoStream`, or `Gone` for a connection that is over.
    pub fn send_request(
        &mut self,
        request: &RequestLine<'_>,
        end: bool,
        fields: impl FnOnce(&mut Fields<'_>),
    ) -> Result<StreamId, SendError> {
        if self.over || self.is_server() {
            return Err(SendError::Gone);
        }
        let next = if self.capacity() > 0 { self.next_own() } else { None };
        let id = next.ok_or(SendError::NoStream)?;
        if self.output.room() == 0 {
            return Err(SendError::Busy);
        }
        let asked = match request.method {
            b"HEAD" => Asked::Head,
            b"CONNECT" => Asked::Connect,
            _ => Asked::Other,
        };
        let mut stream = self.new_stream(id, asked);
        stream.head_sent = true;
        stream.local_ended = end;
        self.streams.insert(stream);
        self.highest = id;
        self.write_section(id, end, |encoder, output| {
            encoder.request(output, request);
            fields(&mut Fields { encoder, output });
        });
        self.check_invariants();
        Ok(id)
    }

    /// Sends a response's head, or an interim one for a status below 200 (server). `end`: it has no
    /// body.
    ///
    /// # Errors
    /// `Busy` or `Gone`.
    pub fn send_response(
        &mut self,
        stream: StreamId,
        status: u16,
        end: bool,
        fields: impl FnOnce(&mut Fields<'_>),
    ) -> Result<(), SendError> {
        let entry = self.sendable(stream)?;
        if entry.head_sent {
            return Err(SendError::Gone);
        }
        let is_final = status >= FINAL_STATUS;
        entry.head_sent = is_final;
        let end = end && is_final;
        self.write_section(stream, end, |encoder, output| {
            encoder.status(output, status);
            fields(&mut Fields { encoder, output });
        });
        self.local_end(stream, end);
        Ok(())
    }

    /// Ends our side of a stream with a trailer section.
    ///
    /// # Errors
    /// `Busy` or `Gone`.
    pub fn send_trailers(&mut self, stream: StreamId, fields: impl FnOnce(&mut Fields<'_>)) -> Result<(), SendError> {
        if !self.sendable(stream)?.head_sent {
            return Err(SendError::Gone);
        }
        self.write_section(stream, true, |encoder, output| fields(&mut Fields { encoder, output }));
        self.local_end(stream, true);
        Ok(())
    }

    /// Sends data, and says how much of it was taken; 0 is possible. `end` holds once all of it is
    /// taken. Where less was, `next_writable` will name the stream. Streams share the connection
    /// fairly where each gives 16 KiB at a time.
    ///
    /// # Errors
    /// `Gone`.
    pub fn send_data(&mut self, now_ms: u64, stream: StreamId, bytes: &[u8], end: bool) -> Result<usize, SendError> {
        let room = self.output.room();
        let connection_window = self.send_window;
        let Some(entry) = self.streams.find(stream).filter(|entry| entry.head_sent && !entry.local_ended) else {
            return Err(SendError::Gone);
        };
        let window = usize::try_from(entry.send_window.min(connection_window)).unwrap_or(0);
        let taken = bytes.len().min(window).min(room);
        let all = taken == bytes.len();
        entry.send_window -= taken as i64;
        self.send_window -= taken as i64;
        if taken > 0 {
            self.progress.note(now_ms, taken);
        }
        let was_stalled = entry.stalled_since_ms.is_some();
        note_stall(entry, now_ms, taken, all || taken < window);
        self.stalled = self.stalled + usize::from(entry.stalled_since_ms.is_some()) - usize::from(was_stalled);
        if !all && entry.waiting == Waiting::No {
            if entry.send_window > 0 {
                entry.waiting = Waiting::Turn;
                self.turns.push_back(stream);
            } else {
                entry.waiting = Waiting::Window;
            }
        }
        let end = end && all;
        self.write_data(stream, bytes.get(..taken).unwrap_or_default(), end);
        self.local_end(stream, end);
        Ok(taken)
    }

    fn write_data(&mut self, stream: StreamId, bytes: &[u8], end: bool) {
        let output = self.output.frames();
        let mut rest = bytes;
        while !rest.is_empty() || end {
            let (frame, after) = rest.split_at(rest.len().min(FRAME_BYTES_MAX));
            rest = after;
            let is_last = rest.is_empty();
            let flags = if end && is_last { flag::END_STREAM } else { 0 };
            frame::begin(output, frame.len(), kind::DATA, flags, stream);
            output.extend_from_slice(frame);
            self.budgets.earn(Abuse::WindowUpdate, 2 + (frame.len() / WINDOW_UPDATE_EARNED_BYTES) as u64);
            self.budgets.earn(Abuse::Ping, 1);
            if is_last {
                break;
            }
        }
    }

    /// Ends a stream, both sides of it, at once. A server that has answered in full before the
    /// request came in full stops the rest with `NO_ERROR` (RFC 9113 section 8.1).
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        if !self.over && self.streams.has(stream) {
            self.drop_stream(stream, code);
            self.check_invariants();
        }
    }

    /// Asks for an `Event::Pong` with the same bytes.
    pub fn ping(&mut self, opaque: [u8; 8]) {
        if !self.over {
            frame::ping(self.output.frames(), 0, opaque);
        }
    }

    /// The next stream that was `Busy`, or had less taken than it gave, and may go on. Each is named
    /// once until it waits again. To be asked after input was received and after output was written.
    pub fn next_writable(&mut self) -> Option<StreamId> {
        if self.output.room() == 0 {
            return None;
        }
        for _ in 0..self.turns.len() {
            let id = self.turns.pop_front()?;
            let Some(stream) = self.streams.find(id) else { continue };
            if !stream.head_sent || stream.send_window > 0 && self.send_window > 0 {
                stream.waiting = Waiting::No;
                return Some(id);
            }
            if stream.send_window > 0 {
                self.turns.push_back(id);
            } else {
                stream.waiting = Waiting::Window;
            }
        }
        None
    }

    /// A stream whose side is ours to speak on, with room to speak.
    fn sendable(&mut self, stream: StreamId) -> Result<&mut Stream, SendError> {
        let is_full = self.output.room() == 0;
        let entry = self.streams.find(stream).filter(|entry| !entry.local_ended).ok_or(SendError::Gone)?;
        if is_full {
            if entry.waiting == Waiting::No {
                entry.waiting = Waiting::Turn;
                self.turns.push_back(stream);
            }
            return Err(SendError::Busy);
        }
        Ok(entry)
    }

    fn local_end(&mut self, stream: StreamId, end: bool) {
        if end {
            if let Some(entry) = self.streams.find(stream) {
                entry.local_ended = true;
                self.stalled -= usize::from(entry.stalled_since_ms.take().is_some());
            }
            self.forget_if_ended(stream);
        }
        self.check_invariants();
    }

    /// Appends a field section as HEADERS and, where it is long, CONTINUATION frames.
    #[inline]
    fn write_section(&mut self, stream: StreamId, end: bool, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let output = self.output.frames();
        let at = output.len();
        output.extend_from_slice(&[0; HEADER_BYTES]);
        self.encoder.begin(output);
        write(&mut self.encoder, output);
        let length = output.len() - at - HEADER_BYTES;
        let end_stream = if end { flag::END_STREAM } else { 0 };
        if length <= FRAME_BYTES_MAX {
            frame::patch(output, at, length, kind::HEADERS, flag::END_HEADERS | end_stream, stream);
            return;
        }
        let block: Vec<u8> = output.drain(at..).skip(HEADER_BYTES).collect();
        let mut pieces = block.chunks(FRAME_BYTES_MAX).peekable();
        let (mut frame_kind, mut flags) = (kind::HEADERS, end_stream);
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                flags |= flag::END_HEADERS;
            }
            frame::begin(output, piece.len(), frame_kind, flags, stream);
            output.extend_from_slice(piece);
            (frame_kind, flags) = (kind::CONTINUATION, 0);
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain != Drain::No
    }
}

/// Keeps the time since when a stream's data waits for a window. `free`: it does not.
fn note_stall(stream: &mut Stream, now_ms: u64, taken: usize, free: bool) {
    if free {
        stream.stalled_since_ms = None;
        return;
    }
    stream.sent_since = stream.sent_since.saturating_add(taken as u32);
    if stream.stalled_since_ms.is_none() || stream.sent_since >= STALL_PROGRESS_BYTES {
        stream.stalled_since_ms = Some(now_ms);
        stream.sent_since = 0;
    }
}
