//! The head of a request: parsed once, into something that cannot be ambiguous.

use crate::field::{Field, Known, Span, is_token, list};
use crate::limits::{FIELDS_MAX, NOMINATED_MAX};
use crate::reject::Reject;
use crate::target;
use crate::token;

macro_rules! methods {
    ($($variant:ident = $name:literal,)*) => {
        /// Methods that are registered with IANA, and one that is not: those of RFC 9110 and RFC 5789, of
        /// WebDAV and its children, QUERY, and M-SEARCH of UPnP. Others are refused with 501: what they mean
        /// for a retry or a cache cannot be known.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub enum Method {
            #[default]
            $($variant,)*
        }

        impl Method {
            #[must_use]
            pub fn from_bytes(name: &[u8]) -> Option<Self> {
                $(if name == $name.as_bytes() {
                    return Some(Self::$variant);
                })*
                None
            }

            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$variant,)*];
        }
    };
}

// The frequent ones first.
methods! {
    Get = "GET",
    Head = "HEAD",
    Post = "POST",
    Put = "PUT",
    Delete = "DELETE",
    Patch = "PATCH",
    Options = "OPTIONS",
    Trace = "TRACE",
    Connect = "CONNECT",
    Propfind = "PROPFIND",
    Report = "REPORT",
    Search = "SEARCH",
    Query = "QUERY",
    Proppatch = "PROPPATCH",
    Mkcol = "MKCOL",
    Copy = "COPY",
    Move = "MOVE",
    Lock = "LOCK",
    Unlock = "UNLOCK",
    Acl = "ACL",
    BaselineControl = "BASELINE-CONTROL",
    Bind = "BIND",
    Checkin = "CHECKIN",
    Checkout = "CHECKOUT",
    Label = "LABEL",
    Link = "LINK",
    Merge = "MERGE",
    Mkactivity = "MKACTIVITY",
    Mkcalendar = "MKCALENDAR",
    Mkredirectref = "MKREDIRECTREF",
    Mkworkspace = "MKWORKSPACE",
    Orderpatch = "ORDERPATCH",
    Rebind = "REBIND",
    Unbind = "UNBIND",
    Uncheckout = "UNCHECKOUT",
    Unlink = "UNLINK",
    Update = "UPDATE",
    Updateredirectref = "UPDATEREDIRECTREF",
    VersionControl = "VERSION-CONTROL",
    MSearch = "M-SEARCH",
}

impl Method {
    /// Changes nothing (RFC 9110 section 9.2.1).
    #[must_use]
    pub fn is_safe(self) -> bool {
        matches!(
            self,
            Self::Get
                | Self::Head
                | Self::Options
                | Self::Trace
                | Self::Propfind
                | Self::Report
                | Self::Search
                | Self::Query
        )
    }

    /// May be sent twice with the effect of once (RFC 9110 section 9.2.2). Some of WebDAV's are so by their
    /// name only: a MOVE that is sent again finds nothing to move.
    #[must_use]
    pub fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Self::Put | Self::Delete)
    }
}

/// What a message came in; a higher minor version is spoken to as 1.1 (RFC 9110 section 2.5). A head
/// parsed here is never one of HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
}

impl Version {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
        }
    }
}

/// How the end of a request body is known (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyLength {
    #[default]
    None,
    Length(u64),
    Chunked,
}

/// A request head. Places are relative to the bytes given to `parse`; the same value is parsed
/// into again and again, so that a request costs no allocation.
#[derive(Debug, Default)]
pub struct RequestHead {
    pub method: Method,
    pub version: Version,
    /// As received.
    pub target: Span,
    /// The path inside the target, as received, still percent-encoded; empty for `*`.
    pub path: Span,
    /// After the `?`; `None` when there is none.
    pub query: Option<Span>,
    /// Of an absolute-form target, which overrides `Host` (RFC 9112 section 3.2.2).
    pub authority: Option<Span>,
    /// The target is `*` (RFC 9112 section 3.2.4).
    pub asterisk: bool,
    /// The path needs `target::normalize` before it is matched or forwarded.
    pub path_is_plain: bool,
    pub fields: Vec<Field>,
    /// Index into `fields`.
    pub host: Option<usize>,
    pub body: BodyLength,
    /// The client keeps the connection (RFC 9112 section 9.3).
    pub keep_alive: bool,
    pub expect_continue: bool,
    /// A well-formed `Upgrade: websocket` (RFC 6455 section 4.1) that `Connection` nominates.
    pub websocket: bool,
    /// Names that `Connection` nominated and that a gateway drops.
    pub nominated: Vec<Span>,
    /// Bit n is set when the known name n is among the fields.
    pub present: u64,
}

