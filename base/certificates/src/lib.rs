//! Certificates, keys and OCSP responses: from bytes to what TLS needs, or to what is wrong.
//!
//! It reads no file and no clock; times are seconds since 1970. X.509 as in RFC 5280, PEM as in
//! RFC 7468, OCSP responses as in RFC 6960 section 4.2.1.
//!
//! It makes keys, requests and certificates of its own, too ([`make`]).
//!
//! It builds no chains and trusts nobody: that is done by rustls while a connection opens.

mod identity;
mod leaf;
pub mod limits;
pub mod make;
mod pem;
mod problem;
mod staple;
mod verifying;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

pub use identity::Identity;
pub use leaf::{Leaf, date, moment};
pub use make::KeyType;
pub use pem::authorities;
pub use problem::{Part, Problem};
pub use staple::{Staple, Status};
pub use verifying::{VerifyingKey, verifying_key};

/// The cryptography of the whole product: aws-lc-rs.
#[must_use]
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}

#[cfg(test)]
mod tests;
