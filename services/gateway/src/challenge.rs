//! Challenges of routes: what a client has to compute before its requests pass, and what it shows then.
//!
//! Nothing is kept. A challenge says how hard it is and when it ends, and is signed for one client. Solved
//! is it by a number that makes SHA-256 of both begin with so many zero bits. What is given for that is
//! signed in the same way. Both are 9 bytes and their HMAC-SHA256 (RFC 2104), cut to 16 bytes, in base64url
//! (RFC 4648 section 5).

use std::sync::LazyLock;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key, sign};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::limits::{CHALLENGE_AGE_MS, CHALLENGE_NUMBER_BYTES};
use crate::rooms::{Language, STYLE};

const HTML: &str = include_str!("challenge/page.html");
const SCRIPT: &str = include_str!("challenge/page.js");

const SAID_BYTES: usize = 9;
const MAC_BYTES: usize = 16;
const BYTES: usize = SAID_BYTES + MAC_BYTES;

/// Characters of one in a cookie.
const TEXT_BYTES: usize = (BYTES * 4).div_ceil(3);

// One block of SHA-256, which is all that the page's script can do: the text, a point, the number, and the
// 9 bytes behind them.
const _: () = assert!(TEXT_BYTES + 1 + CHALLENGE_NUMBER_BYTES + 9 <= 64);

/// Something of one kind is not taken for the other.
#[derive(Clone, Copy)]
enum Kind {
    Challenge = 1,
    Pass = 2,
}

/// The challenge of a route.
pub(crate) struct Challenge {
    key: Key,
    pub(crate) bits: u8,
    pub(crate) pass_ms: u64,
    /// Milliseconds since 1970 at the start of the workers' clocks.
    start_ms: u64,
}

/// Keeps the key out of logs.
impl std::fmt::Debug for Challenge {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Challenge({} bits)", self.bits)
    }
}

impl Challenge {
    pub(crate) fn new(secret: &[u8; 32], bits: u8, pass_ms: u64, start_ms: u64) -> Self {
        // The word tells it from whatever else is made of the same key.
        let key = sign(&Key::new(HMAC_SHA256, secret), b"challenge");
        Self { key: Key::new(HMAC_SHA256, key.as_ref()), bits, pass_ms, start_ms }
    }

    pub(crate) fn now_ms(&self, coarse_ms: u64) -> u64 {
        self.start_ms + coarse_ms
    }

    /// A new one for this client.
    pub(crate) fn of(&self, client: u64, now_ms: u64) -> String {
        self.sign(Kind::Challenge, client, now_ms + CHALLENGE_AGE_MS)
    }

    /// What a client shows from now on that has solved one.
    pub(crate) fn pass(&self, client: u64, now_ms: u64) -> String {
        self.sign(Kind::Pass, client, now_ms + self.pass_ms)
    }

    /// A challenge that was given to this client, a point, and the number that solves it.
    pub(crate) fn is_solved(&self, value: &[u8], client: u64, now_ms: u64) -> bool {
        let Some((challenge, number)) = value.split_at_checked(TEXT_BYTES) else { return false };
        (2..=CHALLENGE_NUMBER_BYTES + 1).contains(&number.len())
            && zero_bits(digest(&SHA256, value).as_ref()) >= u32::from(self.bits)
            && self.is_good(Kind::Challenge, challenge, client, now_ms)
    }

    /// It was given to this client for a challenge that was no easier than this one.
    pub(crate) fn passes(&self, value: &[u8], client: u64, now_ms: u64) -> bool {
        self.is_good(Kind::Pass, value, client, now_ms)
    }

