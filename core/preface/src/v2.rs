//! Version 2: a signature, a length, addresses, TLVs (section 2.2 of the specification).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::checksum::crc32c;
use crate::limits::V2_BYTES_MAX;
use crate::{Addresses, Header, Malformed, Parsed, Transport};

pub(crate) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and transport, length of the rest.
const FIXED_BYTES: usize = 16;

const INET_BYTES: usize = 12;
const INET6_BYTES: usize = 36;
const UNIX_BYTES: usize = 216;

/// The checksum's TLV: 4 bytes, CRC-32C of the header in which these are zero.
const TLV_CRC32C: u8 = 0x03;

/// `bytes` is a beginning of the signature, or begins with it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some(&version_command) = bytes.get(12) else { return Ok(Parsed::More) };
    let local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed::Command),
    };
    let Some(&family) = bytes.get(13) else { return Ok(Parsed::More) };
    // A sender that speaks for itself may put anything here: it has to be skipped unread.
    let address_bytes = if local { 0 } else { address_bytes(family)? };
    let Some(&[high, low]) = bytes.get(14..FIXED_BYTES) else { return Ok(Parsed::More) };
    let rest_bytes = usize::from(u16::from_be_bytes([high, low]));
    let length = FIXED_BYTES + rest_bytes;
    if length > V2_BYTES_MAX {
        return Err(Malformed::TooLong);
    }
    if rest_bytes < address_bytes {
        return Err(Malformed::Length);
    }
    let Some(header) = bytes.get(..length) else { return Ok(Parsed::More) };
    if local {
        return Ok(Parsed::Header(Header { length, addresses: None }));
    }
    check_tlvs(header, FIXED_BYTES + address_bytes)?;
    let block = header.get(FIXED_BYTES..).unwrap_or_default();
    let addresses = ends(block, family).map(|(source, destination)| Addresses {
        transport: if family & 0x0f == 2 { Transport::Datagram } else { Transport::Stream },
        source,
        destination,
    });
    Ok(Parsed::Header(Header { length, addresses }))
}

/// Bytes of the address block; only these families and transports exist, others have to be
/// refused.
fn address_bytes(family: u8) -> Result<usize, Malformed> {
    match family {
        0x00 => Ok(0),
        0x11 | 0x12 => Ok(INET_BYTES),
        0x21 | 0x22 => Ok(INET6_BYTES),
        0x31 | 0x32 => Ok(UNIX_BYTES),
        _ => Err(Malformed::Family),
    }
}

fn ends(block: &[u8], family: u8) -> Option<(SocketAddr, SocketAddr)> {
    match family >> 4 {
        1 => {
            let (source, rest) = block.split_first_chunk::<4>()?;
            let (destination, ports) = rest.split_first_chunk::<4>()?;
            with_ports(Ipv4Addr::from(*source).into(), Ipv4Addr::from(*destination).into(), ports)
        }
        2 => {
            let (source, rest) = block.split_first_chunk::<16>()?;
            let (destination, ports) = rest.split_first_chunk::<16>()?;
            with_ports(Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination).into(), ports)
        }
        _ => None,
    }
}

fn with_ports(source: IpAddr, destination: IpAddr, ports: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let &[a, b, c, d] = ports.first_chunk::<4>()?;
    Some((
        SocketAddr::new(source, u16::from_be_bytes([a, b])),
        SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    ))
}

/// TLVs fill the header exactly; a checksum, where there is one, is that of the header.
fn check_tlvs(header: &[u8], start: usize) -> Result<(), Malformed> {
    let mut at = start;
    let mut checksum_at = None;
    while let Some(rest) = header.get(at..).filter(|rest| !rest.is_empty()) {
        let &[kind, high, low] = rest.first_chunk::<3>().ok_or(Malformed::Tlv)?;
        let value_bytes = usize::from(u16::from_be_bytes([high, low]));
        let end = at + 3 + value_bytes;
        if end > header.len() {
            return Err(Malformed::Tlv);
        }
        if kind == TLV_CRC32C && (value_bytes != 4 || checksum_at.replace(at + 3).is_some()) {
            return Err(Malformed::Tlv);
        }
        at = end;
    }
    let Some(place) = checksum_at else { return Ok(()) };
    let (before, rest) = header.split_at_checked(place).ok_or(Malformed::Tlv)?;
    let (given, after) = rest.split_first_chunk::<4>().ok_or(Malformed::Tlv)?;
    if crc32c(&[before, &[0; 4], after]) == u32::from_be_bytes(*given) { Ok(()) } else { Err(Malformed::Checksum) }
}

/// Appends the header for a server that wants it. `None` is a connection of the gateway's own,
/// such as a health check (`LOCAL`). Two addresses of different families are both written as IPv6
/// ones.
pub fn write(output: &mut Vec<u8>, transport: Transport, ends: Option<(SocketAddr, SocketAddr)>) {
    output.extend_from_slice(SIGNATURE);
    let Some((source, destination)) = ends.map(same_family) else {
        output.extend_from_slice(&[0x20, 0x00, 0, 0]);
        return;
    };
    let transport = match transport {
        Transport::Stream => 1,
        Transport::Datagram => 2,
    };
    let (family, length) = if source.is_ipv4() { (0x10, INET_BYTES) } else { (0x20, INET6_BYTES) };
    output.extend_from_slice(&[0x21, family | transport, 0, length as u8]);
    for end in [source, destination] {
        match end.ip() {
            IpAddr::V4(v4) => output.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => output.extend_from_slice(&v6.octets()),
        }
    }
    output.extend_from_slice(&source.port().to_be_bytes());
    output.extend_from_slice(&destination.port().to_be_bytes());
}

/// Both ends in one family: IPv4 where both are (an address that a dual socket has mapped is), IPv6
/// otherwise.
pub(crate) fn same_family((source, destination): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    let (one, other) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let wide = |address: IpAddr| match address {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        v6 => v6,
    };
    let (one, other) = if one.is_ipv4() == other.is_ipv4() { (one, other) } else { (wide(one), wide(other)) };
    (SocketAddr::new(one, source.port()), SocketAddr::new(other, destination.port()))
}
