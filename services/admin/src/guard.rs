//! Who may ask.
//!
//! A browser on this host can be made to talk to a loopback address by any page it shows. A page
//! of another name that resolves here gives itself away by `Host`, one that posts across by
//! `Origin`; what a page could read or do is refused to both.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use sumun_http::{Known, target};

use crate::respond::Response;
use crate::serve::Request;

/// Where a connection came in.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    /// The admin listener: the address that the client connected to, and its lock.
    Network { local: IpAddr, lock: Arc<DoorLock> },
    /// The control socket: whoever may open the file may ask.
    Control,
}

/// What opens an address of the admin listener. All of its connections have the same one, so that
/// a reload that changes the token holds for those that are open, too.
#[derive(Debug, Default)]
pub(crate) struct DoorLock(Mutex<Key>);

/// What a request has to show.
#[derive(Debug, Clone, Default)]
pub(crate) enum Key {
    /// Nobody listens there any more: nothing helps.
    #[default]
    Closed,
    /// Nothing: everybody may ask.
    Open,
    Token(Arc<str>),
}

impl DoorLock {
    pub(crate) fn new(key: Key) -> Self {
        Self(Mutex::new(key))
    }

    pub(crate) fn change(&self, key: Key) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = key;
    }

    fn key(&self) -> Key {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Refuses who may not ask; `is_public` is what holds nothing worth a token.
pub(crate) fn check(door: &Door, request: &Request<'_>, is_public: bool) -> Result<(), Response> {
    let Door::Network { local, lock } = door else { return Ok(()) };
    let host = request.head.host_value(request.bytes);
    if !is_own_host(host, *local) {
        return Err(Response::error(403, "Host is neither localhost nor the address of the admin listener"));
    }
    let mut origins = request.head.values(request.bytes, b"origin");
    if origins.any(|origin| !is_same_origin(origin, host)) {
        return Err(Response::error(403, "Origin is not the admin listener"));
    }
    match lock.key() {
        Key::Closed => Err(Response::error(403, "the admin listener is closed")),
        Key::Token(token) if !is_public && !has_token(request, &token) => {
            Err(Response::error(401, "a bearer token is needed").with("WWW-Authenticate", "Bearer realm=\"sumun\""))
        }
        Key::Token(_) | Key::Open => Ok(()),
    }
}

/// A loopback name or address, or the address that was connected to; the TCP port may be another
/// one, as it is behind a forwarding of ssh.
fn is_own_host(host: &[u8], local: IpAddr) -> bool {
    let (name, _) = target::split_port(host);
    if name.strip_suffix(b".").unwrap_or(name).eq_ignore_ascii_case(b"localhost") {
        return true;
    }
    let bare = name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]")).unwrap_or(name);
    let address = std::str::from_utf8(bare).ok().and_then(|text| text.parse::<IpAddr>().ok());
    address
        .map(|address| address.to_canonical())
        .is_some_and(|address| address.is_loopback() || address == local.to_canonical())
}

/// RFC 6454 section 7: scheme and authority; `null` is nobody's.
fn is_same_origin(origin: &[u8], host: &[u8]) -> bool {
    let authority = [&b"http://"[..], b"https://"].iter().find_map(|scheme| {
        let (start, rest) = origin.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    });
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// RFC 6750 section 2.1.
fn has_token(request: &Request<'_>, token: &str) -> bool {
    let Some(value) = request.head.known(request.bytes, Known::Authorization) else { return false };
    let Some((scheme, given)) = value.split_at_checked(b"Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ") && is_equal(given.trim_ascii(), token.as_bytes())
}

/// How long it takes tells nothing but the length.
fn is_equal(given: &[u8], wanted: &[u8]) -> bool {
    if given.len() != wanted.len() {
        return false;
    }
    let differences =
        given.iter().zip(wanted).fold(0, |differences, (given, wanted)| black_box(differences | (given ^ wanted)));
    differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let local: IpAddr = "10.0.0.5".parse().unwrap();
        for own in [
            "localhost",
            "LocalHost:9900",
            "localhost.:1",
            "127.0.0.1",
            "127.8.9.10:9900",
            "[::1]:9900",
            "10.0.0.5",
            "10.0.0.5:80",
            "[::ffff:10.0.0.5]",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_own_host(own.as_bytes(), local), "{own}");
        }
        for foreign in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.6",
            "0.0.0.0",
            "[::2]",
            "2130706433",
        ] {
            assert!(!is_own_host(foreign.as_bytes(), local), "{foreign}");
        }
    }

    #[test]
    fn origins() {
        assert!(is_same_origin(b"http://127.0.0.1:9900", b"127.0.0.1:9900"));
        assert!(is_same_origin(b"HTTPS://LOCALHOST", b"localhost"));
        for foreign in [
            "null",
            "",
            "http://",
            "127.0.0.1:9900",
            "http://127.0.0.1",
            "http://127.0.0.1:9900.evil.example",
            "file://127.0.0.1:9900",
        ] {
            assert!(!is_same_origin(foreign.as_bytes(), b"127.0.0.1:9900"), "{foreign}");
        }
    }

    #[test]
    fn tokens() {
        assert!(is_equal(b"secret", b"secret"));
        assert!(!is_equal(b"secreT", b"secret"));
        assert!(!is_equal(b"secre", b"secret"));
        assert!(!is_equal(b"", b"secret"));
    }
}
