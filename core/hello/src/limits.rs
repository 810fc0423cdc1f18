//! Bounds of what is looked at. Bytes, where nothing else is said.

/// The largest payload of a record in the clear (RFC 8446 section 5.1).
pub const RECORD_BYTES_MAX: usize = 1 << 14;

/// The largest ClientHello, its header included. Key shares of post-quantum exchanges make one of
/// 2 KiB; tickets and what pads a hello add to that, a client certificate does not.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

/// All records of one ClientHello. So many bytes are always enough for a verdict: one that is
/// cut into so small records that it does not fit is refused.
pub const STREAM_BYTES_MAX: usize = 32 * 1024;

/// Extensions of one ClientHello. About 60 types are registered, and clients send a third of them.
pub const EXTENSIONS_MAX: usize = 128;

/// The longest name of a server, a dot at the end included (RFC 1035 section 2.3.4).
pub const SERVER_NAME_BYTES_MAX: usize = 255;

/// The longest part of a name between dots (RFC 1035 section 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;

/// The longest connection id of QUIC versions 1 and 2 (RFC 9000 section 17.2, RFC 9369 section 3).
pub const CONNECTION_ID_BYTES_MAX: usize = 20;

/// What a routable connection id is made of (draft-ietf-quic-load-balancers section 5.3): a server
/// id, a nonce, and both together, which leave one byte for the first octet.
pub const SERVER_ID_BYTES: std::ops::RangeInclusive<usize> = 1..=15;
pub const NONCE_BYTES: std::ops::RangeInclusive<usize> = 4..=18;
pub const ROUTABLE_BYTES_MAX: usize = CONNECTION_ID_BYTES_MAX - 1;

const _: () = assert!(STREAM_BYTES_MAX > HELLO_BYTES_MAX + 5, "the largest hello fits");
const _: () = assert!(SERVER_NAME_BYTES_MAX <= u8::MAX as usize, "the length of a name is one byte");
const _: () = assert!(*SERVER_ID_BYTES.end() + *NONCE_BYTES.start() == ROUTABLE_BYTES_MAX, "the longest server id");
const _: () = assert!(*SERVER_ID_BYTES.start() + *NONCE_BYTES.end() == ROUTABLE_BYTES_MAX, "the longest nonce");
