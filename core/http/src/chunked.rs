//! The chunked transfer coding (RFC 9112 section 7.1), strict, resumable at every byte.

use std::ops::Range;

use crate::field::{Known, is_same_name};
use crate::limits::{
    CHUNK_EXTENSION_BYTES_BODY_MAX, CHUNK_EXTENSION_BYTES_MAX, CHUNK_SIZE_DIGITS_MAX, TRAILER_BYTES_MAX,
    TRAILER_FIELDS_MAX,
};
use crate::reject::Reject;
use crate::token::{self, Line, is_token_byte};

/// Takes chunked bytes apart. Extensions are checked and dropped; trailers are kept.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// Of the size line or of the chunk's data, whichever is being read.
    remaining: u64,
    digits: usize,
    extension_bytes: usize,
    extension_bytes_body: usize,
    trailers: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// Behind `;` or `=`: a token begins, or a quoted string (values only).
    ExtensionStart {
        value: bool,
    },
    ExtensionToken {
        value: bool,
    },
    ExtensionQuoted {
        escaped: bool,
    },
    /// Behind a quoted string: the next extension or the line's end.
    ExtensionQuoteEnd,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Done,
}

/// What one call of `Decoder::decode` found.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that are done with; the next call starts behind them.
    pub consumed: usize,
    /// Body bytes, a range of the input; empty when there were none.
    pub data: Range<usize>,
}

impl Decoder {
    /// The whole body, trailers included, has been decoded.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Trailer lines (`name: value CRLF` each) that may be passed on; complete once `is_done`.
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        if self.is_done() { &self.trailers } else { &[] }
    }

    /// Drops trailers whose names only the gateway may use, once the body is complete.
    pub fn take_out(&mut self, is_taken: impl Fn(&[u8]) -> bool) {
        if self.is_done() {
            let lines = self.trailers.split_inclusive(|&byte| byte == b'\n');
            let name = |line: &[u8]| line.split(|&byte| byte == b':').next().is_some_and(&is_taken);
            self.trailers = lines.filter(|line| !name(line)).flatten().copied().collect();
        }
    }

    /// Body bytes that are known to follow in the current chunk.
    #[must_use]
    pub fn chunk_remaining(&self) -> u64 {
        if self.state == State::Data { self.remaining } else { 0 }
    }

    /// Consumes up to and including the next run of body bytes, or all of `input`, or up to the
    /// end of the body.
    ///
    /// # Errors
    /// The first byte that is not of the grammar; the body's end is not known then.
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, Reject> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Size => self.size_byte(byte)?,
                State::ExtensionStart { .. }
                | State::ExtensionToken { .. }
                | State::ExtensionQuoted { .. }
                | State::ExtensionQuoteEnd => self.extension_byte(byte)?,
                State::SizeLf => {
                    if byte != b'\n' {
                        return Err(Reject::ChunkSize);
                    }
                    self.state = if self.remaining == 0 { State::Trailers } else { State::Data };
                }
                State::Data => {
                    let length = self.remaining.min((input.len() - at) as u64) as usize;
                    self.remaining -= length as u64;
                    if self.remaining == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok(Step { consumed: at + length, data: at..at + length });
                }
                State::DataCr => {
                    if byte != b'\r' {
                        return Err(Reject::ChunkData);
                    }
                    self.state = State::DataLf;
                }
                State::DataLf => {
                    if byte != b'\n' {
                        return Err(Reject::ChunkData);
                    }
                    self.state = State::Size;
                    self.digits = 0;
                    self.extension_bytes = 0;
                }
                State::Trailers => self.trailer_byte(byte)?,
                State::Done => break,
            }
            at += 1;
        }
        Ok(Step { consumed: at, data: at..at })
    }

    fn size_byte(&mut self, byte: u8) -> Result<(), Reject> {
        if let Some(digit) = (byte as char).to_digit(16) {
            if self.digits == CHUNK_SIZE_DIGITS_MAX {
                return Err(Reject::ChunkSize);
            }
            self.digits += 1;
            self.remaining = self.remaining << 4 | u64::from(digit);
            return Ok(());
        }
        if self.digits == 0 {
            return Err(Reject::ChunkSize);
        }
        match byte {
            b'\r' => self.state = State::SizeLf,
            // White space before the semicolon is bad white space (RFC 9112 section 7.1.1), which
            // only attackers send.
            b';' => self.state = State::ExtensionStart { value: false },
            _ => return Err(Reject::ChunkSize),
        }
        Ok(())
    }

    fn extension_byte(&mut self, byte: u8) -> Result<(), Reject> {
        self.extension_bytes += 1;
        self.extension_bytes_body += 1;
        if self.extension_bytes > CHUNK_EXTENSION_BYTES_MAX
            || self.extension_bytes_body > CHUNK_EXTENSION_BYTES_BODY_MAX
        {
            return Err(Reject::ChunkExtension);
        }
        // `*( ";" chunk-ext-name [ "=" chunk-ext-val ] )` without bad white space.
        self.state = match (self.state, byte) {
            (State::ExtensionStart { value } | State::ExtensionToken { value }, byte) if is_token_byte(byte) => {
                State::ExtensionToken { value }
            }
            (State::ExtensionStart { value: true }, b'"') => State::ExtensionQuoted { escaped: false },
            (State::ExtensionToken { value: false }, b'=') => State::ExtensionStart { value: true },
            (State::ExtensionToken { .. } | State::ExtensionQuoteEnd, b';') => State::ExtensionStart { value: false },
            (State::ExtensionToken { .. } | State::ExtensionQuoteEnd, b'\r') => State::SizeLf,
            (State::ExtensionQuoted { escaped: false }, b'"') => State::ExtensionQuoteEnd,
            (State::ExtensionQuoted { escaped: false }, b'\\') => State::ExtensionQuoted { escaped: true },
            (State::ExtensionQuoted { .. }, b'\t' | b' '..=b'~' | 0x80..) => State::ExtensionQuoted { escaped: false },
            _ => return Err(Reject::ChunkExtension),
        };
        Ok(())
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<(), Reject> {
        if self.trailers.len() == TRAILER_BYTES_MAX {
            return Err(Reject::Trailer);
        }
        self.trailers.push(byte);
        if byte == b'\n' {
            if !self.trailers.ends_with(b"\r\n") {
                return Err(Reject::Trailer);
            }
            if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
                self.trailers = clean_trailers(&self.trailers)?;
                self.state = State::Done;
            }
        }
        Ok(())
    }
}

