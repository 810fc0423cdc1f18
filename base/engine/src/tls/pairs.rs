//! Certificates with their keys, parsed once.
//!
//! Keys of tickets come every 8 hours, and of many certificates one is replaced now and then: what
//! stays as it is need not be parsed again each time, which takes a second where there are thousands.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use rustls::sign::CertifiedKey;
use sumun_certificates::{Identity, Leaf, Problem};

use super::material::Blob;

/// One of them; the same one for as long as its files say the same.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) leaf: Leaf,
}

impl From<Identity> for Pair {
    fn from(Identity { certified, leaf }: Identity) -> Self {
        Self { certified: Arc::new(certified), leaf }
    }
}

/// Those that are in use. Nothing of what they were made of is kept but its digest.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    in_force: HashMap<Digest, Arc<Pair>>,
    /// Asked for since the last [`Self::begin`].
    asked: HashMap<Digest, Arc<Pair>>,
}

type Digest = [u8; SHA256_OUTPUT_LEN];

impl Pairs {
    /// All that are needed are asked for from here on.
    pub(super) fn begin(&mut self) {
        self.asked.clear();
    }

    /// All have been asked for, and are in force: the others are forgotten.
    pub(super) fn settle(&mut self) {
        self.in_force = std::mem::take(&mut self.asked);
    }

    /// Of a certificate with its chain and a key, both in PEM, and an OCSP response in DER.
    ///
    /// # Errors
    /// As [`Identity::parse`].
    pub(super) fn of(&mut self, certificate: &Blob, key: &Blob, staple: Option<&Blob>) -> Result<Arc<Pair>, Problem> {
        let digest = digest([Some(certificate), Some(key), staple]);
        let known = self.asked.get(&digest).or_else(|| self.in_force.get(&digest)).map(Arc::clone);
        let pair = match known {
            Some(known) => known,
            None => {
                let mut identity = Identity::parse(certificate.bytes(), key.bytes())?;
                identity.certified.ocsp = staple.map(|staple| staple.bytes().to_vec());
                Arc::new(identity.into())
            }
        };
        self.asked.insert(digest, Arc::clone(&pair));
        Ok(pair)
    }
}

fn digest(parts: [Option<&Blob>; 3]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        // Where a part ends is told by its length; one that is not there has none.
        let bytes = part.map(Blob::bytes);
        context.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_be_bytes());
        context.update(bytes.unwrap_or_default());
    }
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
