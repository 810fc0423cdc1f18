//! Which of several stored responses a request gets (RFC 9111 section 4.1).

use super::Fields;

/// No request can be told to be like another.
#[must_use]
pub fn is_any(response: Fields<'_>) -> bool {
    response.list("vary").any(|name| name == b"*")
}

/// The names that `Vary` lists, in lower case, sorted, each once, with a comma between them: what is
/// remembered with the stored responses of a key.
#[must_use]
pub fn names(response: Fields<'_>) -> Vec<u8> {
    let mut names: Vec<Vec<u8>> = response.list("vary").map(<[u8]>::to_ascii_lowercase).collect();
    names.sort_unstable();
    names.dedup();
    names.join(&b',')
}

/// Appends what a request says to `names`, so that two requests are alike where these bytes are: for
/// each name either nothing but an end, or a mark and the value in its plainest form.
pub fn write_selection(request: Fields<'_>, names: &[u8], out: &mut Vec<u8>) {
    for name in crate::field::list(names) {
        let begin = out.len();
        for field in request.fields {
            if field.name.of_bytes(request.bytes).eq_ignore_ascii_case(name) {
                out.push(if out.len() == begin { PRESENT } else { b',' });
                write_plain(name, field.value.of_bytes(request.bytes), out);
            }
        }
        if is_preference(name) {
            sort_preferences(begin, out);
        }
        out.push(END);
    }
}

/// Neither can be in a field value.
const PRESENT: u8 = 1;
const END: u8 = 0;

/// Lists of what the client likes, with weights.
fn is_preference(name: &[u8]) -> bool {
    matches!(name, b"accept-language" | b"accept-encoding" | b"accept" | b"accept-charset")
}

/// Without white space around commas; lists of preferences in lower case.
fn write_plain(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let is_preference = is_preference(name);
    let mut pending = false;
    let mut quoted = false;
    let mut last = b',';
    for &byte in value {
        quoted ^= byte == b'"';
        if !quoted && matches!(byte, b' ' | b'\t') {
            pending = true;
            continue;
        }
        let joins = |byte: u8| byte == b',' || (is_preference && matches!(byte, b';' | b'='));
        if pending && !joins(last) && !joins(byte) {
            out.push(b' ');
        }
        pending = false;
        last = byte;
        out.push(if is_preference { byte.to_ascii_lowercase() } else { byte });
    }
}

/// The order of preferences means nothing, their weights do (RFC 9110 section 12.4.2).
fn sort_preferences(begin: usize, out: &mut Vec<u8>) {
    let Some((_, written)) = out.get(begin..).and_then(<[u8]>::split_first) else { return };
    let mut elements: Vec<&[u8]> = crate::field::list(written).collect();
    elements.sort_unstable();
    let sorted = elements.join(&b',');
    out.truncate(begin + 1);
    out.extend_from_slice(&sorted);
}
