//! Header blocks: from HEADERS and CONTINUATION frames to heads and trailers.

use sumun_http::limits::INTERIM_RESPONSES_MAX;

use super::{Connection, OpenBlock, Ready};
use crate::Abuse;
use crate::error::{ConnectionError, ErrorCode, Fault, Malformed};
use crate::event::{Cause, Event, StreamId};
use crate::frame::{self, FrameHeader, flag};
use crate::limits::{CONTINUATIONS_MAX, HEAD_BLOCK_FACTOR};
use crate::message::{Asked, Body, FINAL_STATUS, Kind, Unreadable};
use crate::stream::{Stream, Waiting};

/// Verdicts on a message: the inner error is one of its stream alone.
type Checked<T> = Result<Result<T, Malformed>, ConnectionError>;

impl From<Unreadable> for ConnectionError {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Compression => Fault::Compression.into(),
            Unreadable::Bomb => Abuse::HeadBomb.into(),
        }
    }
}

impl Connection {
    #[inline]
    pub(super) fn headers(
        &mut self,
        now_ms: u64,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let (fragment, depends_on) = fragment_of(header, payload)?;
        let stream = header.stream;
        if stream.is_multiple_of(2) {
            return Err(Fault::StreamIdentifier.into());
        }
        let end = header.has(flag::END_STREAM);
        let block = OpenBlock { stream, end, depends_on_itself: depends_on == Some(stream), continuations: 0 };
        if header.has(flag::END_HEADERS) {
            return self.block(now_ms, block, fragment);
        }
        self.open_block = Some(block);
        self.block.extend_from_slice(fragment);
        Ok(None)
    }

    pub(super) fn continuation(
        &mut self,
        now_ms: u64,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let Some(open) = &mut self.open_block else { return Err(Fault::Continuation.into()) };
        open.continuations += 1;
        if open.continuations > CONTINUATIONS_MAX {
            return Err(Abuse::Continuations.into());
        }
        if self.block.len() + payload.len() > self.settings.head_bytes * HEAD_BLOCK_FACTOR {
            return Err(Abuse::HeadBlock.into());
        }
        let open = *open;
        self.block.extend_from_slice(payload);
        if !header.has(flag::END_HEADERS) {
            return Ok(None);
        }
        self.open_block = None;
        let block = std::mem::take(&mut self.block);
        self.block(now_ms, open, &block)
    }

