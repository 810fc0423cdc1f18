//! Bounds of this crate. Those an operator may change are arguments; these are the hard ones.

/// Header fields of one head, whatever the config says: the size of the parser's table.
pub const FIELDS_MAX: usize = 256;

/// Empty lines before a request line (RFC 9112 section 2.2 asks for at least one). More of them
/// is somebody who keeps a connection busy with nothing: refused with 400.
pub const LEADING_EMPTY_LINES_MAX: usize = 1;

/// Field names that one `Connection` may nominate as hop-by-hop; more is refused with 400.
pub const NOMINATED_MAX: usize = 16;

/// Hexadecimal digits of a chunk size: 2^60 bytes is more than any disk holds.
pub const CHUNK_SIZE_DIGITS_MAX: usize = 15;

/// Bytes of chunk extensions on one chunk (RFC 9112 section 7.1.1 asks for a limit).
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 1024;

/// Bytes of chunk extensions of one body, so that a body cannot be mostly overhead.
pub const CHUNK_EXTENSION_BYTES_BODY_MAX: usize = 16 * 1024;

/// Bytes of the trailer section of one body.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Trailer fields of one body.
pub const TRAILER_FIELDS_MAX: usize = 32;

/// Interim (1xx) responses before a final one; a server that sends more is broken.
pub const INTERIM_RESPONSES_MAX: u32 = 16;

/// By so many seconds the clocks of those who share a stored response may differ: each has the time of its last look.
pub const CLOCKS_APART_S: u32 = 10;
