//! What senders may send, and what nobody may.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use crate::checksum::crc32c;
use crate::limits::{HEADER_BYTES_MAX, V1_BYTES_MAX, V2_BYTES_MAX};
use crate::{Addresses, Header, Malformed, Parsed, Transport, parse, v2, write_v1, write_v2};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn stream(source: &str, destination: &str) -> Option<Addresses> {
    Some(Addresses { transport: Transport::Stream, source: address(source), destination: address(destination) })
}

fn header(bytes: &[u8]) -> Header {
    match parse(bytes) {
        Ok(Parsed::Header(header)) => header,
        other => panic!("{other:?} for {bytes:?}"),
    }
}

/// A header of version 2 with this command, family and rest.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [v2::SIGNATURE, &[command, family], &length, rest].concat()
}

const V4_BLOCK: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0, 80];

#[test]
fn lines_of_version_1() {
    let bytes = b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 80\r\nGET / HTTP/1.1\r\n";
    assert_eq!(header(bytes), Header { length: 43, addresses: stream("192.0.2.1:4660", "198.51.100.2:80") });
    let bytes = b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n";
    assert_eq!(header(bytes), Header { length: bytes.len(), addresses: stream("[2001:db8::1]:65535", "[::1]:0") });
    assert_eq!(header(b"PROXY UNKNOWN\r\n").addresses, None);
    assert_eq!(header(b"PROXY UNKNOWN ffff::1 \xff no matter\r\nX").length, 35);
}

#[test]
fn the_longest_line_fits_and_no_longer_one() {
    let wide = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = format!("PROXY UNKNOWN {wide} {wide} 65535 65535\r\n");
    assert_eq!(line.len(), V1_BYTES_MAX);
    assert_eq!(header(line.as_bytes()).length, V1_BYTES_MAX);
    let line = format!("PROXY UNKNOWN {wide} {wide} 65535 655350\r\n");
    assert_eq!(parse(line.as_bytes()), Err(Malformed::TooLong));
    let endless = [b"PROXY ".as_slice(), &[b'x'; 200]].concat();
    assert_eq!(parse(&endless), Err(Malformed::TooLong));
}

#[test]
fn lines_that_nobody_may_send() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4660\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4660 80 \r\n",
        "PROXY TCP4 192.0.2.1  198.51.100.2 4660 80\r\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.2 4660 80\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 04660 80\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +4660 80\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 65536 80\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2  80\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 4660 80\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.2 4660 80\r\n",
        "PROXY TCP4 2001:db8::1 ::1 4660 80\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 4660 80\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 4660 80\r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.2 4660 80\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.2 4660 80\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4660 80\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4660 80\rx",
        "PROXY UNKNOWN \rx\r\n",
        "PROXY / HTTP/1.1\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(Malformed::Line), "{line:?}");
    }
}

#[test]
fn something_else_is_seen_at_its_first_byte() {
    for bytes in ["GET / HTTP/1.1", "PO", "PROXYX", "PROXY\r\n", "\r\nG", "\x16\x03\x01", "proxy "] {
        assert_eq!(parse(bytes.as_bytes()), Ok(Parsed::Absent), "{bytes:?}");
    }
    for bytes in ["", "P", "PROXY", "PROXY ", "\r\n\r\n\0\r\nQUIT\n"] {
        assert_eq!(parse(bytes.as_bytes()), Ok(Parsed::More), "{bytes:?}");
    }
}

#[test]
fn headers_of_version_2() {
    let found = header(&binary(0x21, 0x11, &V4_BLOCK));
    assert_eq!(found, Header { length: 28, addresses: stream("192.0.2.1:4660", "198.51.100.2:80") });
    let with_tlvs = [&V4_BLOCK[..], &[0x04, 0, 2, 9, 9, 0xee, 0, 0]].concat();
    assert_eq!(header(&binary(0x21, 0x11, &with_tlvs)), Header { length: 36, ..found });
    let datagram = header(&binary(0x21, 0x12, &V4_BLOCK)).addresses.unwrap();
    assert_eq!(datagram.transport, Transport::Datagram);
    assert_eq!(header(&binary(0x21, 0x31, &[0; 216])), Header { length: 232, addresses: None });
    assert_eq!(header(&binary(0x21, 0x00, b"")).addresses, None);
    // LOCAL: whatever else is in there says nothing.
    assert_eq!(header(&binary(0x20, 0xff, b"xy")), Header { length: 18, addresses: None });
}

