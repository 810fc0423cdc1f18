//! Frames that carry no message (RFC 9113 sections 6.3 to 6.9).

use super::{Connection, Drain};
use crate::Abuse;
use crate::error::{ConnectionError, ErrorCode, Fault};
use crate::event::{Cause, Event, StreamId};
use crate::frame::{self, FrameHeader, IDENTIFIER_MASK, flag, setting};
use crate::limits::{FRAME_BYTES_MAX, WINDOW_MAX};
use crate::stream::Waiting;

/// Largest SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 6.5.2).
const FRAME_SIZE_SETTING_MAX: u32 = (1 << 24) - 1;

/// The PING between the two GOAWAY frames of a graceful end.
pub(super) const DRAIN_PING: [u8; 8] = *b"draining";

impl Connection {
    pub(super) fn priority(
        &mut self,
        now_ms: u64,
        stream: StreamId,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        self.budgets.take(now_ms, Abuse::Priority)?;
        let depends_on = frame::word(payload).unwrap_or(0) & IDENTIFIER_MASK;
        if depends_on == stream {
            return self.fail_any_stream(now_ms, stream, Fault::SelfDependency);
        }
        Ok(None)
    }

    /// A hint that may be ignored (RFC 9218 section 7.1).
    pub(super) fn priority_update(
        &mut self,
        now_ms: u64,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        self.budgets.take(now_ms, Abuse::Priority)?;
        let names_a_stream = frame::word(payload).is_some_and(|word| word & IDENTIFIER_MASK != 0);
        if self.is_server() && names_a_stream { Ok(None) } else { Err(Fault::PriorityUpdate.into()) }
    }

    pub(super) fn reset_by_peer(
        &mut self,
        now_ms: u64,
        stream: StreamId,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        if self.is_idle(stream) && !self.is_ignored(stream) {
            return Err(Fault::StreamIdle.into());
        }
        if !self.streams.has(stream) {
            self.look_up_closed(now_ms, stream)?;
            return Ok(None);
        }
        if self.is_server() {
            self.budgets.take(now_ms, Abuse::RapidReset)?;
        }
        self.forget(stream);
        self.closed.was_reset(stream, false);
        let code = ErrorCode(frame::word(payload).unwrap_or(0));
        Ok(Some(Event::Reset { stream, code, cause: Cause::Peer }))
    }

    pub(super) fn peer_settings(
        &mut self,
        now_ms: u64,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        if header.has(flag::ACK) {
            // One without a question does no harm.
            if self.settings_due_ms.take().is_none() {
                self.budgets.take(now_ms, Abuse::Settings)?;
            }
            return Ok(None);
        }
        self.budgets.take(now_ms, Abuse::Settings)?;
        if !self.settings_came {
            // What is not said is not limited.
            self.settings_came = true;
            self.peer.streams_max = u32::MAX;
        }
        for (identifier, value) in frame::parameters(payload) {
            self.peer_setting(identifier, value)?;
        }
        frame::settings_ack(self.output.frames());
        Ok(Some(Event::Settings))
    }

    fn peer_setting(&mut self, identifier: u16, value: u32) -> Result<(), ConnectionError> {
        match identifier {
            setting::HEADER_TABLE_SIZE => self.encoder.limit_table(value as usize),
            // A server that says it would let its client push is out of its mind (section 6.5.2).
            setting::ENABLE_PUSH if value > u32::from(self.is_server()) => return Err(Fault::SettingValue.into()),
            setting::MAX_CONCURRENT_STREAMS => self.peer.streams_max = value,
            setting::INITIAL_WINDOW_SIZE => self.resize_windows(value)?,
            // Larger frames than everybody takes are never sent.
            setting::MAX_FRAME_SIZE if !(FRAME_BYTES_MAX as u32..=FRAME_SIZE_SETTING_MAX).contains(&value) => {
                return Err(Fault::SettingValue.into());
            }
            setting::ENABLE_CONNECT_PROTOCOL => {
                // RFC 8441 section 3: what was allowed once stays allowed.
                if value > 1 || (self.peer.extended_connect && value == 0) {
                    return Err(Fault::SettingValue.into());
                }
                self.peer.extended_connect = value == 1;
            }
            setting::NO_RFC7540_PRIORITIES if value > 1 => return Err(Fault::SettingValue.into()),
            _ => {}
        }
        Ok(())
    }

