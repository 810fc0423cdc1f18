//! Session tickets (RFC 5077, RFC 8446 section 4.6.1) and the keys that seal them.
//!
//! The supervisor makes the keys, keeps them over an upgrade, and gives the same ones to every
//! worker process, so a client comes back to whichever worker it likes. Each seals for 8 hours and
//! opens for 16 more, then it is gone: what was recorded before that can never be opened again.
//!
//! Listeners that look at clients' certificates have no tickets: a session of somebody who never
//! showed one, or whose certificate is refused by now, could be resumed there.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::limits::{TICKET_BYTES, TICKET_KEY_PERIOD_SECONDS, TICKET_KEYS, TICKET_LIFETIME_SECONDS};
use super::material::Blob;

const NAME_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
const MADE_BYTES: usize = 8;
const ENTRY_BYTES: usize = MADE_BYTES + NAME_BYTES + SECRET_BYTES;

/// Random bytes that one key is made of.
pub const KEY_RANDOM_BYTES: usize = NAME_BYTES + SECRET_BYTES;

/// The keys in force, the newest first: the one that seals. None: no tickets.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TicketKeys(Blob);

impl TicketKeys {
    /// Whether it is time for a new key. `now`: seconds since 1970.
    #[must_use]
    pub fn is_due(&self, now: u64) -> bool {
        // A clock that was set back must not keep a key for years.
        self.entries().next().is_none_or(|newest| newest.made.abs_diff(now) >= TICKET_KEY_PERIOD_SECONDS)
    }

    /// When [`Self::is_due`] turns true, in seconds since 1970.
    #[must_use]
    pub fn due_at(&self) -> u64 {
        self.entries().next().map_or(0, |newest| newest.made.saturating_add(TICKET_KEY_PERIOD_SECONDS))
    }

    /// With a new key, made of random bytes, in front; keys that are too old are left out.
    #[must_use]
    pub fn rotated(&self, now: u64, random: &[u8; KEY_RANDOM_BYTES]) -> Self {
        let mut bytes = Vec::with_capacity(TICKET_KEYS * ENTRY_BYTES);
        bytes.extend_from_slice(&now.to_be_bytes());
        bytes.extend_from_slice(random);
        let longest = TICKET_KEY_PERIOD_SECONDS * TICKET_KEYS as u64;
        let young = self.entries().filter(|entry| entry.made.abs_diff(now) < longest);
        for entry in young.take(TICKET_KEYS - 1) {
            bytes.extend_from_slice(&entry.made.to_be_bytes());
            bytes.extend_from_slice(entry.name);
            bytes.extend_from_slice(entry.secret);
        }
        Self(Blob::new(bytes))
    }

    /// For the next supervisor; secret. The reverse of [`Self::from_bytes`].
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.bytes().to_vec())
    }

    /// `None` for bytes that [`Self::to_bytes`] did not make.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let fits = bytes.len().is_multiple_of(ENTRY_BYTES) && bytes.len() <= TICKET_KEYS * ENTRY_BYTES;
        fits.then(|| Self(Blob::new(bytes.to_vec())))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.bytes().is_empty()
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.0.bytes().chunks_exact(ENTRY_BYTES).take(TICKET_KEYS).filter_map(|bytes| {
            let (made, rest) = bytes.split_first_chunk::<MADE_BYTES>()?;
            let (name, rest) = rest.split_first_chunk::<NAME_BYTES>()?;
            let (secret, _) = rest.split_first_chunk::<SECRET_BYTES>()?;
            Some(Entry { made: u64::from_be_bytes(*made), name, secret })
        })
    }
}

struct Entry<'a> {
    made: u64,
    name: &'a [u8; NAME_BYTES],
    secret: &'a [u8; SECRET_BYTES],
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TicketKeys({})", self.entries().count())
    }
}

/// Seals and opens tickets for all workers.
///
/// A ticket is the key's name, a random nonce, the sealed session, and the tag. AES-256-GCM-SIV
/// (RFC 8452) instead of GCM: with random nonces GCM would be worn out by the tickets of a few
/// hours of a busy host.
pub(super) struct Ticketer {
    keys: ArcSwap<Vec<Sealer>>,
}

struct Sealer {
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
}

