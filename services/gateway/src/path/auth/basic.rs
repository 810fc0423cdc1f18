//! Basic authentication (RFC 7617).
//!
//! To verify a password is made to be slow, so it happens on the blocking pool, few at once, and
//! each worker remembers good pairs for a while. What a worker remembers is no password: only
//! numbers that its own random keys made of one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha_crypt::ShaCrypt;
use sha_crypt::password_hash::PasswordVerifier;
use sumun_config::checked::BasicAuth;
use tokio::sync::Semaphore;

use super::super::{Ended, Exchange, answer, queue};
use crate::events::Reason;
use crate::limits::{BASIC_BYTES, VERIFICATIONS, VERIFICATIONS_WAITING, VERIFIED_FOR, VERIFIED_PAIRS};

/// Shared by all workers: what is scarce is the host's CPUs.
static TURNS: Semaphore = Semaphore::const_new(VERIFICATIONS);
static WAITING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static VERIFIED: RefCell<Verified> = RefCell::default();
}

/// User and password as the client sent them.
#[derive(Debug, PartialEq, Eq)]
struct Given {
    user: String,
    password: Vec<u8>,
}

/// Lets who has a good password pass, and notes the name; answers everybody else.
pub(super) async fn check(exchange: &mut Exchange<'_>, auth: &BasicAuth) -> Option<Ended> {
    let Some(given) = given(exchange) else { return Some(challenge(exchange, auth).await) };
    let now_ms = exchange.worker.clock.coarse_ms();
    let Some((hash, known)) = hash_for(auth, &given.user) else { return Some(challenge(exchange, auth).await) };
    let pair = VERIFIED.with_borrow(|verified| verified.pair(&given, hash));
    if !(known && VERIFIED.with_borrow(|verified| verified.holds(pair, now_ms))) {
        let waiting = verify_in_turn(given.password.clone(), hash.to_owned());
        match queue::wait(exchange, waiting).await {
            Err(reason) => return Some(answer::of_reason(exchange, reason).await),
            Ok(None) => return Some(answer::of_reason(exchange, Reason::AuthBusy).await),
            Ok(Some(true)) if known => VERIFIED.with_borrow_mut(|verified| verified.insert(pair, now_ms)),
            Ok(Some(_)) => return Some(challenge(exchange, auth).await),
        }
    }
    exchange.record.user = Some(Rc::from(given.user));
    None
}

/// The hash to verify against, and whether it is the user's. An unknown user is verified against
/// another's, in vain: the time that an answer takes must not tell which names exist. `None`: there
/// are no users at all.
fn hash_for<'a>(auth: &'a BasicAuth, user: &str) -> Option<(&'a str, bool)> {
    if let Some(hash) = auth.users.get(user) {
        return Some((hash, true));
    }
    // Always the same one for a name, as its own would be.
    let draw = VERIFIED.with_borrow(|verified| verified.keys[0].hash_one(user));
    let index = draw.checked_rem(auth.users.len() as u64)?;
    auth.users.values().nth(index as usize).map(|hash| (hash.as_str(), false))
}

/// RFC 9110 section 11.6.1. `charset` tells how to encode what is not ASCII (RFC 7617 section 2.1).
async fn challenge(exchange: &mut Exchange<'_>, auth: &BasicAuth) -> Ended {
    if exchange.head.has_body() {
        // Nobody reads the body: where the next request begins is not known.
        exchange.keep_alive = false;
    }
    let field = format!("WWW-Authenticate: Basic realm=\"{}\", charset=\"UTF-8\"\r\n", quoted(&auth.realm));
    answer::of_file_error(exchange, Reason::Unauthorized.status(), field.as_bytes(), Reason::Unauthorized).await
}

/// The inside of a quoted string (RFC 9110 section 5.6.4).
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for character in text.chars().filter(|character| !character.is_control()) {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted
}

/// What the request's one `Authorization` says. With two of them the server behind could believe
/// the other one.
fn given(exchange: &Exchange<'_>) -> Option<Given> {
    let mut values = exchange.head.values(exchange.bytes, b"authorization");
    let value = values.next()?;
    if values.next().is_some() { None } else { parse(value) }
}

