//! The ClientHello at the start of a TCP stream: RFC 8446 sections 4.1.2 and 5.1, and what RFC 5246 and
//! its predecessors made of the same bytes.
//!
//! The caller hands in all bytes since the first, peeked, and asks again when there are more. Only the
//! records' headers are walked until the hello is whole, and nothing is copied where it lies in one
//! record; else into one vector of its length.

mod message;
mod records;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use crate::limits::{SERVER_NAME_BYTES_MAX, STREAM_BYTES_MAX};
use crate::reader::Reader;

/// What the first bytes of a stream are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// They may become a ClientHello: ask again with more of them.
    More,
    /// They are something else than TLS, and no further byte changes that. The hello of SSL 2 is that too.
    NotTls,
    Hello(ClientHello<'a>),
}

/// A whole ClientHello, of any version from SSL 3 to TLS 1.3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// The message behind its header.
    body: Cow<'a, [u8]>,
    /// Where the name lies in it, and the list of protocols.
    server_name: Option<Range<usize>>,
    alpn: Range<usize>,
}

impl ClientHello<'_> {
    /// The server that the client asks for (RFC 6066 section 3). `None` where it names none, or an IP
    /// address, which that section does not allow as a name. With an encrypted ClientHello this is the
    /// outer name.
    #[must_use]
    pub fn server_name(&self) -> Option<ServerName> {
        self.server_name.clone().and_then(|place| self.body.get(place)).map(ServerName::of)
    }

    /// The protocols that the client offers, the one it likes best first (RFC 7301 section 3.1). Among
    /// them may be values that mean nothing (RFC 8701).
    #[must_use]
    pub fn alpn(&self) -> Protocols<'_> {
        Protocols(Reader(self.body.get(self.alpn.clone()).unwrap_or_default()))
    }
}

/// Names of application protocols, none of them empty.
#[derive(Debug, Clone)]
pub struct Protocols<'a>(Reader<'a>);

impl<'a> Iterator for Protocols<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.0.short()
    }
}

/// The name of a server: ASCII letters in lower case, digits, `-`, `_` and `.`, without a dot at the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ServerName {
    bytes: [u8; SERVER_NAME_BYTES_MAX],
    length: u8,
}

impl ServerName {
    /// `name` has been checked.
    fn of(name: &[u8]) -> Self {
        let mut bytes = [0; SERVER_NAME_BYTES_MAX];
        for (to, from) in bytes.iter_mut().zip(name) {
            *to = from.to_ascii_lowercase();
        }
        Self { bytes, length: u8::try_from(name.len()).unwrap_or(u8::MAX) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        let name = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        str::from_utf8(name).unwrap_or_default()
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

/// Which rule a hello breaks. The connection has to be closed: the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A record of no TLS version inside the hello.
    RecordVersion,
    /// A handshake record without payload (RFC 8446 section 5.1).
    RecordEmpty,
    /// A payload above 2^14 bytes (RFC 8446 section 5.1).
    RecordTooLong,
    /// A record of another type inside the hello (RFC 8446 section 5.1).
    Interrupted,
    /// A handshake message that is no ClientHello.
    OtherMessage,
    /// Over the bound, or cut into so small records that they are.
    TooLong,
    /// A version that is none of SSL 3 and TLS.
    Version,
    /// A field whose length is not possible there.
    Field,
    /// More extensions than anybody sends.
    TooManyExtensions,
    /// Two extensions of one type (RFC 8446 section 4.2).
    RepeatedExtension,
    /// Not exactly one host name, or not a name that can be in DNS (RFC 6066 section 3).
    ServerName,
    /// An empty list of protocols, or an empty name in it (RFC 7301 section 3.1).
    Alpn,
}

impl Malformed {
    /// For a log line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RecordVersion => "is cut by a record of an unknown version",
            Self::RecordEmpty => "has an empty record",
            Self::RecordTooLong => "has a record that is too long",
            Self::Interrupted => "is interrupted by a record of another type",
            Self::OtherMessage => "is another handshake message",
            Self::TooLong => "is too long",
            Self::Version => "has an unknown version",
            Self::Field => "has a field of a wrong length",
            Self::TooManyExtensions => "has too many extensions",
            Self::RepeatedExtension => "has an extension twice",
            Self::ServerName => "has no proper server name",
            Self::Alpn => "has a broken list of protocols",
        }
    }
}

/// Looks at the first bytes of a stream. What it says of `bytes` it says of every longer input that
/// begins with them, except for `More`; [`STREAM_BYTES_MAX`] bytes are always enough. What follows
/// the hello is not looked at.
///
/// # Errors
/// The bytes begin as TLS does, and are no ClientHello.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Malformed> {
    if !records::may_be_tls(bytes) {
        return Ok(Parsed::NotTls);
    }
    let in_view = bytes.get(..STREAM_BYTES_MAX).unwrap_or(bytes);
    match records::client_hello(in_view)? {
        Some(body) => {
            let message::Places { server_name, alpn } = message::read(&body)?;
            Ok(Parsed::Hello(ClientHello { body, server_name, alpn }))
        }
        None if in_view.len() == STREAM_BYTES_MAX => Err(Malformed::TooLong),
        None => Ok(Parsed::More),
    }
}
