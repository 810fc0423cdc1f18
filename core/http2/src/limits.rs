//! Bounds of this crate. Those an operator may change are in `Settings`; these are the hard ones.
//!
//! What one connection can hold, in bytes:
//! - the output: `OUTPUT_DATA_BYTES`, one frame or one head more, and `OUTPUT_BYTES_MAX` at the end;
//! - a header block that is not complete: twice `Settings::head_bytes`;
//! - the decoded head that waits to be taken, and its cookies: `Settings::head_bytes` each, a table
//!   entry more, and the growth of a vector;
//! - two dynamic tables, `TABLE_TEXT_BYTES` and `TABLE_ENTRIES_MAX` entries each;
//! - `Settings::streams_max` streams of some hundred bytes, `CLOSED_MAX` remembered ones.
//!
//! Data is never kept here. What the caller keeps is bounded by what it has not released:
//! `Settings::connection_window` for all streams together.

/// Payload of a frame, both ways: what every peer takes, and the default of
/// SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 4.2).
pub const FRAME_BYTES_MAX: usize = 16_384;

/// Largest flow-control window (RFC 9113 section 6.9.1).
pub const WINDOW_MAX: u32 = 0x7fff_ffff;

/// Window before any setting, and the least that `Settings` can ask for: a smaller one would bind
/// the peer only once it has read our settings (RFC 9113 section 6.9.2).
pub const WINDOW_DEFAULT: u32 = 65_535;

/// Streams at once that `Settings` can allow.
pub const STREAMS_MAX: u32 = 1_024;

/// Streams that a client opens before it has read the server's settings: the least that RFC 9113
/// section 6.5.2 recommends to allow.
pub const STREAMS_AT_FIRST: u32 = 100;

/// What `Settings::head_bytes` can be. Places in a head are 32 bits.
pub const HEAD_BYTES_LIMITS: std::ops::RangeInclusive<usize> = 256..=16 * 1024 * 1024;

/// Dynamic table of each direction: the default of SETTINGS_HEADER_TABLE_SIZE, never changed by us.
/// A peer may lower what we encode with. In the measure of RFC 7541 section 4.1.
pub const TABLE_BYTES_MAX: usize = 4_096;

/// What an entry counts above its name and value (RFC 7541 section 4.1).
pub const TABLE_ENTRY_OVERHEAD: usize = 32;

/// Entries that fit into a dynamic table.
pub const TABLE_ENTRIES_MAX: usize = TABLE_BYTES_MAX / TABLE_ENTRY_OVERHEAD;

/// Text of a dynamic table: the live lines, and dead ones in front until they are worth a move.
pub const TABLE_TEXT_BYTES: usize = TABLE_BYTES_MAX + 1_024;

/// Size updates at the start of one header block (RFC 7541 section 4.2 knows use for two).
pub const SIZE_UPDATES_MAX: u32 = 4;

/// CONTINUATION frames of one header block. More is the flood of CVE-2024-27316 and its family.
pub const CONTINUATIONS_MAX: u32 = 16;

/// A header block may be so many times as long as the largest head that is understood, so that a
/// head which is somewhat too large still gets its 431. Beyond that the connection ends.
pub const HEAD_BLOCK_FACTOR: usize = 2;

/// A header block that decodes to so many times the largest head is a bomb; the decoder stops
/// writing at the bound itself.
pub const HEAD_BOMB_FACTOR: usize = 8;

/// Parameters of one SETTINGS frame that are looked at; six are defined for both ends together
/// with a few extensions. More is refused.
pub const SETTINGS_PARAMETERS_MAX: usize = 64;

/// While the output holds so many bytes, no head and no data is taken.
pub const OUTPUT_DATA_BYTES: usize = 64 * 1024;

/// With so many bytes of output unread, a peer that makes us answer still more is cut off.
pub const OUTPUT_BYTES_MAX: usize = 512 * 1024;

/// Memory that an empty output keeps, on a connection with streams and on an idle one.
pub const OUTPUT_KEPT_BYTES: usize = OUTPUT_DATA_BYTES + 2 * FRAME_BYTES_MAX;
pub const OUTPUT_IDLE_BYTES: usize = 4 * 1024;

/// Memory that is kept for the cookies of the next head.
pub const COOKIE_KEPT_BYTES: usize = 4 * 1024;

/// Streams whose reset is remembered, so that frames which were under way are told from mistakes.
pub const CLOSED_MAX: usize = 256;

/// Runs of identifiers that a client skipped and that are remembered.
pub const SKIPPED_MAX: usize = 4;

/// Data that a stalled peer has to take for its time to begin anew: a window opened by single bytes
/// holds a stream no longer than a closed one.
pub const STALL_PROGRESS_BYTES: u32 = 4_096;

/// Time between the two GOAWAY frames of a graceful end where the peer does not answer the PING
/// between them, milliseconds.
pub const DRAIN_PING_MS: u64 = 1_000;

/// Window updates that a sent DATA frame earns the peer: one for each so many bytes, and two more.
pub const WINDOW_UPDATE_EARNED_BYTES: usize = 1_024;

const _: () = assert!(OUTPUT_BYTES_MAX > 2 * (OUTPUT_DATA_BYTES + FRAME_BYTES_MAX), "answers must fit beside data");
const _: () = assert!(TABLE_TEXT_BYTES < u16::MAX as usize, "places in a table are 16 bits");
const _: () = assert!(CLOSED_MAX >= 128, "a full set of refused streams must be remembered");
