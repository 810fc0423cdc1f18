//! Bytes into frames, whatever pieces they come in.

use super::{Connection, Reading, Role};
use crate::closed::Closed;
use crate::error::{ConnectionError, Fault};
use crate::event::{Cause, Event, Step};
use crate::frame::{FrameHeader, HEADER_BYTES, flag, kind};
use crate::limits::{FRAME_BYTES_MAX, OUTPUT_BYTES_MAX, SETTINGS_PARAMETERS_MAX};
use crate::{Abuse, ErrorCode, PREFACE};

impl Connection {
    /// Takes what was read from the socket, in any pieces, up to the first thing to tell. To be
    /// called again with the rest until there is no event: then all is consumed.
    ///
    /// # Errors
    /// The peer broke a rule that ends the connection: its GOAWAY lies in the output. Streams are
    /// gone then; what comes after that is consumed unseen.
    pub fn receive<'a>(&mut self, now_ms: u64, input: &'a [u8]) -> Result<Step<'a>, ConnectionError> {
        if self.over {
            return Ok(Step { consumed: input.len(), event: None });
        }
        let mut at = 0;
        let event = self.advance(now_ms, input, &mut at).inspect_err(|error| self.fail(*error))?;
        self.check_invariants();
        Ok(Step { consumed: at, event })
    }

    fn advance<'a>(
        &mut self,
        now_ms: u64,
        input: &'a [u8],
        at: &mut usize,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        loop {
            if self.refusing
                && let Some(event) = self.next_refused()
            {
                return Ok(Some(event));
            }
            let rest = input.get(*at..).unwrap_or_default();
            let event = match self.reading {
                Reading::Header => {
                    let Some(header) = self.frame_header(rest, at) else { return Ok(None) };
                    self.begin_frame(now_ms, header)?
                }
                Reading::Payload(header) => {
                    let Some(event) = self.payload(now_ms, header, rest, at)? else { return Ok(None) };
                    event
                }
                Reading::Data(data) => {
                    if rest.is_empty() {
                        return Ok(None);
                    }
                    self.data(data, rest, at)
                }
                Reading::PadLength(header) => {
                    let [padding, ..] = rest else { return Ok(None) };
                    *at += 1;
                    self.begin_data(now_ms, header, Some(usize::from(*padding)))?
                }
                Reading::Skip(left) => {
                    let skipped = left.min(rest.len());
                    *at += skipped;
                    self.reading = if skipped == left { Reading::Header } else { Reading::Skip(left - skipped) };
                    if skipped < left {
                        return Ok(None);
                    }
                    None
                }
                Reading::Preface(matched) => {
                    let Some(wanted) = PREFACE.get(matched..) else { return Ok(None) };
                    let length = wanted.len().min(rest.len());
                    if rest.get(..length) != wanted.get(..length) {
                        return Err(Fault::Preface.into());
                    }
                    *at += length;
                    if length < wanted.len() {
                        self.reading = Reading::Preface(matched + length);
                        return Ok(None);
                    }
                    self.reading = Reading::Header;
                    None
                }
            };
            if self.output.length() > OUTPUT_BYTES_MAX {
                return Err(Abuse::Unread.into());
            }
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// The next frame header, once it is all there.
    #[inline]
    fn frame_header(&mut self, rest: &[u8], at: &mut usize) -> Option<FrameHeader> {
        if self.stash.is_empty()
            && let Some(bytes) = rest.first_chunk::<HEADER_BYTES>()
        {
            *at += HEADER_BYTES;
            return Some(FrameHeader::parse(*bytes));
        }
        let length = rest.len().min(HEADER_BYTES - self.stash.len());
        self.stash.extend_from_slice(rest.get(..length).unwrap_or_default());
        *at += length;
        let bytes = *self.stash.first_chunk::<HEADER_BYTES>()?;
        self.stash.clear();
        Some(FrameHeader::parse(bytes))
    }

    /// What a frame's header says by itself, in the order in which a violation matters.
    #[inline]
    fn begin_frame(&mut self, now_ms: u64, header: FrameHeader) -> Result<Option<Event<'static>>, ConnectionError> {
        if header.length > FRAME_BYTES_MAX {
            return Err(Fault::FrameTooLarge.into());
        }
        // RFC 9113 section 3.4: whatever else comes first is no HTTP/2.
        if !self.settings_came && (header.kind != kind::SETTINGS || header.has(flag::ACK)) {
            return Err(Fault::Preface.into());
        }
        let continues = self.open_block.is_some_and(|block| block.stream == header.stream);
        if self.open_block.is_some() != (header.kind == kind::CONTINUATION)
            || (header.kind == kind::CONTINUATION && !continues)
        {
            return Err(Fault::Continuation.into());
        }
        self.reading = Reading::Payload(header);
        let (length, on_stream) = (header.length, header.stream != 0);
        let (size_fits, place_fits) = match header.kind {
            kind::DATA if !on_stream => (true, false),
            kind::DATA if header.has(flag::PADDED) => {
                self.reading = Reading::PadLength(header);
                (length > 0, true)
            }
            kind::DATA => return self.begin_data(now_ms, header, None),
            kind::HEADERS => {
                self.block_began_ms = now_ms;
                (true, on_stream)
            }
            kind::CONTINUATION => (true, true),
            kind::PRIORITY if on_stream && length != 5 => return self.bad_priority(now_ms, header),
            kind::PRIORITY => (true, on_stream),
            kind::RST_STREAM => (length == 4, on_stream),
            kind::SETTINGS if header.has(flag::ACK) => (length == 0, !on_stream),
            kind::SETTINGS if length > 6 * SETTINGS_PARAMETERS_MAX => return Err(Abuse::Settings.into()),
            kind::SETTINGS => (length.is_multiple_of(6), !on_stream),
            kind::PUSH_PROMISE => return Err(Fault::Push.into()),
            kind::PING => (length == 8, !on_stream),
            kind::GOAWAY => (length >= 8, !on_stream),
            kind::WINDOW_UPDATE => (length == 4, true),
            kind::PRIORITY_UPDATE => (length >= 4, !on_stream),
            _ => {
                self.budgets.take(now_ms, Abuse::Useless)?;
                self.reading = Reading::Skip(length);
                (true, true)
            }
        };
        match (place_fits, size_fits) {
            (false, _) => Err(Fault::StreamZero.into()),
            (true, false) => Err(Fault::FrameSize.into()),
            (true, true) => Ok(None),
        }
    }

    /// A PRIORITY frame of the wrong size is an error of its stream alone (RFC 9113 section 6.3).
    fn bad_priority(&mut self, now_ms: u64, header: FrameHeader) -> Result<Option<Event<'static>>, ConnectionError> {
        self.reading = Reading::Skip(header.length);
        self.fail_any_stream(now_ms, header.stream, Fault::FrameSize)
    }

    /// An error of a stream that need not be open. An idle one cannot be reset.
    pub(super) fn fail_any_stream(
        &mut self,
        now_ms: u64,
        stream: u32,
        fault: Fault,
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        if self.is_idle(stream) {
            return Err(fault.into());
        }
        self.fail_stream(now_ms, stream, fault.code(), Cause::Fault(fault))
    }

    /// Takes a payload, once it is all there; `None` while it is not.
    #[inline]
    fn payload(
        &mut self,
        now_ms: u64,
        header: FrameHeader,
        rest: &[u8],
        at: &mut usize,
    ) -> Result<Option<Option<Event<'static>>>, ConnectionError> {
        if self.stash.is_empty()
            && let Some(payload) = rest.get(..header.length)
        {
            *at += header.length;
            self.reading = Reading::Header;
            return self.frame(now_ms, header, payload).map(Some);
        }
        let length = rest.len().min(header.length - self.stash.len());
        self.stash.extend_from_slice(rest.get(..length).unwrap_or_default());
        *at += length;
        if self.stash.len() < header.length {
            return Ok(None);
        }
        self.reading = Reading::Header;
        let mut payload = std::mem::take(&mut self.stash);
        let event = self.frame(now_ms, header, &payload);
        payload.clear();
        // Large frames in pieces are rare: their memory is not kept for them.
        payload.shrink_to(HEADER_BYTES);
        self.stash = payload;
        event.map(Some)
    }

    #[inline]
    fn frame(
        &mut self,
        now_ms: u64,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        match header.kind {
            kind::HEADERS => self.headers(now_ms, header, payload),
            kind::CONTINUATION => self.continuation(now_ms, header, payload),
            kind::PRIORITY => self.priority(now_ms, header.stream, payload),
            kind::RST_STREAM => self.reset_by_peer(now_ms, header.stream, payload),
            kind::SETTINGS => self.peer_settings(now_ms, header, payload),
            kind::PING => self.peer_ping(now_ms, header, payload),
            kind::GOAWAY => self.peer_goes_away(now_ms, payload),
            kind::WINDOW_UPDATE => self.window_update(now_ms, header.stream, payload),
            _ => self.priority_update(now_ms, payload),
        }
    }

    /// The next of our streams that the peer's GOAWAY left out.
    fn next_refused(&mut self) -> Option<Event<'static>> {
        let above = self.refused_above.unwrap_or(u32::MAX);
        let stream = self.streams.iter().map(|stream| stream.id).find(|stream| *stream > above);
        match stream {
            Some(stream) => {
                self.forget(stream);
                self.closed.was_reset(stream, true);
                Some(Event::Reset { stream, code: ErrorCode::REFUSED_STREAM, cause: Cause::GoAway })
            }
            None => {
                self.refusing = false;
                None
            }
        }
    }

    /// A frame that carries something came on a stream that is not open. `Ok(None)`: it was sent
    /// before the peer knew.
    ///
    /// # Errors
    /// The peer knew, or it happens too often.
    pub(super) fn late_frame(&mut self, now_ms: u64, stream: u32) -> Result<Option<Event<'static>>, ConnectionError> {
        match self.look_up_closed(now_ms, stream)? {
            Closed::ByUs => Ok(None),
            Closed::ByPeer => {
                self.fail_stream(now_ms, stream, ErrorCode::STREAM_CLOSED, Cause::Fault(Fault::StreamClosed))
            }
            Closed::Ended => Err(Fault::StreamClosed.into()),
            Closed::Skipped => Err(Fault::StreamIdentifier.into()),
        }
    }

    pub(super) fn is_server(&self) -> bool {
        self.role == Role::Server
    }
}