#[test]
fn binary_headers_that_nobody_may_send() {
    let refused = |command, family, rest: &[u8]| parse(&binary(command, family, rest)).unwrap_err();
    assert_eq!(refused(0x11, 0x11, &V4_BLOCK), Malformed::Command);
    assert_eq!(refused(0x22, 0x11, &V4_BLOCK), Malformed::Command);
    for family in [0x01, 0x10, 0x13, 0x20, 0x41, 0xff] {
        assert_eq!(refused(0x21, family, &[0; 216]), Malformed::Family, "{family:#x}");
    }
    assert_eq!(refused(0x21, 0x11, &V4_BLOCK[..11]), Malformed::Length);
    assert_eq!(refused(0x21, 0x21, &V4_BLOCK), Malformed::Length);
    assert_eq!(refused(0x21, 0x31, &[0; 215]), Malformed::Length);
    for tlvs in
        [&[4][..], &[4, 0], &[4, 0, 1], &[4, 0, 0, 4], &[3, 0, 2, 0, 0], &[3, 0, 4, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 0]]
    {
        assert_eq!(refused(0x21, 0x11, &[&V4_BLOCK[..], tlvs].concat()), Malformed::Tlv, "{tlvs:?}");
    }
    // Before the rest has come: nobody waits for what is too long.
    let announced = [v2::SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    assert_eq!(parse(&announced), Err(Malformed::TooLong));
    let most = vec![0; V2_BYTES_MAX - 16];
    assert_eq!(header(&binary(0x20, 0, &most)).length, V2_BYTES_MAX);
}

#[test]
fn a_checksum_is_held_against_the_header() {
    let rest = [&V4_BLOCK[..], &[0x03, 0, 4, 0, 0, 0, 0, 0x04, 0, 1, 7]].concat();
    let mut bytes = binary(0x21, 0x11, &rest);
    let right = crc32c(&[&bytes]).to_be_bytes();
    assert_eq!(parse(&bytes), Err(Malformed::Checksum));
    bytes[31..35].copy_from_slice(&right);
    assert_eq!(header(&bytes).length, bytes.len());
    bytes[16] ^= 1;
    assert_eq!(parse(&bytes), Err(Malformed::Checksum));
}

fn ip() -> impl Strategy<Value = IpAddr> {
    // A mapped address is written as the IPv4 one it is: it comes back in that form.
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(|octets| IpAddr::from(octets).to_canonical())
    ]
}

/// Headers of both versions with anything behind them, whole or damaged.
fn connection() -> impl Strategy<Value = Vec<u8>> {
    let start =
        (any::<bool>(), ip(), ip(), any::<(u16, u16)>(), any::<bool>()).prop_map(|(old, one, other, ports, local)| {
            let ends = Some((SocketAddr::new(one, ports.0), SocketAddr::new(other, ports.1))).filter(|_| !local);
            let mut bytes = Vec::new();
            if old {
                write_v1(&mut bytes, ends)
            } else {
                write_v2(&mut bytes, Transport::Stream, ends)
            }
            bytes
        });
    let whole =
        (start, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(start, rest)| [start, rest].concat()).boxed();
    let damaged = (whole.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, place, byte)| {
        let place = place.index(bytes.len());
        bytes[place] = byte;
        bytes
    });
    let with_tlvs =
        prop::collection::vec(any::<u8>(), 0..60).prop_map(|tlvs| binary(0x21, 0x11, &[&V4_BLOCK[..], &tlvs].concat()));
    let prefixed = prop::sample::select(vec![&b"PROXY "[..], b"PROXY TCP4 ", b"PROXY UNKNOWN ", v2::SIGNATURE, b""]);
    let odd =
        (prefixed, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(prefix, rest)| [prefix, &rest].concat());
    prop_oneof![whole, damaged, with_tlvs, odd]
}

proptest! {
    /// Bytes that come in pieces are understood as those that come at once.
    #[test]
    fn any_split_is_the_whole(bytes in connection()) {
        let whole = parse(&bytes);
        let mut decided = false;
        for length in 0..=bytes.len() {
            let part = parse(&bytes[..length]);
            if decided {
                prop_assert_eq!(part, whole);
            } else if part != Ok(Parsed::More) {
                decided = true;
                prop_assert_eq!(part, whole, "decided at {}", length);
            }
        }
        if let Ok(Parsed::Header(header)) = whole {
            prop_assert!(header.length <= bytes.len());
            prop_assert_eq!(parse(&bytes[..header.length]), whole);
            prop_assert_eq!(parse(&bytes[..header.length - 1]), Ok(Parsed::More));
        }
    }

    #[test]
    fn the_bound_is_enough(bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES_MAX), command in 0x20u8..=0x21, length: u16) {
        let [high, low] = length.to_be_bytes();
        let bytes = [v2::SIGNATURE, &[command, 0x11, high, low], &bytes].concat();
        prop_assert_ne!(parse(&bytes[..HEADER_BYTES_MAX]), Ok(Parsed::More));
    }

    #[test]
    fn what_is_written_is_read(one in ip(), other in ip(), ports: (u16, u16)) {
        let ends = (SocketAddr::new(one, ports.0), SocketAddr::new(other, ports.1));
        let written = Some(v2::same_family(ends));
        let mut line = Vec::new();
        write_v1(&mut line, Some(ends));
        let read = header(&line);
        prop_assert_eq!(read.length, line.len());
        prop_assert_eq!(read.addresses.map(|found| (found.source, found.destination)), written);
        for transport in [Transport::Stream, Transport::Datagram] {
            let mut bytes = Vec::new();
            write_v2(&mut bytes, transport, Some(ends));
            let read = header(&bytes);
            prop_assert_eq!(read.length, bytes.len());
            prop_assert_eq!(read.addresses.map(|found| (found.transport, found.source, found.destination)), written.map(|(one, other)| (transport, one, other)));
        }
    }
}
