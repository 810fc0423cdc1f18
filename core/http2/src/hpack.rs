//! Header compression (RFC 7541).
//!
//! The decoder writes each field as a line `name: value CRLF` into the text of a head: an indexed
//! field is one copy of bytes, and what was found sound when it came into the table is not looked at
//! again. The encoder keeps a field in the dynamic table from the second time on that it is sent, so
//! that dates, lengths and identifiers do not push out what repeats.

mod decode;
mod encode;
mod huffman;
mod integer;
mod static_table;
mod table;
#[cfg(test)]
mod vectors;

use sumun_http::{Known, Span};

pub use decode::{Decoder, Reader};
pub use encode::Encoder;

/// The block breaks RFC 7541: the tables of both ends no longer agree, and the connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressionError;

/// A field's name, as far as a rule hangs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Pseudo(Pseudo),
    Field(Known),
}

/// RFC 9113 section 8.3 and RFC 8441 section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pseudo {
    Authority,
    Method,
    Path,
    Protocol,
    Scheme,
    Status,
    Unknown,
}

/// Why a line must not be passed on (RFC 9113 section 8.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Not a token in lower case. Its value has not been looked at.
    Name,
    /// A control character, or white space at an end.
    Value,
}

/// One decoded field: a line at the end of the text that `Reader::next` was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Where it begins in the text.
    pub start: usize,
    pub name_length: usize,
    pub value_length: usize,
    pub name: Name,
    pub flaw: Option<Flaw>,
    /// Whoever passes it on must not index it either (RFC 7541 section 6.2.3).
    pub never_indexed: bool,
}

/// `": "` and CRLF.
pub(crate) const SEPARATOR: &[u8; 2] = b": ";
pub(crate) const LINE_END: &[u8; 2] = b"\r\n";
pub(crate) const LINE_OVERHEAD: usize = SEPARATOR.len() + LINE_END.len();

impl Line {
    #[must_use]
    pub fn name_span(&self) -> Span {
        Span { start: self.start as u32, end: (self.start + self.name_length) as u32 }
    }

    #[must_use]
    pub fn value_span(&self) -> Span {
        let start = self.start + self.name_length + SEPARATOR.len();
        Span { start: start as u32, end: (start + self.value_length) as u32 }
    }
}
