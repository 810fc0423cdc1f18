//! What a visitor shows: a place in the queue, or a session, signed.
//!
//! 21 bytes and their HMAC-SHA256 (RFC 2104), cut to 16 bytes, in base64url (RFC 4648 section 5): what
//! it is, the life of the room, the number, and a time in milliseconds since 1970. Signed with a key of
//! the room's own, which is made of the host's; so nothing of another room, another host or another
//! purpose is taken for it, and nothing has to be looked up to know.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sumun_traffic::waiting_room::Id;

const SAID_BYTES: usize = 21;
const MAC_BYTES: usize = 16;
const BYTES: usize = SAID_BYTES + MAC_BYTES;

/// Characters of a cookie's value.
const TEXT_BYTES: usize = (BYTES * 4).div_ceil(3);

const TICKET: u8 = 1;
const SESSION: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Given at this time.
    Ticket { id: Id, given_ms: u64 },
    /// Good until this time.
    Session { id: Id, ends_ms: u64 },
}

/// A room's key.
pub(crate) struct Signer(Key);

/// Keeps the key out of logs.
impl std::fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Signer(…)")
    }
}

impl Signer {
    pub(crate) fn new(host_key: &[u8; 32], room: &str) -> Self {
        // The word tells it from whatever else is made of the host's key.
        let of_room = sign(&Key::new(HMAC_SHA256, host_key), format!("waiting room\0{room}").as_bytes());
        Self(Key::new(HMAC_SHA256, of_room.as_ref()))
    }

    /// A cookie's value.
    pub(crate) fn sign(&self, pass: Pass) -> String {
        let (what, id, time_ms) = match pass {
            Pass::Ticket { id, given_ms } => (TICKET, id, given_ms),
            Pass::Session { id, ends_ms } => (SESSION, id, ends_ms),
        };
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.push(what);
        bytes.extend_from_slice(&id.epoch.to_be_bytes());
        bytes.extend_from_slice(&id.number.to_be_bytes());
        bytes.extend_from_slice(&time_ms.to_be_bytes());
        let mac = sign(&self.0, &bytes);
        bytes.extend(mac.as_ref().iter().take(MAC_BYTES));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a cookie's value says; `None` for one that was not signed here.
    pub(crate) fn read(&self, value: &[u8]) -> Option<Pass> {
        if value.len() != TEXT_BYTES {
            return None;
        }
        let mut bytes = [0; BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
        let (said, mac) = bytes.get(..length)?.split_at_checked(SAID_BYTES)?;
        verify_slices_are_equal(sign(&self.0, said).as_ref().get(..MAC_BYTES)?, mac).ok()?;
        let (what, rest) = said.split_first()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (number, time) = rest.split_first_chunk()?;
        let id = Id { epoch: u32::from_be_bytes(*epoch), number: u64::from_be_bytes(*number) };
        let time_ms = u64::from_be_bytes(time.try_into().ok()?);
        match *what {
            TICKET => Some(Pass::Ticket { id, given_ms: time_ms }),
            SESSION => Some(Pass::Session { id, ends_ms: time_ms }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    proptest! {
        #[test]
        fn what_was_signed_is_read_and_nothing_else(
            epoch in any::<u32>(), number in any::<u64>(), time_ms in any::<u64>(),
            is_session in any::<bool>(), place in 0..TEXT_BYTES, other in any::<u8>(),
        ) {
            let id = Id { epoch, number };
            let pass = if is_session { Pass::Session { id, ends_ms: time_ms } } else { Pass::Ticket { id, given_ms: time_ms } };
            let signer = Signer::new(&KEY, "room");
            let text = signer.sign(pass);
            prop_assert_eq!(text.len(), TEXT_BYTES);
            prop_assert_eq!(signer.read(text.as_bytes()), Some(pass));
            for stranger in [Signer::new(&[8; 32], "room"), Signer::new(&KEY, "other")] {
                prop_assert_eq!(stranger.read(text.as_bytes()), None);
            }
            let mut forged = text.into_bytes();
            if forged[place] != other {
                forged[place] = other;
                prop_assert_eq!(signer.read(&forged), None);
            }
        }

        #[test]
        fn no_input_panics(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(Signer::new(&KEY, "room").read(&value), None);
        }
    }
}
