//! Request targets and hosts (RFC 9112 section 3.2, RFC 3986).

use std::borrow::Cow;

use crate::field::Span;
use crate::reject::Reject;
use crate::request::{Method, RequestHead};

/// Splits the target of `head` into authority, path and query, and refuses what a server could
/// read in another way than we do. `head` has its method and target, and `bytes` is what they came in.
///
/// # Errors
/// `Target`.
pub fn parse_into(head: &mut RequestHead, bytes: &[u8]) -> Result<(), Reject> {
    let target = head.target.of_bytes(bytes);
    match target {
        b"*" if head.method == Method::Options => {
            head.asterisk = true;
            head.path_is_plain = true;
            return Ok(());
        }
        [b'/', ..] => return split_origin(head, bytes, head.target),
        _ => {}
    }
    if head.method == Method::Connect {
        // Authority form; the method is refused by the caller with its own status.
        return if is_host(target) { Ok(()) } else { Err(Reject::Target) };
    }
    let rest = strip_scheme(target).ok_or(Reject::Target)?;
    let authority_length = rest.iter().position(|&byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(authority_length);
    if authority.is_empty() || !is_host(authority) {
        return Err(Reject::Target);
    }
    head.authority = Some(Span::of(bytes, authority));
    if after.is_empty() {
        // RFC 9112 section 3.2.1: an empty path is sent as "/"; "*" for OPTIONS (section 3.2.4).
        head.path = Span { start: head.target.end, end: head.target.end };
        head.asterisk = head.method == Method::Options;
        head.path_is_plain = false;
        return Ok(());
    }
    split_origin(head, bytes, Span::of(bytes, after))
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = target.split_at_checked(7)?;
    if scheme.eq_ignore_ascii_case(b"http://") {
        return Some(rest);
    }
    let (scheme, rest) = target.split_at_checked(8)?;
    scheme.eq_ignore_ascii_case(b"https://").then_some(rest)
}

fn split_origin(head: &mut RequestHead, bytes: &[u8], span: Span) -> Result<(), Reject> {
    let text = span.of_bytes(bytes);
    let mut plain = true;
    let mut query_at = None;
    let mut index = 0;
    while let Some(&byte) = text.get(index) {
        match CLASS[byte as usize] {
            Class::Plain => {}
            Class::Refused => return Err(Reject::Target),
            Class::Query => {
                if query_at.is_none() {
                    query_at = Some(index);
                }
            }
            Class::Percent => {
                let digits = text.get(index + 1..index + 3).ok_or(Reject::Target)?;
                let (Some(high), Some(low)) = (hex(digits[0]), hex(digits[1])) else {
                    return Err(Reject::Target);
                };
                // A NUL ends the string in too many servers.
                if high == 0 && low == 0 {
                    return Err(Reject::Target);
                }
                if query_at.is_none() {
                    plain = false;
                }
                index += 2;
            }
            // Dots and slashes matter only where they meet: "//", "/.", "/..".
            Class::Slash => {
                if query_at.is_none() && matches!(text.get(index + 1), Some(b'/' | b'.')) {
                    plain = false;
                }
            }
        }
        index += 1;
    }
    head.path_is_plain = plain;
    let path_length = query_at.unwrap_or(text.len()) as u32;
    head.path = Span { start: span.start, end: span.start + path_length };
    head.query = query_at.map(|at| Span { start: span.start + at as u32 + 1, end: span.end });
    if path_length == 0 {
        head.path_is_plain = false;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Class {
    Plain,
    Refused,
    Query,
    Percent,
    Slash,
}

static CLASS: [Class; 256] = {
    let mut table = [Class::Refused; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = match byte as u8 {
            b'?' => Class::Query,
            b'%' => Class::Percent,
            b'/' => Class::Slash,
            // Not in any URI (RFC 3986 section 2); a backslash is a slash to some servers, a
            // fragment is never sent (RFC 9110 section 7.1).
            b'#' | b'\\' | b'<' | b'>' | b'"' | b'^' | b'`' => Class::Refused,
            // Not in the grammar either, but common in the query of real pages.
            _ => Class::Plain,
        };
        byte += 1;
    }
    table
};

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// The path that is matched and forwarded (RFC 3986 section 6.2.2): percent-encoded unreserved
/// characters decoded, hexadecimal digits in upper case, dot segments removed, several slashes
/// kept as one. An encoded slash or backslash stays encoded: it is data, not structure.
#[must_use]
pub fn normalize(path: &[u8]) -> Cow<'_, [u8]> {
    if path.is_empty() {
        return Cow::Borrowed(b"/");
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut index = 0;
    while let Some(&byte) = path.get(index) {
        if byte == b'%'
            && let Some(&[first, second]) = path.get(index + 1..index + 3)
            && let (Some(high), Some(low)) = (hex(first), hex(second))
        {
            let value = high << 4 | low;
            if value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~') {
                decoded.push(value);
            } else {
                decoded.extend_from_slice(&[b'%', first.to_ascii_uppercase(), second.to_ascii_uppercase()]);
            }
            index += 3;
        } else {
            decoded.push(byte);
            index += 1;
        }
    }
    let mut output: Vec<u8> = Vec::with_capacity(decoded.len());
    let mut segments = decoded.split(|&byte| byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"" if !last => {}
            b"." => {
                if last {
                    output.push(b'/');
                }
            }
            b".." => {
                let parent = output.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                output.truncate(parent);
                if last {
                    output.push(b'/');
                }
            }
            _ => {
                output.push(b'/');
                output.extend_from_slice(segment);
            }
        }
    }
    if output.is_empty() {
        output.push(b'/');
    }
    Cow::Owned(output)
}

/// `uri-host [ ":" port ]` (RFC 9110 section 7.2) without user information. Empty is valid for
/// `Host` (a target without an authority).
#[must_use]
pub fn is_host(value: &[u8]) -> bool {
    if value.is_empty() {
        return true;
    }
    let (name, port) = split_port(value);
    let port_is_fine = match port {
        None => true,
        Some(digits) => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) && port_number(digits) <= 65_535,
    };
    if !port_is_fine || name.is_empty() || name.len() > 255 {
        return false;
    }
    if let [b'[', inside @ .., b']'] = name {
        return std::str::from_utf8(inside).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok());
    }
    // reg-name, without the sub-delims nobody has in a host name and many parsers stumble over.
    name.iter().all(|&byte| HOST_BYTE[byte as usize])
}

