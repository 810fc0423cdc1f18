//! Claims of JSON Web Tokens (RFC 7519) that have been verified.
//!
//! A signature takes up to a hundred microseconds of the worker's time, and clients send the same token
//! with each request: a worker remembers for a while what a token came to. What it remembers are no
//! tokens, only numbers that its own random keys made of them.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};
use siphasher::sip::SipHasher13;
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
    /// Makes numbers of claims.
    hasher: SipHasher13,
    /// Tells its tokens from those of others, also from those of the same limit with another key.
    id: u64,
}

/// What tokens came to, in a table of fixed size: where two want the same place, the later one has it.
#[derive(Default)]
struct Remembered {
    places: Box<[Outcome]>,
    keys: [RandomState; 2],
}

#[derive(Clone, Copy, Default)]
struct Outcome {
    token: [u64; 2],
    claim: Option<u64>,
    /// Seconds since 1970.
    until_s: u64,
}

impl Verifier {
    pub(crate) fn new(jwt: &Jwt, hasher: SipHasher13) -> Self {
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
        Self { claim: jwt.claim.clone(), place: jwt.token.clone(), key, rules, hasher, id: fastrand::u64(..) }
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
            let claim = verified.map(|(claim, _)| {
                let mut hasher = self.hasher;
                claim.hash(&mut hasher);
                hasher.finish()
            });
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

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};
    use serde_json::json;
    use sumun_certificates::{VerifyingKey, verifying_key};
    use sumun_config::checked::JwtKey;

    use super::*;

    /// Length of what stands before an RSA key of 2048 bits in PKCS #8.
    const PKCS8_BYTES: usize = 26;

    struct Signer {
        algorithm: Algorithm,
        key: EncodingKey,
        verifier: Verifier,
    }

    impl Signer {
        fn new(algorithm: JwtAlgorithm) -> Self {
            let secret = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
            let made = |kind, verifying| {
                let pair = KeyPair::generate_for(kind).unwrap();
                let public = verifying_key(pair.public_key_pem().as_bytes(), verifying).unwrap();
                (pair.serialize_der(), public)
            };
            let shared = || (EncodingKey::from_secret(secret), secret.to_vec());
            let (signs, (key, public)) = match algorithm {
                JwtAlgorithm::Hs256 => (Algorithm::HS256, shared()),
                JwtAlgorithm::Hs384 => (Algorithm::HS384, shared()),
                JwtAlgorithm::Hs512 => (Algorithm::HS512, shared()),
                JwtAlgorithm::Rs256 => {
                    let (private, public) = made(&PKCS_RSA_SHA256, VerifyingKey::Rsa);
                    (Algorithm::RS256, (EncodingKey::from_rsa_der(&private[PKCS8_BYTES..]), public))
                }
                JwtAlgorithm::Es256 => {
                    let (private, public) = made(&PKCS_ECDSA_P256_SHA256, VerifyingKey::P256);
                    (Algorithm::ES256, (EncodingKey::from_ec_der(&private), public))
                }
                JwtAlgorithm::EdDsa => {
                    let (private, public) = made(&PKCS_ED25519, VerifyingKey::Ed25519);
                    (Algorithm::EdDSA, (EncodingKey::from_ed_der(&private), public))
                }
            };
            let token = TokenPlace::Header("authorization".to_owned());
            let jwt = Jwt { claim: "sub".to_owned(), algorithm, key: JwtKey(public), token };
            Self { algorithm: signs, key, verifier: Verifier::new(&jwt, SipHasher13::new()) }
        }

        fn sign(&self, claims: &Value) -> Vec<u8> {
            jsonwebtoken::encode(&Header::new(self.algorithm), claims, &self.key).unwrap().into_bytes()
        }

        fn claim(&self, claims: &Value) -> Option<u64> {
            self.verifier.claim(&self.sign(claims), now_s())
        }
    }

    const ALL: [JwtAlgorithm; 6] = [
        JwtAlgorithm::Hs256,
        JwtAlgorithm::Hs384,
        JwtAlgorithm::Hs512,
        JwtAlgorithm::Rs256,
        JwtAlgorithm::Es256,
        JwtAlgorithm::EdDsa,
    ];

    fn now_s() -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    }

    #[test]
    fn tokens_of_every_algorithm() {
        for algorithm in ALL {
            let (signer, other) = (Signer::new(algorithm), Signer::new(algorithm));
            let ann = signer.claim(&json!({ "sub": "ann" }));
            assert!(ann.is_some(), "{algorithm:?}");
            assert_eq!(ann, signer.claim(&json!({ "sub": "ann", "exp": now_s() + 60 })), "{algorithm:?}");
            assert_ne!(ann, signer.claim(&json!({ "sub": "bob" })), "{algorithm:?}");
            for claims in [
                json!({}),
                json!({ "sub": null }),
                json!({ "sub": ["ann"] }),
                json!({ "sub": "ann", "exp": now_s() - 2 }),
                json!({ "sub": "ann", "nbf": now_s() + 60 }),
            ] {
                assert_eq!(signer.claim(&claims), None, "{algorithm:?} {claims}");
            }
            let mut token = signer.sign(&json!({ "sub": "eve" }));
            let at = token.len() - 10;
            token[at] = if token[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(signer.verifier.claim(&token, now_s()), None, "{algorithm:?}");
            if !algorithm.is_symmetric() {
                assert_eq!(signer.verifier.claim(&other.sign(&json!({ "sub": "ann" })), now_s()), None);
            }
        }
    }

    #[test]
    fn no_token_chooses_its_algorithm() {
        let signers = ALL.map(Signer::new);
        for signer in &signers {
            for other in signers.iter().filter(|other| other.algorithm != signer.algorithm) {
                let token = other.sign(&json!({ "sub": "ann" }));
                assert_eq!(signer.verifier.claim(&token, now_s()), None);
            }
            for token in ["", ".", "..", "...", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJkIn0.", "Bearer ", "a.b.c"] {
                assert_eq!(signer.verifier.claim(token.as_bytes(), now_s()), None, "{token}");
            }
        }
    }

    #[test]
    fn what_is_remembered_ends_with_the_token() {
        let signer = Signer::new(JwtAlgorithm::Hs256);
        let token = signer.sign(&json!({ "sub": "ann", "exp": now_s() + 30 }));
        assert!(signer.verifier.claim(&token, now_s()).is_some());
        let remembered = |now_s| {
            REMEMBERED.with_borrow(|remembered| {
                remembered.places.iter().any(|outcome| outcome.claim.is_some() && now_s < outcome.until_s)
            })
        };
        assert!(remembered(now_s() + 20));
        assert!(!remembered(now_s() + 31));
    }
}
