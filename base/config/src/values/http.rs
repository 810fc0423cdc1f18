//! Texts of HTTP: header fields, paths, hosts, methods, statuses.

use super::{Wrong, compile};
use crate::checked::{HostMatch, PathMatch, Pattern, ValueMatch};
use crate::report::{nearest, quoted};

pub(crate) const TOKEN_PATTERN: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&byte))
}

pub(crate) fn header_name(text: &str) -> Result<(), Wrong> {
    if is_token(text) {
        return Ok(());
    }
    let wrong = Wrong::new(format!("{} is no name of a header field", quoted(text)));
    Err(match text.strip_suffix(':') {
        Some(name) if is_token(name) => wrong.help(format!("did you mean `{name}`?")),
        _ => wrong.help("it is made of letters, digits and ! # $ % & ' * + - . ^ _ ` | ~"),
    })
}

/// RFC 6265 section 4.1.1.
pub(crate) fn cookie_name(text: &str) -> Result<(), Wrong> {
    if is_token(text) {
        return Ok(());
    }
    let wrong = Wrong::new(format!("{} is no name of a cookie", quoted(text)));
    Err(wrong.help("it is made of letters, digits and ! # $ % & ' * + - . ^ _ ` | ~"))
}

/// Fields that frame a message or speak about one connection: to edit them would break it.
const FRAMING: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A header field that may be set, added or removed.
pub(crate) fn edited_header(text: &str) -> Result<(), Wrong> {
    header_name(text)?;
    if FRAMING.contains(&plain_name(text).as_str()) {
        let wrong = Wrong::new(format!("{} belongs to the connection and cannot be edited", quoted(text)));
        return Err(wrong.help("the gateway sets it itself where it is needed"));
    }
    Ok(())
}

/// Fields that say something else already.
const TAKEN: &[&str] = &[
    "authorization",
    "cdn-loop",
    "content-encoding",
    "content-type",
    "cookie",
    "date",
    "forwarded",
    "host",
    "proxy-authorization",
    "range",
    "set-cookie",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// A header field that may carry the request id.
pub(crate) fn request_id_header(text: &str) -> Result<(), Wrong> {
    edited_header(text)?;
    if TAKEN.contains(&plain_name(text).as_str()) {
        let wrong = Wrong::new(format!("{} says something else already", quoted(text)));
        return Err(wrong.help("a field of its own carries the request id, such as X-Request-Id"));
    }
    Ok(())
}

/// The name as edits compare it: in lower case and with `-` for `_`, as CGI-like servers read it.
pub(crate) fn plain_name(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

pub(crate) const HEADER_VALUE_PATTERN: &str = r"^([^\x00-\x20\x7f]([^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?$";

/// RFC 9110 section 5.5: no control characters, no white space around it.
pub(crate) fn header_value(text: &str) -> Result<(), Wrong> {
    if text.contains(['\r', '\n']) {
        let wrong = Wrong::new(format!("{} holds a line break", quoted(text)));
        return Err(wrong.help("a header field is one line; `>-` folds YAML lines into one"));
    }
    if text.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()) {
        return Err(Wrong::new(format!("{} holds a control character", quoted(text))));
    }
    if text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']) {
        return Err(Wrong::new(format!("{} starts or ends with white space", quoted(text))));
    }
    Ok(())
}

/// `present`, `absent`, `~pattern` or the whole value.
pub(crate) fn field_match(text: &str) -> Result<ValueMatch, Wrong> {
    match text {
        "present" => return Ok(ValueMatch::Present),
        "absent" => return Ok(ValueMatch::Absent),
        _ => {}
    }
    if let Some(pattern) = text.strip_prefix('~') {
        return compile(pattern).map(|pattern| ValueMatch::Regex(Pattern(pattern)));
    }
    header_value(text)?;
    Ok(ValueMatch::Exact(text.to_owned()))
}

pub(crate) const METHOD_PATTERN: &str = "^[A-Z][A-Z-]*$";

