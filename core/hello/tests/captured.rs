//! ClientHellos of real programs, as they came over loopback: OpenSSL 3.0, curl 7.88, Python 3.11,
//! Node.js 20, Go 1.19 and Chromium 156 (with a post-quantum key share and an encrypted ClientHello).

use std::fs;

use sumun_hello::client_hello::{ClientHello, Parsed, parse};

/// The file, the name and the protocols that its client was told to ask for.
const CAPTURED: [(&str, Option<&str>, &[&str]); 13] = [
    ("chromium", Some("browser.example"), &["h2", "http/1.1"]),
    ("curl", Some("shop.example.org"), &["h2", "http/1.1"]),
    ("curl-http1", Some("shop.example.org"), &["http/1.1"]),
    ("go", Some("go.example"), &["h2", "http/1.1"]),
    ("node", Some("node.example"), &["h2"]),
    ("openssl-address", None, &[]),
    ("openssl-fragments", Some("fragments.example"), &[]),
    ("openssl-no-name", None, &[]),
    ("openssl-tls10", Some("old.example"), &[]),
    ("openssl-tls12", Some("a.example"), &[]),
    ("openssl-tls13", Some("www.example.com"), &["h2", "http/1.1"]),
    ("python", Some("xn--bcher-kva.example"), &["acme-tls/1"]),
    ("python-underscore", Some("_under.score.example"), &[]),
];

fn captured(name: &str) -> Vec<u8> {
    let folder = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    fs::read(folder.join("tests/captured").join(name).with_extension("bin")).expect("a file")
}

fn read(bytes: &[u8]) -> ClientHello<'_> {
    match parse(bytes) {
        Ok(Parsed::Hello(hello)) => hello,
        other => panic!("{other:?}"),
    }
}

/// The payloads of the records, one behind the other.
fn payload(stream: &[u8]) -> Vec<u8> {
    let mut rest = stream;
    let mut payload = Vec::new();
    while let [22, 3, _, high, low, behind @ ..] = rest {
        let (fragment, next) = behind.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        payload.extend_from_slice(fragment);
        rest = next;
    }
    assert!(rest.is_empty(), "the client has sent nothing else");
    payload
}

fn cut(message: &[u8], bytes: usize) -> Vec<u8> {
    let record = |fragment: &[u8]| {
        let [high, low] = u16::try_from(fragment.len()).expect("short").to_be_bytes();
        [&[22, 3, 1, high, low], fragment].concat()
    };
    message.chunks(bytes).flat_map(record).collect()
}

#[test]
fn every_client_is_understood() {
    for (file, name, protocols) in CAPTURED {
        let bytes = captured(file);
        let hello = read(&bytes);
        assert_eq!(hello.server_name().as_ref().map(|name| name.as_str()), name, "{file}");
        let found: Vec<&[u8]> = hello.alpn().collect();
        if file == "openssl-fragments" {
            assert_eq!((found.len(), found.last()), (40, Some(&&b"proto-39-abcdefghij"[..])));
        } else {
            assert_eq!(found, protocols.iter().map(|name| name.as_bytes()).collect::<Vec<_>>(), "{file}");
        }
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Ok(Parsed::More), "{file}, {length} bytes");
        }
    }
}

#[test]
fn every_client_is_understood_in_fragments() {
    for (file, ..) in CAPTURED {
        let message = payload(&captured(file));
        let whole = cut(&message, message.len());
        for bytes in [1, 2, 3, 4, 5, 43, 100, 512, message.len() - 1] {
            assert_eq!(read(&cut(&message, bytes)), read(&whole), "{file} in records of {bytes} bytes");
        }
    }
}

/// The hello of OpenSSL that was told to send records of 512 bytes is one message.
#[test]
fn records_of_a_real_client() {
    let bytes = captured("openssl-fragments");
    let message = payload(&bytes);
    assert!(bytes.len() >= message.len() + 3 * 5, "three records at least");
    assert_eq!(read(&bytes), read(&cut(&message, message.len())));
}

/// Whichever byte is another, the hello is understood or refused, and never a panic.
#[test]
fn no_byte_hurts() {
    for (file, ..) in CAPTURED {
        let mut bytes = captured(file);
        for place in 0..bytes.len() {
            let right = bytes[place];
            for wrong in [0, 1, 0x7f, 0xff, right.wrapping_add(1), right.wrapping_sub(1)] {
                bytes[place] = wrong;
                if let Ok(Parsed::Hello(hello)) = parse(&bytes) {
                    assert!(hello.alpn().all(|name| !name.is_empty()));
                    assert!(hello.server_name().is_none_or(|name| !name.as_str().is_empty()));
                }
            }
            bytes[place] = right;
        }
    }
}
