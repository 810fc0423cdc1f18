//! Sections of PEM files (RFC 7468).

use rustls::pki_types::pem::{Error, PemObject, SectionKind, SliceIter};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::limits::{AUTHORITIES, CHAIN_CERTIFICATES};
use crate::problem::{Part, Problem};

const CERTIFICATE_FORM: &str =
    "it has to have a part -----BEGIN CERTIFICATE-----; openssl x509 -inform DER turns DER into that";
const KEY_FORM: &str =
    "it has to have a part -----BEGIN PRIVATE KEY-----, or with EC or RSA before PRIVATE; `key` names another file";

/// The chain as it is sent, its own certificate first.
pub(crate) fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    certificates(pem, Part::Certificate, CHAIN_CERTIFICATES)
}

/// The certificates of authorities.
///
/// # Errors
/// There is none in it, or it is no PEM.
pub fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    certificates(pem, Part::Authorities, AUTHORITIES)
}

fn certificates(pem: &[u8], part: Part, most: usize) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let found: Result<Vec<CertificateDer<'static>>, Error> =
        CertificateDer::pem_slice_iter(pem).take(most + 1).collect();
    let found = found.map_err(|error| Problem::new(part, broken(&error), CERTIFICATE_FORM))?;
    match found.len() {
        0 => Err(Problem::new(part, "holds no certificate", CERTIFICATE_FORM)),
        count if count > most => Err(Problem::new(
            part,
            format!("holds more than {most} certificates"),
            "name a file with only those that are needed",
        )),
        _ => Ok(found),
    }
}

/// The first private key.
pub(crate) fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    let problem = |message: String, help: &str| Problem::new(Part::Key, message, help);
    if is_encrypted(pem) {
        return Err(problem(
            "is protected by a passphrase".to_owned(),
            "take it off: openssl pkey -in OLD -out NEW, with NEW readable by root alone",
        ));
    }
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(Error::NoItemsFound) => Err(problem("holds no private key".to_owned(), KEY_FORM)),
        Err(error) => Err(problem(broken(&error), KEY_FORM)),
    }
}

/// PKCS #8 says so in its label (RFC 5958), the older form in a header field (RFC 1421).
fn is_encrypted(pem: &[u8]) -> bool {
    let has = |words: &[u8]| pem.windows(words.len()).any(|window| window == words);
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}

/// Whether there is anything in a file that is PEM at all.
pub(crate) fn has_sections(bytes: &[u8]) -> bool {
    SliceIter::<(SectionKind, Vec<u8>)>::new(bytes).next().is_some_and(|section| section.is_ok())
}

fn broken(error: &Error) -> String {
    match error {
        Error::MissingSectionEnd { .. } => "ends within a part: its -----END line is missing".to_owned(),
        Error::IllegalSectionStart { .. } => "has a -----BEGIN line that is no such line".to_owned(),
        Error::Base64Decode(_) => "has a part that is no base64".to_owned(),
        Error::SectionTooLarge => "has a part that is too large".to_owned(),
        _ => "is no PEM file".to_owned(),
    }
}