pub(crate) fn method(text: &str) -> Result<(), Wrong> {
    let upper = text.to_ascii_uppercase();
    let fits = text.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase())
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if !fits {
        let wrong = Wrong::new(format!("{} is no method", quoted(text)));
        let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"];
        return Err(match known.contains(&upper.as_str()) {
            true => wrong.help(format!("methods are written in capitals: `{upper}`")),
            false => wrong.help("methods are written in capitals, such as GET"),
        });
    }
    if text == "CONNECT" {
        return Err(
            Wrong::new("CONNECT is never forwarded").help("a gateway is no forward proxy (RFC 9110 section 9.3.6)")
        );
    }
    Ok(())
}

pub(crate) const HOST_PATTERN: &str = r"^(\*\.[^/*\x09-\x0d\x20:]+|[^/*\x09-\x0d\x20:]+|\[[0-9A-Fa-f:.]+\])$";

/// `example.com`, `*.example.com`, an IP address (IPv6 in brackets).
pub(crate) fn host(text: &str) -> Result<HostMatch, Wrong> {
    if text == "*" {
        return Err(Wrong::new("`*` matches every host").help("leave `host` out"));
    }
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match address.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => Ok(HostMatch::Exact(format!("[{ip}]"))),
            Err(_) => Err(Wrong::new(format!("{} is no IPv6 address", quoted(address)))),
        };
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let message = format!("{} is a URL", quoted(text));
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        let scheme_is_known = scheme == "http" || scheme == "https";
        let wrong = Wrong::new(message);
        return Err(if scheme_is_known { wrong.help(format!("a host is only `{host}`")) } else { wrong });
    }
    if let Some((host, _)) = text.split_once(':') {
        let wrong = Wrong::new(format!("{} holds a TCP port", quoted(text)));
        return Err(wrong.help(format!("a host is matched without it: `{host}`; an IPv6 address stands in brackets")));
    }
    let (name, suffix) = match text.strip_prefix("*.") {
        Some(name) => (name, true),
        None => (text, false),
    };
    if name.contains('*') {
        let wrong = Wrong::new(format!("{} has a * in the middle", quoted(text)));
        return Err(wrong.help("a * stands only for whole labels at the start, such as *.example.com"));
    }
    let is_ip = !suffix && name.parse::<std::net::Ipv4Addr>().is_ok();
    if !is_ip {
        super::address::host_name(name)?;
    }
    if name.ends_with('.') {
        return Err(Wrong::new(format!("{} ends with a dot", quoted(text))).help("leave the dot out"));
    }
    let name = name.to_ascii_lowercase();
    Ok(if suffix { HostMatch::Suffix(format!(".{name}")) } else { HostMatch::Exact(name) })
}

pub(crate) const ROUTE_PATH_PATTERN: &str = "^[/~]";

/// `/x/` and everything below, `/x` alone, `~^/x` as a pattern.
pub(crate) fn route_path(text: &str) -> Result<PathMatch, Wrong> {
    if let Some(pattern) = text.strip_prefix('~') {
        return compile(pattern).map(|pattern| PathMatch::Regex(Pattern(pattern)));
    }
    if !text.starts_with('/') {
        let wrong = Wrong::new(format!("{} does not start with a slash", quoted(text)));
        return Err(if text.starts_with('^') {
            wrong.help(format!("a regular expression is written with a leading ~: \"~{text}\""))
        } else {
            wrong.help(format!("a path is written as `/{text}`, or as \"~^/…\" for a regular expression"))
        });
    }
    decoded_path(text)?;
    if text.contains('*') {
        let wrong = Wrong::new(format!("{} holds a *", quoted(text)));
        let prefix = text.split('*').next().unwrap_or_default();
        return Err(wrong.help(match prefix.ends_with('/') {
            true => format!("`{prefix}` already matches everything below it"),
            false => "a path ends with / to match everything below it; other patterns start with ~".to_owned(),
        }));
    }
    Ok(if text.ends_with('/') { PathMatch::Prefix(text.to_owned()) } else { PathMatch::Exact(text.to_owned()) })
}

