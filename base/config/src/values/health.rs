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

pub(crate) const DOMAIN_NAME_PATTERN: &str = r"^[!-~]+$";

/// Labels as they stand in a message: each behind its length, and an empty one at the end (RFC 1035
/// section 3.1).
pub(crate) fn domain_name(text: &str) -> Result<Vec<u8>, Wrong> {
    let no_name = |why: &str| Wrong::new(format!("{} is no name of DNS: {why}", quoted(text)));
    let help = "a name is labels with dots between them, such as app.example.com; `.` is the root";
    if let Some(wrong) = text.chars().find(|one| !one.is_ascii_graphic()) {
        let what =
            if wrong.is_ascii() { "has a space or a control character" } else { "has a letter that is not ASCII" };
        let help = if wrong.is_ascii() {
            help
        } else {
            "write it as it stands in a message, with labels that begin with xn--"
        };
        return Err(no_name(&format!("it {what}")).help(help));
    }
    if text.contains(['\\', '/', ':', '@']) {
        return Err(no_name("it has a character that names do not have").help(help));
    }
    let labels = if text == "." { "" } else { text.strip_suffix('.').unwrap_or(text) };
    let mut wire = Vec::new();
    for label in labels.split('.').filter(|_| text != ".") {
        match u8::try_from(label.len()) {
            Ok(0) => return Err(no_name("it has an empty label").help(help)),
            Ok(length @ 1..=63) => wire.push(length),
            _ => return Err(no_name("it has a label of more than 63 characters").help(help)),
        }
        wire.extend(label.bytes());
    }
    wire.push(0);
    if wire.len() > DOMAIN_NAME_BYTES {
        return Err(no_name("it is longer than 253 characters").help(help));
    }
    Ok(wire)
}

/// Of a whole name in a message (RFC 1035 section 2.3.4).
const DOMAIN_NAME_BYTES: usize = 255;

pub(crate) const ARGUMENT_PATTERN: &str = r"^[^\x00]*$";

/// A word of a command.
pub(crate) fn argument(text: &str) -> Result<(), Wrong> {
    if text.contains('\0') {
        return Err(Wrong::new(format!("{} holds a NUL character", quoted(text))));
    }
    if text.len() > limits::ARGUMENT_BYTES {
        let message = format!("a text of {} bytes is too long: at most {}", text.len(), limits::ARGUMENT_BYTES);
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

    #[test]
    fn names_of_dns() {
        for (text, wire) in
            [(".", &b"\0"[..]), ("example", b"\x07example\0"), ("_a.B-c.example.", b"\x02_a\x03B-c\x07example\0")]
        {
            assert_eq!(domain_name(text).as_deref(), Ok(wire), "{text}");
        }
        let long = ["a".repeat(61), "b".repeat(63), "c".repeat(63), "d".repeat(63)].join(".");
        assert_eq!(domain_name(&long).map(|wire| wire.len()), Ok(255));
        for text in
            ["", "..", "a..b", ".a", "a b", "a\\.b", "수문.example", "a:53", &format!("e{long}"), &"a".repeat(64)]
        {
            assert!(domain_name(text).is_err(), "{text}");
        }
    }
}
