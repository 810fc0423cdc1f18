//! What the supervisor reads from files, on its way to the worker process.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sumun_config::checked::CertificateFiles;
use zeroize::Zeroizing;

use super::tickets::TicketKeys;
use crate::acme::Kept;

/// Bytes that may be secret: never shown, wiped when the last copy goes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob(Arc<Zeroizing<Vec<u8>>>);

impl Blob {
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD_NO_PAD.encode(self.bytes())))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Blob;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("base64")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Blob, E> {
                STANDARD_NO_PAD.decode(text).map(Blob::new).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The contents of the files of one certificate: they have been found to fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityMaterial {
    certificate_path: Blob,
    key_path: Blob,
    ocsp_path: Option<Blob>,
    /// PEM.
    pub certificate: Blob,
    /// PEM.
    pub key: Blob,
    /// DER; `None` also where the response is out of date.
    pub staple: Option<Blob>,
}

impl IdentityMaterial {
    #[must_use]
    pub fn new(files: &CertificateFiles, certificate: Blob, key: Blob, staple: Option<Blob>) -> Self {
        Self {
            certificate_path: of_path(&files.certificate),
            key_path: of_path(&files.key),
            ocsp_path: files.ocsp.as_deref().map(of_path),
            certificate,
            key,
            staple,
        }
    }

    #[must_use]
    pub fn is_of(&self, files: &CertificateFiles) -> bool {
        let same = |known: &Blob, path: &Path| known.bytes() == path.as_os_str().as_bytes();
        let same_ocsp = match (&self.ocsp_path, &files.ocsp) {
            (Some(known), Some(path)) => same(known, path),
            (known, path) => known.is_none() && path.is_none(),
        };
        same(&self.certificate_path, &files.certificate) && same(&self.key_path, &files.key) && same_ocsp
    }
}

/// All that TLS needs and that does not stand in the config itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Material {
    pub identities: Vec<IdentityMaterial>,
    /// Files of authorities, by [`of_path`], in PEM.
    pub authorities: Vec<(Blob, Blob)>,
    /// The host's own authorities, in DER; empty where no pool trusts them.
    pub system: Vec<Blob>,
    pub tickets: TicketKeys,
    /// What is kept of certificates that are obtained.
    #[serde(default)]
    pub acme: Kept,
    /// Files with keys of external accounts, by [`of_path`].
    #[serde(default)]
    pub hmac_keys: Vec<(Blob, Blob)>,
}

impl Material {
    /// Of this many bytes in all.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let identity = |one: &IdentityMaterial| {
            one.certificate.0.len() + one.key.0.len() + one.staple.as_ref().map_or(0, |staple| staple.0.len())
        };
        let identities: usize = self.identities.iter().map(identity).sum();
        let authorities: usize = self.authorities.iter().map(|(_, pem)| pem.0.len()).sum();
        let system: usize = self.system.iter().map(|der| der.0.len()).sum();
        identities + authorities + system + self.acme.bytes()
    }

    pub(super) fn identity(&self, files: &CertificateFiles) -> Option<&IdentityMaterial> {
        self.identities.iter().find(|one| one.is_of(files))
    }

    /// The key in this file, as text.
    #[must_use]
    pub fn hmac_key(&self, path: &Path) -> Option<&Blob> {
        let found = self.hmac_keys.iter().find(|(known, _)| known.bytes() == path.as_os_str().as_bytes());
        found.map(|(_, text)| text)
    }

    pub(super) fn authority(&self, path: &Path) -> Option<&Blob> {
        let found = self.authorities.iter().find(|(known, _)| known.bytes() == path.as_os_str().as_bytes());
        found.map(|(_, pem)| pem)
    }
}

/// A path as it travels: it need not be UTF-8.
#[must_use]
pub fn of_path(path: &Path) -> Blob {
    Blob::new(path.as_os_str().as_bytes().to_vec())
}
