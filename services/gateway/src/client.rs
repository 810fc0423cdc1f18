//! Who is on the other end of a connection, as text for the heads that go on.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

/// The longest address: 39 digits and colons, in brackets and quotes.
const TEXT_BYTES: usize = 43;

/// A client's address, in the form of RFC 7239 section 6: an IPv6 address in `"[…]"`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientText {
    bytes: [u8; TEXT_BYTES],
    length: u8,
}

impl ClientText {
    /// `unknown` for a unix socket.
    pub(crate) fn of(address: Option<SocketAddr>) -> Self {
        let mut bytes = [0; TEXT_BYTES];
        let mut rest: &mut [u8] = &mut bytes;
        let written = match address.map(|address| address.ip().to_canonical()) {
            Some(IpAddr::V4(v4)) => write!(rest, "{v4}"),
            Some(IpAddr::V6(v6)) => write!(rest, "\"[{v6}]\""),
            None => write!(rest, "unknown"),
        };
        debug_assert!(written.is_ok(), "an address is longer than any address can be");
        let length = (TEXT_BYTES - rest.len()) as u8;
        Self { bytes, length }
    }

    /// For `Forwarded: for=`.
    pub(crate) fn node(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// For `X-Forwarded-For`: the bare address.
    pub(crate) fn plain(&self) -> &[u8] {
        let node = self.node();
        node.strip_prefix(b"\"[").and_then(|rest| rest.strip_suffix(b"]\"")).unwrap_or(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let text = |address: &str| {
            let text = ClientText::of(address.parse().ok());
            (String::from_utf8_lossy(text.plain()).into_owned(), String::from_utf8_lossy(text.node()).into_owned())
        };
        assert_eq!(text("192.0.2.10:1"), ("192.0.2.10".into(), "192.0.2.10".into()));
        assert_eq!(text("[2001:db8::1]:1"), ("2001:db8::1".into(), "\"[2001:db8::1]\"".into()));
        assert_eq!(text("[::ffff:192.0.2.1]:1"), ("192.0.2.1".into(), "192.0.2.1".into()));
        assert_eq!(text(""), ("unknown".into(), "unknown".into()));
        let longest = "[1111:2222:3333:4444:5555:6666:7777:8888]:1";
        assert_eq!(text(longest).1.len(), TEXT_BYTES);
    }
}
