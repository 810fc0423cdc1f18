//! What authorities come and look for while an order is in flight.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;

/// What a client that looks for a proof asks for by ALPN, alone (RFC 8737 section 6.2).
pub const TLS_PROTOCOL: &[u8] = b"acme-tls/1";

/// Read by workers, written by the control thread. There is nothing in it nearly all of the time,
/// which costs a worker one load that orders nothing.
#[derive(Debug, Default)]
pub struct Challenges {
    is_awaited: AtomicBool,
    table: ArcSwap<Table>,
    /// Writers take turns.
    turn: Mutex<u64>,
}

#[derive(Debug, Clone, Default)]
struct Table {
    /// By token: the key authorization, and whose it is.
    http: HashMap<Box<str>, (Arc<[u8]>, u64)>,
    /// By the name that is asked for, in lower case.
    tls: HashMap<Box<str>, (Arc<CertifiedKey>, u64)>,
}

/// Answers one challenge for as long as it lives.
#[derive(Debug)]
pub struct Pledge {
    challenges: Arc<Challenges>,
    number: u64,
}

impl Challenges {
    /// Whether somebody may come at all.
    #[inline]
    #[must_use]
    pub fn are_awaited(&self) -> bool {
        self.is_awaited.load(Ordering::Relaxed)
    }

    /// The answer to HTTP-01 with this token (RFC 8555 section 8.3).
    #[must_use]
    pub fn key_authorization(&self, token: &[u8]) -> Option<Arc<[u8]>> {
        let token = std::str::from_utf8(token).ok()?;
        self.table.load().http.get(token).map(|(answer, _)| Arc::clone(answer))
    }

    /// The answer to TLS-ALPN-01 for this name (RFC 8737 section 3).
    #[must_use]
    pub fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.table.load().tls.get(name).map(|(answer, _)| Arc::clone(answer))
    }

    /// From now on requests for this token are answered.
    #[must_use]
    pub fn answer_http(self: &Arc<Self>, token: &str, key_authorization: &str) -> Pledge {
        let answer: Arc<[u8]> = key_authorization.as_bytes().into();
        self.change(|table, number| drop(table.http.insert(token.into(), (answer, number))))
    }

    /// From now on handshakes that ask for this name in this way are answered.
    #[must_use]
    pub fn answer_tls(self: &Arc<Self>, name: &str, certificate: CertifiedKey) -> Pledge {
        let answer = Arc::new(certificate);
        self.change(|table, number| drop(table.tls.insert(name.into(), (answer, number))))
    }

    fn change(self: &Arc<Self>, change: impl FnOnce(&mut Table, u64)) -> Pledge {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *turn += 1;
        let mut table = Table::clone(&self.table.load());
        change(&mut table, *turn);
        self.put(table);
        Pledge { challenges: Arc::clone(self), number: *turn }
    }

    fn put(&self, table: Table) {
        let is_awaited = !table.http.is_empty() || !table.tls.is_empty();
        self.table.store(Arc::new(table));
        self.is_awaited.store(is_awaited, Ordering::Relaxed);
    }
}

impl Drop for Pledge {
    fn drop(&mut self) {
        let _turn = self.challenges.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table::clone(&self.challenges.table.load());
        // Another pledge may have taken the place of this one.
        table.http.retain(|_, (_, number)| *number != self.number);
        table.tls.retain(|_, (_, number)| *number != self.number);
        self.challenges.put(table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_live_as_long_as_their_pledges() {
        let challenges = Arc::new(Challenges::default());
        assert!(!challenges.are_awaited() && challenges.key_authorization(b"a").is_none());
        let first = challenges.answer_http("a", "a.thumb");
        let second = challenges.answer_http("b", "b.thumb");
        assert!(challenges.are_awaited());
        assert_eq!(challenges.key_authorization(b"a").as_deref(), Some(&b"a.thumb"[..]));
        assert_eq!(challenges.key_authorization(b"\xff"), None);
        drop(first);
        assert_eq!(challenges.key_authorization(b"a"), None);
        assert!(challenges.are_awaited());
        drop(second);
        assert!(!challenges.are_awaited());
    }

    #[test]
    fn a_pledge_takes_back_its_own_answer_only() {
        let challenges = Arc::new(Challenges::default());
        let before = challenges.answer_http("a", "before");
        let after = challenges.answer_http("a", "after");
        drop(before);
        assert_eq!(challenges.key_authorization(b"a").as_deref(), Some(&b"after"[..]));
        drop(after);

        let made = |name: &str| sumun_certificates::make::challenge(name, &[1; 32], 1_800_000_000).unwrap();
        let before = challenges.answer_tls("a.example", made("a.example"));
        let after = challenges.answer_tls("a.example", made("a.example"));
        drop(before);
        assert!(challenges.certificate("a.example").is_some() && challenges.certificate("b.example").is_none());
        drop(after);
        assert!(challenges.certificate("a.example").is_none());
    }
}