    fn sign(&self, kind: Kind, client: u64, ends_ms: u64) -> String {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.push(self.bits);
        bytes.extend_from_slice(&ends_ms.to_be_bytes());
        let mac = self.mac(kind, client, &bytes);
        bytes.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn is_good(&self, kind: Kind, value: &[u8], client: u64, now_ms: u64) -> bool {
        let mut bytes = [0; BYTES];
        if value.len() != TEXT_BYTES || URL_SAFE_NO_PAD.decode_slice(value, &mut bytes) != Ok(BYTES) {
            return false;
        }
        let (said, mac) = bytes.split_at(SAID_BYTES);
        let ends_ms = said.get(1..).and_then(|time| time.try_into().ok()).map_or(0, u64::from_be_bytes);
        said.first().is_some_and(|bits| *bits >= self.bits)
            && ends_ms > now_ms
            && verify_slices_are_equal(&self.mac(kind, client, said), mac).is_ok()
    }

    fn mac(&self, kind: Kind, client: u64, said: &[u8]) -> [u8; MAC_BYTES] {
        let mut context = Context::with_key(&self.key);
        context.update(&[kind as u8]);
        context.update(&client.to_be_bytes());
        context.update(said);
        let mut mac = [0; MAC_BYTES];
        mac.iter_mut().zip(context.sign().as_ref()).for_each(|(into, from)| *into = *from);
        mac
    }
}

/// Of the first 32.
fn zero_bits(hash: &[u8]) -> u32 {
    hash.first_chunk().map_or(0, |first| u32::from_be_bytes(*first).leading_zeros())
}

/// What our page says, by name.
type Words = [(&'static str, &'static str); 7];

const KOREAN: Words = [
    ("lang", "ko"),
    ("title", "잠시 확인하고 있습니다"),
    ("lead", "요청이 몰려, 사람이 쓰는 브라우저인지 먼저 확인합니다. 몇 초면 끝납니다."),
    ("hint", "끝나면 저절로 넘어갑니다. 이 화면을 열어 두세요."),
    ("no_cookie", "쿠키를 허용한 뒤 새로 고쳐 주세요."),
    ("failed", "확인하지 못했습니다. 잠시 뒤 새로 고쳐 주세요."),
    ("no_script", "이 확인에는 자바스크립트가 필요합니다. 자바스크립트를 켠 뒤 새로 고쳐 주세요."),
];

const ENGLISH: Words = [
    ("lang", "en"),
    ("title", "One moment, please"),
    ("lead", "There is a flood of requests, so your browser has to show first that it is one. It takes a few seconds."),
    ("hint", "This page goes on by itself. Please keep it open."),
    ("no_cookie", "Please allow cookies, and reload this page."),
    ("failed", "That did not work. Please reload this page in a moment."),
    ("no_script", "This needs JavaScript. Please turn it on, and reload this page."),
];

/// Value of `Content-Security-Policy`.
pub(crate) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())));
    let (style, script) = (hash(STYLE), hash(SCRIPT));
    format!(
        "default-src 'none'; style-src {style}; script-src {script}; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'self'"
    )
});

/// In Korean and in English, without the challenge.
static PAGES: LazyLock<[String; 2]> = LazyLock::new(|| {
    [KOREAN, ENGLISH].map(|words| {
        let page = HTML.replace("{{style}}", STYLE).replace("{{script}}", SCRIPT);
        words.iter().fold(page, |text, (name, word)| text.replace(&format!("{{{{{name}}}}}"), word))
    })
});

