//! What clients may send, and what nobody may.

use std::borrow::Cow;

use proptest::prelude::*;

use super::{ClientHello, Malformed, Parsed, parse};
use crate::limits::{EXTENSIONS_MAX, HELLO_BYTES_MAX, RECORD_BYTES_MAX, STREAM_BYTES_MAX};

/// Bytes behind their length in so many bytes.
fn counted(width: usize, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len().to_be_bytes();
    [&length[length.len() - width..], bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &counted(2, data)].concat()
}

/// An extension that asks for a server.
fn name(name: &[u8]) -> Vec<u8> {
    extension(0, &counted(2, &[&[0][..], &counted(2, name)].concat()))
}

fn alpn(names: &[&str]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|name| counted(1, name.as_bytes())).collect();
    extension(16, &counted(2, &list))
}

/// The fields in front of the extensions.
fn fields() -> Vec<u8> {
    [&[3, 3][..], &[7; 32], &counted(1, &[9; 32]), &counted(2, &[0x13, 1, 0, 0xff]), &counted(1, &[0])].concat()
}

fn message(body: &[u8]) -> Vec<u8> {
    [&[1][..], &counted(3, body)].concat()
}

fn with(extensions: &[Vec<u8>]) -> Vec<u8> {
    message(&[fields(), counted(2, &extensions.concat())].concat())
}

fn record(payload: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &counted(2, payload)].concat()
}

/// A hello with these extensions, in one record.
fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    record(&with(extensions))
}

/// `message` in records of so many bytes.
fn cut(message: &[u8], bytes: usize) -> Vec<u8> {
    message.chunks(bytes).flat_map(record).collect()
}

fn read(bytes: &[u8]) -> ClientHello<'_> {
    match parse(bytes) {
        Ok(Parsed::Hello(hello)) => hello,
        other => panic!("{other:?} for {bytes:?}"),
    }
}

fn name_of(bytes: &[u8]) -> Option<String> {
    read(bytes).server_name().map(|name| name.as_str().to_owned())
}