/// `Basic`, spaces, and `user:password` in base64 (RFC 7617 section 2).
fn parse(value: &[u8]) -> Option<Given> {
    if value.len() > BASIC_BYTES {
        return None;
    }
    let (scheme, rest) = value.split_at_checked(5)?;
    if !scheme.eq_ignore_ascii_case(b"Basic") || !rest.starts_with(b" ") {
        return None;
    }
    let pair = STANDARD.decode(rest.trim_ascii()).ok()?;
    // RFC 7617 section 2: no control characters in either.
    if pair.iter().any(u8::is_ascii_control) {
        return None;
    }
    let colon = memchr::memchr(b':', &pair)?;
    let user = String::from_utf8(pair.get(..colon)?.to_vec()).ok()?;
    Some(Given { user, password: pair.get(colon + 1..)?.to_vec() })
}

/// Whether the password has this hash; `None`: too many wait for that already.
async fn verify_in_turn(password: Vec<u8>, hash: String) -> Option<bool> {
    let waiter = Waiter::enter()?;
    let turn = TURNS.acquire().await.ok()?;
    drop(waiter);
    let verified = tokio::task::spawn_blocking(move || {
        let result = is_password(&password, &hash);
        // Held until here, also when the client has gone in between: the CPU was busy.
        drop(turn);
        result
    });
    verified.await.ok()
}

/// Compares in constant time. A hash of another form is nobody's; the config has none.
fn is_password(password: &[u8], hash: &str) -> bool {
    if hash.starts_with("$2") {
        bcrypt::verify(password, hash).unwrap_or(false)
    } else {
        ShaCrypt::default().verify_password(password, hash).is_ok()
    }
}

/// A place among those who wait.
struct Waiter;

impl Waiter {
    fn enter() -> Option<Self> {
        if WAITING.fetch_add(1, Relaxed) >= VERIFICATIONS_WAITING {
            WAITING.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Self)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Relaxed);
    }
}

/// 128 bits, so that no other pair meets them by chance.
type Pair = [u64; 2];

/// Pairs of user and password that were found good. The hash is part of what is remembered: a
/// reload that changes it, or takes the user out, ends that at once.
#[derive(Default)]
struct Verified {
    keys: [RandomState; 2],
    /// Until when, on the coarse clock.
    pairs: HashMap<Pair, u64>,
}

impl Verified {
    fn pair(&self, given: &Given, hash: &str) -> Pair {
        self.keys.each_ref().map(|key| key.hash_one((&given.user, &given.password, hash)))
    }

    fn holds(&self, pair: Pair, now_ms: u64) -> bool {
        self.pairs.get(&pair).is_some_and(|&until_ms| now_ms < until_ms)
    }