/// Keeps what may be a trailer. RFC 9110 section 6.5.1: nothing for framing, routing,
/// authentication or content handling; those are dropped, not merged.
fn clean_trailers(section: &[u8]) -> Result<Vec<u8>, Reject> {
    if section == b"\r\n" {
        return Ok(Vec::new());
    }
    let mut clean = Vec::with_capacity(section.len());
    let mut at = 0;
    for _ in 0..=TRAILER_FIELDS_MAX {
        match token::line(section, at) {
            Ok(Line::Field { name, value, next }) => {
                let name = name.of_bytes(section);
                if may_be_trailer(name) {
                    clean.extend_from_slice(name);
                    clean.extend_from_slice(b": ");
                    clean.extend_from_slice(value.of_bytes(section));
                    clean.extend_from_slice(b"\r\n");
                }
                at = next;
            }
            Ok(Line::End { .. }) => return Ok(clean),
            Ok(Line::Partial) | Err(_) => break,
        }
    }
    Err(Reject::Trailer)
}

/// A trailer field of this name is passed on.
#[must_use]
pub fn may_be_trailer(name: &[u8]) -> bool {
    matches!(Known::alike(name), Known::Other | Known::ETag | Known::Server)
        && !is_same_name(name, b"proxy-authentication-info")
        && !is_same_name(name, b"www-authenticate")
}

