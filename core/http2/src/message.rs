//! Field sections: what a header block says, and the rules of RFC 9113 section 8 for it.

mod request;
mod response;

use sumun_http::limits::{FIELDS_MAX, TRAILER_BYTES_MAX, TRAILER_FIELDS_MAX};
use sumun_http::request::parse_length;
use sumun_http::{Field, Known, Reject, Span, chunked};

use crate::error::Malformed;
use crate::hpack::{CompressionError, Flaw, LINE_END, Line, Name, Pseudo, Reader, SEPARATOR};
use crate::limits::{COOKIE_KEPT_BYTES, HEAD_BOMB_FACTOR};

pub use request::{RequestExtra, Scheme};
pub(crate) use response::{Asked, FINAL_STATUS};

/// Which fields of a head something holds for, by their index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FieldSet([u64; FIELDS_MAX / 64 + 1]);

impl FieldSet {
    #[must_use]
    pub fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|bits| bits >> (index % 64) & 1 != 0)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|bits| *bits == 0)
    }

    fn insert(&mut self, index: usize) {
        if let Some(bits) = self.0.get_mut(index / 64) {
            *bits |= 1 << (index % 64);
        }
    }
}

/// What a section is, which decides over its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
    Trailers,
}

/// What may be taken, of `Settings`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Of the text, bytes.
    pub(crate) bytes: usize,
    pub(crate) fields: usize,
}

/// Why a section ends the connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Compression,
    Bomb,
}

impl From<CompressionError> for Unreadable {
    fn from(CompressionError: CompressionError) -> Self {
        Self::Compression
    }
}

/// What the body of a message has to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Body {
    /// Bytes of data, where they are known.
    pub(crate) length: Option<u64>,
    /// The stream is a tunnel from here on (RFC 9113 section 8.5).
    pub(crate) tunnel: bool,
}

#[derive(Debug, Default)]
struct Pseudos {
    authority: Option<Span>,
    method: Option<Span>,
    path: Option<Span>,
    protocol: Option<Span>,
    scheme: Option<Span>,
    status: Option<Span>,
}

/// A field section, decoded into the same memory again and again.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// Lines: pseudo-fields, then fields, then the empty line of a head.
    text: Vec<u8>,
    fields: Vec<Field>,
    /// A bit for each known name.
    present: u64,
    never_indexed: FieldSet,
    pseudos: Pseudos,
    /// Values of `Cookie`, which clients cut into many fields (RFC 9113 section 8.2.3).
    cookie: Vec<u8>,
    cookie_is_secret: bool,
    /// Index of `Host`.
    host: Option<usize>,
    content_length: Option<u64>,
    /// What is to be answered with a status.
    reject: Option<Reject>,
}

const fn set_of(names: &[Known]) -> u64 {
    let mut bits = 0;
    let mut index = 0;
    while index < names.len() {
        bits |= 1 << names[index] as u8;
        index += 1;
    }
    bits
}

/// RFC 9113 section 8.2.2; `TE` has an exception.
const CONNECTION_FIELDS: u64 = set_of(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::TransferEncoding,
    Known::Upgrade,
    Known::Te,
]);

/// Fields that are looked at while they pass by.
const NOTED: u64 = CONNECTION_FIELDS | set_of(&[Known::Host, Known::ContentLength, Known::Cookie]);

impl Section {
    /// Decodes a whole block; it is read to its end whatever it says, for the sake of the table.
    ///
    /// # Errors
    /// The connection is over. The inner error is one of the message alone.
    pub(crate) fn read(
        &mut self,
        reader: &mut Reader<'_>,
        kind: Kind,
        bounds: Bounds,
    ) -> Result<Result<(), Malformed>, Unreadable> {
        self.clear();
        let verdict = self.read_lines(reader, kind, bounds)?;
        // Nothing is left, unless a rule was broken.
        let skipped = reader.skip(&mut self.text)?;
        if self.text.len().saturating_add(skipped) > bounds.bytes.saturating_mul(HEAD_BOMB_FACTOR) {
            return Err(Unreadable::Bomb);
        }
        if kind != Kind::Trailers {
            self.finish();
        }
        Ok(verdict)
    }

    /// Decodes a block whose message does not matter.
    pub(crate) fn skip(&mut self, reader: &mut Reader<'_>, bounds: Bounds) -> Result<(), Unreadable> {
        self.clear();
        let skipped = reader.skip(&mut self.text)?;
        if skipped > bounds.bytes.saturating_mul(HEAD_BOMB_FACTOR) { Err(Unreadable::Bomb) } else { Ok(()) }
    }

    fn clear(&mut self) {
        self.text.clear();
        self.fields.clear();
        self.cookie.clear();
        self.cookie.shrink_to(COOKIE_KEPT_BYTES);
        self.present = 0;
        self.never_indexed = FieldSet::default();
        self.pseudos = Pseudos::default();
        self.cookie_is_secret = false;
        self.host = None;
        self.content_length = None;
        self.reject = None;
    }

