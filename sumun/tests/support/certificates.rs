//! Certificates that live as long as a test, and sides of TLS that use them.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

const DAY: Duration = Duration::from_secs(86_400);

/// Both versions that are spoken.
pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    der: CertificateDer<'static>,
}

/// PEM of a certificate and of its key.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn ecdsa() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

fn params(names: &[&str], from: SystemTime, to: SystemTime) -> CertificateParams {
    let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name = DistinguishedName::new();
    params.not_before = from.into();
    params.not_after = to.into();
    params
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let now = SystemTime::now();
        let mut params = params(&[], now - DAY, now + 100 * DAY);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = ecdsa();
        let certificate = params.self_signed(&key).expect("a certificate");
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { issuer: Issuer::new(params, key), pem, der }
    }

    fn sign(&self, key: &KeyPair, params: &CertificateParams) -> Pair {
        let certificate = params.signed_by(key, &self.issuer).expect("a certificate");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// For these names or IP addresses.
    pub(crate) fn pair(&self, names: &[&str]) -> Pair {
        let now = SystemTime::now();
        self.sign(&ecdsa(), &params(names, now - DAY, now + 60 * DAY))
    }

    pub(crate) fn rsa_pair(&self, names: &[&str]) -> Pair {
        let now = SystemTime::now();
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key");
        self.sign(&key, &params(names, now - DAY, now + 60 * DAY))
    }

    /// That was good until an hour ago.
    pub(crate) fn expired_pair(&self, names: &[&str]) -> Pair {
        let now = SystemTime::now();
        self.sign(&ecdsa(), &params(names, now - 2 * DAY, now - Duration::from_secs(3600)))
    }

    /// Of a person.
    pub(crate) fn person(&self, common_name: &str) -> Pair {
        let now = SystemTime::now();
        let mut params = params(&[], now - DAY, now + DAY);
        params.distinguished_name.push(DnType::CommonName, common_name);
        self.sign(&ecdsa(), &params)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("an authority");
        roots
    }

    /// A client that trusts this authority, remembers its sessions, and offers these protocols.
    pub(crate) fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&str],
        identity: Option<&Pair>,
    ) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions);
        let builder = builder.expect("versions").with_root_certificates(self.roots());
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(pair) => builder.with_client_auth_cert(pair.chain(), pair.private_key()).expect("a pair"),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(64);
        Arc::new(config)
    }

    /// A client of both versions that speaks HTTP/1.1.
    pub(crate) fn plain_client(&self) -> Arc<ClientConfig> {
        self.client(&VERSIONS, &["http/1.1"], None)
    }

    /// A server with this pair that asks clients for a certificate of this authority.
    pub(crate) fn asking_server(&self, pair: &Pair) -> Arc<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider());
        let verifier = verifier.build().expect("a verifier");
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_client_cert_verifier(verifier);
        Arc::new(builder.with_single_cert(pair.chain(), pair.private_key()).expect("a pair"))
    }
}

impl Pair {
    /// As `NAME.pem` and `NAME.key`.
    pub(crate) fn write(&self, directory: &Path, name: &str) {
        for (ending, text) in [("pem", &self.certificate), ("key", &self.key)] {
            let path = directory.join(format!("{name}.{ending}"));
            // In one step, as a careful operator does.
            let new = directory.join(format!("{name}.{ending}.new"));
            fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).expect("the file can be written");
        }
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.der()]
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key")
    }

    /// A server of these versions.
    pub(crate) fn server(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions);
        let builder = builder.expect("versions").with_no_client_auth();
        Arc::new(builder.with_single_cert(self.chain(), self.private_key()).expect("a pair"))
    }
}
