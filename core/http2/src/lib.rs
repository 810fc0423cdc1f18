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

/// What a client sends first (RFC 9113 section 3.4). A listener that takes both protocols without
/// TLS hands a connection that begins with this to [`Connection::server`], preface included.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
