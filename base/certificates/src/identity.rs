//! A certificate and the key that proves it.

use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use crate::leaf::Leaf;
use crate::problem::{Part, Problem};
use crate::{pem, provider};

/// Who we are to the other side: a chain, and the key that fits its first certificate.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certified: CertifiedKey,
    pub leaf: Leaf,
}

impl Identity {
    /// From a PEM file with the certificate and its chain, and one with the key; both may be the
    /// same file.
    ///
    /// # Errors
    /// One of the two is no such file, or they do not fit. Dates are not looked at.
    pub fn parse(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Self, Problem> {
        let chain = pem::chain(certificate_pem)?;
        let leaf = match chain.first().map(Leaf::parse) {
            Some(Ok(leaf)) => leaf,
            Some(Err(why)) => return Err(unreadable(1, &why)),
            None => return Err(unreadable(1, "there is none")),
        };
        for (index, certificate) in chain.iter().enumerate().skip(1) {
            Leaf::parse(certificate).map_err(|why| unreadable(index + 1, &why))?;
        }
        let key = load(pem::key(key_pem)?)?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Self { certified, leaf }),
            Err(Error::InconsistentKeys(_)) => Err(misfit(&certified, &leaf)),
            Err(error) => Err(unreadable(1, &error.to_string())),
        }
    }
}

fn load(key: PrivateKeyDer<'static>) -> Result<std::sync::Arc<dyn rustls::sign::SigningKey>, Problem> {
    provider().key_provider.load_private_key(key).map_err(|_| {
        Problem::new(
            Part::Key,
            "holds a key that cannot be used",
            "RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, and Ed25519 can",
        )
    })
}

fn unreadable(number: usize, why: &str) -> Problem {
    Problem::new(
        Part::Certificate,
        format!("holds something else in the place of certificate {number}: {why}"),
        "openssl x509 -in FILE -text shows the first one",
    )
}

/// The key may be that of a later certificate: a chain that stands upside down.
fn misfit(certified: &CertifiedKey, leaf: &Leaf) -> Problem {
    let fits = |certificate| CertifiedKey::new(vec![certificate], certified.key.clone()).keys_match().is_ok();
    let later = certified.cert.iter().skip(1).position(|certificate| fits(certificate.clone()));
    match later {
        Some(position) => Problem::new(
            Part::Certificate,
            format!("begins with another certificate than the key's, which is number {}", position + 2),
            "the server's own certificate comes first, then who signed it, and so on",
        ),
        None => Problem::new(
            Part::Key,
            "does not fit the certificate",
            format!("the certificate is that of {}; it needs the key that it was requested with", leaf.title()),
        ),
    }
}