#[test]
fn names_and_protocols() {
    let bytes = hello(&[extension(0xdada, b""), name(b"WWW.Example.com"), alpn(&["h2", "http/1.1"])]);
    let found = read(&bytes);
    assert_eq!(found.server_name().unwrap().as_str(), "www.example.com");
    assert_eq!(found.alpn().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
    assert!(matches!(found.body, Cow::Borrowed(_)), "nothing is copied out of one record");
    // What the client sends right behind it is no matter.
    assert_eq!(read(&[&bytes[..], b"\x17\x03\x03\0\0anything"].concat()), found);
    assert_eq!(read(&cut(&with(&[name(b"a.test")]), 1)).server_name().unwrap().as_str(), "a.test");
}

#[test]
fn hellos_that_name_nobody() {
    let without_extensions = record(&message(&fields()));
    for bytes in [without_extensions, hello(&[]), hello(&[extension(43, &[2, 3, 4])])] {
        assert_eq!(name_of(&bytes), None);
        assert_eq!(read(&bytes).alpn().count(), 0);
    }
    for address in ["192.0.2.1", "192.0.2.1.", "::1", "2001:DB8::1", "::ffff:192.0.2.1"] {
        assert_eq!(name_of(&hello(&[name(address.as_bytes())])), None, "{address}");
    }
}

#[test]
fn names_that_dns_can_have() {
    let longest = ["a", "b", "c", "d"].map(|letter| letter.repeat(63)).join(".");
    for (asked, given) in [
        ("A-b.Example.", "a-b.example"),
        ("_dmarc.xn--bcher-kva.example", "_dmarc.xn--bcher-kva.example"),
        ("localhost", "localhost"),
        ("1.2.3.4.5", "1.2.3.4.5"),
        ("300.0.0.1", "300.0.0.1"),
        (&longest, &longest),
    ] {
        assert_eq!(name_of(&hello(&[name(asked.as_bytes())])).as_deref(), Some(given));
    }
    let too_long = format!("{longest}.");
    assert_eq!(too_long.len(), 256);
    for refused in [
        "",
        ".",
        "..",
        ".a",
        "a..b",
        "a..",
        "a b",
        "a\0",
        "b\u{fc}cher.example",
        "a/b",
        "a:1",
        "[::1]",
        "*.a",
        &too_long,
    ] {
        let bytes = hello(&[name(refused.as_bytes())]);
        assert_eq!(parse(&bytes), Err(Malformed::ServerName), "{refused:?}");
    }
    let long_label = format!("{}.example", "a".repeat(64));
    assert_eq!(parse(&hello(&[name(long_label.as_bytes())])), Err(Malformed::ServerName));
}

#[test]
fn exactly_one_name() {
    let host = [&[0][..], &counted(2, b"a.test")].concat();
    let other = [&[1][..], &counted(2, b"a.test")].concat();
    for data in [
        b"".to_vec(),
        counted(2, b""),
        counted(2, &other),
        counted(2, &[&host[..], &host].concat()),
        counted(2, &[&host[..], &other].concat()),
        counted(2, &host[..host.len() - 1]),
        [&counted(2, &host)[..], &[0]].concat(),
        [&[0, 10][..], &host].concat(),
    ] {
        assert_eq!(parse(&hello(&[extension(0, &data)])), Err(Malformed::ServerName), "{data:?}");
    }
    assert_eq!(parse(&hello(&[name(b"a.test"), name(b"a.test")])), Err(Malformed::RepeatedExtension));
    assert_eq!(parse(&hello(&[extension(9, b""), alpn(&["a"]), extension(9, b"")])), Err(Malformed::RepeatedExtension));
}

#[test]
fn lists_of_protocols() {
    let longest = "x".repeat(255);
    assert_eq!(read(&hello(&[alpn(&[&longest])])).alpn().next(), Some(longest.as_bytes()));
    for data in [&b""[..], b"\0\0", b"\0\x01\0", b"\0\x03\x02h2\0", b"\0\x02\x02h", b"\0\x04\x02h2\0", b"\0\x03\x03h2"]
    {
        assert_eq!(parse(&hello(&[extension(16, data)])), Err(Malformed::Alpn), "{data:?}");
    }
}

/// The inner name is for the server that has the key; whoever forwards sees the outer one.
#[test]
fn an_encrypted_hello_goes_where_its_outer_name_says() {
    // Outer type, HPKE suite, configuration 7, an encapsulated key, a payload.
    let data = [&[0, 0, 1, 0, 1, 7][..], &counted(2, &[5; 32]), &counted(2, &[6; 239])].concat();
    let bytes = hello(&[name(b"public.example"), extension(0xfe0d, &data), alpn(&["h2"])]);
    assert_eq!(name_of(&bytes).as_deref(), Some("public.example"));
}

#[test]
fn something_else_is_seen_at_once() {
    for bytes in
        [&b"GET / HTTP/1.1"[..], b"\x16\x02", b"\x16\xfe\xff\0\0", b"\x15\x03\x01\0\x02", b"\0", b"\x80\x2e\x01\0\x02"]
    {
        assert_eq!(parse(bytes), Ok(Parsed::NotTls), "{bytes:?}");
    }
    for bytes in [&b""[..], b"\x16", b"\x16\x03", b"\x16\x03\x01", b"\x16\x03\x01\x02", b"\x16\x03\x09\x02\0\x01"] {
        assert_eq!(parse(bytes), Ok(Parsed::More), "{bytes:?}");
    }
}

#[test]
fn records_that_nobody_may_send() {
    let whole = with(&[name(b"a.test")]);
    let (start, rest) = whole.split_at(20);
    let interrupted = |between: &[u8]| parse(&[&record(start)[..], between, &record(rest)].concat()).unwrap_err();
    assert_eq!(interrupted(b"\x14\x03\x03\0\x01\x01"), Malformed::Interrupted);
    assert_eq!(interrupted(b"\x15\x03\x03\0\x02\x01\0"), Malformed::Interrupted);
    assert_eq!(interrupted(b"\x16\x04\x03\0\x01\0"), Malformed::RecordVersion);
    assert_eq!(interrupted(b"\x16\x03\x03\0\0"), Malformed::RecordEmpty);
    assert_eq!(interrupted(b"\x16\x03\x03\x40\x01"), Malformed::RecordTooLong);
    assert_eq!(parse(b"\x16\x03\x01\0\0"), Err(Malformed::RecordEmpty));
    assert_eq!(parse(b"\x16\x03\x01\x40\x01"), Err(Malformed::RecordTooLong));
    assert_eq!(parse(b"\x16\x03\x01\x40\0"), Ok(Parsed::More));
    // A HelloRequest, and what a server sends.
    assert_eq!(parse(b"\x16\x03\x01\0\x04\0"), Err(Malformed::OtherMessage));
    assert_eq!(parse(b"\x16\x03\x01\0\x01\x02\x16"), Err(Malformed::OtherMessage));
}

#[test]
fn fields_that_do_not_fit() {
    let good = [fields(), counted(2, &name(b"a.test"))].concat();
    let refused = |body: &[u8]| parse(&record(&message(body))).unwrap_err();
    for length in (0..good.len()).filter(|&length| length != fields().len()) {
        assert_eq!(refused(&good[..length]), Malformed::Field, "{length} bytes");
    }
    assert_eq!(refused(&[&good[..], &[0]].concat()), Malformed::Field);
    assert_eq!(refused(&[&[2, 0][..], &good[2..]].concat()), Malformed::Version);
    assert_eq!(refused(&[&[0xfe, 0xfd][..], &good[2..]].concat()), Malformed::Version);
    let start = &good[..34];
    let (suites, compressions) = (counted(2, &[0, 1]), counted(1, &[0]));
    let id = counted(1, &[]);
    assert!(parse(&record(&message(&[start, &id, &suites, &compressions].concat()))).is_ok());
    assert_eq!(refused(&[start, &counted(1, &[0; 33]), &suites, &compressions].concat()), Malformed::Field);
    assert_eq!(refused(&[start, &id, &counted(2, &[]), &compressions].concat()), Malformed::Field);
    assert_eq!(refused(&[start, &id, &counted(2, &[0, 1, 2]), &compressions].concat()), Malformed::Field);
    assert_eq!(refused(&[start, &id, &suites, &counted(1, &[])].concat()), Malformed::Field);
    // An extension that reaches beyond its list.
    assert_eq!(refused(&[fields(), counted(2, &[0, 21, 0, 1])].concat()), Malformed::Field);
}

#[test]
fn bounds() {
    let many = |count: u16| hello(&(0..count).map(|kind| extension(1000 + kind, b"")).collect::<Vec<_>>());
    let most = u16::try_from(EXTENSIONS_MAX).unwrap();
    assert!(parse(&many(most)).is_ok());
    assert_eq!(parse(&many(most + 1)), Err(Malformed::TooManyExtensions));

    let padded = |bytes: usize| {
        let rest = bytes - with(&[name(b"a.test"), extension(21, b"")]).len();
        with(&[name(b"a.test"), extension(21, &vec![0; rest])])
    };
    let largest = padded(HELLO_BYTES_MAX);
    assert_eq!(largest.len(), HELLO_BYTES_MAX);
    for bytes in [cut(&largest, RECORD_BYTES_MAX), cut(&largest, 100)] {
        assert_eq!(name_of(&bytes).as_deref(), Some("a.test"));
    }
    // As soon as the length is there: nobody waits for what is too long.
    let too_large = cut(&padded(HELLO_BYTES_MAX + 1), RECORD_BYTES_MAX);
    assert_eq!(parse(&too_large[..9]), Err(Malformed::TooLong));
    assert_eq!(parse(&too_large[..8]), Ok(Parsed::More));
    // Small enough, and cut too small.
    let crumbs = cut(&largest, 1);
    assert_eq!(parse(&crumbs[..STREAM_BYTES_MAX - 1]), Ok(Parsed::More));
    assert_eq!(parse(&crumbs[..STREAM_BYTES_MAX]), Err(Malformed::TooLong));
    assert_eq!(parse(&crumbs), Err(Malformed::TooLong));
    let post_quantum = cut(&padded(2000), 1);
    assert_eq!(name_of(&post_quantum).as_deref(), Some("a.test"));
}

/// Hellos whole, damaged, and cut into records.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let some_extension = prop_oneof![
        3 => "[a-zA-Z0-9._-]{0,20}".prop_map(|text| name(text.as_bytes())),
        1 => Just(name(b"192.0.2.1")),
        3 => prop::collection::vec("[a-z0-9/.]{0,8}", 0..4)
            .prop_map(|names| alpn(&names.iter().map(String::as_str).collect::<Vec<_>>())),
        3 => (40u16..60, prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(kind, data)| extension(kind, &data)),
        1 => (0u16..20, prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(kind, data)| extension(kind, &data)),
    ];
    let whole = prop::collection::vec(some_extension, 0..5).prop_map(|extensions| with(&extensions));
    let records = (whole, prop::collection::vec(1usize..80, 1..6), prop::collection::vec(any::<u8>(), 0..9)).prop_map(
        |(message, sizes, behind)| {
            let mut rest = &message[..];
            let mut stream = Vec::new();
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (fragment, next) = rest.split_at(rest.len().min(*size));
                stream.extend(record(fragment));
                rest = next;
            }
            [stream, behind].concat()
        },
    );
    let whole = records.boxed();
    let damaged = (whole.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, place, byte)| {
        let place = place.index(bytes.len());
        bytes[place] = byte;
        bytes
    });
    let shortened = (whole.clone(), any::<prop::sample::Index>()).prop_map(|(mut bytes, place)| {
        bytes.remove(place.index(bytes.len()));
        bytes
    });
    let odd = prop::collection::vec(any::<u8>(), 0..100).prop_map(|rest| [&[22, 3, 1, 0][..], &rest].concat());
    prop_oneof![2 => whole, 3 => damaged, 1 => shortened, 1 => odd]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    /// What is said of the first bytes is said of all.
    #[test]
    fn any_split_is_the_whole(bytes in stream()) {
        let whole = parse(&bytes);
        let mut decided = false;
        for length in 0..=bytes.len() {
            let part = parse(&bytes[..length]);
            prop_assert!(!decided || part != Ok(Parsed::More), "taken back at {}", length);
            if part != Ok(Parsed::More) {
                decided = true;
                prop_assert_eq!(&part, &whole, "decided at {}", length);
            }
        }
        if let Ok(Parsed::Hello(hello)) = whole {
            prop_assert!(hello.alpn().all(|name| !name.is_empty()));
            if let Some(name) = hello.server_name() {
                let name = name.as_str();
                prop_assert!(!name.is_empty() && !name.ends_with('.') && name == name.to_ascii_lowercase());
            }
        }
    }

    /// How a hello is cut into records says nothing.
    #[test]
    fn any_fragments_are_one_message(text in "[a-z]{1,20}(\\.[a-z]{1,9}){0,3}", pad in 0usize..3000, bytes in 1usize..700) {
        let message = with(&[alpn(&["h2"]), extension(21, &vec![0; pad]), name(text.as_bytes())]);
        let (one, many) = (record(&message), cut(&message, bytes));
        prop_assert_eq!(name_of(&many), Some(text));
        prop_assert_eq!(read(&many), read(&one));
    }
}
