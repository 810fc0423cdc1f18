//! Texts of health checks.

use super::Wrong;
use crate::limits;
use crate::report::quoted;

/// A text that begins so is bytes in hexadecimal.
const HEX: &str = "hex:";

pub(crate) const BYTES_PATTERN: &str = r"^[\s\S]+$";

/// Text as it stands, or `hex:` and bytes, with spaces between them as one likes.
pub(crate) fn bytes(text: &str) -> Result<Vec<u8>, Wrong> {
    let found = match text.strip_prefix(HEX) {
        Some(digits) => hexadecimal(digits)?,
        None => text.as_bytes().to_vec(),
    };
    if found.is_empty() {
        let wrong = Wrong::new(if text.is_empty() { "the text is empty" } else { "there are no bytes behind `hex:`" });
        return Err(wrong.help("leave the key out where there is nothing to say"));
    }
    if found.len() > limits::CHECK_BYTES {
        let message = format!("a text of {} bytes is too long: at most {}", found.len(), limits::CHECK_BYTES);
        return Err(Wrong::new(message));
    }
    Ok(found)
}

fn hexadecimal(text: &str) -> Result<Vec<u8>, Wrong> {
    let form = "behind `hex:` each byte is two digits of 0-9 and a-f, such as \"hex:50 49 4e 47 0d 0a\"";
    let mut bytes = Vec::new();
    for word in text.split(' ') {
        if let Some(wrong) = word.chars().find(|digit| !digit.is_ascii_hexdigit()) {
            let message = format!("{} is no hexadecimal digit", quoted(&wrong.to_string()));
            return Err(Wrong::new(message).help(format!("{form}; text is written without `hex:`")));
        }
        let digits: Vec<u8> =
            word.bytes().filter_map(|digit| char::from(digit).to_digit(16)).map(|digit| digit as u8).collect();
        let (pairs, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() {
            let message = format!("{} has an odd number of digits", quoted(word));
            return Err(Wrong::new(message).help(form));
        }
        bytes.extend(pairs.iter().map(|[high, low]| high * 16 + low));
    }
    Ok(bytes)
}

pub(crate) const CREDENTIAL_PATTERN: &str = r"^[^\x00]+$";

/// A user, a password, a database: whatever its server takes.
pub(crate) fn credential(text: &str) -> Result<(), Wrong> {
    // Not repeated in the message: it may be a password.
    if text.is_empty() {
        return Err(Wrong::new("the text is empty").help("leave the key out where there is none"));
    }
    if text.contains('\0') {
        return Err(Wrong::new("there is a NUL character in it"));
    }
    if text.len() > limits::CREDENTIAL_BYTES {
        let message = format!("a text of {} bytes is too long: at most {}", text.len(), limits::CREDENTIAL_BYTES);
        return Err(Wrong::new(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_bytes() {
        for (text, expected) in [
            ("PING\r\n", &b"PING\r\n"[..]),
            ("hex:0d0A", b"\r\n"),
            ("hex: 00  ff7f ", b"\0\xff\x7f"),
            ("HEX:00", b"HEX:00"),
            (" hex:00", b" hex:00"),
            ("수문", "수문".as_bytes()),
        ] {
            assert_eq!(bytes(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "hex:", "hex:  ", "hex:0", "hex:0 0", "hex:0x00", "hex:zz", "hex:00\n", "hex:é"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        let most = "ab".repeat(limits::CHECK_BYTES);
        assert!(bytes(&most).is_err());
        assert_eq!(bytes(&format!("hex:{most}")).map(|bytes| bytes.len()), Ok(limits::CHECK_BYTES));
    }
}
