//! What a header of version 2 says besides the addresses (sections 2.2.1 to 2.2.8 of the specification):
//! types, lengths, values.
//!
//! A value that has not the form of its type comes out as [`Tlv::Other`]: who does not need it is not
//! harmed by it. Nothing keeps a sender from saying a thing twice.

#[cfg(test)]
mod tests;

use crate::limits::UNIQUE_ID_BYTES_MAX;

/// The type, and a length of two bytes.
const TLV_HEADER_BYTES: usize = 3;

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
pub(crate) const CRC32C: u8 = 0x03;
const NOOP: u8 = 0x04;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_COMMON_NAME: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;
const SSL_SIGNATURE_ALGORITHM: u8 = 0x24;
const SSL_KEY_ALGORITHM: u8 = 0x25;
const SSL_GROUP: u8 = 0x26;
const SSL_SIGNATURE_SCHEME: u8 = 0x27;
const SSL_CLIENT_CERTIFICATE: u8 = 0x28;
const NETNS: u8 = 0x30;

/// One thing that a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tlv<'a> {
    /// The protocol that was agreed on above the connection, as ALPN names it.
    Alpn(&'a [u8]),
    /// The host that the client asked for, UTF-8; with TLS its server name.
    Authority(&'a [u8]),
    /// The checksum of the header; `parse` has held it against the rest.
    Crc32c(u32),
    /// Fills a place.
    Noop(&'a [u8]),
    /// What the sender calls the connection, at most 128 bytes.
    UniqueId(&'a [u8]),
    Ssl(Ssl<'a>),
    /// The network namespace that the connection came in by, ASCII.
    Netns(&'a [u8]),
    /// Another type, or a value that is none of its type.
    Other(u8, &'a [u8]),
}

/// How the client spoke TLS to the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ssl<'a> {
    /// Bits of [`Ssl::OVER_TLS`] and its like.
    pub client: u8,
    /// 0 where the client presented a certificate and it was found good.
    pub verify: u32,
    /// TLVs, one behind the other.
    parts: &'a [u8],
}

impl<'a> Ssl<'a> {
    /// The client came over TLS.
    pub const OVER_TLS: u8 = 1;
    /// It presented a certificate on this connection.
    pub const CERTIFICATE_ON_CONNECTION: u8 = 2;
    /// It presented a certificate at least once in its TLS session.
    pub const CERTIFICATE_IN_SESSION: u8 = 4;

    /// `parts` is what [`SslPart::write`] has written. `None` where it is something else.
    #[must_use]
    pub fn new(client: u8, verify: u32, parts: &'a [u8]) -> Option<Self> {
        let mut rest = parts;
        while take(&mut rest).is_some() {}
        rest.is_empty().then_some(Self { client, verify, parts })
    }

    #[must_use]
    pub fn parts(&self) -> SslParts<'a> {
        SslParts { rest: self.parts }
    }

    fn of(value: &'a [u8]) -> Option<Self> {
        let (&client, behind) = value.split_first()?;
        let (&verify, parts) = behind.split_first_chunk::<4>()?;
        Self::new(client, u32::from_be_bytes(verify), parts)
    }
}

/// One thing that is said about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslPart<'a> {
    /// Such as `TLSv1.3`, ASCII.
    Version(&'a [u8]),
    /// Of the client's certificate, UTF-8.
    CommonName(&'a [u8]),
    /// Such as `ECDHE-RSA-AES128-GCM-SHA256`, ASCII.
    Cipher(&'a [u8]),
    /// Of the sender's certificate, such as `SHA256`, ASCII.
    SignatureAlgorithm(&'a [u8]),
    /// Of the sender's certificate, such as `RSA2048`, ASCII.
    KeyAlgorithm(&'a [u8]),
    /// Of the key exchange, such as `secp256r1`, ASCII.
    Group(&'a [u8]),
    /// Of the handshake, such as `rsa_pss_rsae_sha256`, ASCII.
    SignatureScheme(&'a [u8]),
    /// DER.
    ClientCertificate(&'a [u8]),
    Other(u8, &'a [u8]),
}

impl<'a> SslPart<'a> {
    fn of(kind: u8, value: &'a [u8]) -> Self {
        match kind {
            SSL_VERSION => Self::Version(value),
            SSL_COMMON_NAME => Self::CommonName(value),
            SSL_CIPHER => Self::Cipher(value),
            SSL_SIGNATURE_ALGORITHM => Self::SignatureAlgorithm(value),
            SSL_KEY_ALGORITHM => Self::KeyAlgorithm(value),
            SSL_GROUP => Self::Group(value),
            SSL_SIGNATURE_SCHEME => Self::SignatureScheme(value),
            SSL_CLIENT_CERTIFICATE => Self::ClientCertificate(value),
            _ => Self::Other(kind, value),
        }
    }

    /// Appends it to the parts of an [`Ssl`]. A value beyond 65,535 bytes is cut there; it fits into
    /// no header.
    pub fn write(&self, parts: &mut Vec<u8>) {
        let (kind, value) = match *self {
            Self::Version(value) => (SSL_VERSION, value),
            Self::CommonName(value) => (SSL_COMMON_NAME, value),
            Self::Cipher(value) => (SSL_CIPHER, value),
            Self::SignatureAlgorithm(value) => (SSL_SIGNATURE_ALGORITHM, value),
            Self::KeyAlgorithm(value) => (SSL_KEY_ALGORITHM, value),
            Self::Group(value) => (SSL_GROUP, value),
            Self::SignatureScheme(value) => (SSL_SIGNATURE_SCHEME, value),
            Self::ClientCertificate(value) => (SSL_CLIENT_CERTIFICATE, value),
            Self::Other(kind, value) => (kind, value),
        };
        put(parts, kind, &[value]);
    }
}

impl<'a> Tlv<'a> {
    fn of(kind: u8, value: &'a [u8]) -> Self {
        let known = match kind {
            ALPN => Some(Self::Alpn(value)),
            AUTHORITY => Some(Self::Authority(value)),
            CRC32C => value.try_into().ok().map(|sum| Self::Crc32c(u32::from_be_bytes(sum))),
            NOOP => Some(Self::Noop(value)),
            UNIQUE_ID => Some(Self::UniqueId(value)).filter(Self::is_in_bounds),
            SSL => Ssl::of(value).map(Self::Ssl),
            NETNS => Some(Self::Netns(value)),
            _ => None,
        };
        known.unwrap_or(Self::Other(kind, value))
    }

    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Alpn(_) => ALPN,
            Self::Authority(_) => AUTHORITY,
            Self::Crc32c(_) => CRC32C,
            Self::Noop(_) => NOOP,
            Self::UniqueId(_) => UNIQUE_ID,
            Self::Ssl(_) => SSL,
            Self::Netns(_) => NETNS,
            Self::Other(kind, _) => *kind,
        }
    }

    pub(crate) fn is_in_bounds(&self) -> bool {
        !matches!(self, Self::UniqueId(value) if value.len() > UNIQUE_ID_BYTES_MAX)
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        let value = match self {
            Self::Alpn(value) | Self::Authority(value) | Self::Noop(value) | Self::UniqueId(value) => value.len(),
            Self::Netns(value) | Self::Other(_, value) => value.len(),
            Self::Crc32c(_) => 4,
            Self::Ssl(ssl) => 5 + ssl.parts.len(),
        };
        TLV_HEADER_BYTES + value
    }

    pub(crate) fn write(&self, output: &mut Vec<u8>) {
        match self {
            Self::Alpn(value) | Self::Authority(value) | Self::Noop(value) | Self::UniqueId(value) => {
                put(output, self.kind(), &[value]);
            }
            Self::Netns(value) | Self::Other(_, value) => put(output, self.kind(), &[value]),
            Self::Crc32c(sum) => put(output, CRC32C, &[&sum.to_be_bytes()]),
            Self::Ssl(ssl) => put(output, SSL, &[&[ssl.client], &ssl.verify.to_be_bytes(), ssl.parts]),
        }
    }
}

/// The things that a header says.
#[derive(Debug, Clone)]
pub struct Tlvs<'a> {
    rest: &'a [u8],
}

impl<'a> Tlvs<'a> {
    pub(crate) fn of(rest: &'a [u8]) -> Self {
        Self { rest }
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        take(&mut self.rest).map(|(kind, value)| Tlv::of(kind, value))
    }
}

/// The things that are said about TLS.
#[derive(Debug, Clone)]
pub struct SslParts<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for SslParts<'a> {
    type Item = SslPart<'a>;

    fn next(&mut self) -> Option<SslPart<'a>> {
        take(&mut self.rest).map(|(kind, value)| SslPart::of(kind, value))
    }
}

/// Takes a type and a value off the front. `None` at the end, where nothing is left, and at a flaw,
/// where something is.
pub(crate) fn take<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[kind, high, low], behind) = rest.split_first_chunk::<TLV_HEADER_BYTES>()?;
    let (value, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    *rest = behind;
    Some((kind, value))
}

fn put(output: &mut Vec<u8>, kind: u8, value: &[&[u8]]) {
    let length: usize = value.iter().map(|part| part.len()).sum();
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    output.push(kind);
    output.extend_from_slice(&length.to_be_bytes());
    output.extend(value.iter().copied().flatten().take(usize::from(length)));
}
