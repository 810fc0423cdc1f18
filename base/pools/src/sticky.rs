//! Sticky cookies: which server a session lives on, signed.
//!
//! The value is an HMAC over the pool's and the server's name and nothing else, so that it says
//! nothing about the addresses behind, needs no table of sessions, means the same in every gateway
//! with the same key, and cannot be made up.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::limits::STICKY_BYTES;

/// The cookie value for a server: HMAC-SHA256 (RFC 2104), the first 16 bytes, base64url without
/// padding (RFC 4648 section 5): 22 characters.
pub(crate) fn cookie_value(secret: &[u8], pool: &str, server: &str) -> String {
    // HMAC takes keys of any length; the second key is never used.
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap_or_else(|_| Hmac::new(&[0; 64].into()));
    mac.update(pool.as_bytes());
    // Neither name can hold this byte, so no two pairs of names read the same.
    mac.update(&[0]);
    mac.update(server.as_bytes());
    let digest = mac.finalize().into_bytes();
    URL_SAFE_NO_PAD.encode(digest.get(..STICKY_BYTES).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_on_key_pool_and_server() {
        let value = cookie_value(b"key", "app", "127.0.0.1:9001");
        assert_eq!(value.len(), 22);
        assert_eq!(value, cookie_value(b"key", "app", "127.0.0.1:9001"));
        assert_ne!(value, cookie_value(b"other", "app", "127.0.0.1:9001"));
        assert_ne!(value, cookie_value(b"key", "api", "127.0.0.1:9001"));
        assert_ne!(value, cookie_value(b"key", "app", "127.0.0.1:9002"));
    }

    /// RFC 4231 section 4.3 (test case 2) gives the MAC of one text; ours has a zero byte in it, so
    /// the reference is computed from the definition in RFC 2104 section 2.
    #[test]
    fn is_an_hmac() {
        use sha2::Digest as _;
        let pad = |byte: u8| {
            let mut block = [byte; 64];
            block.iter_mut().zip(b"key").for_each(|(pad, key)| *pad ^= key);
            block
        };
        let inner = Sha256::new().chain_update(pad(0x36)).chain_update(b"app\0one").finalize();
        let outer = Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize();
        assert_eq!(cookie_value(b"key", "app", "one"), URL_SAFE_NO_PAD.encode(&outer[..16]));
    }
}
