//! Rate limits.

use std::fmt;
use std::sync::Arc;

use super::{Name, Rate};

/// How often something may happen for each key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    pub name: Name,
    /// What is told apart; at least one part.
    pub key: Vec<KeyPart>,
    pub rate: Rate,
    /// So many at once after a rest; at least 1. Of a sliding window, the rate's count.
    pub burst: u32,
    pub window: RateWindow,
    /// Keys that are remembered at once; at least 1.
    pub keys: u32,
    /// Counted together with other gateways; never of a sliding window.
    pub shared: bool,
    /// Answers to requests that passed tell the client how it stands as well.
    pub tells_always: bool,
}

/// How a rate is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateWindow {
    /// A bucket that tokens fall into at the rate.
    Bucket,
    /// A window as long as the rate's period, which slides.
    Sliding,
}

/// A part of a key. Where a request has none of it, the client's address stands in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    Text(String),
    /// The client's address, of an IPv6 client its /64.
    Client,
    /// Normalised.
    Path,
    Method,
    Host,
    Listener,
    Route,
    /// In lower case.
    Header(String),
    Cookie(String),
    Claim(Arc<Jwt>),
}

/// A claim of a JSON Web Token (RFC 7519) whose signature holds and which has not expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    pub claim: String,
    pub algorithm: JwtAlgorithm,
    pub key: JwtKey,
    pub token: TokenPlace,
}

/// RFC 7518 section 3.1, RFC 8037 section 3.1. No token chooses its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtAlgorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Es256,
    EdDsa,
}

/// A secret, or a public key as SubjectPublicKeyInfo in DER; of the algorithm's kind.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtKey(pub Vec<u8>);

impl fmt::Debug for JwtKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JwtKey(…)")
    }
}

/// Where a token is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// In lower case; `Bearer` before the token is passed over.
    Header(String),
    Cookie(String),
}

impl JwtAlgorithm {
    /// One secret signs and verifies.
    #[must_use]
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}
