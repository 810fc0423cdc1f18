//! What is written is read, and what others write too.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::{Ssl, SslPart, Tlv};
use crate::limits::{UNIQUE_ID_BYTES_MAX, V2_BYTES_MAX};
use crate::{Header, Parsed, TooLong, Transport, parse, write_v1, write_v2, write_v2_with};

fn ends(source: &str, destination: &str) -> Option<(SocketAddr, SocketAddr)> {
    Some((source.parse().unwrap(), destination.parse().unwrap()))
}

fn v4() -> Option<(SocketAddr, SocketAddr)> {
    ends("192.0.2.1:4660", "198.51.100.2:443")
}

fn header(bytes: &[u8]) -> Header {
    match parse(bytes) {
        Ok(Parsed::Header(header)) => header,
        other => panic!("{other:?} for {bytes:?}"),
    }
}

fn tlvs(bytes: &[u8]) -> Vec<Tlv<'_>> {
    header(bytes).tlvs(bytes).collect()
}

/// A header of version 2 for TCP over IPv4 with these TLVs, as bytes.
fn with(tlvs: &[u8]) -> Vec<u8> {
    let length = u16::try_from(12 + tlvs.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11", &length[..], &[1; 12], tlvs].concat()
}

#[test]
fn everything_that_can_be_said() {
    let mut parts = Vec::new();
    let said = [
        SslPart::Version(b"TLSv1.3"),
        SslPart::CommonName("J\u{fc}rgen".as_bytes()),
        SslPart::Cipher(b"TLS_AES_128_GCM_SHA256"),
        SslPart::SignatureAlgorithm(b"SHA256"),
        SslPart::KeyAlgorithm(b"RSA2048"),
        SslPart::Group(b"X25519MLKEM768"),
        SslPart::SignatureScheme(b"rsa_pss_rsae_sha256"),
        SslPart::ClientCertificate(&[0x30, 0]),
        SslPart::Other(0x2f, b""),
    ];
    said.iter().for_each(|part| part.write(&mut parts));
    let ssl = Ssl::new(Ssl::OVER_TLS | Ssl::CERTIFICATE_ON_CONNECTION, 0, &parts).unwrap();
    let all = [
        Tlv::Alpn(b"h2"),
        Tlv::Authority(b"www.example"),
        Tlv::Noop(b"\0\0"),
        Tlv::UniqueId(&[9; UNIQUE_ID_BYTES_MAX]),
        Tlv::Ssl(ssl),
        Tlv::Netns(b"blue"),
        Tlv::Other(0xea, b"\x01vpce-1"),
    ];
    for transport in [Transport::Stream, Transport::Datagram] {
        let mut bytes = Vec::new();
        write_v2_with(&mut bytes, transport, v4(), &all, false).unwrap();
        assert_eq!(header(&bytes).length, bytes.len());
        assert_eq!(header(&bytes).addresses.unwrap().transport, transport);
        assert_eq!(tlvs(&bytes), all);
        // The application's bytes are none of the header's.
        bytes.extend_from_slice(b"\x01\0\x02h3");
        assert_eq!(tlvs(&bytes), all);
    }
    assert_eq!(ssl.parts().collect::<Vec<_>>(), said);
}

/// The bytes that the specification draws, from a sender that is not ours.
#[test]
fn a_header_of_somebody_else() {
    let bytes = with(b"\x20\0\x0f\x01\0\0\0\0\x21\0\x07TLSv1.2\x02\0\x01a");
    let Some(Tlv::Ssl(ssl)) = header(&bytes).tlvs(&bytes).next() else { panic!("{bytes:?}") };
    assert_eq!((ssl.client, ssl.verify), (Ssl::OVER_TLS, 0));
    assert_eq!(ssl.parts().collect::<Vec<_>>(), [SslPart::Version(b"TLSv1.2")]);
    assert_eq!(header(&bytes).tlvs(&bytes).nth(1), Some(Tlv::Authority(b"a")));
}

#[test]
fn values_that_are_none_of_their_type() {
    let too_long = [&b"\x05\0\x81"[..], &[0; 129]].concat();
    let values: [&[u8]; 4] =
        [b"\x20\0\x04\x01\0\0\0", b"\x20\0\x06\x01\0\0\0\0\x21", b"\x20\0\x08\x01\0\0\0\0\x21\0\x01", &too_long];
    for value in values {
        assert_eq!(tlvs(&with(value)), [Tlv::Other(value[0], &value[3..])]);
    }
    assert_eq!(tlvs(&with(b"\x20\0\x05\x07\0\0\0\x01")), [Tlv::Ssl(Ssl::new(7, 1, b"").unwrap())]);
    assert_eq!(tlvs(&with(b"\x02\0\0\x02\0\0")), [Tlv::Authority(b""), Tlv::Authority(b"")]);
    assert_eq!(Ssl::new(1, 0, b"\x21\0\x07TLSv1."), None);
}

#[test]
fn headers_that_say_nothing_more() {
    let mut bytes = Vec::new();
    write_v1(&mut bytes, v4());
    assert_eq!(tlvs(&bytes), []);
    bytes.clear();
    write_v2(&mut bytes, Transport::Stream, v4());
    assert_eq!(tlvs(&bytes), []);
    bytes.clear();
    write_v2_with(&mut bytes, Transport::Stream, None, &[Tlv::Alpn(b"h2")], true).unwrap();
    assert_eq!(bytes, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    // LOCAL: what stands there has to be skipped, whatever it is.
    bytes[15] = 5;
    bytes.extend_from_slice(b"\x01\0\x02h2");
    assert_eq!(tlvs(&bytes), []);
    // A family without addresses can say things.
    let unspecified = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\x05\x01\0\x02h2";
    assert_eq!(tlvs(unspecified), [Tlv::Alpn(b"h2")]);
    // Bytes that the header is not of.
    assert_eq!(header(unspecified).tlvs(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").count(), 0);
    assert_eq!(header(unspecified).tlvs(b"\r\n\r\n\0\r\nQUIT\n").count(), 0);
}

#[test]
fn a_checksum_stands_behind_everything_else() {
    let mut bytes = b"before".to_vec();
    let told = [Tlv::Crc32c(1), Tlv::Alpn(b"h2"), Tlv::Other(3, b"x")];
    write_v2_with(&mut bytes, Transport::Datagram, v4(), &told, true).unwrap();
    let written = bytes.strip_prefix(b"before").unwrap();
    let found = tlvs(written);
    let [Tlv::Alpn(b"h2"), Tlv::Crc32c(sum)] = found[..] else { panic!("{found:?}") };
    assert_eq!(sum.to_be_bytes(), written[written.len() - 4..]);
    let mut without = Vec::new();
    write_v2_with(&mut without, Transport::Datagram, v4(), &told, false).unwrap();
    assert_eq!(tlvs(&without), [Tlv::Alpn(b"h2")]);
}

#[test]
fn bounds() {
    let room = V2_BYTES_MAX - 16 - 12 - 3;
    let value = vec![b'x'; V2_BYTES_MAX];
    for checksum in [false, true] {
        let room = if checksum { room - 7 } else { room };
        let mut bytes = Vec::new();
        write_v2_with(&mut bytes, Transport::Stream, v4(), &[Tlv::Noop(&value[..room])], checksum).unwrap();
        assert_eq!((header(&bytes).length, bytes.len()), (V2_BYTES_MAX, V2_BYTES_MAX));
        let too_long = [Tlv::Noop(&value[..=room])];
        assert_eq!(write_v2_with(&mut bytes, Transport::Stream, v4(), &too_long, checksum), Err(TooLong));
        assert_eq!(bytes.len(), V2_BYTES_MAX, "nothing is written");
    }
    let mut bytes = Vec::new();
    let identifier = [Tlv::UniqueId(&value[..=UNIQUE_ID_BYTES_MAX])];
    assert_eq!(write_v2_with(&mut bytes, Transport::Stream, v4(), &identifier, false), Err(TooLong));
    let mut parts = Vec::new();
    SslPart::CommonName(&vec![0; 70_000]).write(&mut parts);
    let ssl = [Tlv::Ssl(Ssl::new(1, 0, &parts).unwrap())];
    assert_eq!(write_v2_with(&mut bytes, Transport::Stream, v4(), &ssl, false), Err(TooLong));
    assert_eq!(bytes, b"");
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        told in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..8), checksum: bool, wide: bool
    ) {
        let told: Vec<Tlv<'_>> = told.iter().filter(|(kind, _)| *kind != 3).map(|(kind, value)| Tlv::of(*kind, value)).collect();
        let ends = if wide { ends("[2001:db8::1]:1", "[::1]:65535") } else { v4() };
        let (mut bytes, mut plain) = (Vec::new(), Vec::new());
        write_v2_with(&mut bytes, Transport::Stream, ends, &told, checksum).unwrap();
        write_v2(&mut plain, Transport::Stream, ends);
        prop_assert_eq!(header(&bytes).addresses, header(&plain).addresses);
        let mut found = tlvs(&bytes);
        prop_assert_eq!(matches!(found.last(), Some(Tlv::Crc32c(_))), checksum);
        found.retain(|tlv| !matches!(tlv, Tlv::Crc32c(_)));
        prop_assert_eq!(found, told);
        if checksum {
            // A flipped bit is seen, wherever it is.
            for place in 16..bytes.len() {
                bytes[place] ^= 1;
                prop_assert!(!matches!(parse(&bytes), Ok(Parsed::Header(_))) || tlvs(&bytes).iter().all(|tlv| !matches!(tlv, Tlv::Crc32c(_))));
                bytes[place] ^= 1;
            }
        }
    }

    #[test]
    fn any_bytes(rest in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = with(&rest);
        if let Ok(Parsed::Header(header)) = parse(&bytes) {
            let bytes_of_all: usize = header.tlvs(&bytes).map(|tlv| tlv.encoded_bytes()).sum();
            prop_assert_eq!(bytes_of_all, rest.len());
        }
    }
}
