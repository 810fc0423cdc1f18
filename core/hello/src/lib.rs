//! What the first bytes of a connection say about where it wants to go, for who forwards it without
//! taking part in it.
//!
//! ```text
//! client_hello   the start of a TCP stream  -> the server's name and the protocols that a TLS client asks for
//! quic           a datagram                 -> version, kind and connection ids of a QUIC packet
//! quic_lb        a connection id            -> the server that made it
//! ```
//!
//! Follows RFC 8446 and RFC 5246 (TLS), RFC 6066 section 3 (the server's name), RFC 7301 (ALPN), RFC 8999
//! (what all versions of QUIC share), RFC 9000 and RFC 9369 (versions 1 and 2), and
//! draft-ietf-quic-load-balancers-21.
//!
//! What is read here is not authenticated: anybody can ask for any name. It says where bytes go, never
//! who may see the answer.
//!
//! Not here: reading the bytes, decrypting QUIC's Initial packets, the inner name of an encrypted
//! ClientHello (the outer one is what a client wants to be routed by), the ciphers of connection ids
//! (the caller brings them), and DTLS.

pub mod client_hello;
pub mod limits;
pub mod quic;
pub mod quic_lb;
mod reader;