const _: () = assert!((Known::Referer as u8) < 64, "`present` has one bit a known name");

impl RequestHead {
    /// Parses the head at the start of `bytes` and says how long it is, its empty line included;
    /// `None` where its end has not come yet. `fields_max` is the operator's bound on header
    /// fields. A head that comes in many pieces is found with `scan::HeadScan` first, so that it
    /// is parsed once and not once for each piece.
    ///
    /// # Errors
    /// The first rule that the head breaks; the connection has to be closed then, since where the
    /// next request starts is not known.
    pub fn parse(&mut self, bytes: &[u8], fields_max: usize) -> Result<Option<usize>, Reject> {
        self.clear();
        let Some((line, at)) = request_line(bytes)? else { return Ok(None) };
        self.method = Method::from_bytes(line.method.of_bytes(bytes)).ok_or(Reject::Method)?;
        self.version = line.version;
        self.target = line.target;

        let mut facts = Facts::default();
        let (fields, nominated) = (&mut self.fields, &mut self.nominated);
        let section = token::section(bytes, at, fields_max.min(FIELDS_MAX), fields, |index, known, value| {
            facts.note(bytes, nominated, index, known, value)
        })?;
        let Some((length, present)) = section else { return Ok(None) };
        self.present = present;
        self.settle(&facts)?;
        target::parse_into(self, bytes.get(..length).unwrap_or_default())?;
        Ok(Some(length))
    }

    fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        let mut nominated = std::mem::take(&mut self.nominated);
        fields.clear();
        nominated.clear();
        *self = Self { fields, nominated, ..Self::default() };
    }

    /// The rules that need all fields.
    fn settle(&mut self, facts: &Facts) -> Result<(), Reject> {
        self.body = match (facts.length, facts.chunked) {
            (Some(_), true) => return Err(Reject::LengthAndCoding),
            // RFC 9112 section 6.1: a 1.0 message with Transfer-Encoding has faulty framing.
            (None, true) if self.version == Version::Http10 => return Err(Reject::TransferEncoding),
            (None, true) => BodyLength::Chunked,
            (Some(0), false) => BodyLength::Length(0),
            (Some(length), false) => BodyLength::Length(length),
            (None, false) => BodyLength::None,
        };
        if facts.expects_more {
            return Err(Reject::Expectation);
        }
        self.host = facts.host;
        if self.host.is_none() && self.version == Version::Http11 {
            return Err(Reject::HostMissing);
        }
        self.keep_alive = !facts.close && (self.version == Version::Http11 || facts.keep_alive);
        self.websocket = facts.upgrade_websocket
            && facts.websocket_key
            && facts.websocket_keys == 1
            && facts.upgrade_nominated
            && self.method == Method::Get
            && self.version == Version::Http11
            && matches!(self.body, BodyLength::None | BodyLength::Length(0));
        // RFC 9110 section 10.1.1: a 1.0 client does not know the expectation.
        self.expect_continue = facts.expect_continue && self.version == Version::Http11;
        Ok(())
    }

    #[must_use]
    pub fn has(&self, known: Known) -> bool {
        self.present & (1 << known as u8) != 0
    }

    /// Value of the first field with this known name.
    #[must_use]
    pub fn known<'a>(&self, bytes: &'a [u8], known: Known) -> Option<&'a [u8]> {
        if !self.has(known) {
            return None;
        }
        self.fields.iter().find(|field| field.known == known).map(|field| field.value.of_bytes(bytes))
    }

    /// Values of all fields with this name, which may be in any case.
    pub fn values<'a>(&self, bytes: &'a [u8], name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |field| field.name.of_bytes(bytes).eq_ignore_ascii_case(name))
            .map(move |field| field.value.of_bytes(bytes))
    }

    /// Takes fields out as if they had never come: those whose names only the gateway may use.
    pub fn take_out(&mut self, bytes: &[u8], is_taken: impl Fn(&[u8]) -> bool) {
        for field in &mut self.fields {
            if is_taken(field.name.of_bytes(bytes)) {
                // Its place stays known: what stands before it is copied up to there. One that speaks
                // about the connection is never copied, and one without a name is never found.
                field.name.end = field.name.start;
                field.known = Known::ProxyConnection;
            }
        }
    }

    /// Who is asked: the authority of an absolute target, else `Host`; empty for a 1.0 client
    /// that names nobody.
    #[must_use]
    pub fn host_value<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match (self.authority, self.host) {
            (Some(authority), _) => authority.of_bytes(bytes),
            (None, Some(index)) => self.fields[index].value.of_bytes(bytes),
            (None, None) => b"",
        }
    }

    /// Bytes of the request line without its CRLF.
    #[must_use]
    pub fn line_length(&self) -> usize {
        self.target.end as usize + " HTTP/1.1".len()
    }

    /// There is a body, even an empty chunked one.
    #[must_use]
    pub fn has_body(&self) -> bool {
        !matches!(self.body, BodyLength::None | BodyLength::Length(0))
    }
}