/// The rules of a path that is compared with a normalized one.
fn decoded_path(text: &str) -> Result<(), Wrong> {
    let wrong = |what: &str, help: &str| Err(Wrong::new(format!("{} holds {what}", quoted(text))).help(help));
    if text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return wrong(
            "a `.` or `..` segment",
            "requests are matched after such segments were resolved: write the path they lead to",
        );
    }
    if text.contains("//") {
        return wrong("an empty segment `//`", "write a single slash");
    }
    if text.contains('%') {
        return wrong("a % escape", "requests are matched after decoding: write the character itself");
    }
    if text.contains('?') {
        return wrong(
            "a `?`",
            "a path ends before the query; conditions on it are written as `query: { name: value }`",
        );
    }
    if text.contains('#') {
        return wrong("a `#`", "a fragment never reaches the gateway: leave it out");
    }
    if text.contains('\\') {
        return wrong("a backslash", "paths are written with /");
    }
    if text.chars().any(char::is_control) {
        return wrong("a control character", "no request with one is let through");
    }
    Ok(())
}

pub(crate) const REQUEST_PATH_PATTERN: &str = r"^/[\x21-\x7e]*$";

/// A path, maybe with a query, that is sent in a request line.
pub(crate) fn request_path(text: &str) -> Result<(), Wrong> {
    if !text.starts_with('/') {
        let wrong = Wrong::new(format!("{} does not start with a slash", quoted(text)));
        return Err(wrong.help("it is a path on the server, such as /healthz"));
    }
    if !text.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        let wrong = Wrong::new(format!("{} holds a space or a character that no request line can carry", quoted(text)));
        return Err(wrong.help("write it with % escapes"));
    }
    if text.contains('#') {
        return Err(Wrong::new(format!("{} holds a `#`", quoted(text))).help("a fragment is never sent: leave it out"));
    }
    Ok(())
}

pub(crate) const REWRITE_TARGET_PATTERN: &str = r"^[!$-;=@-\[\]_a-~]*$";

/// What takes the place of a match in a path: bytes that a request's path may hold, and groups
/// written with `$`, which the caller knows.
pub(crate) fn rewrite_target(text: &str) -> Result<(), Wrong> {
    let wrong = |what: &str, help: &str| Err(Wrong::new(format!("{} holds {what}", quoted(text))).help(help));
    if text.chars().any(char::is_control) {
        return wrong("a control character", "no request line can carry it");
    }
    if text.contains('?') {
        return wrong("a `?`", "a rewrite changes the path alone; the query goes on as it came");
    }
    if text.contains('#') {
        return wrong("a `#`", "a fragment is never sent: leave it out");
    }
    if text.contains('\\') {
        return wrong("a backslash", "paths are written with /, groups of the match as $1");
    }
    if !text.bytes().all(|byte| matches!(byte, 0x21..=0x7e) && !b"\"<>^`".contains(&byte)) {
        return wrong("a space or a character that no request line can carry", "write it with % escapes");
    }
    let is_escape = |after: &str| {
        matches!(after.as_bytes(), [first, second, ..]
            if first.is_ascii_hexdigit() && second.is_ascii_hexdigit() && (*first, *second) != (b'0', b'0'))
    };
    if !text.split('%').skip(1).all(is_escape) {
        return wrong("a % that begins no escape", "a percent sign itself is written as %25; %00 goes nowhere");
    }
    Ok(())
}

pub(crate) const STATUS_RANGE_PATTERN: &str = "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$";

