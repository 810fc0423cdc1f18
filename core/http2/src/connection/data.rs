//! Bodies that come in, and the windows they take (RFC 9113 sections 5.2, 6.1 and 6.9).

use super::{Connection, DataFrame, Reading};
use crate::Abuse;
use crate::error::{ConnectionError, ErrorCode, Fault, Malformed};
use crate::event::{Cause, Event, StreamId};
use crate::frame::{self, FrameHeader, flag};
use crate::stream::Stream;

impl Connection {
    /// `padding` is there for a padded frame.
    pub(super) fn begin_data(
        &mut self,
        now_ms: u64,
        header: FrameHeader,
        padding: Option<usize>,
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        // All of the payload counts against the windows, padding included (section 6.1).
        let total = header.length;
        let padding_field = usize::from(padding.is_some());
        let padding = padding.unwrap_or(0);
        let Some(length) = total.checked_sub(padding_field + padding) else {
            return Err(Fault::Padding.into());
        };
        if self.is_idle(header.stream) && !self.is_ignored(header.stream) {
            return Err(Fault::StreamIdle.into());
        }
        if total as i64 > self.receive_window {
            return Err(Fault::FlowControl.into());
        }
        self.receive_window -= total as i64;
        // Until it is known that somebody wants it.
        self.reading = Reading::Skip(length + padding);
        let end = header.has(flag::END_STREAM);
        let Some(stream) = self.streams.find(header.stream) else {
            self.release_connection(total as u32);
            return self.late_frame(now_ms, header.stream);
        };
        if let Err(cause) = admit(stream, total, length, end) {
            let code = match cause {
                Cause::Fault(fault) => fault.code(),
                _ => ErrorCode::PROTOCOL_ERROR,
            };
            self.release_connection(total as u32);
            return self.fail_stream(now_ms, header.stream, code, cause);
        }
        self.release_stream_window(header.stream, (total - length) as u32);
        self.release_connection((total - length) as u32);
        if length > 0 {
            self.reading = Reading::Data(DataFrame { stream: header.stream, left: length, padding, end });
            return Ok(None);
        }
        if !end {
            self.budgets.take(now_ms, Abuse::EmptyData)?;
            return Ok(None);
        }
        self.remote_end(header.stream);
        Ok(Some(Event::Data { stream: header.stream, bytes: &[], end: true }))
    }

    /// Hands out what there is of a DATA frame; `rest` is not empty.
    #[inline]
    pub(super) fn data<'a>(&mut self, data: DataFrame, rest: &'a [u8], at: &mut usize) -> Option<Event<'a>> {
        let bytes = rest.get(..data.left).unwrap_or(rest);
        *at += bytes.len();
        let left = data.left - bytes.len();
        self.reading = match left {
            0 if data.padding == 0 => Reading::Header,
            0 => Reading::Skip(data.padding),
            _ => Reading::Data(DataFrame { left, ..data }),
        };
        // Our side may have reset the stream meanwhile.
        if !self.streams.has(data.stream) {
            return None;
        }
        let end = data.end && left == 0;
        if end {
            self.remote_end(data.stream);
        }
        Some(Event::Data { stream: data.stream, bytes, end })
    }

    /// The peer has said all it had to say on a stream.
    pub(super) fn remote_end(&mut self, stream: StreamId) {
        if let Some(stream) = self.streams.find(stream) {
            stream.remote_ended = true;
        }
        self.forget_if_ended(stream);
    }

    /// Gives the peer back the window of data that was consumed: `bytes` of what `Event::Data` handed
    /// out. The peer is told once half a window has come together.
    pub fn release(&mut self, stream: StreamId, bytes: usize) {
        // Of a stream that is gone, all was released when it went.
        if let Some(entry) = self.streams.find(stream) {
            let bytes = entry.unreleased.min(u32::try_from(bytes).unwrap_or(u32::MAX));
            entry.unreleased -= bytes;
            self.release_stream_window(stream, bytes);
            self.release_connection(bytes);
            self.check_invariants();
        }
    }

    fn release_stream_window(&mut self, stream: StreamId, bytes: u32) {
        if let Some(entry) = self.streams.find(stream)
            && !entry.remote_ended
        {
            entry.released += bytes;
            if entry.released > 0 && entry.released >= self.settings.stream_window / 2 {
                entry.receive_window += i64::from(entry.released);
                frame::window_update(self.output.frames(), stream, entry.released);
                entry.released = 0;
            }
        }
    }

    pub(super) fn release_connection(&mut self, bytes: u32) {
        self.released += bytes;
        if self.released > 0 && self.released >= self.settings.connection_window / 2 && !self.over {
            self.receive_window += i64::from(self.released);
            frame::window_update(self.output.frames(), 0, self.released);
            self.released = 0;
        }
    }
}

/// Takes a DATA frame of `total` bytes, `length` of them data, into a stream's accounts.
fn admit(stream: &mut Stream, total: usize, length: usize, end: bool) -> Result<(), Cause> {
    if stream.remote_ended {
        return Err(Cause::Fault(Fault::StreamClosed));
    }
    // A body before its response.
    if !stream.head_received {
        return Err(Cause::Malformed(Malformed::PseudoMissing));
    }
    if total as i64 > stream.receive_window {
        return Err(Cause::Fault(Fault::FlowControl));
    }
    if let Some(expected) = &mut stream.expected {
        *expected = expected.checked_sub(length as u64).ok_or(Cause::Malformed(Malformed::BodyLength))?;
        if end && *expected > 0 {
            return Err(Cause::Malformed(Malformed::BodyLength));
        }
    }
    stream.receive_window -= total as i64;
    stream.unreleased += length as u32;
    Ok(())
}
