//! Requests (RFC 9113 section 8.3.1, RFC 8441).

use sumun_http::{BodyLength, Known, Method, Reject, RequestHead, Span, Version, target};

use super::{Body, FieldSet, Section};
use crate::error::Malformed;

/// What a request of HTTP/2 says beyond what `RequestHead` has a place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestExtra {
    pub scheme: Scheme,
    /// Of an extended CONNECT, such as `websocket` (RFC 8441 section 4).
    pub protocol: Option<Span>,
    /// Fields that no table may keep on their way further (RFC 7541 section 6.2.3).
    pub never_indexed: FieldSet,
}

/// What the client believes the connection to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
    /// Of a plain CONNECT.
    None,
}

impl Section {
    /// Holds the request that was read against the rules. `end`: it has no body.
    ///
    /// # Errors
    /// The stream is reset; nothing of it is handed out.
    pub(crate) fn check_request(&self, end: bool, extended_connect: bool) -> Result<Body, Malformed> {
        if self.reject.is_some() {
            // Not all of it is known; whoever answers 431 needs no more.
            return Ok(Body { length: None, tunnel: false });
        }
        let pseudos = &self.pseudos;
        let method = self.value(pseudos.method).ok_or(Malformed::PseudoMissing)?;
        let is_connect = method == b"CONNECT";
        if pseudos.protocol.is_some() && !(is_connect && extended_connect) {
            return Err(Malformed::PseudoUnknown);
        }
        let is_tunnel_to_host = is_connect && pseudos.protocol.is_none();
        if is_tunnel_to_host {
            if pseudos.scheme.is_some() || pseudos.path.is_some() {
                return Err(Malformed::PseudoUnknown);
            }
            pseudos.authority.ok_or(Malformed::Authority)?;
        } else {
            pseudos.scheme.ok_or(Malformed::PseudoMissing)?;
            match self.value(pseudos.path).ok_or(Malformed::PseudoMissing)? {
                [b'/', ..] => {}
                b"*" if method == b"OPTIONS" => {}
                _ => return Err(Malformed::Path),
            }
        }
        self.check_authority()?;
        if end && self.content_length.is_some_and(|length| length > 0) {
            return Err(Malformed::BodyLength);
        }
        let length = if is_connect { None } else { self.content_length };
        Ok(Body { length, tunnel: is_connect })
    }

    /// One authority, and no doubt which.
    fn check_authority(&self) -> Result<(), Malformed> {
        let authority = self.value(self.pseudos.authority);
        let host = self.host.and_then(|index| self.fields.get(index)).map(|field| field.value.of_bytes(&self.text));
        match (authority, host) {
            (Some([]), _) | (None, Some([]) | None) => Err(Malformed::Authority),
            (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => Err(Malformed::Host),
            _ => Ok(()),
        }
    }

    /// Gives the request to `head` and `bytes`, whose memory is used for the next section. `end`: it
    /// has no body.
    ///
    /// # Errors
    /// What an HTTP/1 request would be refused for too. The head is there as far as it goes.
    pub(crate) fn take_request(
        &mut self,
        head: &mut RequestHead,
        bytes: &mut Vec<u8>,
        end: bool,
    ) -> Result<RequestExtra, Reject> {
        std::mem::swap(&mut self.text, bytes);
        std::mem::swap(&mut self.fields, &mut head.fields);
        let (fields, mut nominated) = (std::mem::take(&mut head.fields), std::mem::take(&mut head.nominated));
        nominated.clear();
        let pseudos = &self.pseudos;
        let text = |span: Option<Span>| span.map(|span| span.of_bytes(bytes)).unwrap_or_default();
        let (method, protocol) = (text(pseudos.method), text(pseudos.protocol));
        // Its length means nothing: a tunnel ends when it ends.
        let is_connect = method == b"CONNECT";
        *head = RequestHead {
            version: Version::Http2,
            target: pseudos.path.or(pseudos.authority).unwrap_or_default(),
            authority: pseudos.authority,
            fields,
            host: self.host,
            body: match (self.content_length, end) {
                (Some(length), _) if !is_connect => BodyLength::Length(length),
                (_, true) => BodyLength::None,
                (_, false) => BodyLength::Chunked,
            },
            keep_alive: true,
            nominated,
            present: self.present,
            ..RequestHead::default()
        };
        if let Some(reject) = self.reject {
            return Err(reject);
        }
        head.method = Method::from_bytes(method).ok_or(Reject::Method)?;
        head.websocket = protocol == b"websocket";
        let scheme = match text(pseudos.scheme) {
            b"http" => Scheme::Http,
            b"https" => Scheme::Https,
            b"" if pseudos.scheme.is_none() => Scheme::None,
            _ => return Err(Reject::Target),
        };
        if !target::is_host(head.host_value(bytes)) {
            return Err(Reject::HostSyntax);
        }
        if let Some(expectation) = head.known(bytes, Known::Expect) {
            if !expectation.eq_ignore_ascii_case(b"100-continue") {
                return Err(Reject::Expectation);
            }
            head.expect_continue = true;
        }
        // An authority in the target overrides the one of the pseudo-field nowhere: the target is a
        // path, `*`, or the authority itself.
        target::parse_into(head, bytes)?;
        Ok(RequestExtra { scheme, protocol: pseudos.protocol, never_indexed: self.never_indexed })
    }
}