static HOST_BYTE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    table
};

fn port_number(digits: &[u8]) -> u32 {
    digits.iter().fold(0, |sum, &digit| sum * 10 + u32::from(digit - b'0'))
}

/// Host and TCP port as they were written; brackets stay with an IPv6 address.
#[must_use]
pub fn split_port(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    if value.first() == Some(&b'[') {
        let Some(end) = value.iter().position(|&byte| byte == b']') else { return (value, None) };
        let (name, after) = value.split_at(end + 1);
        return match after {
            [] => (name, None),
            [b':', port @ ..] => (name, Some(port)),
            _ => (b"", None),
        };
    }
    match memchr::memchr(b':', value) {
        Some(colon) => (&value[..colon], Some(&value[colon + 1..])),
        None => (value, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes_what_servers_disagree_on() {
        for (raw, clean) in [
            ("/a/../b", "/b"),
            ("/a/./b", "/a/b"),
            ("/a/b/..", "/a/"),
            ("/..", "/"),
            ("/../../x", "/x"),
            ("//a///b", "/a/b"),
            ("/%61%2e%2E/b", "/a../b"),
            ("/%2e%2e/b", "/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/a/", "/a/"),
            ("/", "/"),
            ("", "/"),
            ("/a/.", "/a/"),
            ("/a//", "/a/"),
            ("/%5c..%5c", "/%5C..%5C"),
        ] {
            assert_eq!(normalize(raw.as_bytes()), clean.as_bytes(), "{raw}");
            let once = normalize(raw.as_bytes()).into_owned();
            assert_eq!(normalize(&once), once, "{raw} twice");
        }
    }

    #[test]
    fn hosts() {
        for good in ["", "a", "a.b:80", "[::1]", "[::1]:8080", "127.0.0.1:1", "a_b.c", "a:"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in ["a b", "u@a", "a/b", "a,b", "a:x", "a:99999", "a:1:2", "[::1", "[x]", ":80", "[::1]x", "a\\b"] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn targets() {
        let parse = |method: &str, target: &str| {
            let text = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let mut head = RequestHead::default();
            head.parse(text.as_bytes(), 10).map(|_| {
                let bytes = text.as_bytes();
                let part = |span: Span| String::from_utf8_lossy(span.of_bytes(bytes)).into_owned();
                (part(head.path), head.query.map(part), head.authority.map(part), head.path_is_plain)
            })
        };
        assert_eq!(parse("GET", "/a?b?c").unwrap(), ("/a".into(), Some("b?c".into()), None, true));
        assert_eq!(parse("GET", "http://h:1/a").unwrap(), ("/a".into(), None, Some("h:1".into()), true));
        assert_eq!(parse("GET", "http://h?q").unwrap(), (String::new(), Some("q".into()), Some("h".into()), false));
        assert!(!parse("GET", "/a/../b").unwrap().3);
        assert!(parse("GET", "/a.b/c.d?x=/../%2e").unwrap().3);
        assert!(parse("OPTIONS", "*").is_ok());
        for bad in ["*", "a", "/a#b", "/a\\b", "/%zz", "/%0", "/%00", "ftp://h/", "http://u@h/", "http:///x", "/\u{e9}"]
        {
            assert!(parse("GET", bad).is_err(), "{bad}");
        }
    }
}
