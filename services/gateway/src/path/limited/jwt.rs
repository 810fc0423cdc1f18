//! Claims of JSON Web Tokens (RFC 7519) that have been verified.
//!
//! A signature takes up to a hundred microseconds of the worker's time, and clients send the same token
//! with each request: a worker remembers for a while what a token came to. What it remembers are no
//! tokens, only numbers that its own random keys made of them.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};
use sumun_config::checked::{Jwt, JwtAlgorithm, TokenPlace};

use crate::limits::{TOKEN_BYTES, TOKENS, VERIFIED_TOKEN_S};

thread_local! {
    static REMEMBERED: RefCell<Remembered> = RefCell::default();
}

/// Verifies the tokens of one limit.
pub(crate) struct Verifier {
    claim: String,
    place: TokenPlace,
    key: DecodingKey,
    rules: Validation,
    /// Tells its tokens from those of others, also from those of the same limit with another key.
    id: u64,
}

/// What tokens came to, in a table of fixed size: where two want the same place, the later one has it.
#[derive(Default)]
struct Remembered {
    places: Box<[Outcome]>,
    keys: [RandomState; 3],
}

#[derive(Clone, Copy, Default)]
struct Outcome {
    token: [u64; 2],
    claim: Option<u64>,
    /// Seconds since 1970.
    until_s: u64,
}

impl Verifier {
    pub(crate) fn new(jwt: &Jwt) -> Self {
        let key = &jwt.key.0;
        let (algorithm, key) = match jwt.algorithm {
            JwtAlgorithm::Hs256 => (Algorithm::HS256, DecodingKey::from_secret(key)),
            JwtAlgorithm::Hs384 => (Algorithm::HS384, DecodingKey::from_secret(key)),
            JwtAlgorithm::Hs512 => (Algorithm::HS512, DecodingKey::from_secret(key)),
            JwtAlgorithm::Rs256 => (Algorithm::RS256, DecodingKey::from_rsa_der(key)),
            JwtAlgorithm::Es256 => (Algorithm::ES256, DecodingKey::from_ec_der(key)),
            JwtAlgorithm::EdDsa => (Algorithm::EdDSA, DecodingKey::from_ed_der(key)),
        };
        let mut rules = Validation::new(algorithm);
        // One without an end does not end; whom it is for is for the server to look at.
        rules.required_spec_claims.clear();
        rules.validate_aud = false;
        rules.validate_nbf = true;
        rules.leeway = 0;
        Self { claim: jwt.claim.clone(), place: jwt.token.clone(), key, rules, id: fastrand::u64(..) }
    }

    pub(crate) fn token(&self) -> &TokenPlace {
        &self.place
    }

    /// A number for the claim in a token; `None`: there is none, or it is not to be believed.
    pub(crate) fn claim(&self, given: &[u8], now_s: u64) -> Option<u64> {
        let token = match given.split_at_checked(BEARER.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(BEARER) => rest.trim_ascii(),
            _ => given,
        };
        if token.len() > TOKEN_BYTES {
            return None;
        }
        REMEMBERED.with_borrow_mut(|remembered| {
            let numbers = [0, 1].map(|index| remembered.keys[index].hash_one((self.id, token)));
            if remembered.places.is_empty() {
                remembered.places = vec![Outcome::default(); TOKENS].into();
            }
            let place = (numbers[0] % TOKENS as u64) as usize;
            let known = remembered.places[place];
            if known.token == numbers && now_s < known.until_s {
                return known.claim;
            }
            let verified = self.verify(token);
            let until_s = verified.as_ref().map_or(u64::MAX, |(_, expires_s)| *expires_s);
            let claim = verified.map(|(claim, _)| remembered.keys[2].hash_one(claim));
            let until_s = until_s.min(now_s + VERIFIED_TOKEN_S);
            remembered.places[place] = Outcome { token: numbers, claim, until_s };
            claim
        })
    }

    /// The claim as text, and when it is one no more, in seconds since 1970.
    fn verify(&self, token: &[u8]) -> Option<(String, u64)> {
        let claims = jsonwebtoken::decode::<Map<String, Value>>(token, &self.key, &self.rules).ok()?.claims;
        let claim = match claims.get(&self.claim)? {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        let expires_s = claims.get("exp").and_then(Value::as_f64).map_or(u64::MAX, |expires_s| expires_s as u64);
        Some((claim, expires_s))
    }
}

const BEARER: &[u8] = b"Bearer ";
