//! Keys, requests and certificates that are made here: for a certificate that is to be obtained,
//! for the time until it is there, and for the proof that a name is ours.

use std::time::Duration;

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::identity::Identity;
use crate::leaf::Leaf;
use crate::provider;

/// What kind of key a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyType {
    EcdsaP256,
    EcdsaP384,
    Rsa2048,
}

/// A stand-in is good for this long, seconds: nobody trusts it anyhow, and nobody is to find it
/// expired before the real one is there.
const STAND_IN_SECONDS: u64 = 365 * 24 * 3600;

/// Clocks of clients may be behind ours, seconds.
const CLOCK_SLACK_SECONDS: u64 = 24 * 3600;

const STAND_IN_NAME: &str = "Sumun stand-in";

/// A new key in PEM. An RSA key takes a tenth of a second and more.
///
/// # Errors
/// There was no randomness; the words of the library.
pub fn new_key(key_type: KeyType) -> Result<Zeroizing<String>, String> {
    let made = match key_type {
        KeyType::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        KeyType::EcdsaP384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        KeyType::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
    };
    made.map(|key| Zeroizing::new(key.serialize_pem())).map_err(text)
}

/// A certification request in DER (RFC 2986) for these names and IP addresses.
///
/// # Errors
/// The key is none that was made here, or a name is no name; the words of the library.
pub fn request(key_pem: &str, names: &[String]) -> Result<Vec<u8>, String> {
    let key = KeyPair::from_pem(key_pem).map_err(text)?;
    let mut params = CertificateParams::new(names).map_err(text)?;
    // Authorities take the names from the extension, and refuse a common name that is too long.
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(text)?;
    Ok(request.der().to_vec())
}

/// A certificate for these names that nobody trusts: connections can be opened until a real one is
/// there. `now`: seconds since 1970.
///
/// # Errors
/// A name is no name; the words of the library.
pub fn stand_in(names: &[String], now: u64) -> Result<Identity, String> {
    let mut params = params(names, now)?;
    params.distinguished_name.push(DnType::CommonName, STAND_IN_NAME);
    let certified = signed(&params)?;
    let leaf = certified.end_entity_cert().map_err(|error| error.to_string()).and_then(Leaf::parse)?;
    Ok(Identity { certified, leaf })
}

/// The certificate that proves to an authority that a name is ours (RFC 8737 section 3). `name`
/// is a host or an IP address, `digest` that of the key authorization.
///
/// # Errors
/// The name is none; the words of the library.
pub fn challenge(name: &str, digest: &[u8], now: u64) -> Result<CertifiedKey, String> {
    let mut params = params(&[name.to_owned()], now)?;
    params.custom_extensions.push(CustomExtension::new_acme_identifier(digest));
    signed(&params)
}

fn params(names: &[String], now: u64) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(names).map_err(text)?;
    params.distinguished_name = DistinguishedName::new();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(CLOCK_SLACK_SECONDS));
    params.not_after = epoch + Duration::from_secs(now.saturating_add(STAND_IN_SECONDS));
    Ok(params)
}

/// Whether the two fit is known, and rustls would not say: it does not know the extension of a proof.
fn signed(params: &CertificateParams) -> Result<CertifiedKey, String> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(text)?;
    let certificate = params.self_signed(&key).map_err(text)?;
    let signing = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signing = provider().key_provider.load_private_key(signing).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signing))
}

fn text(error: rcgen::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use x509_cert::certificate::{CertificateInner, Raw};
    use x509_cert::der::Decode;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn names() -> Vec<String> {
        ["a.example", "b.example", "192.0.2.1", "2001:db8::1"].map(str::to_owned).into()
    }

    #[test]
    fn a_stand_in_is_for_all_names_and_no_authority() {
        let Identity { certified, leaf } = stand_in(&names(), NOW).unwrap();
        assert_eq!(leaf.dns_names, ["a.example", "b.example"]);
        assert_eq!(leaf.addresses.len(), 2);
        assert!(leaf.not_before < NOW && leaf.not_after > NOW + 300 * 24 * 3600);
        assert!(leaf.subject.contains(STAND_IN_NAME));
        assert!(certified.keys_match().is_ok());
    }

    #[test]
    fn requests_for_every_kind_of_key() {
        for key_type in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Rsa2048] {
            let key = new_key(key_type).unwrap();
            let request = request(&key, &names()).unwrap();
            let holds = |name: &[u8]| request.windows(name.len()).any(|window| window == name);
            assert!(holds(b"a.example") && holds(b"b.example") && holds(&[192, 0, 2, 1]), "{key_type:?}");
        }
        assert!(request("no key", &names()).is_err());
    }

    /// RFC 8737 section 3: one name, the digest in a critical extension, ALPN done elsewhere.
    #[test]
    fn the_proof_holds_the_digest() {
        let digest = [7; 32];
        let CertifiedKey { cert, .. } = challenge("a.example", &digest, NOW).unwrap();
        let parsed = CertificateInner::<Raw>::from_der(&cert[0]).unwrap();
        let extensions = parsed.tbs_certificate().extensions().unwrap();
        let found = extensions.iter().find(|one| one.extn_id.to_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(found.critical);
        assert_eq!(found.extn_value.as_bytes(), [&[4, 32], &digest[..]].concat());
        assert!(challenge("2001:db8::1", &digest, NOW).is_ok());
    }
}