/// What has been seen while the fields pass by.
#[derive(Default)]
struct Facts {
    /// Index of the field.
    host: Option<usize>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade_nominated: bool,
    upgrade_websocket: bool,
    websocket_key: bool,
    websocket_keys: u32,
    expect_continue: bool,
    expects_more: bool,
}

impl Facts {
    /// What one field means for framing, routing and the connection.
    #[inline]
    fn note(
        &mut self,
        head: &[u8],
        nominated: &mut Vec<Span>,
        index: usize,
        known: Known,
        value: &[u8],
    ) -> Result<(), Reject> {
        match known {
            Known::Host => {
                // RFC 9112 section 3.2: more than one is a 400.
                if self.host.replace(index).is_some() {
                    return Err(Reject::HostRepeated);
                }
                // An empty one names nobody (RFC 9110 section 4.2.1).
                if value.is_empty() || !target::is_host(value) {
                    return Err(Reject::HostSyntax);
                }
            }
            Known::ContentLength => {
                // RFC 9112 section 6.3 lets equal repetitions pass; a client that sends them is
                // broken or attacks, so they do not.
                if self.length.is_some() {
                    return Err(Reject::ContentLength);
                }
                self.length = Some(parse_length(value).ok_or(Reject::ContentLength)?);
            }
            Known::TransferEncoding => {
                if self.chunked {
                    return Err(Reject::TransferEncoding);
                }
                check_coding(value)?;
                self.chunked = true;
            }
            Known::Connection => {
                for option in list(value) {
                    self.note_connection(head, nominated, option)?;
                }
            }
            Known::Expect => {
                // Said once the whole head has been read: a broken line is worse.
                self.expects_more |= !value.eq_ignore_ascii_case(b"100-continue");
                self.expect_continue = true;
            }
            Known::SecWebSocketKey => {
                // RFC 6455 section 4.1: sixteen bytes in base64, once.
                self.websocket_key = self.websocket_keys == 0 && is_websocket_key(value);
                self.websocket_keys += 1;
            }
            Known::Upgrade => {
                self.upgrade_websocket = list(value).any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
            }
            _ => {}
        }
        Ok(())
    }

    fn note_connection(&mut self, head: &[u8], nominated: &mut Vec<Span>, option: &[u8]) -> Result<(), Reject> {
        if option.eq_ignore_ascii_case(b"close") {
            self.close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else if option.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade_nominated = true;
        } else {
            if !is_token(option) || nominated.len() == NOMINATED_MAX {
                return Err(Reject::Connection);
            }
            // RFC 9110 section 7.6.1: end-to-end fields must not be nominated. Dropping them would
            // let a client hide its cookie or our own X-Forwarded-For from the server behind.
            if matches!(Known::of(option), Known::Other | Known::Te | Known::KeepAlive | Known::ProxyConnection) {
                nominated.push(Span::of(head, option));
            }
        }
        Ok(())
    }
}

