//! Bounds of TLS, each with its unit and what happens at it.

/// Names of hosts that the certificates of one listener are found by; more are not indexed, and
/// the first certificate stands in.
pub const INDEXED_NAMES: usize = 100_000;

/// Certificates and authorities of one config, bytes of all files together. A config with more is
/// refused: it would not fit into a message to the worker process.
pub const MATERIAL_BYTES: usize = 32 * 1024 * 1024;

/// A ticket key is used to seal for this long, seconds.
pub const TICKET_KEY_PERIOD_SECONDS: u64 = 8 * 3600;

/// Keys that open tickets: the one that seals and those before it.
pub const TICKET_KEYS: usize = 3;

/// What clients are told, seconds: a ticket of the last moment of its key is good for so long.
pub const TICKET_LIFETIME_SECONDS: u32 = (TICKET_KEYS as u32 - 1) * TICKET_KEY_PERIOD_SECONDS as u32;

/// A sealed ticket, bytes; a longer one is not looked at.
pub const TICKET_BYTES: usize = 4096;

/// Tickets that a TLS 1.3 client gets after a handshake. Each costs a derived key, a sealing and
/// 200 bytes; browsers, which open several connections, come back for more with each of them.
pub const TICKETS_SENT: usize = 2;

/// Plaintext that is encrypted for one write, bytes: three full records.
pub const WRITE_BYTES: usize = 3 * RECORD_BYTES;

/// Plaintext of a full record, bytes (RFC 8446 section 5.1).
pub const RECORD_BYTES: usize = 16 * 1024;

/// The header of a record, bytes.
pub const RECORD_HEADER_BYTES: usize = 5;

/// What a record may add to its plaintext, bytes: header, content type, padding that nobody of us
/// sends, explicit nonce and tag (RFC 5246 section 6.2.3.3, RFC 8446 section 5.2).
pub const RECORD_OVERHEAD_BYTES: usize = 64;

/// The longest record on the wire, bytes (RFC 5246 section 6.2.3); a longer one breaks the
/// connection before it has come.
pub const RECORD_WIRE_BYTES: usize = RECORD_HEADER_BYTES + RECORD_BYTES + 2048;

/// A message of a handshake with everything before it that is unread, bytes: a large buffer. A
/// chain of certificates that is longer breaks the handshake.
pub const HANDSHAKE_BYTES: usize = crate::limits::LARGE_BUFFER_BYTES;

const _: () = assert!(
    WRITE_BYTES + 3 * RECORD_OVERHEAD_BYTES + 8 * 1024 < crate::limits::LARGE_BUFFER_BYTES,
    "one write, and what a handshake left to be sent, fit a large buffer"
);
