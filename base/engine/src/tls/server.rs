//! TLS towards clients: what a listener's address speaks.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use sumun_certificates::{Identity, provider};
use sumun_config::checked::{self, TlsVersion};

use super::limits::TICKETS_SENT;
use super::material::{IdentityMaterial, Material};
use super::metrics::Counts;
use super::records::Connection;
use super::store::CertStore;
use super::stream::TlsStream;
use super::tickets::Ticketer;
use super::transport::Transport;

/// The protocols by their names in the handshake (RFC 7301 section 6, RFC 9113 section 3.2).
pub(super) const HTTP_1_1: &[u8] = b"http/1.1";
pub(super) const HTTP_2: &[u8] = b"h2";

/// TLS on one address of a listener: lives as long as the address does, while what it speaks with
/// is replaced as a whole.
#[derive(Debug)]
pub struct TlsListener {
    current: ArcSwap<Built>,
    counts: Arc<Counts>,
}

/// What new connections are opened with.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) config: Arc<ServerConfig>,
    /// (Name, seconds since 1970) of each certificate.
    pub(super) expiries: Vec<(Arc<str>, u64)>,
}

impl TlsListener {
    pub(super) fn new(built: Arc<Built>, counts: Arc<Counts>) -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::new(built), counts })
    }

    pub(super) fn change(&self, built: Arc<Built>) {
        self.current.store(built);
    }

    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Of a client that was accepted by this worker.
    ///
    /// # Errors
    /// Not for anything a client does.
    pub fn accept(&self, transport: Transport, worker: usize) -> io::Result<TlsStream> {
        let config = Arc::clone(&self.current.load().config);
        let connection = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        Ok(TlsStream::new(transport, Connection::Server(connection), Arc::clone(&self.counts), worker))
    }
}

/// # Errors
/// A text for the operator.
pub(super) fn build(
    tls: &checked::ListenerTls,
    material: &Material,
    ticketer: &Arc<Ticketer>,
) -> Result<Built, String> {
    let mut identities = Vec::with_capacity(tls.certificates.len());
    for files in &tls.certificates {
        identities.push(identity(files, material)?);
    }
    let expiries =
        identities.iter().map(|identity| (Arc::from(identity.leaf.title()), identity.leaf.not_after)).collect();
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions(tls.min_version))
        .map_err(|error| error.to_string())?;
    let builder = match &tls.client_auth {
        None => builder.with_no_client_auth(),
        Some(auth) => {
            let pem = material.authority(&auth.ca).ok_or_else(|| missing(&auth.ca))?;
            let named = |why: &dyn std::fmt::Display| format!("{}: {why}", auth.ca.display());
            let mut roots = RootCertStore::empty();
            for certificate in sumun_certificates::authorities(pem.bytes()).map_err(|problem| named(&problem))? {
                roots.add(certificate).map_err(|error| named(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
            let verifier = if auth.required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| named(&error))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(CertStore::new(identities)));
    // The first of ours that the client knows is taken.
    config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1_1.to_vec()];
    // Sessions lie with the clients, sealed, so that every worker and the next process know them.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if tls.tickets && tls.client_auth.is_none() {
        config.ticketer = Arc::clone(ticketer) as _;
        config.send_tls13_tickets = TICKETS_SENT;
    } else {
        config.send_tls13_tickets = 0;
    }
    Ok(Built { config: Arc::new(config), expiries })
}

/// The pair of these files, parsed.
pub(super) fn identity(files: &checked::CertificateFiles, material: &Material) -> Result<Identity, String> {
    let found = material.identity(files).ok_or_else(|| missing(&files.certificate))?;
    let IdentityMaterial { certificate, key, staple, .. } = found;
    let mut identity = Identity::parse(certificate.bytes(), key.bytes())
        .map_err(|problem| format!("{}: {problem}", files.certificate.display()))?;
    identity.certified.ocsp = staple.as_ref().map(|staple| staple.bytes().to_vec());
    Ok(identity)
}

pub(super) fn missing(path: &std::path::Path) -> String {
    format!("{} was not read by the supervisor", path.display())
}

pub(super) fn versions(least: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    static NEWEST: [&SupportedProtocolVersion; 1] = [&TLS13];
    match least {
        TlsVersion::V1_2 => &BOTH,
        TlsVersion::V1_3 => &NEWEST,
    }
}
