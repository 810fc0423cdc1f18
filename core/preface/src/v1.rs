//! Version 1: one line of text (section 2.1 of the specification).

use std::net::{IpAddr, SocketAddr};

use crate::limits::V1_BYTES_MAX;
use crate::{Addresses, Header, Malformed, Parsed, Transport};

pub(crate) const PREFIX: &[u8] = b"PROXY ";

/// `bytes` is a beginning of the prefix, or begins with it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if bytes.len() > V1_BYTES_MAX - 2 { Err(Malformed::TooLong) } else { Ok(Parsed::More) };
    };
    if end > V1_BYTES_MAX - 2 {
        return Err(Malformed::TooLong);
    }
    let line = bytes.get(PREFIX.len()..end).ok_or(Malformed::Line)?;
    match bytes.get(end..end + 2) {
        Some(b"\r\n") => Ok(Parsed::Header(Header { length: end + 2, addresses: addresses(line)? })),
        None if bytes.get(end) == Some(&b'\r') => Ok(Parsed::More),
        _ => Err(Malformed::Line),
    }
}

/// What stands between the prefix and the line's end.
fn addresses(line: &[u8]) -> Result<Option<Addresses>, Malformed> {
    // What follows UNKNOWN has to be ignored, whatever it is.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(None);
    }
    let line = std::str::from_utf8(line).map_err(|_| Malformed::Line)?;
    let mut words = line.split(' ');
    let mut word = || words.next().ok_or(Malformed::Line);
    let (family, source, destination, source_port, destination_port) = (word()?, word()?, word()?, word()?, word()?);
    if words.next().is_some() {
        return Err(Malformed::Line);
    }
    let address = |text: &str| match family {
        "TCP4" => text.parse().map(IpAddr::V4).map_err(|_| Malformed::Line),
        "TCP6" => text.parse().map(IpAddr::V6).map_err(|_| Malformed::Line),
        _ => Err(Malformed::Line),
    };
    Ok(Some(Addresses {
        transport: Transport::Stream,
        source: SocketAddr::new(address(source)?, port(source_port)?),
        destination: SocketAddr::new(address(destination)?, port(destination_port)?),
    }))
}

/// Decimal, without sign or leading zeros.
fn port(text: &str) -> Result<u16, Malformed> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if !plain {
        return Err(Malformed::Line);
    }
    text.parse().map_err(|_| Malformed::Line)
}

/// Appends the line for a server that wants it. `None` is a client without an IP address. Two
/// addresses of different families are both written as IPv6 ones.
pub fn write(output: &mut Vec<u8>, ends: Option<(SocketAddr, SocketAddr)>) {
    let line = match ends.map(crate::v2::same_family) {
        None => "PROXY UNKNOWN\r\n".to_owned(),
        Some((source, destination)) => format!(
            "PROXY {} {} {} {} {}\r\n",
            if source.is_ipv4() { "TCP4" } else { "TCP6" },
            source.ip(),
            destination.ip(),
            source.port(),
            destination.port()
        ),
    };
    output.extend_from_slice(line.as_bytes());
}
