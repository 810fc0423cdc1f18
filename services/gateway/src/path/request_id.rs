//! The id that a request has in logs, at servers and in answers.

use sumun_http::{Known, Span};

use super::Exchange;

impl Exchange<'_> {
    /// The request's id: the client's if it is sane, else one made once for this request.
    pub(crate) fn request_id(&mut self) -> RequestId {
        let name = self.site.config.request_id.as_bytes();
        let known = Known::of(name);
        let given = if known == Known::Other {
            self.head.values(self.bytes, name).next()
        } else {
            self.head.known(self.bytes, known)
        };
        match given.filter(|value| is_sane_id(value)) {
            Some(value) => RequestId::Given(Span::of(self.bytes, value)),
            None => RequestId::Made(*self.record.request_id.get_or_insert_with(new_id)),
        }
    }
}

/// Where a request's id lies.
pub(crate) enum RequestId {
    /// In the bytes of the head.
    Given(Span),
    Made([u8; 32]),
}

impl RequestId {
    pub(crate) fn bytes<'a>(&'a self, head: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Given(span) => span.of_bytes(head),
            Self::Made(id) => id,
        }
    }
}

fn is_sane_id(value: &[u8]) -> bool {
    !value.is_empty()
        && value.len() <= crate::limits::REQUEST_ID_BYTES
        && value
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'='))
}

/// 128 random bits as hexadecimal digits.
fn new_id() -> [u8; 32] {
    let mut id = [0; 32];
    let number = fastrand::u128(..).to_le_bytes();
    for (pair, byte) in id.as_chunks_mut::<2>().0.iter_mut().zip(number) {
        *pair = HEX_PAIRS[usize::from(byte)];
    }
    id
}

static HEX_PAIRS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};