    fn insert(&mut self, pair: Pair, now_ms: u64) {
        if self.pairs.len() >= VERIFIED_PAIRS && !self.pairs.contains_key(&pair) {
            self.pairs.retain(|_, until_ms| now_ms < *until_ms);
        }
        if self.pairs.len() >= VERIFIED_PAIRS
            && let Some(oldest) = self.pairs.iter().min_by_key(|(_, until_ms)| **until_ms).map(|(pair, _)| *pair)
        {
            self.pairs.remove(&oldest);
        }
        self.pairs.insert(pair, now_ms + VERIFIED_FOR.as_millis() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(user: &str, password: &str) -> Given {
        Given { user: user.into(), password: password.into() }
    }

    #[test]
    fn credentials() {
        let given = |pair: &[u8]| parse(&[b"bAsIc  ", STANDARD.encode(pair).as_bytes()].concat());
        assert_eq!(parse(b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), Some(pair("Aladdin", "open sesame")));
        assert_eq!(given(b"ann:a:b:"), Some(pair("ann", "a:b:")));
        assert_eq!(given("test:123£".as_bytes()), Some(pair("test", "123£")));
        assert_eq!(given(b":"), Some(pair("", "")));
        assert_eq!(given(b"ann:\xff").unwrap().password, b"\xff");
        for bad in [&b"ann"[..], b"", b"ann:a\nb", b"an\0n:b", b"ann:\x7f", b"\xff:a"] {
            assert_eq!(given(bad), None, "{bad:?}");
        }
        for bad in [
            &b"Basic"[..],
            b"Basic ",
            b"",
            b"Bearer YTpi",
            b"BasicYTpi",
            b"Basic YTpi YTpi",
            b"Basic YTp",
            b"Basic \xff",
            b"B\xc3\xa4sic YTpi",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(given(&[b'a'; 2000]), None);
        assert_eq!(given(&[b"a:".as_slice(), &[b'a'; 2000]].concat()), None);
    }

    /// Hashes that the C library made.
    const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    const SHA256: &str = "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5";
    const SHA512: &str =
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1";

    #[test]
    fn hashes_of_all_forms() {
        assert!(is_password(b"U*U", BCRYPT));
        assert!(is_password(b"U*U", &BCRYPT.replacen("$2a$", "$2y$", 1)));
        assert!(is_password(b"U*U", &BCRYPT.replacen("$2a$", "$2b$", 1)));
        assert!(is_password(b"Hello world!", SHA256));
        assert!(is_password(b"Hello world!", SHA512));
        let rounds = "$6$rounds=10000$saltstringsaltst$5cAi.vd7.mXCyRgD0GkYSRvt3aIdHEeGasgHqdeyopztyA4dPtLMAodMYQMslx5.7QVKJ4syaTdsL6sYju2Vu/";
        assert!(is_password(b"pass", rounds));
        for hash in [BCRYPT, SHA256, SHA512, "", "$", "$2", "$1$x$y", "$6$", "$5$a$b", "Hello world?"] {
            assert!(!is_password(b"Hello world?", hash), "{hash}");
        }
    }

    #[test]
    fn an_unknown_user_takes_somebodys_hash_and_always_the_same() {
        let users = [("ann", BCRYPT), ("bob", SHA256)].map(|(user, hash)| (user.to_owned(), hash.to_owned()));
        let auth = BasicAuth { realm: "x".into(), users: users.into() };
        assert_eq!(hash_for(&auth, "bob"), Some((SHA256, true)));
        let (hash, known) = hash_for(&auth, "eve").unwrap();
        assert!(!known && [BCRYPT, SHA256].contains(&hash));
        assert_eq!(hash_for(&auth, "eve"), Some((hash, false)));
        assert_eq!(hash_for(&BasicAuth { users: Default::default(), ..auth }, "ann"), None);
    }

    #[test]
    fn good_pairs_are_remembered_for_a_while_and_not_too_many() {
        let mut verified = Verified::default();
        let good = verified.pair(&pair("ann", "secret"), BCRYPT);
        verified.insert(good, 1000);
        assert!(verified.holds(verified.pair(&pair("ann", "secret"), BCRYPT), 60_999));
        assert!(!verified.holds(good, 61_000));
        for other in [
            verified.pair(&pair("ann", "secret"), SHA256),
            verified.pair(&pair("ann", "Secret"), BCRYPT),
            verified.pair(&pair("anns", "ecret"), BCRYPT),
        ] {
            assert!(!verified.holds(other, 1000));
        }
        for number in 0..2 * VERIFIED_PAIRS as u64 {
            verified.insert([number, 0], 1001 + number);
        }
        assert_eq!(verified.pairs.len(), VERIFIED_PAIRS);
        assert!(!verified.holds(good, 1000));
        assert!(verified.holds([2 * VERIFIED_PAIRS as u64 - 1, 0], 1001));
    }

    #[test]
    fn realms_are_quoted() {
        assert_eq!(quoted("a \"b\" \\ c\r\n"), "a \\\"b\\\" \\\\ c");
    }

    #[test]
    fn verifications_beyond_the_bound_are_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(verify_in_turn(b"U*U".to_vec(), BCRYPT.into())), Some(true));
        assert_eq!(runtime.block_on(verify_in_turn(b"U*V".to_vec(), BCRYPT.into())), Some(false));
        let waiters: Vec<_> = std::iter::from_fn(Waiter::enter).take(2 * VERIFICATIONS_WAITING).collect();
        assert_eq!(waiters.len(), VERIFICATIONS_WAITING);
        assert_eq!(runtime.block_on(verify_in_turn(b"U*U".to_vec(), BCRYPT.into())), None);
        drop(waiters);
        assert_eq!(runtime.block_on(verify_in_turn(b"U*U".to_vec(), BCRYPT.into())), Some(true));
    }
}
