//! Headers as RFC 8999 draws them, and the first bytes of real ones.

use proptest::prelude::*;

use super::{Header, Kind, Long, VERSION_1, VERSION_2, parse};

/// A long header with something behind it.
fn long(first: u8, version: u32, destination: &[u8], source: &[u8]) -> Vec<u8> {
    let lengths = [destination, source].map(|id| u8::try_from(id.len()).unwrap());
    [&[first][..], &version.to_be_bytes(), &[lengths[0]], destination, &[lengths[1]], source, b"rest"].concat()
}

fn kind(first: u8, version: u32) -> Kind {
    match parse(&long(first, version, b"to", b"from")) {
        Header::Long(Long { version: found, kind, destination: b"to", source: b"from" }) if found == version => kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn types_of_packets() {
    use Kind::{Handshake, Initial, Retry, Unknown, VersionNegotiation, ZeroRtt};
    let firsts = [0xc0, 0xd1, 0xe2, 0xf3];
    assert_eq!(firsts.map(|first| kind(first, VERSION_1)), [Initial, ZeroRtt, Handshake, Retry]);
    assert_eq!(firsts.map(|first| kind(first, VERSION_2)), [Retry, Initial, ZeroRtt, Handshake]);
    assert_eq!(firsts.map(|first| kind(first, 0)), [VersionNegotiation; 4]);
    assert_eq!(firsts.map(|first| kind(first, 0xff00_001d)), [Unknown; 4]);
    // Who has agreed on it clears the second bit.
    assert_eq!(kind(0x80, VERSION_1), Initial);
    assert_eq!(kind(0x90, VERSION_2), Initial);
}

/// RFC 9001 appendix A.2 and A.5, RFC 9369 appendix A.2.
#[test]
fn published_packets() {
    let id = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
    let first = [&[0xc0, 0, 0, 0, 1, 8][..], &id, b"\0\0\x44\x9e\x7b\x9a\xec\x34"].concat();
    let initial = Long { version: VERSION_1, kind: Kind::Initial, destination: &id, source: b"" };
    assert_eq!(parse(&first), Header::Long(initial));
    let second = [&[0xd7, 0x6b, 0x33, 0x43, 0xcf, 8][..], &id, b"\0\0\x44\x9e\xa0\xc9\x5e\x82"].concat();
    assert_eq!(parse(&second), Header::Long(Long { version: VERSION_2, ..initial }));
    assert_eq!(parse(b"\x4c\xfe\x41\x89\x65\x5e"), Header::Short(b"\xfe\x41\x89\x65\x5e"));
}

#[test]
fn how_long_connection_ids_may_be() {
    let (most, more, longest) = ([1; 20], [1; 21], [1; 255]);
    for version in [VERSION_1, VERSION_2] {
        assert!(matches!(parse(&long(0xc0, version, &most, &most)), Header::Long(_)));
        assert_eq!(parse(&long(0xc0, version, &more, b"")), Header::NotQuic);
        assert_eq!(parse(&long(0xc0, version, b"", &more)), Header::NotQuic);
    }
    for version in [0, 2, 0x6b33_43ce, u32::MAX] {
        let bytes = long(0xc0, version, &longest, &longest);
        let Header::Long(found) = parse(&bytes) else { panic!("{version:#x}") };
        assert_eq!((found.destination, found.source), (&longest[..], &longest[..]));
    }
}

#[test]
fn less_than_a_header() {
    let bytes = long(0xc0, VERSION_1, b"destination", b"source");
    let header = bytes.len() - b"rest".len();
    for length in 0..header {
        assert_eq!(parse(&bytes[..length]), Header::NotQuic, "{length}");
    }
    assert!(matches!(parse(&bytes[..header]), Header::Long(_)));
    assert_eq!(parse(&[0x40]), Header::Short(b""));
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        first in 0x80u8.., version: u32, one in prop::collection::vec(any::<u8>(), 0..21), other in prop::collection::vec(any::<u8>(), 0..21)
    ) {
        let bytes = long(first, version, &one, &other);
        let Header::Long(found) = parse(&bytes) else { panic!("{bytes:?}") };
        prop_assert_eq!((found.version, found.destination, found.source), (version, &one[..], &other[..]));
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        match parse(&bytes) {
            Header::Short(behind) => prop_assert_eq!(behind, &bytes[1..]),
            Header::Long(found) => prop_assert!(found.destination.len() + found.source.len() + 7 <= bytes.len()),
            Header::NotQuic => prop_assert!(bytes.first().is_none_or(|first| first & 0x80 != 0)),
        }
    }
}
