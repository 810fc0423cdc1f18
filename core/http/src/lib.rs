//! HTTP/1 without IO: heads, framing, chunked coding and the rules a gateway owes both sides.
//!
//! Bytes go in, meaning comes out; nothing here reads a socket, a clock or a random number.
//! Follows RFC 9110 (semantics), RFC 9112 (HTTP/1.1), RFC 8586 (CDN-Loop) and RFC 7239 (Forwarded),
//! RFC 9111 (caching) and its kin, and knows where the frames of RFC 6455 (WebSocket) begin.
//! What RFC 9112 leaves to the recipient's leniency is refused: a gateway that guesses what the
//! server behind will understand is how requests are smuggled.
//!
//! Not here: HTTP/2, TLS, and what a route does with a request.

pub mod cache;
pub mod chunked;
pub mod conditional;
pub mod date;
mod edits;
pub mod field;
pub mod forward;
pub mod limits;
pub mod media_type;
pub mod negotiate;
pub mod range;
pub mod receive;
pub mod reject;
pub mod request;
pub mod response;
pub mod scan;
pub mod target;
mod token;
pub mod websocket;

pub use field::{Field, Known, Span};
pub use receive::{Received, ResponseReceiver};
pub use reject::Reject;
pub use request::{BodyLength, Method, RequestHead, Version};
pub use response::{ResponseBody, ResponseHead};
