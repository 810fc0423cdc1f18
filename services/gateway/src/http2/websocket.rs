//! The handshake of WebSockets, which HTTP/2 does without (RFC 8441 section 5) and HTTP/1.1 wants
//! (RFC 6455 section 4).

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const KEY_BYTES: usize = 24;
const ACCEPT_BYTES: usize = 28;

/// `Sec-WebSocket-Key` of a request that came without.
pub(crate) fn new_key() -> [u8; KEY_BYTES] {
    encoded(&fastrand::u128(..).to_le_bytes())
}

/// `Sec-WebSocket-Accept` that belongs to a key. What it proves needs no strength: that the other side
/// speaks of WebSockets, too.
pub(crate) fn accept(key: &[u8]) -> [u8; ACCEPT_BYTES] {
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key);
    digest.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    encoded(digest.finish().as_ref())
}

/// `bytes` are as many as fill the text.
fn encoded<const TEXT: usize>(bytes: &[u8]) -> [u8; TEXT] {
    let mut text = [0; TEXT];
    let length = STANDARD.encode_slice(bytes, &mut text);
    debug_assert_eq!(length, Ok(TEXT));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_what_belongs_to_them() {
        assert_eq!(&accept(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(new_key().ends_with(b"==") && new_key() != new_key());
    }
}