    /// Section 6.9.2: the difference goes to all streams, also below zero.
    fn resize_windows(&mut self, initial_window: u32) -> Result<(), ConnectionError> {
        if initial_window > WINDOW_MAX {
            return Err(Fault::SettingWindow.into());
        }
        let difference = i64::from(initial_window) - i64::from(self.peer.initial_window);
        self.peer.initial_window = initial_window;
        for stream in self.streams.iter_mut() {
            stream.send_window += difference;
            if stream.send_window > i64::from(WINDOW_MAX) {
                return Err(Fault::WindowOverflow.into());
            }
            if stream.waiting == Waiting::Window && stream.send_window > 0 {
                stream.waiting = Waiting::Turn;
                self.turns.push_back(stream.id);
            }
        }
        Ok(())
    }

    pub(super) fn peer_ping(
        &mut self,
        now_ms: u64,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let opaque = payload.first_chunk::<8>().copied().unwrap_or_default();
        if !header.has(flag::ACK) {
            self.budgets.take(now_ms, Abuse::Ping)?;
            frame::ping(self.output.frames(), flag::ACK, opaque);
            return Ok(None);
        }
        if opaque == DRAIN_PING && matches!(self.drain, Drain::Announced { .. }) {
            self.finish_drain();
            return Ok(None);
        }
        self.budgets.take(now_ms, Abuse::Ping)?;
        Ok(Some(Event::Pong { opaque }))
    }

    pub(super) fn peer_goes_away(
        &mut self,
        now_ms: u64,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        self.budgets.take(now_ms, Abuse::Useless)?;
        let (last, rest) = payload.split_at_checked(4).unwrap_or_default();
        let last_stream = frame::word(last).unwrap_or(0) & IDENTIFIER_MASK;
        let code = ErrorCode(frame::word(rest).unwrap_or(0));
        if !self.is_server() {
            // Section 6.8: it never grows again.
            self.refused_above = Some(self.refused_above.map_or(last_stream, |above| above.min(last_stream)));
            self.refusing = true;
        }
        Ok(Some(Event::GoAway { last_stream, code }))
    }

    pub(super) fn window_update(
        &mut self,
        now_ms: u64,
        stream: StreamId,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        self.budgets.take(now_ms, Abuse::WindowUpdate)?;
        let increment = i64::from(frame::word(payload).unwrap_or(0) & IDENTIFIER_MASK);
        if stream == 0 {
            self.send_window += increment;
            return match () {
                () if increment == 0 => Err(Fault::WindowIncrement.into()),
                () if self.send_window > i64::from(WINDOW_MAX) => {
                    self.send_window -= increment;
                    Err(Fault::WindowOverflow.into())
                }
                () => Ok(None),
            };
        }
        if self.is_idle(stream) && !self.is_ignored(stream) {
            return Err(Fault::StreamIdle.into());
        }
        let Some(entry) = self.streams.find(stream) else {
            // Sent before the peer knew of the end (section 5.1).
            self.look_up_closed(now_ms, stream)?;
            return Ok(None);
        };
        let fault = if increment == 0 {
            Fault::WindowIncrement
        } else if entry.send_window + increment > i64::from(WINDOW_MAX) {
            Fault::WindowOverflow
        } else {
            entry.send_window += increment;
            if entry.waiting == Waiting::Window && entry.send_window > 0 {
                entry.waiting = Waiting::Turn;
                self.turns.push_back(stream);
            }
            return Ok(None);
        };
        self.fail_stream(now_ms, stream, fault.code(), Cause::Fault(fault))
    }
}
