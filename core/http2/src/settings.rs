//! What this end asks of its peer (RFC 9113 section 6.5), and its patience.

use crate::limits::{HEAD_BYTES_LIMITS, STREAMS_MAX, WINDOW_DEFAULT, WINDOW_MAX};

/// What an operator may choose. Values outside the bounds of `limits` count as the nearest inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Streams that the peer may have open at once; of ours to a server, at most as many as it allows.
    pub streams_max: u32,
    /// Bytes of body that one stream may send before they are released, 65,535 or more.
    pub stream_window: u32,
    /// The same for all streams together: so much a connection makes its reader keep.
    pub connection_window: u32,
    /// Bytes of a head as lines of text; a larger one is `Reject::HeadTooLarge`.
    pub head_bytes: usize,
    /// Fields of a head; more are `Reject::TooManyFields`.
    pub fields_max: usize,
    /// A peer that opens no window for data that waits loses the stream after this, milliseconds.
    pub stall_ms: u64,
    /// A header block has to come to its end within this, milliseconds.
    pub head_ms: u64,
    /// Our settings have to be acknowledged within this, milliseconds.
    pub settings_ack_ms: u64,
    /// Clients may send extended CONNECT (RFC 8441): WebSockets.
    pub extended_connect: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            streams_max: 128,
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            head_bytes: 64 * 1024,
            fields_max: 100,
            stall_ms: 30_000,
            head_ms: 10_000,
            settings_ack_ms: 10_000,
            extended_connect: true,
        }
    }
}

impl Settings {
    pub(crate) fn within_bounds(self) -> Self {
        let stream_window = self.stream_window.clamp(WINDOW_DEFAULT, WINDOW_MAX);
        Self {
            streams_max: self.streams_max.clamp(1, STREAMS_MAX),
            stream_window,
            connection_window: self.connection_window.clamp(WINDOW_DEFAULT, WINDOW_MAX),
            head_bytes: self.head_bytes.clamp(*HEAD_BYTES_LIMITS.start(), *HEAD_BYTES_LIMITS.end()),
            fields_max: self.fields_max.clamp(1, sumun_http::limits::FIELDS_MAX),
            stall_ms: self.stall_ms.max(1),
            head_ms: self.head_ms.max(1),
            settings_ack_ms: self.settings_ack_ms.max(1),
            ..self
        }
    }
}
