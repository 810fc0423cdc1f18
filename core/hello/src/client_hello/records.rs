//! From records to one handshake message (RFC 8446 section 5.1). A message may be cut over records in
//! any way; between its pieces stand no records of other types, and none of them is empty.

use std::borrow::Cow;

use super::Malformed;
use crate::limits::{HELLO_BYTES_MAX, RECORD_BYTES_MAX};

/// The type of a record with handshake messages, and the first half of its version. The other half has
/// to be ignored.
const HANDSHAKE: u8 = 22;
const VERSION_MAJOR: u8 = 3;

/// The type of the message, and the length of its header: the type, and a length of three bytes.
const CLIENT_HELLO: u8 = 1;
const MESSAGE_HEADER_BYTES: usize = 4;

/// `bytes` begins a handshake record, as far as it goes.
pub(super) fn may_be_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [] | [HANDSHAKE] | [HANDSHAKE, VERSION_MAJOR, ..])
}

/// The ClientHello behind its header; `None` where it is not all there. Each flaw is found where it
/// lies, from the first byte on, so that further bytes cannot change the verdict.
pub(super) fn client_hello(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Malformed> {
    let mut rest = bytes;
    let mut header = [0; MESSAGE_HEADER_BYTES];
    let mut gathered = 0;
    while let Some(fragment) = next_fragment(&mut rest)? {
        for (to, from) in header.iter_mut().skip(gathered).zip(fragment) {
            *to = *from;
        }
        gathered += fragment.len();
        let [kind, length @ ..] = header;
        if gathered > 0 && kind != CLIENT_HELLO {
            return Err(Malformed::OtherMessage);
        }
        if gathered >= MESSAGE_HEADER_BYTES {
            let length = length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
            if MESSAGE_HEADER_BYTES + length > HELLO_BYTES_MAX {
                return Err(Malformed::TooLong);
            }
            if gathered >= MESSAGE_HEADER_BYTES + length {
                return gather(bytes, length).map(Some);
            }
        }
    }
    Ok(None)
}

/// The payload of the next record, as far as it is there; `None` where its header is not.
fn next_fragment<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    match **rest {
        [] | [HANDSHAKE] | [HANDSHAKE, VERSION_MAJOR, ..] => {}
        [HANDSHAKE, ..] => return Err(Malformed::RecordVersion),
        _ => return Err(Malformed::Interrupted),
    }
    let Some((&[_, _, _, high, low], payload)) = rest.split_first_chunk::<5>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length == 0 {
        return Err(Malformed::RecordEmpty);
    }
    if length > RECORD_BYTES_MAX {
        return Err(Malformed::RecordTooLong);
    }
    let (fragment, behind) = payload.split_at_checked(length).unwrap_or((payload, &[]));
    *rest = behind;
    Ok(Some(fragment))
}

/// The `length` bytes behind the message's header, all of which are there.
fn gather(bytes: &[u8], length: usize) -> Result<Cow<'_, [u8]>, Malformed> {
    let mut rest = bytes;
    let mut skipped = 0;
    let mut body = Vec::new();
    while let Some(fragment) = next_fragment(&mut rest)? {
        if skipped == 0
            && let Some(whole) = fragment.get(MESSAGE_HEADER_BYTES..MESSAGE_HEADER_BYTES + length)
        {
            return Ok(Cow::Borrowed(whole));
        }
        if body.capacity() == 0 {
            body.reserve_exact(length);
        }
        let header = fragment.len().min(MESSAGE_HEADER_BYTES - skipped);
        skipped += header;
        body.extend(fragment.iter().skip(header).take(length - body.len()));
        if body.len() == length {
            break;
        }
    }
    Ok(Cow::Owned(body))
}
