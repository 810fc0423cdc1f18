//! TLS towards clients: what a listener's address speaks.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use sumun_certificates::provider;
use sumun_config::checked::{self, AcmeChallenge, TlsVersion};

use super::limits::TICKETS_SENT;
use super::material::{Blob, IdentityMaterial, Material};
use super::metrics::Counts;
use super::obtained::Obtained;
use super::pairs::{Pair, Pairs};
use super::records::Connection;
use super::store::CertStore;
use super::stream::TlsStream;
use super::tickets::Ticketer;
use super::transport::Transport;
use super::verifier::Clients;
use crate::acme::TLS_PROTOCOL;

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
    made_of: Ingredients,
}

#[derive(Debug)]
struct Ingredients {
    tls: Arc<checked::ListenerTls>,
    pairs: Vec<Arc<Pair>>,
    /// Empty where clients are not asked who they are.
    authorities: Blob,
}

#[cfg(test)]
impl Built {
    pub(super) fn pairs(&self) -> &[Arc<Pair>] {
        &self.made_of.pairs
    }
}

impl Ingredients {
    fn is_same(&self, other: &Self) -> bool {
        let same_pairs = || self.pairs.iter().zip(&other.pairs).all(|(one, other)| Arc::ptr_eq(one, other));
        self.tls == other.tls
            && self.authorities == other.authorities
            && self.pairs.len() == other.pairs.len()
            && same_pairs()
    }
}

impl TlsListener {
    pub(super) fn new(built: Arc<Built>, counts: Arc<Counts>) -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::new(built), counts })
    }

    pub(super) fn change(&self, built: Arc<Built>) {
        self.current.store(built);
    }

    pub(super) fn current(&self) -> Arc<Built> {
        self.current.load_full()
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

/// What the control thread makes of files.
#[derive(Debug, Default)]
pub(super) struct Making {
    pub(super) obtained: Obtained,
    pub(super) pairs: Pairs,
}

/// What is in force if it is made of the same, else a new one.
///
/// # Errors
/// A text for the operator.
pub(super) fn build(
    tls: &Arc<checked::ListenerTls>,
    material: &Material,
    ticketer: &Arc<Ticketer>,
    making: &mut Making,
    before: Option<Arc<Built>>,
) -> Result<Arc<Built>, String> {
    let mut pairs = Vec::with_capacity(tls.certificates.len() + tls.acme.len());
    for files in &tls.certificates {
        pairs.push(pair(files, material, &mut making.pairs)?);
    }
    let mut expiries: Vec<(Arc<str>, u64)> =
        pairs.iter().map(|pair| (Arc::from(pair.leaf.title()), pair.leaf.not_after)).collect();
    for acme in &tls.acme {
        let (pair, is_stand_in) = making.obtained.pair(acme, material, &mut making.pairs)?;
        if !is_stand_in {
            expiries.push((Arc::from(pair.leaf.title()), pair.leaf.not_after));
        }
        pairs.push(pair);
    }
    let authorities = match &tls.client_auth {
        Some(auth) => material.authority(&auth.ca).ok_or_else(|| missing(&auth.ca))?.clone(),
        None => Blob::default(),
    };
    let made_of = Ingredients { tls: Arc::clone(tls), pairs, authorities };
    if let Some(before) = before.filter(|before| before.made_of.is_same(&made_of)) {
        return Ok(before);
    }
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions(tls.min_version))
        .map_err(|error| error.to_string())?;
    let builder = match &tls.client_auth {
        None => builder.with_no_client_auth(),
        Some(auth) => {
            let named = |why: &dyn std::fmt::Display| format!("{}: {why}", auth.ca.display());
            let mut roots = RootCertStore::empty();
            for certificate in
                sumun_certificates::authorities(made_of.authorities.bytes()).map_err(|problem| named(&problem))?
            {
                roots.add(certificate).map_err(|error| named(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
            let verifier = if auth.required { verifier } else { verifier.allow_unauthenticated() };
            let chains = verifier.build().map_err(|error| named(&error))?;
            builder.with_client_cert_verifier(Arc::new(Clients { chains }))
        }
    };
    let challenges = Arc::clone(&making.obtained.challenges);
    let mut config = builder.with_cert_resolver(Arc::new(CertStore::new(&made_of.pairs, challenges)));
    // The first of ours that the client knows is taken. Where we have none, a client that offers some
    // goes on without.
    if tls.is_http {
        config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1_1.to_vec()];
    }
    if tls.acme.iter().any(|acme| acme.challenge == AcmeChallenge::TlsAlpn01) {
        // The last: nobody who speaks anything else gets it.
        config.alpn_protocols.push(TLS_PROTOCOL.to_vec());
    }
    // Sessions lie with the clients, sealed, so that every worker and the next process know them.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if tls.tickets && tls.client_auth.is_none() {
        config.ticketer = Arc::clone(ticketer) as _;
        config.send_tls13_tickets = TICKETS_SENT;
    } else {
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(Built { config: Arc::new(config), expiries, made_of }))
}

/// The pair of these files, parsed.
pub(super) fn pair(
    files: &checked::CertificateFiles,
    material: &Material,
    pairs: &mut Pairs,
) -> Result<Arc<Pair>, String> {
    let found = material.identity(files).ok_or_else(|| missing(&files.certificate))?;
    let IdentityMaterial { certificate, key, staple, .. } = found;
    pairs.of(certificate, key, staple.as_ref()).map_err(|problem| format!("{}: {problem}", files.certificate.display()))
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
