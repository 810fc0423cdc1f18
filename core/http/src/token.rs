//! Field lines, one pass, strict: what RFC 9112 section 5 lets a recipient forgive is refused.
//!
//! This is the innermost loop of the gateway: every byte of every head goes through it. It stands
//! in for a tokenizer library because it does what we would have to check again behind one (line
//! ends, control characters, names) in the same pass; a property test holds it against httparse.

use crate::field::{Field, Known, Span};
use crate::reject::Reject;

/// Bytes of a token (RFC 9110 section 5.6.2), by table.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(
                byte as u8,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    table
};

#[inline]
pub(crate) fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// One line of a field section.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Field {
        name: Span,
        value: Span,
        /// Where the next line begins.
        next: usize,
    },
    /// The empty line that ends the section; `next` is behind it.
    End { next: usize },
    /// The line has not come in full.
    Partial,
}

/// Reads the line that begins at `start`.
///
/// # Errors
/// `FieldSyntax`: no name, a byte that a name cannot have, white space before the colon, a folded
/// line, a control character in the value. `ControlCharacter`: a line that ends in a bare LF.
#[inline]
pub(crate) fn line(bytes: &[u8], start: usize) -> Result<Line, Reject> {
    let mut at = start;
    while let Some(&byte) = bytes.get(at) {
        if !is_token_byte(byte) {
            break;
        }
        at += 1;
    }
    let name_end = at;
    match bytes.get(at) {
        None => return Ok(Line::Partial),
        Some(b':') if at > start => at += 1,
        Some(b'\r') if at == start => {
            return match bytes.get(at + 1) {
                None => Ok(Line::Partial),
                Some(b'\n') => Ok(Line::End { next: at + 2 }),
                Some(_) => Err(Reject::ControlCharacter),
            };
        }
        Some(b'\n') if at == start => return Err(Reject::ControlCharacter),
        Some(_) => return Err(Reject::FieldSyntax),
    }
    while matches!(bytes.get(at), Some(b' ' | b'\t')) {
        at += 1;
    }
    let value_start = at;
    at = value_end(bytes, at);
    match bytes.get(at..) {
        Some([b'\r', b'\n', ..]) => {}
        Some([] | [b'\r']) | None => return Ok(Line::Partial),
        Some([b'\n', ..]) => return Err(Reject::ControlCharacter),
        Some(_) => return Err(Reject::FieldSyntax),
    }
    let mut trimmed = at;
    while trimmed > value_start && matches!(bytes.get(trimmed - 1), Some(b' ' | b'\t')) {
        trimmed -= 1;
    }
    let span = |start: usize, end: usize| Span { start: start as u32, end: end as u32 };
    Ok(Line::Field { name: span(start, name_end), value: span(value_start, trimmed), next: at + 2 })
}

