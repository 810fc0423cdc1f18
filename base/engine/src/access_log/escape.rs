//! Bytes of strangers in lines of ours: nothing that ends a line, a field or a quotation, and
//! nothing that a terminal obeys.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Inside quotation marks, or between two texts of a template: printable ASCII stays, the quote
/// and the backslash get a backslash, every other byte becomes `\xNN`.
pub(super) fn push_quotable(out: &mut Vec<u8>, text: &[u8]) {
    if is_plain(text) {
        out.extend_from_slice(text);
        return;
    }
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b' '..=b'~' => out.push(byte),
            _ => push_byte(out, byte),
        }
    }
}

/// The same for a field that ends at the next space, or where a quotation begins.
pub(super) fn push_word(out: &mut Vec<u8>, text: &[u8]) {
    if is_plain(text) && !text.contains(&b' ') {
        out.extend_from_slice(text);
        return;
    }
    for &byte in text {
        match byte {
            b' ' | b'"' => push_byte(out, byte),
            _ => push_quotable(out, &[byte]),
        }
    }
}

/// A JSON string with its quotation marks (RFC 8259 section 7). What is not UTF-8 becomes U+FFFD;
/// control characters, those of C1 too, and the two line separators of JavaScript are escaped.
pub(super) fn push_json(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if is_plain(text) {
        out.extend_from_slice(text);
    } else {
        for chunk in text.utf8_chunks() {
            push_json_text(out, chunk.valid());
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
    out.push(b'"');
}

/// Nothing has to be escaped, as nearly always. Looks at every byte without a branch, so that the
/// compiler can take many at once.
fn is_plain(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~') & (*byte != b'"') & (*byte != b'\\'))
}

fn push_json_text(out: &mut Vec<u8>, text: &str) {
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                out.extend_from_slice(b"\\u");
                let code = character as u32;
                out.extend([12, 8, 4, 0].map(|shift| DIGITS[(code >> shift & 15) as usize]));
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn push_byte(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(b"\\x");
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}