    fn read_lines(
        &mut self,
        reader: &mut Reader<'_>,
        kind: Kind,
        bounds: Bounds,
    ) -> Result<Result<(), Malformed>, Unreadable> {
        let mut trailers = 0;
        while let Some(line) = reader.next(&mut self.text)? {
            let verdict = match (line.flaw, line.name) {
                (Some(Flaw::Name), _) => Err(Malformed::Name),
                (Some(Flaw::Value), _) => Err(Malformed::Value),
                (None, Name::Pseudo(pseudo)) => self.pseudo(pseudo, &line, kind),
                (None, Name::Field(known)) if kind == Kind::Trailers => {
                    trailers += 1;
                    self.trailer(known, &line, trailers)
                }
                (None, Name::Field(known)) => self.field(known, &line, kind),
            };
            if verdict.is_err() {
                return Ok(verdict);
            }
            if self.text.len() + self.cookie.len() > bounds.bytes {
                self.reject = Some(Reject::HeadTooLarge);
            } else if self.fields.len() > bounds.fields {
                self.reject = Some(Reject::TooManyFields);
            } else {
                continue;
            }
            self.text.truncate(line.start);
            self.fields.pop_if(|field| field.name.start as usize == line.start);
            return Ok(Ok(()));
        }
        Ok(Ok(()))
    }

    fn pseudo(&mut self, pseudo: Pseudo, line: &Line, kind: Kind) -> Result<(), Malformed> {
        if kind == Kind::Trailers {
            return Err(Malformed::PseudoInTrailers);
        }
        let pseudos = &mut self.pseudos;
        let place = match (pseudo, kind) {
            (Pseudo::Authority, Kind::Request) => &mut pseudos.authority,
            (Pseudo::Method, Kind::Request) => &mut pseudos.method,
            (Pseudo::Path, Kind::Request) => &mut pseudos.path,
            (Pseudo::Protocol, Kind::Request) => &mut pseudos.protocol,
            (Pseudo::Scheme, Kind::Request) => &mut pseudos.scheme,
            (Pseudo::Status, Kind::Response) => &mut pseudos.status,
            _ => return Err(Malformed::PseudoUnknown),
        };
        if place.replace(line.value_span()).is_some() {
            return Err(Malformed::PseudoRepeated);
        }
        if !self.fields.is_empty() || !self.cookie.is_empty() {
            return Err(Malformed::PseudoLate);
        }
        Ok(())
    }

    #[inline]
    fn field(&mut self, known: Known, line: &Line, kind: Kind) -> Result<(), Malformed> {
        let bit = 1 << known as u8;
        let (name, value) = (line.name_span(), line.value_span());
        if known != Known::Other {
            if NOTED & bit != 0 && !self.note(known, line, kind)? {
                return Ok(());
            }
            self.present |= bit;
        }
        if line.never_indexed {
            self.never_indexed.insert(self.fields.len());
        }
        self.fields.push(Field { name, value, known });
        Ok(())
    }

    /// Says whether the field is to be kept.
    fn note(&mut self, known: Known, line: &Line, kind: Kind) -> Result<bool, Malformed> {
        let value = line.value_span().of_bytes(&self.text);
        match known {
            Known::Host => {
                let again = self.host.replace(self.fields.len()).is_some();
                if again && kind == Kind::Request {
                    return Err(Malformed::Host);
                }
            }
            Known::ContentLength => {
                let length = parse_length(value).ok_or(Malformed::ContentLength)?;
                if self.content_length.replace(length).is_some() {
                    return Err(Malformed::ContentLength);
                }
            }
            Known::Cookie if kind == Kind::Request => {
                if !self.cookie.is_empty() {
                    self.cookie.extend_from_slice(b"; ");
                }
                self.cookie.extend_from_slice(value);
                self.cookie_is_secret |= line.never_indexed;
                self.text.truncate(line.start);
                return Ok(false);
            }
            Known::Te if kind == Kind::Request => {
                return if value.eq_ignore_ascii_case(b"trailers") { Ok(true) } else { Err(Malformed::Te) };
            }
            _ if CONNECTION_FIELDS & 1 << known as u8 != 0 => return Err(Malformed::ConnectionField),
            _ => {}
        }
        Ok(true)
    }

    fn trailer(&mut self, known: Known, line: &Line, count: usize) -> Result<(), Malformed> {
        if CONNECTION_FIELDS & 1 << known as u8 != 0 {
            return Err(Malformed::ConnectionField);
        }
        if count > TRAILER_FIELDS_MAX || self.text.len() > TRAILER_BYTES_MAX {
            return Err(Malformed::TrailersTooLarge);
        }
        // Dropped, not merged, as in a chunked body (RFC 9110 section 6.5.1).
        if !chunked::may_be_trailer(line.name_span().of_bytes(&self.text)) {
            self.text.truncate(line.start);
        }
        Ok(())
    }

    /// The cookies as one line, and the empty line.
    fn finish(&mut self) {
        if !self.cookie.is_empty() {
            let start = self.text.len();
            self.text.extend_from_slice(b"cookie");
            let name = Span { start: start as u32, end: self.text.len() as u32 };
            self.text.extend_from_slice(SEPARATOR);
            let value_start = self.text.len() as u32;
            self.text.extend_from_slice(&self.cookie);
            let value = Span { start: value_start, end: self.text.len() as u32 };
            self.text.extend_from_slice(LINE_END);
            self.present |= 1 << Known::Cookie as u8;
            if self.cookie_is_secret {
                self.never_indexed.insert(self.fields.len());
            }
            self.fields.push(Field { name, value, known: Known::Cookie });
        }
        self.text.extend_from_slice(LINE_END);
    }

    /// Gives the lines of a trailer section to `lines`, whose memory is used for the next section.
    pub(crate) fn take_trailers(&mut self, lines: &mut Vec<u8>) {
        std::mem::swap(&mut self.text, lines);
        self.text.clear();
    }

    fn value(&self, span: Option<Span>) -> Option<&[u8]> {
        span.map(|span| span.of_bytes(&self.text))
    }
}