/// Reads the field lines from `start` on into `fields`, up to the empty line behind them. Says where
/// that ends and which known names there are, a bit each; `None` where it has not come yet. `note`
/// gets what is known of each field whose name is known: its index, name and value.
///
/// # Errors
/// Those of `line`, `TooManyFields`, and what `note` refuses.
#[inline]
pub(crate) fn section(
    bytes: &[u8],
    start: usize,
    fields_max: usize,
    fields: &mut Vec<Field>,
    mut note: impl FnMut(usize, Known, &[u8]) -> Result<(), Reject>,
) -> Result<Option<(usize, u64)>, Reject> {
    let mut at = start;
    let mut present = 0;
    loop {
        match line(bytes, at)? {
            Line::Field { name, value, next } => {
                if fields.len() == fields_max {
                    return Err(Reject::TooManyFields);
                }
                let known = Known::of(name.of_bytes(bytes));
                if known != Known::Other {
                    present |= 1 << known as u8;
                    note(fields.len(), known, value.of_bytes(bytes))?;
                }
                fields.push(Field { name, value, known });
                at = next;
            }
            Line::End { next } => return Ok(Some((next, present))),
            Line::Partial => return Ok(None),
        }
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Where the first byte is that a value cannot have: a control character other than the tab.
#[inline]
fn value_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    loop {
        // Eight bytes at a time. A byte below 0x20 underflows into its highest bit; 0x7f becomes 0
        // when it is turned around. Both tests may wrongly point behind the first real find, never
        // before it, and the byte loop below decides.
        while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
            let word = u64::from_le_bytes(*chunk);
            let below = word.wrapping_sub(ONES * 0x20) & !word;
            let turned = word ^ (ONES * 0x7f);
            let is_delete = turned.wrapping_sub(ONES) & !turned;
            let found = (below | is_delete) & HIGHS;
            if found != 0 {
                at += (found.trailing_zeros() / 8) as usize;
                break;
            }
            at += 8;
        }
        while let Some(&byte) = bytes.get(at) {
            if (byte < 0x20 && byte != b'\t') || byte == 0x7f {
                return at;
            }
            at += 1;
            if byte == b'\t' {
                break;
            }
        }
        if at >= bytes.len() {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use proptest::prelude::*;

    use super::*;

    /// Names and values.
    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    /// All lines of a section, as text.
    fn ours(section: &[u8]) -> Result<Option<Fields>, Reject> {
        let mut fields = Vec::new();
        let mut at = 0;
        loop {
            match line(section, at)? {
                Line::Field { name, value, next } => {
                    fields.push((name.of_bytes(section).to_vec(), value.of_bytes(section).to_vec()));
                    at = next;
                }
                Line::End { .. } => return Ok(Some(fields)),
                Line::Partial => return Ok(None),
            }
        }
    }

    /// What httparse makes of it behind a request line.
    fn theirs(section: &[u8]) -> Option<Fields> {
        let mut text = b"GET / HTTP/1.1\r\n".to_vec();
        text.extend_from_slice(section);
        let mut table = [const { MaybeUninit::uninit() }; 64];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(&text, &mut table) {
            Ok(httparse::Status::Complete(_)) => {
                Some(request.headers.iter().map(|header| (header.name.into(), header.value.to_vec())).collect())
            }
            _ => None,
        }
    }

    #[test]
    fn lines() {
        assert_eq!(ours(b"A: b\r\nC:\td \t\r\nE:\r\n\r\n").unwrap().unwrap().len(), 3);
        assert_eq!(ours(b"A: b\r\n").unwrap(), None);
        assert_eq!(ours(b"A: b\r").unwrap(), None);
        for (bad, why) in [
            (&b"A : b\r\n\r\n"[..], Reject::FieldSyntax),
            (b": b\r\n\r\n", Reject::FieldSyntax),
            (b" A: b\r\n\r\n", Reject::FieldSyntax),
            (b"A: b\n\r\n", Reject::ControlCharacter),
            (b"A: b\r\r\n\r\n", Reject::FieldSyntax),
            (b"A: b\r\n c\r\n\r\n", Reject::FieldSyntax),
            (b"A: 0123456789\x7f\r\n\r\n", Reject::FieldSyntax),
            (b"A: 0123456789\0\r\n\r\n", Reject::FieldSyntax),
            (b"A: b\r\n\n", Reject::ControlCharacter),
            (b"A: b\r\n\rx", Reject::ControlCharacter),
        ] {
            assert_eq!(ours(bad), Err(why), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// Whatever we take, httparse takes in the same way; what it refuses, we refuse.
        #[test]
        fn agrees_with_httparse(section in prop::collection::vec(prop::sample::select(b"aZ-_09:: \t\r\n\r\n\r\n~\"(,;\x00\x1f\x7f\x80\xff".to_vec()), 0..60)) {
            if let Ok(Some(fields)) = ours(&section) {
                prop_assert_eq!(Some(fields), theirs(&section));
            }
        }

        /// Well-formed sections are taken by both.
        #[test]
        fn takes_what_is_well_formed(fields in prop::collection::vec(("[A-Za-z0-9!#$%&'*+.^_`|~-]{1,30}", "[ -~\t\u{80}-\u{ff}]{0,80}"), 0..20)) {
            let mut section = Vec::new();
            for (name, value) in &fields {
                section.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            section.extend_from_slice(b"\r\n");
            let parsed = ours(&section).unwrap().unwrap();
            prop_assert_eq!(parsed.len(), fields.len());
            prop_assert_eq!(Some(parsed), theirs(&section));
        }

        /// A section cut anywhere is partial or already wrong, never complete.
        #[test]
        fn a_part_is_partial(value in "[ -~]{0,40}", cut in any::<prop::sample::Index>()) {
            let section = format!("Name: {value}\r\nOther: x\r\n\r\n").into_bytes();
            let part = &section[..cut.index(section.len())];
            prop_assert_eq!(ours(part), Ok(None));
        }
    }
}
