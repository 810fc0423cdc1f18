//! Header blocks into lines of text.

use sumun_http::Known;

use super::static_table::{self, ENTRIES};
use super::table::Table;
use super::{CompressionError, Flaw, LINE_END, Line, Name, Pseudo, SEPARATOR, huffman, integer};
use crate::limits::{SIZE_UPDATES_MAX, TABLE_BYTES_MAX};

/// What one direction of a connection has taught us.
#[derive(Debug, Default)]
pub struct Decoder {
    table: Table,
}

impl Decoder {
    /// Begins a header block, which has to be all there. It must be read to its end, or the tables
    /// no longer agree.
    pub fn read<'a>(&'a mut self, block: &'a [u8]) -> Reader<'a> {
        Reader { table: &mut self.table, block, at: 0, size_updates: 0, may_resize: true }
    }
}

/// A header block that is being read.
#[derive(Debug)]
pub struct Reader<'a> {
    table: &'a mut Table,
    block: &'a [u8],
    at: usize,
    size_updates: u32,
    /// No field has come yet: the table may still be resized (RFC 7541 section 4.2).
    may_resize: bool,
}

/// How a literal is kept (RFC 7541 section 6.2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeping {
    Indexed,
    NotIndexed,
    NeverIndexed,
}

impl Reader<'_> {
    /// Appends the next field to `text` as a line; `None` behind the last one.
    ///
    /// One line is at most 8/5 of the block, or an entry of a table: a caller who looks at the
    /// length of its text after each line and goes on with `skip` is safe from bombs.
    ///
    /// # Errors
    /// The block breaks RFC 7541.
    #[inline]
    pub fn next(&mut self, text: &mut Vec<u8>) -> Result<Option<Line>, CompressionError> {
        loop {
            let Some(&first) = self.block.get(self.at) else { return Ok(None) };
            if first & 0x80 != 0 {
                self.may_resize = false;
                let index = integer::read(self.block, &mut self.at, 7)?;
                return self.indexed(index, text).map(Some);
            }
            if first & 0xe0 == 0x20 {
                self.resize()?;
                continue;
            }
            self.may_resize = false;
            return self.literal(first, text).map(Some);
        }
    }

    /// Reads on to the end for the sake of the table alone, and says how many bytes of lines there
    /// would have been. `scratch` ends as it was.
    ///
    /// # Errors
    /// The block breaks RFC 7541.
    pub fn skip(&mut self, scratch: &mut Vec<u8>) -> Result<usize, CompressionError> {
        let before = scratch.len();
        let mut skipped: usize = 0;
        while let Some(&first) = self.block.get(self.at) {
            if first & 0x80 != 0 {
                self.may_resize = false;
                let index = integer::read(self.block, &mut self.at, 7)?;
                skipped = skipped.saturating_add(self.line_of(index)?.len());
            } else if self.next(scratch)?.is_some() {
                skipped = skipped.saturating_add(scratch.len() - before);
                scratch.truncate(before);
            }
        }
        Ok(skipped)
    }

    fn line_of(&self, index: usize) -> Result<&[u8], CompressionError> {
        // Index 0 wraps around to where no entry is (RFC 7541 section 6.1).
        let place = index.wrapping_sub(1);
        if let Some(entry) = ENTRIES.get(place) {
            return Ok(entry.line.as_bytes());
        }
        let age = place.wrapping_sub(static_table::LENGTH);
        self.table.entry(age).map(|(_, line)| line).ok_or(CompressionError)
    }

    #[inline]
    fn indexed(&self, index: usize, text: &mut Vec<u8>) -> Result<Line, CompressionError> {
        let start = text.len();
        let place = index.wrapping_sub(1);
        if let Some(entry) = ENTRIES.get(place) {
            text.extend_from_slice(entry.line.as_bytes());
            let (name_length, value_length) = (entry.name_length, entry.value_length());
            return Ok(Line { start, name_length, value_length, name: entry.name, flaw: None, never_indexed: false });
        }
        let (entry, line) = self.table.entry(place.wrapping_sub(static_table::LENGTH)).ok_or(CompressionError)?;
        text.extend_from_slice(line);
        let (name_length, value_length) = (usize::from(entry.name_length), usize::from(entry.value_length));
        Ok(Line { start, name_length, value_length, name: entry.name, flaw: entry.flaw, never_indexed: false })
    }

    fn literal(&mut self, first: u8, text: &mut Vec<u8>) -> Result<Line, CompressionError> {
        let (keeping, prefix) = match first & 0xf0 {
            0x00 => (Keeping::NotIndexed, 4),
            0x10 => (Keeping::NeverIndexed, 4),
            _ => (Keeping::Indexed, 6),
        };
        let start = text.len();
        let index = integer::read(self.block, &mut self.at, prefix)?;
        let (name, mut flaw) = if index == 0 {
            self.string(text)?;
            let name = text.get(start..).unwrap_or_default();
            let kind = name_of(name);
            (kind, (!is_sound_name(kind, name)).then_some(Flaw::Name))
        } else {
            self.copy_name(index, text)?
        };
        let name_length = text.len() - start;
        text.extend_from_slice(SEPARATOR);
        let value_start = text.len();
        self.string(text)?;
        let value = text.get(value_start..).unwrap_or_default();
        let value_length = value.len();
        if flaw.is_none() && !is_sound_value(value) {
            flaw = Some(Flaw::Value);
        }
        if keeping == Keeping::Indexed {
            let name_text = text.get(start..start + name_length).unwrap_or_default();
            self.table.insert(name_text, value, name, flaw);
        }
        text.extend_from_slice(LINE_END);
        let never_indexed = keeping == Keeping::NeverIndexed;
        Ok(Line { start, name_length, value_length, name, flaw, never_indexed })
    }

    /// Appends the name at `index`.
    fn copy_name(&self, index: usize, text: &mut Vec<u8>) -> Result<(Name, Option<Flaw>), CompressionError> {
        if let Some(entry) = ENTRIES.get(index - 1) {
            text.extend_from_slice(entry.line.as_bytes().get(..entry.name_length).unwrap_or_default());
            return Ok((entry.name, None));
        }
        let (entry, line) = self.table.entry(index - 1 - static_table::LENGTH).ok_or(CompressionError)?;
        text.extend_from_slice(line.get(..usize::from(entry.name_length)).unwrap_or_default());
        Ok((entry.name, entry.flaw.filter(|flaw| *flaw == Flaw::Name)))
    }

    /// Appends a string literal (RFC 7541 section 5.2).
    fn string(&mut self, text: &mut Vec<u8>) -> Result<(), CompressionError> {
        let is_coded = self.block.get(self.at).is_some_and(|first| first & 0x80 != 0);
        let length = integer::read(self.block, &mut self.at, 7)?;
        let string = self.block.get(self.at..self.at + length).ok_or(CompressionError)?;
        self.at += length;
        if is_coded {
            huffman::decode(string, text)
        } else {
            text.extend_from_slice(string);
            Ok(())
        }
    }

    /// Dynamic table size update (RFC 7541 section 6.3).
    fn resize(&mut self) -> Result<(), CompressionError> {
        let size = integer::read(self.block, &mut self.at, 5)?;
        self.size_updates += 1;
        if !self.may_resize || size > TABLE_BYTES_MAX || self.size_updates > SIZE_UPDATES_MAX {
            return Err(CompressionError);
        }
        self.table.resize(size);
        Ok(())
    }
}

