//! What connection ids of QUIC are made of, in hexadecimal.

use sumun_hello::quic_lb::ServerId;

use super::Wrong;
use crate::report::quoted;

pub(crate) const SERVER_ID_PATTERN: &str = "^([0-9A-Fa-f]{2}){1,15}$";

/// What a server is called in the connection ids that it makes.
pub(crate) fn server_id(text: &str) -> Result<ServerId, Wrong> {
    let found = hexadecimal(text).and_then(|bytes| ServerId::new(&bytes));
    found.ok_or_else(|| {
        Wrong::new(format!("{} is no id of a server", quoted(text)))
            .help("it is 1 to 15 bytes, each of them two digits of 0-9 and a-f, such as 0a01")
    })
}

pub(crate) const KEY_PATTERN: &str = "^[0-9A-Fa-f]{32}$";

/// A key of AES-128.
pub(crate) fn key(text: &str) -> Result<[u8; 16], Wrong> {
    // Not repeated in the message: it is a secret.
    hexadecimal(text).and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        Wrong::new("this is no key of 16 bytes").help("it is 32 digits of 0-9 and a-f, the same that the servers have")
    })
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let byte = |&[high, low]: &[u8; 2]| Some(digit(high)? * 16 + digit(low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_keys() {
        for (text, bytes) in [("00", &[0][..]), ("0aFf", &[10, 255]), (&"7f".repeat(15), &[127; 15])] {
            assert_eq!(server_id(text).map(|id| id.as_bytes().to_vec()), Ok(bytes.to_vec()), "{text}");
        }
        for text in ["", "0", "000", "0x01", "0g", " 01", "수", &"00".repeat(16)] {
            assert!(server_id(text).is_err(), "{text}");
        }
        assert_eq!(key("000102030405060708090a0b0c0D0E0F").map(|key| (key[1], key[15])), Ok((1, 15)));
        for text in ["", "00", &"00".repeat(15), &"00".repeat(17), &"0x".repeat(16)] {
            assert!(key(text).is_err(), "{text}");
        }
    }
}
