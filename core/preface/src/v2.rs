//! Version 2: a signature, a length, addresses, TLVs (section 2.2 of the specification).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::checksum::crc32c;
use crate::limits::V2_BYTES_MAX;
use crate::tlv::{self, Tlv};
use crate::{Addresses, Header, Malformed, Parsed, TooLong, Transport};

pub(crate) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and transport, length of the rest.
const FIXED_BYTES: usize = 16;

const INET_BYTES: usize = 12;
const INET6_BYTES: usize = 36;
const UNIX_BYTES: usize = 216;

/// The checksum's value: CRC-32C of the header in which these bytes are zero.
const CHECKSUM_BYTES: usize = 4;

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

/// The bytes of the TLVs of a header of this version; of others, none.
pub(crate) fn tlvs(header: &[u8]) -> &[u8] {
    let is_told = header.starts_with(SIGNATURE) && header.get(12) == Some(&0x21);
    let family = header.get(13).copied().filter(|_| is_told);
    let address_bytes = family.and_then(|family| address_bytes(family).ok());
    address_bytes.and_then(|bytes| header.get(FIXED_BYTES + bytes..)).unwrap_or_default()
}

/// TLVs fill the header exactly; a checksum, where there is one, is that of the header.
fn check_tlvs(header: &[u8], start: usize) -> Result<(), Malformed> {
    let mut rest = header.get(start..).unwrap_or_default();
    let mut checksum_at = None;
    while let Some((kind, value)) = tlv::take(&mut rest) {
        let place = header.len() - rest.len() - value.len();
        if kind == tlv::CRC32C && (value.len() != CHECKSUM_BYTES || checksum_at.replace(place).is_some()) {
            return Err(Malformed::Tlv);
        }
    }
    if !rest.is_empty() {
        return Err(Malformed::Tlv);
    }
    let Some(place) = checksum_at else { return Ok(()) };
    let (before, rest) = header.split_at_checked(place).ok_or(Malformed::Tlv)?;
    let (given, after) = rest.split_first_chunk::<CHECKSUM_BYTES>().ok_or(Malformed::Tlv)?;
    if crc32c(&[before, &[0; CHECKSUM_BYTES], after]) == u32::from_be_bytes(*given) {
        Ok(())
    } else {
        Err(Malformed::Checksum)
    }
}

/// Appends the header for a server that wants it. `None` is a connection of the gateway's own,
/// such as a health check (`LOCAL`). Two addresses of different families are both written as IPv6
/// ones.
pub fn write(output: &mut Vec<u8>, transport: Transport, ends: Option<(SocketAddr, SocketAddr)>) {
    match ends.map(same_family) {
        Some(ends) => write_addresses(output, transport, ends, 0),
        None => write_local(output),
    }
}

/// As [`write`], with more to say: `tlvs` in their order, and with `checksum` one over all of it at
/// the end. A checksum among `tlvs` is left out, so that those of another header can be passed on.
/// With `LOCAL` nothing is said, since its receiver has to skip it.
///
/// # Errors
/// The header would be longer than [`V2_BYTES_MAX`], or a TLV longer than it may be. Nothing is
/// written then.
pub fn write_with(
    output: &mut Vec<u8>,
    transport: Transport,
    ends: Option<(SocketAddr, SocketAddr)>,
    tlvs: &[Tlv<'_>],
    checksum: bool,
) -> Result<(), TooLong> {
    let Some(ends) = ends.map(same_family) else {
        write_local(output);
        return Ok(());
    };
    let written = || tlvs.iter().filter(|tlv| tlv.kind() != tlv::CRC32C);
    if !written().all(Tlv::is_in_bounds) {
        return Err(TooLong);
    }
    let checksum_tlv = Tlv::Crc32c(0);
    let last = Some(&checksum_tlv).filter(|_| checksum);
    let tlv_bytes = written().chain(last).map(Tlv::encoded_bytes).fold(0, usize::saturating_add);
    let room = V2_BYTES_MAX - FIXED_BYTES - address_bytes_of(&ends);
    let tlv_bytes = u16::try_from(tlv_bytes).ok().filter(|&bytes| usize::from(bytes) <= room).ok_or(TooLong)?;
    let start = output.len();
    write_addresses(output, transport, ends, tlv_bytes);
    written().chain(last).for_each(|tlv| tlv.write(output));
    if checksum {
        let sum = crc32c(&[output.get(start..).unwrap_or_default()]);
        if let Some(place) = output.last_chunk_mut() {
            *place = sum.to_be_bytes();
        }
    }
    Ok(())
}

fn write_local(output: &mut Vec<u8>) {
    output.extend_from_slice(SIGNATURE);
    output.extend_from_slice(&[0x20, 0x00, 0, 0]);
}

/// Everything in front of the TLVs, which take so many bytes.
fn write_addresses(
    output: &mut Vec<u8>,
    transport: Transport,
    (source, destination): (SocketAddr, SocketAddr),
    tlv_bytes: u16,
) {
    let transport = match transport {
        Transport::Stream => 1,
        Transport::Datagram => 2,
    };
    let family = if source.is_ipv4() { 0x10 } else { 0x20 };
    let length = address_bytes_of(&(source, destination)) as u16 + tlv_bytes;
    output.extend_from_slice(SIGNATURE);
    output.extend_from_slice(&[0x21, family | transport]);
    output.extend_from_slice(&length.to_be_bytes());
    for end in [source, destination] {
        match end.ip() {
            IpAddr::V4(v4) => output.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => output.extend_from_slice(&v6.octets()),
        }
    }
    output.extend_from_slice(&source.port().to_be_bytes());
    output.extend_from_slice(&destination.port().to_be_bytes());
}

/// Of two addresses of one family.
fn address_bytes_of((source, _): &(SocketAddr, SocketAddr)) -> usize {
    if source.is_ipv4() { INET_BYTES } else { INET6_BYTES }
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
