//! What a request knows of itself, and how long it may take.

use std::borrow::Cow;

use sumun_http::{Known, Method};

use super::Exchange;

impl<'a> Exchange<'a> {
    /// As it stands in `X-Forwarded-Proto`.
    pub(crate) fn scheme(&self) -> &'static [u8] {
        if self.security.is_some() { b"https" } else { b"http" }
    }

    /// The host, as servers are told it: with the one that a trusted proxy names before it, where that is
    /// another one.
    pub(crate) fn host_for_servers(&self) -> Cow<'a, [u8]> {
        let host = self.head.host_value(self.bytes);
        let said = if self.trusted { self.head.known(self.bytes, Known::XForwardedHost) } else { None };
        match said {
            Some(said) if !said.eq_ignore_ascii_case(host) => Cow::Owned([said, b",", host].concat()),
            _ => Cow::Borrowed(host),
        }
    }

    /// As servers are told it: of trusted proxies it is believed.
    pub(crate) fn scheme_for_servers(&self) -> &'a [u8] {
        let said = if self.trusted { self.head.known(self.bytes, Known::XForwardedProto) } else { None };
        said.unwrap_or_else(|| self.scheme())
    }

    /// What servers are told of the client's certificate: field and value.
    pub(crate) fn client_subject(&self) -> Option<(&'a [u8], &'a [u8])> {
        let (name, subject) = self.security?.subject.as_ref()?;
        Some((name.as_bytes(), subject.as_bytes()))
    }

    /// Value of `Strict-Transport-Security`, which has no meaning without TLS (RFC 6797 section 7.2).
    pub(crate) fn hsts(&self) -> Option<&'a [u8]> {
        self.security.and_then(|_| self.site.hsts.as_deref())
    }

    /// The listener sends requests without TLS to where there is. A proxy in front that is believed
    /// may have taken the TLS off.
    pub(super) fn must_come_over_tls(&self) -> bool {
        let came_secure = || {
            self.trusted && self.head.known(self.bytes, Known::XForwardedProto).is_some_and(|proto| proto == b"https")
        };
        self.site.config.redirect_https.is_some()
            && self.security.is_none()
            && self.head.method != Method::Connect
            && !came_secure()
    }

    /// The deadline of a phase, never behind that of the whole request.
    pub(crate) fn set_deadline(&self, after: std::time::Duration) {
        let at_ms = self.deadline.now_ms().saturating_add(after.as_millis() as u64);
        self.deadline.set_at(at_ms.saturating_add(1).min(self.limit_ms));
    }

    /// A call of gRPC.
    pub(crate) fn is_grpc(&self) -> bool {
        self.head.known(self.bytes, Known::ContentType).is_some_and(crate::http2::text::is_grpc)
    }

    /// The deadline that just passed was the whole request's.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.deadline.now_ms() >= self.limit_ms
    }
}