/// Appends the line that begins a chunk of `length` bytes (at least 1); the data and `CRLF` follow.
pub fn begin_chunk(output: &mut Vec<u8>, length: usize) {
    let mut digits = [0_u8; 16];
    let mut rest = length;
    let mut start = digits.len();
    while rest > 0 {
        start -= 1;
        digits[start] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    output.extend_from_slice(&digits[start..]);
    output.extend_from_slice(b"\r\n");
}

/// Appends the last chunk with its trailer lines.
pub fn end_body(output: &mut Vec<u8>, trailers: &[u8]) {
    output.extend_from_slice(b"0\r\n");
    output.extend_from_slice(trailers);
    output.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(input: &[u8], splits: &[usize]) -> Result<(Vec<u8>, usize, Vec<u8>), Reject> {
        let mut decoder = Decoder::default();
        let mut body = Vec::new();
        let mut used = 0;
        let mut bounds: Vec<usize> = splits.iter().map(|split| split % (input.len() + 1)).collect();
        bounds.push(input.len());
        bounds.sort_unstable();
        for end in bounds {
            while used < end && !decoder.is_done() {
                let step = decoder.decode(&input[used..end])?;
                body.extend_from_slice(&input[used..end][step.data.clone()]);
                used += step.consumed;
            }
        }
        if decoder.is_done() { Ok((body, used, decoder.trailers().to_vec())) } else { Err(Reject::ChunkData) }
    }

    #[test]
    fn decodes() {
        let input = b"4\r\nWiki\r\n5;a=\"b\"\r\npedia\r\n0\r\nX-Sum: 1\r\nContent-Length: 3\r\n\r\nNEXT";
        let (body, used, trailers) = decode_all(input, &[]).unwrap();
        assert_eq!(body, b"Wikipedia");
        assert_eq!(&input[used..], b"NEXT");
        assert_eq!(trailers, b"X-Sum: 1\r\n");
    }

    #[test]
    fn refuses() {
        for bad in [
            &b"0x4\r\nWiki\r\n0\r\n\r\n"[..],
            b"+4\r\nWiki\r\n0\r\n\r\n",
            b" 4\r\nWiki\r\n0\r\n\r\n",
            b"4 \r\nWiki\r\n0\r\n\r\n",
            b"4\nWiki\r\n0\r\n\r\n",
            b"4\r\nWikiX\r\n0\r\n\r\n",
            b"4\r\nWiki\n0\r\n\r\n",
            b"\r\n0\r\n\r\n",
            b"g\r\n\r\n",
            b"1000000000000000\r\n",
            b"4;\r\nWiki\r\n0\r\n\r\n",
            b"4;a\nb\r\nWiki\r\n0\r\n\r\n",
            b"4;a\0\r\nWiki\r\n0\r\n\r\n",
            b"4;a b\r\nWiki\r\n0\r\n\r\n",
            b"4;a=\"b\r\nWiki\r\n0\r\n\r\n",
            b"4;=b\r\nWiki\r\n0\r\n\r\n",
            b"4;a=\r\nWiki\r\n0\r\n\r\n",
            b"4;a=\"b\"c\r\nWiki\r\n0\r\n\r\n",
            b"0\r\nX : 1\r\n\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\nX: 1\n\r\n",
            b"0\r\n\n",
        ] {
            assert!(decode_all(bad, &[]).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    proptest! {
        #[test]
        fn pieces_equal_the_whole(input in prop::collection::vec(prop::sample::select(b"0123aF\r\n;x= \"".to_vec()), 0..64), splits in prop::collection::vec(any::<usize>(), 0..8)) {
            prop_assert_eq!(decode_all(&input, &splits), decode_all(&input, &[]));
        }

        #[test]
        fn what_is_encoded_is_decoded(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..6), splits in prop::collection::vec(any::<usize>(), 0..8)) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                begin_chunk(&mut wire, chunk.len());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            end_body(&mut wire, b"");
            let (body, used, _) = decode_all(&wire, &splits).unwrap();
            prop_assert_eq!(body, chunks.concat());
            prop_assert_eq!(used, wire.len());
        }
    }
}
