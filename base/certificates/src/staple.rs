//! OCSP responses (RFC 6960 section 4.2.1), as far as one has to know before handing them on.
//!
//! Signatures are not verified: the client does that, and it alone knows whom it trusts.

use x509_cert::der::asn1::{AnyRef, GeneralizedTime, ObjectIdentifier, OctetStringRef};
use x509_cert::der::{Decode, Error, Reader, SliceReader, Tag, TagNumber, Tagged};

use crate::leaf::Leaf;
use crate::limits::STAPLE_BYTES;
use crate::pem;
use crate::problem::{Part, Problem};

/// id-pkix-ocsp-basic.
const BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");

/// What the responder says of the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Good,
    Revoked,
    Unknown,
}

/// A response about one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staple {
    pub bytes: Vec<u8>,
    pub status: Status,
    /// Seconds since 1970; clients refuse an older one than this. `None`: newer ones are always
    /// to be had, and clients decide themselves.
    pub next_update: Option<u64>,
}

impl Staple {
    /// # Errors
    /// It is no response, says that there is none, or is about other certificates.
    pub fn parse(bytes: &[u8], leaf: &Leaf) -> Result<Self, Problem> {
        let problem = |message: &str, help: &str| Problem::new(Part::Staple, message, help);
        if bytes.len() > STAPLE_BYTES {
            return Err(problem("is too large for an OCSP response", "16 KiB are plenty"));
        }
        if pem::has_sections(bytes) {
            return Err(problem("is a PEM file", "the response is written in DER: openssl ocsp … -respout FILE"));
        }
        let found = match response(bytes) {
            Ok(Response::Answers(found)) => found,
            Ok(Response::Refused(status)) => {
                let message = format!("says that the responder answered nothing (status {status})");
                return Err(problem(&message, "ask it again"));
            }
            Err(_) => {
                return Err(problem("holds no OCSP response", "openssl ocsp … -respout FILE writes one, in DER"));
            }
        };
        let ours = found.into_iter().find(|single| single.serial == unsigned(&leaf.serial));
        let Some(single) = ours else {
            let message = format!("is about another certificate than that of {}", leaf.title());
            return Err(problem(&message, "ask the responder again, with this certificate"));
        };
        Ok(Self { bytes: bytes.to_vec(), status: single.status, next_update: single.next_update })
    }

    /// Whether clients may still be sent it. `now`: seconds since 1970.
    #[must_use]
    pub fn is_fresh(&self, now: u64) -> bool {
        self.next_update.is_none_or(|until| now < until)
    }
}

enum Response {
    /// Another status than `successful`.
    Refused(u8),
    Answers(Vec<Single>),
}

struct Single {
    serial: Vec<u8>,
    status: Status,
    next_update: Option<u64>,
}

fn response(bytes: &[u8]) -> Result<Response, Error> {
    let mut reader = SliceReader::new(bytes)?;
    let whole = AnyRef::decode(&mut reader)?;
    reader.finish()?;
    let basic = whole.sequence(|reader: &mut SliceReader<'_>| {
        let status = AnyRef::decode(reader)?;
        status.tag().assert_eq(Tag::Enumerated)?;
        let status = status.value().first().copied().unwrap_or(u8::MAX);
        if reader.is_finished() {
            return Ok::<_, Error>((status, None));
        }
        let typed = explicit(AnyRef::decode(reader)?, 0)?.sequence(|reader: &mut SliceReader<'_>| {
            let kind = ObjectIdentifier::decode(reader)?;
            let basic = <&OctetStringRef>::decode(reader)?;
            Ok::<_, Error>((kind, basic))
        })?;
        Ok((status, Some(typed)))
    })?;
    match basic {
        (0, Some((BASIC, basic))) => Ok(Response::Answers(singles(basic.as_bytes())?)),
        (0, _) => Err(Tag::OctetString.value_error().into()),
        (status, _) => Ok(Response::Refused(status)),
    }
}

/// The single responses of a BasicOCSPResponse.
fn singles(bytes: &[u8]) -> Result<Vec<Single>, Error> {
    let mut reader = SliceReader::new(bytes)?;
    let data = AnyRef::decode(&mut reader)?.sequence(|reader: &mut SliceReader<'_>| {
        let data = AnyRef::decode(reader)?;
        // The algorithm, the signature and perhaps certificates follow.
        while !reader.is_finished() {
            AnyRef::decode(reader)?;
        }
        Ok::<_, Error>(data)
    })?;
    let responses = data.sequence(|reader: &mut SliceReader<'_>| {
        let first = AnyRef::decode(reader)?;
        if first.tag() == context(0) {
            // The version was written although it is the default; the responder follows.
            AnyRef::decode(reader)?;
        }
        GeneralizedTime::decode(reader)?;
        let responses = AnyRef::decode(reader)?;
        while !reader.is_finished() {
            AnyRef::decode(reader)?;
        }
        Ok::<_, Error>(responses)
    })?;
    responses.sequence(|reader: &mut SliceReader<'_>| {
        let mut found = Vec::new();
        while !reader.is_finished() {
            found.push(single(AnyRef::decode(reader)?)?);
        }
        Ok::<_, Error>(found)
    })
}

fn single(response: AnyRef<'_>) -> Result<Single, Error> {
    response.sequence(|reader: &mut SliceReader<'_>| {
        let serial = AnyRef::decode(reader)?.sequence(|reader: &mut SliceReader<'_>| {
            // The hashes of the issuer's name and key, and by which algorithm they were made.
            for _ in 0..3 {
                AnyRef::decode(reader)?;
            }
            let serial = AnyRef::decode(reader)?;
            serial.tag().assert_eq(Tag::Integer)?;
            Ok::<_, Error>(unsigned(serial.value()))
        })?;
        let status = AnyRef::decode(reader)?.tag();
        let status = match status {
            Tag::ContextSpecific { constructed: false, number: TagNumber(0) } => Status::Good,
            Tag::ContextSpecific { number: TagNumber(1), .. } => Status::Revoked,
            _ => Status::Unknown,
        };
        GeneralizedTime::decode(reader)?;
        let mut next_update = None;
        while !reader.is_finished() {
            let further = AnyRef::decode(reader)?;
            if further.tag() == context(0) {
                let time: GeneralizedTime = explicit(further, 0)?.decode_as()?;
                next_update = Some(time.to_unix_duration().as_secs());
            }
        }
        Ok(Single { serial, status, next_update })
    })
}

/// What an explicit tag holds.
fn explicit(outer: AnyRef<'_>, number: u32) -> Result<AnyRef<'_>, Error> {
    outer.tag().assert_eq(context(number))?;
    let mut reader = SliceReader::new(outer.value())?;
    let inner = AnyRef::decode(&mut reader)?;
    reader.finish()?;
    Ok(inner)
}

fn context(number: u32) -> Tag {
    Tag::ContextSpecific { constructed: true, number: TagNumber(number) }
}

/// Without the zero octets in front that DER needs for the sign.
fn unsigned(integer: &[u8]) -> Vec<u8> {
    integer.iter().copied().skip_while(|octet| *octet == 0).collect()
}