/// The page that solves a challenge.
pub(crate) fn page(language: Language, challenge: &str, bits: u8) -> String {
    let [korean, english] = &*PAGES;
    let page = if language == Language::Korean { korean } else { english };
    page.replacen("{{challenge}}", challenge, 1).replacen("{{bits}}", &bits.to_string(), 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;
    const CLIENT: u64 = 77;

    fn challenge(bits: u8) -> Challenge {
        Challenge::new(&[7; 32], bits, 60_000, NOW_MS)
    }

    fn solve(text: &str, bits: u8) -> Vec<u8> {
        let mut tries = (0_u32..).map(|number| format!("{text}.{number}").into_bytes());
        tries.find(|value| zero_bits(digest(&SHA256, value).as_ref()) >= u32::from(bits)).expect("it does not end")
    }

    #[test]
    fn a_solution_is_good_for_its_client_and_its_time() {
        let challenge = challenge(8);
        let solved = solve(&challenge.of(CLIENT, NOW_MS), 8);
        assert!(challenge.is_solved(&solved, CLIENT, NOW_MS));
        assert!(!challenge.is_solved(&solved, CLIENT + 1, NOW_MS), "another client");
        assert!(challenge.is_solved(&solved, CLIENT, NOW_MS + CHALLENGE_AGE_MS - 1));
        assert!(!challenge.is_solved(&solved, CLIENT, NOW_MS + CHALLENGE_AGE_MS), "too late");
        let stranger = Challenge::new(&[8; 32], 8, 60_000, NOW_MS);
        assert!(!stranger.is_solved(&solved, CLIENT, NOW_MS), "another host");
        assert!(!challenge.passes(&solved[..TEXT_BYTES], CLIENT, NOW_MS), "a challenge is no pass");
        let made_up = solve(&"A".repeat(TEXT_BYTES), 8);
        assert!(!challenge.is_solved(&made_up, CLIENT, NOW_MS), "nobody gave it");
    }

    #[test]
    fn a_challenge_is_as_hard_as_it_says() {
        let (easy, hard) = (challenge(4), challenge(12));
        let text = hard.of(CLIENT, NOW_MS);
        assert!(hard.is_solved(&solve(&text, 12), CLIENT, NOW_MS));
        let mut tries = (0..100).map(|number| format!("{text}.{number}"));
        let wrong = tries.find(|value| zero_bits(digest(&SHA256, value.as_bytes()).as_ref()) < 12).expect("most are");
        assert!(!hard.is_solved(wrong.as_bytes(), CLIENT, NOW_MS));
        // Where it is less hard nobody has to begin anew, and the other way round nobody gets in cheaply.
        let (of_easy, of_hard) = (easy.pass(CLIENT, NOW_MS), hard.pass(CLIENT, NOW_MS));
        assert!(easy.passes(of_hard.as_bytes(), CLIENT, NOW_MS) && !hard.passes(of_easy.as_bytes(), CLIENT, NOW_MS));
        let cheap = solve(&easy.of(CLIENT, NOW_MS), 12);
        assert!(!hard.is_solved(&cheap, CLIENT, NOW_MS));
    }

    #[test]
    fn a_pass_ends() {
        let challenge = challenge(8);
        let pass = challenge.pass(CLIENT, NOW_MS);
        assert!(challenge.passes(pass.as_bytes(), CLIENT, NOW_MS + 59_999));
        assert!(!challenge.passes(pass.as_bytes(), CLIENT, NOW_MS + 60_000));
        assert!(!challenge.passes(pass.as_bytes(), CLIENT + 1, NOW_MS));
        assert!(!challenge.is_solved(&solve(&pass, 8), CLIENT, NOW_MS), "a pass is no challenge");
    }

    #[test]
    fn our_page_is_whole_and_small() {
        for (language, words) in [(Language::Korean, KOREAN), (Language::English, ENGLISH)] {
            let text = page(language, "CHALLENGE", 17);
            assert!(text.len() < 8 * 1024 && !text.contains("{{"), "{} bytes: {text}", text.len());
            assert!(words.iter().all(|(_, word)| text.contains(word)));
            assert!(text.contains("data-challenge=\"CHALLENGE\" data-bits=\"17\""));
            assert!(!text.contains("http://") && !text.contains("https://"), "nothing from elsewhere");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics_and_none_is_good(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let challenge = challenge(4);
            prop_assert!(!challenge.is_solved(&value, CLIENT, NOW_MS) && !challenge.passes(&value, CLIENT, NOW_MS));
        }

        #[test]
        fn a_changed_pass_is_none(place in 0..TEXT_BYTES, other in any::<u8>()) {
            let challenge = challenge(4);
            let mut pass = challenge.pass(CLIENT, NOW_MS).into_bytes();
            prop_assume!(pass[place] != other);
            pass[place] = other;
            prop_assert!(!challenge.passes(&pass, CLIENT, NOW_MS));
        }
    }
}