/// `200` or `200-299`.
pub(crate) fn status_range(text: &str) -> Result<(u16, u16), Wrong> {
    let one = |text: &str| {
        let fits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|status| fits && (100..=599).contains(status))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (one(first), one(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        (Some(_), Some(_)) => Err(Wrong::new(format!("{} ends before it starts", quoted(text)))),
        _ => Err(Wrong::new(format!("{} is no status", quoted(text))).help("write 200, or a range such as 200-299")),
    }
}

pub(crate) const ERROR_STATUS_PATTERN: &str = "^[45][0-9][0-9]$";

pub(crate) fn error_status(text: &str) -> Result<u16, Wrong> {
    let status = text.parse::<u16>().ok().filter(|status| text.len() == 3 && (400..=599).contains(status));
    status.ok_or_else(|| {
        Wrong::new(format!("{} is no status of an error", quoted(text)))
            .help("error pages are for statuses from 400 to 599")
    })
}

pub(crate) const REDIRECT_PATTERN: &str = r"^(/|https?://|\{)[\x21-\x7e]*$";
/// What a redirect's target can name.
pub(crate) const PLACEHOLDERS: &[&str] = &["host", "path", "query", "?query"];

/// A path or URL with `{host}`, `{path}`, `{query}` and `{?query}`.
pub(crate) fn redirect(text: &str) -> Result<(), Wrong> {
    let starts_well = ["/", "http://", "https://", "{"].iter().any(|start| text.starts_with(start));
    if !starts_well {
        let wrong = Wrong::new(format!("{} is no target of a redirect", quoted(text)));
        return Err(wrong.help("it is a path such as /new/ or a URL such as https://{host}{path}{?query}"));
    }
    if !text.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        let wrong = Wrong::new(format!("{} holds a space or a character that no URL can carry", quoted(text)));
        return Err(wrong.help("write it with % escapes"));
    }
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('{') {
        let Some((name, next)) = after.split_once('}') else {
            return Err(Wrong::new(format!("{} has a `{{` without its `}}`", quoted(text))));
        };
        if !PLACEHOLDERS.contains(&name) {
            let wrong = Wrong::new(format!("a redirect knows no {}", quoted(&format!("{{{name}}}"))));
            return Err(match nearest(name, PLACEHOLDERS.iter().copied()) {
                Some(known) => wrong.help(format!("did you mean `{{{known}}}`?")),
                None => wrong.help("it knows {host}, {path}, {query} and {?query}"),
            });
        }
        rest = next;
    }
    Ok(())
}

pub(crate) const HOST_HEADER_PATTERN: &str = r"^[^/\x09-\x0d\x20,]+$";

/// `keep`, `server`, or a host with or without a TCP port.
pub(crate) fn host_header(text: &str) -> Result<(), Wrong> {
    if matches!(text, "keep" | "server") {
        return Ok(());
    }
    host_and_port(text)
        .map_err(|wrong| Wrong { message: format!("{} is neither `keep`, `server` nor a host", quoted(text)), ..wrong })
}

/// What a Host header holds (RFC 9110 section 7.2).
pub(crate) fn host_and_port(text: &str) -> Result<(), Wrong> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(port)),
        _ => (text, None),
    };
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let bracketed = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.parse::<std::net::Ipv4Addr>().is_ok() || super::address::host_name(name).is_ok(),
    };
    if port_fits && host_fits {
        return Ok(());
    }
    let wrong = Wrong::new(format!("{} is no host", quoted(text)));
    Err(wrong.help("a host is written as app.example.com or app.example.com:8080"))
}

pub(crate) const FILE_NAME_PATTERN: &str = r"^[^/\x00]+$";

/// A name without a directory.
pub(crate) fn file_name(text: &str) -> Result<(), Wrong> {
    let fits = !text.is_empty() && !text.contains(['/', '\0']) && !matches!(text, "." | "..");
    if fits {
        Ok(())
    } else {
        Err(Wrong::new(format!("{} is no name of a file", quoted(text))).help("write it without a directory"))
    }
}

/// A file below the root of a `files` route.
pub(crate) fn below_root(text: &str) -> Result<(), Wrong> {
    super::path(text)?;
    if text.split('/').any(|segment| segment == "..") {
        return Err(Wrong::new(format!("{} leaves the root", quoted(text)))
            .help("it is a file below `root`, such as index.html"));
    }
    Ok(())
}

pub(crate) const MEDIA_TYPE_PATTERN: &str = r"^[!#$&^_.+A-Za-z0-9-]+/[!#$&^_.+A-Za-z0-9-]+(\s*;[\x20-\x7e]*)?$";

/// RFC 9110 section 8.3.1: `type/subtype`, with parameters.
pub(crate) fn media_type(text: &str) -> Result<(), Wrong> {
    let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    let fits = essence.trim_end_matches(' ').split_once('/').is_some_and(|(kind, subtype)| part(kind) && part(subtype))
        && parameters.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
        && !text.ends_with([' ', ';']);
    if fits {
        Ok(())
    } else {
        Err(Wrong::new(format!("{} is no media type", quoted(text)))
            .help("it is written as text/css or text/plain; charset=utf-8"))
    }
}

