//! The header of a QUIC packet, as far as it is not protected: what all versions share (RFC 8999), and
//! the types of packets in versions 1 (RFC 9000 section 17) and 2 (RFC 9369 section 3).
//!
//! Several packets may share a datagram (RFC 9000 section 12.2); they all belong to one connection, so
//! the first says it for all.

#[cfg(test)]
mod tests;

use crate::limits::CONNECTION_ID_BYTES_MAX;
use crate::reader::Reader;

pub const VERSION_1: u32 = 0x0000_0001;
pub const VERSION_2: u32 = 0x6b33_43cf;

/// Set in the first byte of a long header, and clear in that of a short one (RFC 8999 section 5).
const LONG: u8 = 0x80;

/// What a datagram begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header<'a> {
    Long(Long<'a>),
    /// A packet of a connection that is there already. The bytes behind the first one begin with the
    /// destination's connection id; how long it is, only who gave it out knows (RFC 8999 section 5.2).
    Short(&'a [u8]),
    /// Nothing, less than a header, or a connection id that its version does not allow.
    NotQuic,
}

/// RFC 8999 section 5.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Long<'a> {
    pub version: u32,
    pub kind: Kind,
    pub destination: &'a [u8],
    pub source: &'a [u8],
}

/// The type of a packet with a long header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
    VersionNegotiation,
    /// Of a version that is not known here.
    Unknown,
}

/// Reads the header of a datagram's first packet.
///
/// The second bit of the first byte is not looked at: who has agreed on it may clear it (RFC 9287). So
/// much else passes for a short header.
#[must_use]
pub fn parse(datagram: &[u8]) -> Header<'_> {
    match datagram.split_first() {
        None => Header::NotQuic,
        Some((&first, behind)) if first & LONG == 0 => Header::Short(behind),
        Some((&first, behind)) => long(first, Reader(behind)).map_or(Header::NotQuic, Header::Long),
    }
}

fn long(first: u8, mut fields: Reader<'_>) -> Option<Long<'_>> {
    let version = u32::from_be_bytes(*fields.take(4)?.first_chunk()?);
    let destination = fields.short()?;
    let source = fields.short()?;
    // Other versions may have longer ones, up to what the byte of the length can say.
    let is_known = matches!(version, VERSION_1 | VERSION_2);
    if is_known && destination.len().max(source.len()) > CONNECTION_ID_BYTES_MAX {
        return None;
    }
    Some(Long { version, kind: kind(version, first), destination, source })
}

fn kind(version: u32, first: u8) -> Kind {
    match (version, first >> 4 & 0b11) {
        (0, _) => Kind::VersionNegotiation,
        (VERSION_1, 0) | (VERSION_2, 1) => Kind::Initial,
        (VERSION_1, 1) | (VERSION_2, 2) => Kind::ZeroRtt,
        (VERSION_1, 2) | (VERSION_2, 3) => Kind::Handshake,
        (VERSION_1, 3) | (VERSION_2, 0) => Kind::Retry,
        _ => Kind::Unknown,
    }
}