    /// A header block is complete.
    #[inline]
    fn block(&mut self, now_ms: u64, open: OpenBlock, block: &[u8]) -> Result<Option<Event<'static>>, ConnectionError> {
        let id = open.stream;
        if let Some(stream) = self.streams.find(id) {
            if stream.remote_ended {
                self.skip_block(block)?;
                return self.fail_stream(now_ms, id, ErrorCode::STREAM_CLOSED, Cause::Fault(Fault::StreamClosed));
            }
            if open.depends_on_itself {
                self.skip_block(block)?;
                return self.fail_any_stream(now_ms, id, Fault::SelfDependency);
            }
            let is_head = !stream.head_received;
            let event = if is_head { self.response(open, block)? } else { self.trailers(open, block)? };
            return self.event_or_reset(now_ms, id, event);
        }
        if self.is_server() && id > self.highest && !self.is_ignored(id) {
            return self.new_request(now_ms, open, block);
        }
        if self.is_idle(id) && !self.is_ignored(id) {
            return Err(Fault::StreamIdle.into());
        }
        self.skip_block(block)?;
        self.late_frame(now_ms, id)
    }

    fn event_or_reset(
        &mut self,
        now_ms: u64,
        id: StreamId,
        event: Result<Event<'static>, Malformed>,
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        match event {
            Ok(event) => Ok(Some(event)),
            Err(malformed) => self.fail_stream(now_ms, id, ErrorCode::PROTOCOL_ERROR, Cause::Malformed(malformed)),
        }
    }

    #[inline]
    fn new_request(
        &mut self,
        now_ms: u64,
        open: OpenBlock,
        block: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let id = open.stream;
        let first_free = if self.highest == 0 { 1 } else { self.highest + 2 };
        if id > first_free {
            self.closed.was_skipped(first_free, id - 2);
        }
        self.highest = id;
        if self.streams.length() >= self.settings.streams_max as usize {
            self.skip_block(block)?;
            self.budgets.take(now_ms, Abuse::Refused)?;
            let code = ErrorCode::REFUSED_STREAM;
            self.drop_stream(id, code);
            return Ok(Some(Event::Reset { stream: id, code, cause: Cause::Refused }));
        }
        let body = match self.read_request(open, block)? {
            Ok(body) => body,
            Err(malformed) => return self.event_or_reset(now_ms, id, Err(malformed)),
        };
        if open.depends_on_itself {
            return self.fail_any_stream(now_ms, id, Fault::SelfDependency);
        }
        let mut stream = self.new_stream(id, Asked::Other);
        stream.head_received = true;
        stream.remote_ended = open.end;
        stream.expected = body.length;
        stream.tunnel = body.tunnel;
        self.streams.insert(stream);
        self.ready = Ready { end: open.end, status: 0, asked: Asked::Other };
        Ok(Some(Event::Head { stream: id, end: open.end }))
    }

    #[inline]
    fn read_request(&mut self, open: OpenBlock, block: &[u8]) -> Checked<Body> {
        let bounds = self.bounds();
        let read = self.section.read(&mut self.decoder.read(block), Kind::Request, bounds)?;
        Ok(read.and_then(|()| self.section.check_request(open.end, self.settings.extended_connect)))
    }

    /// A response, maybe an interim one.
    fn response(&mut self, open: OpenBlock, block: &[u8]) -> Checked<Event<'static>> {
        let (id, end, bounds) = (open.stream, open.end, self.bounds());
        if let Err(malformed) = self.section.read(&mut self.decoder.read(block), Kind::Response, bounds)? {
            return Ok(Err(malformed));
        }
        let Some(stream) = self.streams.find(id) else { return Err(Fault::StreamIdle.into()) };
        let asked = stream.asked;
        let (status, body) = match self.section.check_response(end, asked) {
            Ok(checked) => checked,
            Err(malformed) => return Ok(Err(malformed)),
        };
        self.ready = Ready { end, status, asked };
        if status < FINAL_STATUS {
            stream.interim += 1;
            if stream.interim > INTERIM_RESPONSES_MAX {
                return Ok(Err(Malformed::Interim));
            }
        } else {
            stream.head_received = true;
            stream.expected = body.length;
            stream.tunnel = body.tunnel;
            if end {
                self.remote_end(id);
            }
        }
        Ok(Ok(Event::Head { stream: id, end }))
    }

    fn trailers(&mut self, open: OpenBlock, block: &[u8]) -> Checked<Event<'static>> {
        let bounds = self.bounds();
        let read = self.section.read(&mut self.decoder.read(block), Kind::Trailers, bounds)?;
        let Some(stream) = self.streams.find(open.stream) else { return Err(Fault::StreamIdle.into()) };
        let verdict = read.and(match (stream.tunnel, open.end, stream.expected) {
            (true, ..) => Err(Malformed::FieldsInTunnel),
            (false, false, _) => Err(Malformed::TrailersWithoutEnd),
            (false, true, Some(1..)) => Err(Malformed::BodyLength),
            (false, true, _) => Ok(()),
        });
        if let Err(malformed) = verdict {
            return Ok(Err(malformed));
        }
        self.remote_end(open.stream);
        Ok(Ok(Event::Trailers { stream: open.stream }))
    }

    /// Keeps the table in step for a message that nobody gets.
    fn skip_block(&mut self, block: &[u8]) -> Result<(), ConnectionError> {
        let bounds = self.bounds();
        Ok(self.section.skip(&mut self.decoder.read(block), bounds)?)
    }

    pub(super) fn new_stream(&self, id: StreamId, asked: Asked) -> Stream {
        Stream {
            id,
            remote_ended: false,
            local_ended: false,
            head_received: false,
            head_sent: false,
            tunnel: false,
            asked,
            interim: 0,
            expected: None,
            send_window: i64::from(self.peer.initial_window),
            receive_window: i64::from(self.settings.stream_window),
            unreleased: 0,
            released: 0,
            waiting: Waiting::No,
            stalled_since_ms: None,
            sent_since: 0,
        }
    }
}

/// The fragment of a HEADERS frame, and the stream it depends on (RFC 9113 section 6.2).
#[inline]
fn fragment_of(header: FrameHeader, payload: &[u8]) -> Result<(&[u8], Option<StreamId>), ConnectionError> {
    let mut rest = payload;
    let mut padding = 0;
    if header.has(flag::PADDED) {
        let [length, after @ ..] = rest else { return Err(Fault::FrameSize.into()) };
        padding = usize::from(*length);
        rest = after;
    }
    let mut depends_on = None;
    if header.has(flag::PRIORITY) {
        // A word with the exclusive bit in front, and a weight.
        let (Some(word), Some(after)) = (frame::word(rest), rest.get(5..)) else {
            return Err(Fault::FrameSize.into());
        };
        depends_on = Some(word & frame::IDENTIFIER_MASK);
        rest = after;
    }
    let Some(length) = rest.len().checked_sub(padding) else { return Err(Fault::Padding.into()) };
    Ok((rest.get(..length).unwrap_or_default(), depends_on))
}
