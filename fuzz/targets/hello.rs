//! What must hold for `core/hello` whatever is thrown at it. A broken rule is a panic.
//!
//! Included by each fuzz target and by the plain test that plays the kept corpus.

// Each of those that include this file uses a part of it.
#![allow(dead_code)]

mod dice;

use dice::Dice;
use sumun_hello::client_hello::{Parsed, parse};
use sumun_hello::limits::{NONCE_BYTES, SERVER_ID_BYTES};
use sumun_hello::quic::{self, Header, VERSION_1, VERSION_2};
use sumun_hello::quic_lb::{self, BlockCipher, Config};

/// Longer inputs teach nothing and cost time, bytes.
pub(crate) const INPUT_MAX: usize = 2 * 1024;
const RANDOM_CUTS: usize = 3;

// --- client_hello: the first verdict is the last, and records say nothing -------------------------

/// The input as the start of a TCP stream.
pub(crate) fn client_hello(data: &[u8]) {
    let data = data.get(..INPUT_MAX).unwrap_or(data);
    let whole = parse(data);
    let decided = (0..=data.len()).find(|&length| parse(&data[..length]) != Ok(Parsed::More));
    for length in decided.unwrap_or(data.len())..=data.len() {
        assert_eq!(parse(&data[..length]), whole, "{length} bytes");
    }
    let Ok(Parsed::Hello(hello)) = &whole else { return };
    assert!(hello.alpn().all(|name| !name.is_empty()), "a protocol has a name");
    if let Some(name) = hello.server_name() {
        let name = name.as_str();
        assert!((1..=255).contains(&name.len()) && !name.ends_with('.'), "{name:?}");
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii_graphic()), "{name:?}");
        assert!(name.parse::<std::net::IpAddr>().is_err(), "{name:?}");
    }
    let message = payload(data);
    let mut dice = Dice::of(data);
    for _ in 0..RANDOM_CUTS {
        let pieces = dice.cut(&message);
        let stream: Vec<u8> = pieces.iter().filter(|piece| !piece.is_empty()).flat_map(|piece| record(piece)).collect();
        assert_eq!(parse(&stream), whole, "in other records");
    }
    assert_eq!(parse(&record(&message)), whole, "in one record");
}

/// The payloads of the whole records that a stream begins with, and of one that is cut off.
fn payload(stream: &[u8]) -> Vec<u8> {
    let mut rest = stream;
    let mut payload = Vec::new();
    while let [22, 3, _, high, low, behind @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(behind.len());
        payload.extend_from_slice(&behind[..length]);
        rest = &behind[length..];
    }
    payload
}

fn record(fragment: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(fragment.len()).expect("short").to_be_bytes();
    [&[22, 3, 1, high, low], fragment].concat()
}

// --- quic_header: headers say what their bytes say, and ids lead somewhere or nowhere --------------

/// The input as a datagram, and the connection id in it under every configuration.
pub(crate) fn quic_header(data: &[u8]) {
    let data = data.get(..INPUT_MAX).unwrap_or(data);
    let header = quic::parse(data);
    let connection_id = match header {
        Header::NotQuic => {
            assert!(data.first().is_none_or(|first| first & 0x80 != 0), "what is no long header is a short one");
            return;
        }
        Header::Short(behind) => {
            assert_eq!(behind, &data[1..]);
            behind
        }
        Header::Long(long) => {
            let ids = [long.destination, long.source];
            let lengths = ids.map(|id| id.len() as u8);
            let written =
                [&data[..1], &long.version.to_be_bytes(), &lengths[..1], ids[0], &lengths[1..], ids[1]].concat();
            assert!(data.starts_with(&written), "the header says what it is made of");
            assert_eq!(quic::parse(&written), header, "and nothing behind it matters");
            assert_eq!(quic::parse(&written[..written.len() - 1]), Header::NotQuic, "less is no header");
            let is_known = matches!(long.version, VERSION_1 | VERSION_2);
            assert!(!is_known || lengths.iter().all(|&length| length <= 20));
            long.destination
        }
    };
    for config_id in 0..7 {
        for server_id_bytes in SERVER_ID_BYTES {
            for nonce_bytes in NONCE_BYTES {
                for cipher in [None, Some(Toy)] {
                    let Some(config) = Config::new(config_id, server_id_bytes, nonce_bytes, cipher) else { continue };
                    let found = quic_lb::decode(connection_id, &config);
                    let is_ours = quic_lb::config_id(connection_id) == Some(config_id);
                    assert_eq!(found.is_some(), is_ours && connection_id.len() > server_id_bytes + nonce_bytes);
                    assert!(found.is_none_or(|id| id.as_bytes().len() == server_id_bytes));
                }
            }
        }
    }
}

/// Not secret, but there and back.
struct Toy;

impl BlockCipher for Toy {
    fn encrypt_block(&self, block: [u8; 16]) -> [u8; 16] {
        block.map(|byte| byte.wrapping_mul(7).wrapping_add(3))
    }

    fn decrypt_block(&self, block: [u8; 16]) -> [u8; 16] {
        block.map(|byte| byte.wrapping_sub(3).wrapping_mul(183))
    }
}
