//! Bounds of headers, in bytes.

/// The longest line of version 1, `CRLF` included (section 2.1 of the specification).
pub const V1_BYTES_MAX: usize = 107;

/// The longest header of version 2, TLVs included. The specification allows 64 KiB; the largest
/// thing that is sent in practice, a client certificate's names, needs a few hundred.
pub const V2_BYTES_MAX: usize = 4096;

/// The longest identifier of a connection (section 2.2.5 of the specification).
pub const UNIQUE_ID_BYTES_MAX: usize = 128;

/// No header is longer than this.
pub const HEADER_BYTES_MAX: usize = V2_BYTES_MAX;

const _: () = assert!(HEADER_BYTES_MAX >= V1_BYTES_MAX, "the bound of both holds for each");
