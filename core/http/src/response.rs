//! The head of a response from a server behind.

use crate::field::{Field, Known, Span, list};
use crate::limits::{FIELDS_MAX, NOMINATED_MAX};
use crate::reject::Reject;
use crate::request::{Method, Version, parse_length};
use crate::token;

/// How the end of a response body is known (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResponseBody {
    #[default]
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// A response head; places are relative to the bytes given to `parse`.
#[derive(Debug, Default)]
pub struct ResponseHead {
    pub status: u16,
    pub version: Version,
    pub reason: Span,
    pub fields: Vec<Field>,
    pub body: ResponseBody,
    /// `Content-Length` as sent, also where there is no body (HEAD, 304).
    pub content_length: Option<u64>,
    /// The server keeps the connection.
    pub keep_alive: bool,
    /// A 101 to websocket.
    pub upgraded: bool,
    pub nominated: Vec<Span>,
    pub present: u64,
}

impl ResponseHead {
    /// Parses the head at the start of `bytes` and says how long it is; `None` where its end has
    /// not come yet. `method` is the request's.
    ///
    /// # Errors
    /// What a server must not send. The response is not forwarded (502): a client might
    /// understand it in another way (RFC 9112 section 11.1, response splitting).
    pub fn parse(&mut self, bytes: &[u8], method: Method) -> Result<Option<usize>, Reject> {
        self.clear();
        let Some(at) = self.status_line(bytes)? else { return Ok(None) };
        let mut facts = Facts::default();
        let (fields, nominated) = (&mut self.fields, &mut self.nominated);
        let section = token::section(bytes, at, FIELDS_MAX, fields, |_, known, value| {
            facts.note(bytes, nominated, known, value)
        })?;
        let Some((length, present)) = section else { return Ok(None) };
        self.present = present;
        self.settle(method, &facts)?;
        Ok(Some(length))
    }

    /// `HTTP-version SP status-code SP [ reason-phrase ] CRLF` (RFC 9112 section 4), and where the
    /// next line begins. The space before an empty phrase is often forgotten, and forgiven.
    fn status_line(&mut self, bytes: &[u8]) -> Result<Option<usize>, Reject> {
        let Some(newline) = memchr::memchr(b'\n', bytes) else {
            return Ok(None);
        };
        let line = bytes.get(..newline).and_then(|line| line.strip_suffix(b"\r")).ok_or(Reject::ControlCharacter)?;
        let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9', b' ', rest @ ..] = line else {
            return Err(Reject::StatusLine);
        };
        let ([hundreds @ b'1'..=b'5', tens @ b'0'..=b'9', ones @ b'0'..=b'9']
        | [hundreds @ b'1'..=b'5', tens @ b'0'..=b'9', ones @ b'0'..=b'9', b' ', ..]) = rest
        else {
            return Err(Reject::StatusLine);
        };
        let phrase = rest.get(4..).unwrap_or_default();
        if phrase.iter().any(|&byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
            return Err(Reject::StatusLine);
        }
        self.status = u16::from(hundreds - b'0') * 100 + u16::from(tens - b'0') * 10 + u16::from(ones - b'0');
        self.version = if *minor == b'0' { Version::Http10 } else { Version::Http11 };
        self.reason = Span::of(bytes, phrase);
        Ok(Some(newline + 1))
    }

    fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        let mut nominated = std::mem::take(&mut self.nominated);
        fields.clear();
        nominated.clear();
        *self = Self { fields, nominated, ..Self::default() };
    }

    fn settle(&mut self, method: Method, facts: &Facts) -> Result<(), Reject> {
        if facts.chunked && (facts.length.is_some() || self.version == Version::Http10) {
            return Err(Reject::LengthAndCoding);
        }
        self.content_length = facts.length;
        self.upgraded = self.status == 101 && facts.websocket;
        self.keep_alive = !facts.close && (self.version == Version::Http11 || facts.keep_alive);
        self.body = if method == Method::Head || self.status < 200 || matches!(self.status, 204 | 304) {
            ResponseBody::None
        } else if facts.chunked {
            ResponseBody::Chunked
        } else {
            match facts.length {
                Some(0) => ResponseBody::None,
                Some(length) => ResponseBody::Length(length),
                None => {
                    self.keep_alive = false;
                    ResponseBody::UntilClose
                }
            }
        };
        Ok(())
    }

    #[must_use]
    pub fn has(&self, known: Known) -> bool {
        self.present & (1 << known as u8) != 0
    }

    /// Value of the first field with this name, which may be in any case.
    #[must_use]
    pub fn value<'a>(&self, bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
        self.fields
            .iter()
            .find(|field| field.name.of_bytes(bytes).eq_ignore_ascii_case(name))
            .map(|field| field.value.of_bytes(bytes))
    }

    /// Value of the first field with this known name.
    #[must_use]
    pub fn known<'a>(&self, bytes: &'a [u8], known: Known) -> Option<&'a [u8]> {
        if !self.has(known) {
            return None;
        }
        self.fields.iter().find(|field| field.known == known).map(|field| field.value.of_bytes(bytes))
    }
}

/// What has been seen while the fields pass by.
#[derive(Default)]
struct Facts {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    websocket: bool,
}

impl Facts {
    /// What one field means for framing and the connection.
    #[inline]
    fn note(&mut self, head: &[u8], nominated: &mut Vec<Span>, known: Known, value: &[u8]) -> Result<(), Reject> {
        match known {
            Known::ContentLength => {
                if self.length.is_some() {
                    return Err(Reject::ContentLength);
                }
                self.length = Some(parse_length(value).ok_or(Reject::ContentLength)?);
            }
            Known::TransferEncoding => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Reject::TransferEncoding);
                }
                self.chunked = true;
            }
            Known::Connection => {
                for option in list(value) {
                    if option.eq_ignore_ascii_case(b"close") {
                        self.close = true;
                    } else if option.eq_ignore_ascii_case(b"keep-alive") {
                        self.keep_alive = true;
                    } else if nominated.len() == NOMINATED_MAX {
                        return Err(Reject::Connection);
                    } else if Known::of(option) == Known::Other {
                        nominated.push(Span::of(head, option));
                    }
                }
            }
            Known::Upgrade => self.websocket = value.eq_ignore_ascii_case(b"websocket"),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, method: Method) -> Result<ResponseHead, Reject> {
        let mut head = ResponseHead::default();
        head.parse(text.as_bytes(), method).map(|_| head)
    }

    #[test]
    fn body_lengths() {
        let get = |text: &str| parse(text, Method::Get).unwrap();
        assert_eq!(get("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n").body, ResponseBody::Length(3));
        assert_eq!(get("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").body, ResponseBody::Chunked);
        assert_eq!(get("HTTP/1.1 304 X\r\nContent-Length: 3\r\n\r\n").body, ResponseBody::None);
        let open = get("HTTP/1.1 200 \r\n\r\n");
        assert_eq!(open.body, ResponseBody::UntilClose);
        assert!(!open.keep_alive);
        assert!(!get("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n").keep_alive);
        assert_eq!(
            parse("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::Head).unwrap().body,
            ResponseBody::None
        );
    }

    #[test]
    fn what_a_server_must_not_send() {
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 999 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
        ] {
            assert!(parse(bad, Method::Get).is_err(), "{bad:?}");
        }
    }
}