pub(crate) const EXTENSION_PATTERN: &str = r"^\.?[A-Za-z0-9_+-]+$";

pub(crate) fn extension(text: &str) -> Result<(), Wrong> {
    let name = text.strip_prefix('.').unwrap_or(text);
    let fits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte));
    if fits {
        Ok(())
    } else {
        Err(Wrong::new(format!("{} is no file extension", quoted(text))).help("it is written as css or .css"))
    }
}

pub(crate) const USER_PATTERN: &str = r"^[^:\x00-\x1f\x7f]+$";

/// RFC 7617 section 2: a user name holds no colon and no control character.
pub(crate) fn user(text: &str) -> Result<(), Wrong> {
    let fits = !text.is_empty() && !text.contains(':') && !text.chars().any(|character| character.is_ascii_control());
    if fits {
        Ok(())
    } else {
        Err(Wrong::new(format!("{} is no user name", quoted(text))).help("it holds no colon and no control character"))
    }
}

pub(crate) const TOKEN_TEXT_PATTERN: &str = r"^[\x21-\x7e]{16,}$";

/// A bearer token: long enough that guessing it is hopeless. Its text is never repeated.
pub(crate) fn secret(text: &str) -> Result<(), Wrong> {
    if !text.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        return Err(
            Wrong::new("a space or a character beyond ASCII is in it").help("`openssl rand -hex 24` makes a good one")
        );
    }
    if text.len() < 16 {
        return Err(Wrong::new("shorter than 16 characters").help("`openssl rand -hex 24` makes a good one"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        assert_eq!(host("Example.COM"), Ok(HostMatch::Exact("example.com".to_owned())));
        assert_eq!(host("*.example.com"), Ok(HostMatch::Suffix(".example.com".to_owned())));
        assert_eq!(host("10.0.0.1"), Ok(HostMatch::Exact("10.0.0.1".to_owned())));
        assert_eq!(host("[0:0::1]"), Ok(HostMatch::Exact("[::1]".to_owned())));
        for text in ["*", "a*.example.com", "example.com:80", "http://example.com/", "bücher.example", "", "a b", "x."]
        {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths() {
        assert_eq!(route_path("/"), Ok(PathMatch::Prefix("/".to_owned())));
        assert_eq!(route_path("/x/"), Ok(PathMatch::Prefix("/x/".to_owned())));
        assert_eq!(route_path("/x"), Ok(PathMatch::Exact("/x".to_owned())));
        assert!(matches!(route_path("~^/shop/[0-9]+$"), Ok(PathMatch::Regex(_))));
        for text in
            ["x", "/a/../b", "/a//b", "/a%20b", "/a?b", "/a#b", "/a/*", "^/a", "", "/a\u{7}", "/./", "~(", "/a\\b"]
        {
            assert!(route_path(text).is_err(), "{text}");
        }
        let pattern = regex::Regex::new(REWRITE_TARGET_PATTERN).unwrap();
        for text in ["", "/", "a/$1/${name}b$$", "/%2F~:@!&'()*+,;=[]{|}", "/100%25", "//.."] {
            assert!(rewrite_target(text).is_ok() && pattern.is_match(text), "{text}");
        }
        for text in ["/\r\nX: y", "/\0", "/a b", "/a?b", "/a#b", "/\\1", "/\u{e9}", "/\u{85}", "/\"", "/^", "/`"] {
            assert!(rewrite_target(text).is_err() && !pattern.is_match(text), "{text}");
        }
        for text in ["/%", "/%2", "/%$1", "/%00"] {
            assert!(rewrite_target(text).is_err(), "{text}");
        }
    }

    #[test]
    fn headers() {
        assert!(header_value("a b\tc").is_ok());
        for text in ["a\r\nb", "a\nb", " a", "a ", "a\0b", "a\u{7f}"] {
            assert!(header_value(text).is_err(), "{text:?}");
        }
        for framing in ["Content-Length", "content_length", "Expect", "TE"] {
            assert!(edited_header(framing).is_err(), "{framing}");
        }
        assert!(edited_header("X-A").is_ok());
    }
}