impl Ticketer {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { keys: ArcSwap::from_pointee(Vec::new()) })
    }

    /// From now on with these keys; connections that open meanwhile end with those before.
    pub(super) fn change(&self, keys: &TicketKeys) {
        let sealers = keys.entries().filter_map(|entry| {
            let key = UnboundKey::new(&AES_256_GCM_SIV, entry.secret).ok()?;
            Some(Sealer { name: *entry.name, key: LessSafeKey::new(key) })
        });
        self.keys.store(Arc::new(sealers.collect()));
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        !self.keys.load().is_empty()
    }

    fn lifetime(&self) -> u32 {
        TICKET_LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let sealer = keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(NAME_BYTES + NONCE_LEN + plain.len() + AES_256_GCM_SIV.tag_len());
        ticket.extend_from_slice(&sealer.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let sealed = ticket.get_mut(NAME_BYTES + NONCE_LEN..)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = sealer.key.seal_in_place_separate_tag(nonce, Aad::from(sealer.name), sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys.load();
        let sealer = keys.iter().find(|sealer| sealer.name == *name)?;
        let mut session = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = sealer.key.open_in_place(nonce, Aad::from(sealer.name), &mut session).ok()?.len();
        session.truncate(length);
        Some(session)
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Ticketer({} keys)", self.keys.load().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 1_800_000_000;

    fn ticketer(keys: &TicketKeys) -> Arc<Ticketer> {
        let ticketer = Ticketer::new();
        ticketer.change(keys);
        ticketer
    }

    #[test]
    fn a_ticket_opens_until_two_rotations_later_and_no_longer() {
        let mut keys = TicketKeys::default().rotated(DAY, &[1; KEY_RANDOM_BYTES]);
        let ticket = ticketer(&keys).encrypt(b"session").unwrap();
        for (count, opens) in [(1, true), (2, true), (3, false)] {
            keys = keys.rotated(DAY + count * TICKET_KEY_PERIOD_SECONDS, &[1 + count as u8; KEY_RANDOM_BYTES]);
            assert_eq!(ticketer(&keys).decrypt(&ticket).is_some(), opens, "{count}");
        }
    }

    #[test]
    fn keys_are_due_after_their_period_and_when_the_clock_jumps() {
        let keys = TicketKeys::default();
        assert!(keys.is_due(DAY) && keys.is_empty());
        let keys = keys.rotated(DAY, &[1; KEY_RANDOM_BYTES]);
        assert!(!keys.is_due(DAY) && !keys.is_due(DAY + TICKET_KEY_PERIOD_SECONDS - 1));
        assert!(keys.is_due(DAY + TICKET_KEY_PERIOD_SECONDS) && keys.is_due(DAY / 2));
        assert_eq!(keys.due_at(), DAY + TICKET_KEY_PERIOD_SECONDS);
        // After a long sleep the old keys are not carried on.
        let late = keys.rotated(DAY * 2, &[2; KEY_RANDOM_BYTES]);
        assert_eq!(late.to_bytes().len(), ENTRY_BYTES);
    }

    #[test]
    fn another_process_with_the_same_bytes_opens_the_ticket() {
        let keys = TicketKeys::default().rotated(DAY, &[7; KEY_RANDOM_BYTES]);
        let ticket = ticketer(&keys).encrypt(b"session").unwrap();
        let there = TicketKeys::from_bytes(&keys.to_bytes()).unwrap();
        assert_eq!(ticketer(&there).decrypt(&ticket).as_deref(), Some(b"session".as_slice()));
        let json = serde_json::to_vec(&keys).unwrap();
        assert_eq!(serde_json::from_slice::<TicketKeys>(&json).unwrap(), keys);
        assert!(TicketKeys::from_bytes(&[0; ENTRY_BYTES + 1]).is_none());
        assert!(TicketKeys::from_bytes(&[0; ENTRY_BYTES * (TICKET_KEYS + 1)]).is_none());
        assert!(!format!("{keys:?}").contains('7'));
    }

    #[test]
    fn a_changed_ticket_is_no_ticket() {
        let ticketer = ticketer(&TicketKeys::default().rotated(DAY, &[7; KEY_RANDOM_BYTES]));
        let ticket = ticketer.encrypt(b"session").unwrap();
        for index in 0..ticket.len() {
            let mut other = ticket.clone();
            other[index] ^= 1;
            assert!(ticketer.decrypt(&other).is_none(), "{index}");
            assert!(ticketer.decrypt(&ticket[..index]).is_none(), "{index}");
        }
        assert!(ticketer.decrypt(&vec![0; TICKET_BYTES + 1]).is_none());
        assert!(Ticketer::new().encrypt(b"session").is_none() && !Ticketer::new().enabled());
    }
}
