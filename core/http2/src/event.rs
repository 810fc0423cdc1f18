//! What comes out of the machine.

use crate::error::{ErrorCode, Fault, Malformed};

/// 1 to 2^31-1, odd: streams are opened by clients alone, as nothing here is pushed.
pub type StreamId = u32;

/// What became of a part of the input.
#[derive(Debug)]
#[must_use]
pub struct Step<'a> {
    /// Bytes of the input that are done with. The next call gets the rest, even if that is empty.
    pub consumed: usize,
    /// `None`: all of the input is consumed, and there is nothing more to say.
    pub event: Option<Event<'a>>,
}

/// One thing that the peer did. Data borrows from the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A request came (server), or a response, maybe an interim one (client). It is taken with
    /// `take_request` or `take_response` before the next call of `receive`. `end`: there is no body.
    Head { stream: StreamId, end: bool },
    /// A part of a body, not yet released. Empty only where `end`.
    Data { stream: StreamId, bytes: &'a [u8], end: bool },
    /// The body ended with a trailer section: `take_trailers` before the next call of `receive`.
    Trailers { stream: StreamId },
    /// The stream is gone, to both sides; its head may never have been handed out.
    Reset { stream: StreamId, code: ErrorCode, cause: Cause },
    /// The peer's settings changed: `capacity` and `allows_extended_connect` may say something else.
    Settings,
    /// The answer to `ping`.
    Pong { opaque: [u8; 8] },
    /// The peer opens no more streams and takes none above `last_stream`. Those of ours that are
    /// above follow as `Reset` with `REFUSED_STREAM`: they were not processed (RFC 9113 section 6.8).
    GoAway { last_stream: StreamId, code: ErrorCode },
}

/// Why a stream is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The peer's RST_STREAM.
    Peer,
    /// The peer's GOAWAY: this stream was not processed, and may be tried elsewhere.
    GoAway,
    /// The peer's message broke a rule of RFC 9113 section 8.
    Malformed(Malformed),
    /// The peer's frame broke a rule; an error of the stream alone.
    Fault(Fault),
    /// The peer has as many streams as it may have.
    Refused,
    /// Data was waiting, and the peer opened no window for `Settings::stall_ms`.
    Stalled,
}

impl Cause {
    /// One word for logs and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Peer => "h2_reset_by_peer",
            Self::GoAway => "h2_not_processed",
            Self::Malformed(malformed) => malformed.reason(),
            Self::Fault(fault) => fault.reason(),
            Self::Refused => "h2_too_many_streams",
            Self::Stalled => "h2_stream_stalled",
        }
    }
}
