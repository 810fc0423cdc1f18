//! Certificates that live as long as a test.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ED25519, PKCS_RSA_SHA256,
};
use rustls::pki_types::CertificateDer;
use sumun_certificates::Identity;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Ecdsa,
    Ed25519,
    Rsa,
}

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
}

/// PEM of a certificate and of its key.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

pub(crate) fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let (pem, der) = (certificate.pem(), certificate.der().clone());
    Authority { issuer: Issuer::new(params, key), pem, der }
}

fn key(kind: Kind) -> KeyPair {
    let algorithm = match kind {
        Kind::Ecdsa => &PKCS_ECDSA_P256_SHA256,
        Kind::Ed25519 => &PKCS_ED25519,
        Kind::Rsa => &PKCS_RSA_SHA256,
    };
    KeyPair::generate_for(algorithm).unwrap()
}

fn params(names: &[&str], valid_for: Duration) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).unwrap();
    params.distinguished_name.push(DnType::CommonName, names.first().cloned().unwrap_or_default());
    params.distinguished_name.push(DnType::OrganizationName, "Größe, Ltd");
    let now = std::time::SystemTime::now();
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + valid_for).into();
    params
}

impl Authority {
    pub(crate) fn pair(&self, names: &[&str], kind: Kind) -> Pair {
        let key = key(kind);
        let certificate = params(names, Duration::from_secs(86_400)).signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    pub(crate) fn identity(&self, names: &[&str], kind: Kind) -> Identity {
        self.pair(names, kind).identity()
    }
}

impl Pair {
    pub(crate) fn identity(&self) -> Identity {
        Identity::parse(self.certificate.as_bytes(), self.key.as_bytes()).unwrap()
    }
}

/// Signed by nobody else.
pub(crate) fn self_signed(names: &[&str]) -> Pair {
    let key = key(Kind::Ecdsa);
    let mut params = params(names, Duration::from_secs(86_400));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Pair { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}