fn is_websocket_key(value: &[u8]) -> bool {
    value.len() == 24
        && value.ends_with(b"==")
        && value[..22].iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

/// `Content-Length = 1*DIGIT` (RFC 9110 section 8.6), without sign, space or overflow.
#[must_use]
pub fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, &byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

/// Only `chunked` is understood. A list that ends in it asks for a coding that this gateway does
/// not have (501, RFC 9112 section 6.1); anything else has no known end (400, section 6.3).
fn check_coding(value: &[u8]) -> Result<(), Reject> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let codings: Vec<&[u8]> = list(value).collect();
    let Some((last, before)) = codings.split_last() else {
        return Err(Reject::TransferEncoding);
    };
    let chunked_before = before.iter().any(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    let all_tokens = before.iter().all(|coding| is_token(coding));
    if last.eq_ignore_ascii_case(b"chunked") && !before.is_empty() && !chunked_before && all_tokens {
        return Err(Reject::CodingNotImplemented);
    }
    Err(Reject::TransferEncoding)
}

/// The parts of a request line.
struct RequestLine {
    method: Span,
    target: Span,
    version: Version,
}

/// `method SP request-target SP HTTP-version CRLF` (RFC 9112 section 3), with exactly one space
/// each, and where the next line begins. `None`: it has not come in full.
fn request_line(bytes: &[u8]) -> Result<Option<(RequestLine, usize)>, Reject> {
    let mut at = 0;
    while bytes.get(at).is_some_and(|&byte| token::is_token_byte(byte)) {
        at += 1;
    }
    let method = Span { start: 0, end: at as u32 };
    match bytes.get(at) {
        None => return Ok(None),
        Some(b' ') if at > 0 => at += 1,
        Some(_) => return Err(Reject::RequestLine),
    }
    let target_start = at;
    // What may stand in a target is decided where it is taken apart; here it ends.
    while bytes.get(at).is_some_and(|&byte| byte > b' ' && byte != 0x7f) {
        at += 1;
    }
    let target = Span { start: target_start as u32, end: at as u32 };
    match bytes.get(at) {
        None => return Ok(None),
        Some(b' ') if at > target_start => at += 1,
        Some(_) => return Err(Reject::RequestLine),
    }
    const VERSION_BYTES: usize = "HTTP/1.1\r\n".len();
    let Some(rest) = bytes.get(at..at + VERSION_BYTES) else {
        // A line that has ended is too short for a version: its sender waits for an answer. A
        // bound on lines ends the wait for one that never does.
        let rest = bytes.get(at..).unwrap_or_default();
        return if rest.contains(&b'\n') { Err(Reject::RequestLine) } else { Ok(None) };
    };
    let version = match rest {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0', b'\r', b'\n'] => Version::Http10,
        // A higher minor version is compatible (RFC 9110 section 2.5): it is spoken to as 1.1.
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9', b'\r', b'\n'] => Version::Http11,
        [b'H', b'T', b'T', b'P', b'/', b'2'..=b'9', b'.', b'0'..=b'9', b'\r', b'\n'] => return Err(Reject::Version),
        [.., b'\n', _] => return Err(Reject::ControlCharacter),
        _ => return Err(Reject::RequestLine),
    };
    Ok(Some((RequestLine { method, target, version }, at + VERSION_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_called_what_they_are() {
        for method in Method::ALL {
            assert_eq!(Method::from_bytes(method.as_str().as_bytes()), Some(*method));
        }
        for unknown in ["", "get", "GETS", "PRI", "FOO"] {
            assert_eq!(Method::from_bytes(unknown.as_bytes()), None, "{unknown}");
        }
        assert!(Method::Propfind.is_idempotent() && !Method::Move.is_idempotent() && !Method::Post.is_safe());
    }

    fn parse(head: &str) -> Result<RequestHead, Reject> {
        let mut request = RequestHead::default();
        request.parse(head.as_bytes(), 100).map(|length| {
            assert_eq!(length, Some(head.len()));
            request
        })
    }

    #[test]
    fn a_plain_request() {
        let text = "GET /a/b?c=d HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n";
        let head = parse(text).unwrap();
        assert_eq!(head.method, Method::Get);
        assert_eq!(head.path.of_bytes(text.as_bytes()), b"/a/b");
        assert_eq!(head.query.unwrap().of_bytes(text.as_bytes()), b"c=d");
        assert_eq!(head.host_value(text.as_bytes()), b"example.com");
        assert!(head.keep_alive);
        assert_eq!(head.body, BodyLength::None);
    }

    #[test]
    fn framing_is_never_ambiguous() {
        let with = |fields: &str| parse(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        assert_eq!(with("Content-Length: 5\r\n").unwrap().body, BodyLength::Length(5));
        assert_eq!(with("Transfer-Encoding: Chunked\r\n").unwrap().body, BodyLength::Chunked);
        for (fields, why) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Reject::LengthAndCoding),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Reject::ContentLength),
            ("Content-Length: 5, 5\r\n", Reject::ContentLength),
            ("Content-Length: +5\r\n", Reject::ContentLength),
            ("Content-Length: \r\n", Reject::ContentLength),
            ("Content-Length: 99999999999999999999\r\n", Reject::ContentLength),
            ("Transfer-Encoding: gzip, chunked\r\n", Reject::CodingNotImplemented),
            ("Transfer-Encoding: chunked, chunked\r\n", Reject::TransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Reject::TransferEncoding),
            ("Transfer-Encoding: identity\r\n", Reject::TransferEncoding),
            ("Transfer-Encoding:\x0bchunked\r\n", Reject::FieldSyntax),
            ("Content-Length : 5\r\n", Reject::FieldSyntax),
            (" Content-Length: 5\r\n", Reject::FieldSyntax),
            ("X: a\r\n b\r\n", Reject::FieldSyntax),
            ("X: a\0b\r\n", Reject::FieldSyntax),
            ("X: a\n", Reject::ControlCharacter),
            ("X: a\nY: b\r\n", Reject::ControlCharacter),
            ("X: a\rb\r\n", Reject::FieldSyntax),
            ("Host: b\r\n", Reject::HostRepeated),
            ("Expect: 200-ok\r\n", Reject::Expectation),
        ] {
            assert_eq!(with(fields).map(|_| ()), Err(why), "{fields:?}");
        }
    }

    #[test]
    fn connections_and_versions() {
        assert!(!parse("GET / HTTP/1.0\r\n\r\n").unwrap().keep_alive);
        assert!(parse("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap().keep_alive);
        assert!(!parse("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap().keep_alive);
        assert_eq!(parse("GET / HTTP/1.1\r\n\r\n").map(|_| ()), Err(Reject::HostMissing));
        assert_eq!(parse("GET / HTTP/2.0\r\nHost: a\r\n\r\n").map(|_| ()), Err(Reject::Version));
        assert_eq!(parse("GET / http/1.1\r\nHost: a\r\n\r\n").map(|_| ()), Err(Reject::RequestLine));
        assert_eq!(parse("get / HTTP/1.1\r\nHost: a\r\n\r\n").map(|_| ()), Err(Reject::Method));
        assert_eq!(parse("GET / HTTP/1.7\r\nHost: a\r\n\r\n").unwrap().version, Version::Http11);
        for bad in [
            "GET /\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            "GET /\tHTTP/1.1\r\n\r\n",
            " GET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(parse(bad).map(|_| ()), Err(Reject::RequestLine), "{bad:?}");
        }
    }

    #[test]
    fn a_short_line_is_refused_once_it_has_ended() {
        for line in ["GET / \r\n", "GET / HTTP/1\r\n", "X : 1\r\n", "GET / HTTP\n"] {
            assert_eq!(parse(line).map(|_| ()), Err(Reject::RequestLine), "{line:?}");
        }
        let mut request = RequestHead::default();
        assert_eq!(request.parse(b"GET / HTTP/1\r", 100), Ok(None));
    }

    #[test]
    fn only_hop_by_hop_names_can_be_nominated() {
        let text =
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Private, Cookie, X-Forwarded-For\r\nX-Private: 1\r\n\r\n";
        let head = parse(text).unwrap();
        let nominated: Vec<_> = head.nominated.iter().map(|span| span.of_bytes(text.as_bytes())).collect();
        assert_eq!(nominated, [b"X-Private"]);
    }

    #[test]
    fn only_websocket_upgrades() {
        let ask = |upgrade: &str| {
            parse(&format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
                .unwrap()
                .websocket
        };
        assert!(ask("websocket"));
        assert!(ask("WebSocket"));
        assert!(!ask("h2c"));
    }
}
