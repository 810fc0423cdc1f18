//! What a connection says about itself before the application protocol: the PROXY protocol,
//! versions 1 (text) and 2 (binary), as haproxy's `proxy-protocol.txt` lays it down.
//!
//! ```text
//! parse          bytes so far -> a header, no header, or more bytes are needed
//!   v1             one line of text
//!   v2             a signature, a length, addresses, TLVs
//! Header::tlvs   what else a header of version 2 says
//! write_v1, write_v2, write_v2_with   the header for a server that wants one
//! ```
//!
//! Whom to believe is not decided here: anybody can send a header. Not here either: the reading of
//! bytes, and what TLVs mean beyond the checksum of the header itself.

mod checksum;
pub mod limits;
#[cfg(test)]
mod tests;
mod tlv;
mod v1;
mod v2;

use std::net::SocketAddr;

pub use tlv::{Ssl, SslPart, SslParts, Tlv, Tlvs};
pub use v1::write as write_v1;
pub use v2::{write as write_v2, write_with as write_v2_with};

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// They may become a header: ask again with more of them.
    More,
    /// They are something else, and no further byte changes that.
    Absent,
    Header(Header),
}

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the header; the application protocol begins behind them.
    pub length: usize,
    /// Who speaks to whom. `None`: the sender speaks for itself (`LOCAL`), or for somebody without
    /// an IP address; the connection's own addresses hold.
    pub addresses: Option<Addresses>,
}

impl Header {
    /// What else the header says, in its order. `bytes` are those that it was parsed from. There is
    /// nothing in version 1, and nothing that may be looked at where the sender speaks for itself.
    #[must_use]
    pub fn tlvs(self, bytes: &[u8]) -> Tlvs<'_> {
        Tlvs::of(v2::tlvs(bytes.get(..self.length).unwrap_or_default()))
    }
}

/// The two ends of the connection that the sender stands in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub transport: Transport,
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// What the sender took in; version 1 knows streams only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Stream,
    Datagram,
}

/// Which rule a header breaks. The connection has to be closed: the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A line of version 1 without an end, or a header of version 2 over its bound.
    TooLong,
    /// A line of version 1 that is not of the grammar.
    Line,
    /// A version other than 2 behind the signature, or an unknown command.
    Command,
    /// A family and transport that the specification does not have.
    Family,
    /// Fewer bytes than the addresses of the family take.
    Length,
    /// TLVs that do not end where the header ends.
    Tlv,
    /// The checksum is not that of the header.
    Checksum,
}

/// A header that was to be written would be longer than its receivers take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl Malformed {
    /// For a log line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "is too long",
            Self::Line => "is no line of version 1",
            Self::Command => "has an unknown version or command",
            Self::Family => "has an unknown address family",
            Self::Length => "is shorter than its addresses",
            Self::Tlv => "has a broken TLV",
            Self::Checksum => "does not match its checksum",
        }
    }
}

/// Looks at the first bytes of a connection. What it says of `bytes` it says of every longer input
/// that begins with them, except for `More`; `limits::HEADER_BYTES_MAX` bytes are always enough.
///
/// # Errors
/// The bytes begin as a header does, and are none.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if begins_with(bytes, v1::PREFIX) {
        return v1::parse(bytes);
    }
    if begins_with(bytes, v2::SIGNATURE) {
        return v2::parse(bytes);
    }
    Ok(Parsed::Absent)
}

/// `bytes` is a beginning of `prefix`, or begins with it.
fn begins_with(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(found, wanted)| found == wanted)
}
