//! What a change makes wrong (RFC 9111 section 4.4).

use crate::Method;

/// The answer to such a request, if it is no error, makes what is stored for its URL invalid, and what
/// its `Location` and `Content-Location` name on the same host.
#[must_use]
pub fn invalidates(method: Method, status: u16) -> bool {
    !method.is_safe() && (200..400).contains(&status)
}

/// Path and query of a reference from a response, where it is on the same host; `base` is the path of
/// the request, `authority` its host with the port as the client wrote it.
#[must_use]
pub fn same_origin_path(reference: &[u8], scheme: &str, authority: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    let reference = reference.split(|&byte| byte == b'#').next().unwrap_or_default();
    let after_scheme = match reference.windows(3).position(|window| window == b"://") {
        Some(at) if reference[..at].iter().all(u8::is_ascii_alphanumeric) => {
            if !reference[..at].eq_ignore_ascii_case(scheme.as_bytes()) {
                return None;
            }
            Some(&reference[at + 3..])
        }
        _ => reference.strip_prefix(b"//"),
    };
    if let Some(rest) = after_scheme {
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        if !rest[..end].eq_ignore_ascii_case(authority) {
            return None;
        }
        return Some(match &rest[end..] {
            [] => b"/".to_vec(),
            query @ [b'?', ..] => [b"/", query].concat(),
            path => path.to_vec(),
        });
    }
    match reference {
        [] => None,
        [b'/', ..] => Some(reference.to_vec()),
        [b'?', ..] => Some([base.split(|&byte| byte == b'?').next().unwrap_or_default(), reference].concat()),
        _ => {
            let path = base.split(|&byte| byte == b'?').next().unwrap_or_default();
            let folder = path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
            Some([&path[..folder], reference].concat())
        }
    }
}
