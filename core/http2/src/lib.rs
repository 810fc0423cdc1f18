//! HTTP/2 without IO: one machine a connection, for the end that serves and the end that asks.
//!
//! Bytes and the time go in, events and bytes come out; nothing here reads a socket or a clock.
//! Follows RFC 9113 (HTTP/2), RFC 7541 (HPACK), RFC 8441 (extended CONNECT) and, as far as ignoring
//! them safely goes, the priority signals of RFC 7540 and RFC 9218.
//!
//! ```text
//!            socket                     Connection                        one task a stream
//!               │   receive(now, input)     │                                    │
//!   bytes in ───┼──────────────────────────►│ frames, HPACK, message rules       │
//!               │                           ├── Event::Head ── take_request ────►│ RequestHead of
//!               │                           ├── Event::Data ── borrowed ────────►│ core/http, its text
//!               │                           ├── Event::Trailers ─ take_trailers ►│
//!               │                           ├── Event::Reset ───────────────────►│ stop
//!               │                           │                                    │
//!               │                           │◄──────── release(stream, bytes) ───┤ consumed: window back
//!               │                           │◄── send_response, send_data, ... ──┤ Busy, or less than
//!               │   output(), consume(n)    │                                    │ given: wait for its
//!  bytes out ◄──┼───────────────────────────┤─── next_writable() ───────────────►│ turn
//!               │                           │                                    │
//!     timer ────┼── deadline(), expire(now) │                                    │
//! ```
//!
//! A round of the caller's loop:
//! 1. What was read goes through [`Connection::receive`] until a [`Step`] has no event; then all of
//!    the input is consumed (what is half there is kept inside), and the read buffer is free again.
//! 2. Tasks answer with the `send_*` calls. Frames are appended to one buffer; data is taken only
//!    while that is below its bound and while the flow-control windows are open.
//! 3. [`Connection::output`] is written to the socket and [`Connection::consume`]d.
//! 4. [`Connection::next_writable`] names the streams that may go on, one after the other.
//! 5. At [`Connection::deadline`], [`Connection::expire`] is called.
//!
//! A decoded head lies in one buffer as `name: value CRLF` lines, pseudo-fields in front: what
//! `sumun_http` takes for a parsed HTTP/1 head, so that `forward` can copy runs of lines without a
//! second parse. What breaks a rule of HTTP/2 ends the stream before anything is handed out; what an
//! HTTP/1 server would answer with a status is handed out as the same [`sumun_http::Reject`].
//!
//! An error of the connection has already put its GOAWAY into the output: write that, then close.
//!
//! Memory of a connection is bounded: see [`limits`].
//!
//! Not here: TLS and ALPN, the `Upgrade: h2c` that RFC 9113 gave up, server push (never sent, a
//! connection error when received), and what a request is answered with.

mod budget;
mod closed;
mod connection;
mod error;
mod event;
mod frame;
pub mod hpack;
pub mod limits;
mod message;
mod output;
mod settings;
mod stream;

pub use budget::Abuse;
pub use connection::{Connection, Fields, RequestLine, SendError};
pub use error::{ConnectionError, ErrorCode, Fault, Malformed};
pub use event::{Cause, Event, Step, StreamId};
pub use message::{FieldSet, RequestExtra, Scheme};
pub use settings::Settings;

/// Every word that [`Cause::reason`] and [`Fault::reason`] can give, for who counts them.
pub const REASONS: [&str; 58] = [
    "h2_reset_by_peer",
    "h2_not_processed",
    "h2_too_many_streams",
    "h2_stream_stalled",
    "h2_preface",
    "h2_frame_too_large",
    "h2_frame_size",
    "h2_stream_zero",
    "h2_stream_identifier",
    "h2_stream_idle",
    "h2_stream_closed",
    "h2_continuation",
    "h2_padding",
    "h2_self_dependency",
    "h2_setting_value",
    "h2_setting_window",
    "h2_settings_timeout",
    "h2_push",
    "h2_window_increment",
    "h2_window_overflow",
    "h2_flow_control",
    "h2_compression",
    "h2_priority_update",
    "h2_field_name",
    "h2_field_value",
    "h2_connection_field",
    "h2_te",
    "h2_pseudo_unknown",
    "h2_pseudo_repeated",
    "h2_pseudo_late",
    "h2_pseudo_missing",
    "h2_pseudo_in_trailers",
    "h2_path",
    "h2_authority",
    "h2_host",
    "h2_content_length",
    "h2_body_length",
    "h2_status",
    "h2_interim",
    "h2_trailers_without_end",
    "h2_trailers_too_large",
    "h2_fields_in_tunnel",
    "h2_rapid_reset",
    "h2_made_reset",
    "h2_refused_flood",
    "h2_settings_flood",
    "h2_ping_flood",
    "h2_priority_flood",
    "h2_empty_data_flood",
    "h2_window_update_flood",
    "h2_closed_stream_flood",
    "h2_useless_flood",
    "h2_continuation_flood",
    "h2_head_block",
    "h2_head_bomb",
    "h2_slow_head",
    "h2_unread",
    "h2_stalled",
];

/// What a client sends first (RFC 9113 section 3.4). A listener that takes both protocols without
/// TLS hands a connection that begins with this to [`Connection::server`], preface included.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::REASONS;

    #[test]
    fn every_reason_is_listed_once() {
        let sources = [include_str!("event.rs"), include_str!("error.rs"), include_str!("budget.rs")];
        let named = sources.iter().flat_map(|source| source.split("=> \"h2_").skip(1));
        let mut named: Vec<String> =
            named.map(|rest| format!("h2_{}", rest.split('"').next().unwrap_or_default())).collect();
        let mut listed = REASONS.to_vec();
        named.sort();
        listed.sort_unstable();
        assert_eq!(listed, named);
    }
}