fn name_of(name: &[u8]) -> Name {
    match name {
        [b':', ..] => Name::Pseudo(match name {
            b":authority" => Pseudo::Authority,
            b":method" => Pseudo::Method,
            b":path" => Pseudo::Path,
            b":protocol" => Pseudo::Protocol,
            b":scheme" => Pseudo::Scheme,
            b":status" => Pseudo::Status,
            _ => Pseudo::Unknown,
        }),
        _ => Name::Field(Known::of(name)),
    }
}

/// Bytes of a token (RFC 9110 section 5.6.2) without capitals.
static LOWER_TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = matches!(
            byte as u8,
            b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'
                | b'_' | b'`' | b'|' | b'~'
        );
        byte += 1;
    }
    table
};

fn is_sound_name(kind: Name, name: &[u8]) -> bool {
    match kind {
        // An unknown one is refused for that.
        Name::Pseudo(_) => true,
        Name::Field(_) => !name.is_empty() && name.iter().all(|&byte| LOWER_TOKEN[usize::from(byte)]),
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// No control character but tabs, and no white space at an end: what RFC 9113 section 8.2.1 asks
/// for, and what HTTP/1 servers behind us take without a second meaning.
fn is_sound_value(value: &[u8]) -> bool {
    if matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']) {
        return false;
    }
    let (chunks, rest) = value.as_chunks::<8>();
    let suspicious = chunks.iter().any(|chunk| {
        // A byte below 0x20 underflows into its highest bit, 0x7f turned around is zero. A carry
        // may point at a neighbour too many; the bytes themselves decide.
        let word = u64::from_le_bytes(*chunk);
        let below = word.wrapping_sub(ONES * 0x20) & !word;
        let turned = word ^ (ONES * 0x7f);
        let is_delete = turned.wrapping_sub(ONES) & !turned;
        (below | is_delete) & HIGHS != 0
    });
    let bytes = if suspicious { value } else { rest };
    bytes.iter().all(|&byte| (byte >= 0x20 || byte == b'\t') && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All lines of a block, as text.
    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<String, CompressionError> {
        let mut text = Vec::new();
        let mut reader = decoder.read(block);
        let mut length = 0;
        while let Some(line) = reader.next(&mut text)? {
            assert_eq!(line.start, length);
            length = text.len();
            assert_eq!(line.value_span().end as usize + LINE_END.len(), length);
        }
        Ok(String::from_utf8(text).unwrap())
    }

    fn flaw(block: &[u8]) -> Option<Flaw> {
        let mut text = Vec::new();
        Decoder::default().read(block).next(&mut text).unwrap().unwrap().flaw
    }

    #[test]
    fn what_breaks_a_rule() {
        for (block, why) in [
            (&b"\x80"[..], "index 0"),
            (b"\xbe", "an entry that is not there"),
            (b"\xff\xff\xff\xff\xff\x0f", "an index that is too large"),
            (b"\x7e\x01a", "a name that is not there"),
            (b"\x82\x20", "a size update behind a field"),
            (b"\x3f\xe2\x1f", "a size above our bound"),
            (b"\x20\x20\x20\x20\x20", "size updates without end"),
            (b"\x40\x01a\x05abc", "a string that is cut off"),
            (b"\x40\x01a", "no value"),
            (b"\x40", "no name"),
            (b"\x00\x81\x18\x01a", "bad padding"),
        ] {
            assert_eq!(decode(&mut Decoder::default(), block), Err(CompressionError), "{why}");
        }
        assert_eq!(decode(&mut Decoder::default(), b"\x20\x3f\xe1\x1f\x82").unwrap(), ":method: GET\r\n");
    }

    #[test]
    fn flaws_stay_with_an_entry() {
        assert_eq!(flaw(b"\x40\x01A\x01b"), Some(Flaw::Name));
        assert_eq!(flaw(b"\x40\x00\x01b"), Some(Flaw::Name));
        assert_eq!(flaw(b"\x40\x02a:\x01b"), Some(Flaw::Name));
        assert_eq!(flaw(b"\x40\x01a\x01b"), None);
        for value in [&b" a"[..], b"a ", b"\ta", b"a\t", b"a\r\nb", b"a\0", b"0123456789\x7f", b"0123456\n", b" "] {
            let mut block = vec![0x40, 1, b'a', value.len() as u8];
            block.extend_from_slice(value);
            assert_eq!(flaw(&block), Some(Flaw::Value), "{value:?}");
        }
        for value in [&b""[..], b"a b", b"a\tb", "가나다라마바사".as_bytes(), b"0123456\t\x80\xff,;\"=/"] {
            let mut block = vec![0x40, 1, b'a', value.len() as u8];
            block.extend_from_slice(value);
            assert_eq!(flaw(&block), None, "{value:?}");
        }
        // The entry is flawed; its name with another value is not.
        let mut text = Vec::new();
        let mut decoder = Decoder::default();
        let mut reader = decoder.read(b"\x40\x01a\x02b \xbe\x7e\x01b\x40\x01A\x01b\x7e\x01c");
        let flaws: Vec<_> = std::iter::from_fn(|| reader.next(&mut text).unwrap()).map(|line| line.flaw).collect();
        assert_eq!(flaws, [Some(Flaw::Value), Some(Flaw::Value), None, Some(Flaw::Name), Some(Flaw::Name)]);
    }

    #[test]
    fn never_indexed_is_told() {
        let mut text = Vec::new();
        let mut decoder = Decoder::default();
        let mut reader = decoder.read(b"\x10\x01a\x01b\x00\x01a\x01b\x40\x01a\x01b");
        let never: Vec<_> =
            std::iter::from_fn(|| reader.next(&mut text).unwrap()).map(|line| line.never_indexed).collect();
        assert_eq!(never, [true, false, false]);
    }

    #[test]
    fn skipping_keeps_the_table() {
        let mut decoder = Decoder::default();
        let mut scratch = b"kept".to_vec();
        let skipped = decoder.read(b"\x82\x40\x01a\x01b\xbe").skip(&mut scratch).unwrap();
        assert_eq!((scratch.as_slice(), skipped), (&b"kept"[..], ":method: GET\r\na: b\r\na: b\r\n".len()));
        assert_eq!(decode(&mut decoder, b"\xbe").unwrap(), "a: b\r\n");
    }

    proptest! {
        #[test]
        fn values_like_byte_by_byte(value in prop::collection::vec(prop::sample::select(b"ab \t\r\n\0\x1f\x20\x7e\x7f\x80\xff".to_vec()), 0..40)) {
            let ends = value.first().into_iter().chain(value.last()).any(|byte| b" \t".contains(byte));
            let sound = !ends && value.iter().all(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f));
            prop_assert_eq!(is_sound_value(&value), sound);
        }

        /// Nothing panics, and skipping goes as far as reading.
        #[test]
        fn any_bytes(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..4)) {
            let (mut reading, mut skipping) = (Decoder::default(), Decoder::default());
            for block in blocks {
                let (mut text, mut scratch) = (Vec::new(), Vec::new());
                let mut reader = reading.read(&block);
                let read = loop {
                    match reader.next(&mut text) {
                        Ok(Some(_)) => {}
                        Ok(None) => break Ok(text.len()),
                        Err(error) => break Err(error),
                    }
                };
                prop_assert_eq!(skipping.read(&block).skip(&mut scratch), read);
                if read.is_err() {
                    break;
                }
            }
        }
    }
}
