//! Which fields are kept with a response, and which of them a later one replaces (RFC 9111 sections 3.1
//! and 3.2).

use super::{Fields, ResponseControl};

/// The field is not kept: it is about one connection or one exchange, or the server wants to be asked
/// before it is given out again. `stores_set_cookie` is not enough for a cookie to be kept: it was for one
/// client.
#[must_use]
pub fn is_kept(response: Fields<'_>, name: &[u8]) -> bool {
    const NEVER: [&str; 13] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "set-cookie",
        "age",
        "content-length",
    ];
    let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
    !NEVER.iter().any(|never| is(never.as_bytes()))
        && !response.list("connection").any(is)
        && !ResponseControl::named_fields(response).any(is)
}

/// A 304 (or the answer to a HEAD) replaces the field of the stored response. What describes the stored
/// bytes stays as it is with them.
#[must_use]
pub fn is_updated(newer: Fields<'_>, name: &[u8]) -> bool {
    const OF_THE_BYTES: [&str; 4] = ["content-encoding", "content-range", "content-md5", "etag"];
    is_kept(newer, name) && !OF_THE_BYTES.iter().any(|of| name.eq_ignore_ascii_case(of.as_bytes()))
}
