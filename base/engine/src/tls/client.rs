//! TLS towards servers: what a pool speaks.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use sumun_certificates::provider;
use sumun_config::checked::{self, Protocol, ServerAddress};

use super::material::{Blob, IdentityMaterial, Material};
use super::metrics::Counts;
use super::pairs::Pairs;
use super::records::Connection;
use super::server::{HTTP_1_1, HTTP_2, missing, pair, versions};
use super::sessions::Sessions;
use super::stream::TlsStream;
use super::transport::Transport;
use super::verifier::{Anybody, Verifier};

/// What is offered to a server in the handshake (RFC 7301); [`TlsStream::is_http2`] tells what it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// What is spoken is not ours to know.
    Nothing,
    Http1,
    Http2,
    /// HTTP/2 where the server knows it.
    Either,
}

impl Offer {
    const COUNT: usize = 4;

    /// What a pool with this `protocol` offers.
    #[must_use]
    pub fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
            Protocol::Auto => Self::Either,
        }
    }

    /// By their names of ALPN, the one that is preferred first.
    #[must_use]
    pub fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Http1 => vec![HTTP_1_1.to_vec()],
            Self::Http2 => vec![HTTP_2.to_vec()],
            Self::Either => vec![HTTP_2.to_vec(), HTTP_1_1.to_vec()],
        }
    }
}

/// TLS of one pool: lives as long as the pool speaks it, while what it speaks with is replaced as
/// a whole.
#[derive(Debug)]
pub struct TlsPool {
    current: ArcSwap<Built>,
    counts: Arc<Counts>,
}

/// Counts nothing: counters are written by workers alone.
const NO_WORKER: usize = usize::MAX;

/// What new connections are opened with.
#[derive(Debug)]
pub(super) struct Built {
    config: ClientConfig,
    sni: Option<ServerName<'static>>,
    /// Of our own certificate: (name, seconds since 1970).
    pub(super) expiry: Option<(Arc<str>, u64)>,
    made_of: Ingredients,
}

/// Sessions outlive whatever leaves these as they are.
#[derive(Debug, PartialEq, Eq)]
struct Ingredients {
    tls: checked::PoolTls,
    identity: Option<IdentityMaterial>,
    /// Empty where the host's are trusted.
    authorities: Blob,
    system: Vec<Blob>,
}

impl Ingredients {
    fn gather(tls: &checked::PoolTls, material: &Material) -> Result<Self, String> {
        let identity = match &tls.identity {
            Some(files) => Some(material.identity(files).ok_or_else(|| missing(&files.certificate))?.clone()),
            None => None,
        };
        let authorities = match &tls.ca {
            Some(path) => material.authority(path).ok_or_else(|| missing(path))?.clone(),
            None => Blob::default(),
        };
        let system = if tls.verify && tls.ca.is_none() { material.system.clone() } else { Vec::new() };
        Ok(Self { tls: tls.clone(), identity, authorities, system })
    }
}

impl TlsPool {
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

    /// Of a health check: always with a full handshake, so that a certificate is seen to expire, and
    /// not counted among those of requests. `protocols` are offered by ALPN; with none, nothing is.
    ///
    /// # Errors
    /// Not for anything a server does.
    pub fn check(
        &self,
        transport: Transport,
        name: &ServerName<'static>,
        protocols: Vec<Vec<u8>>,
    ) -> io::Result<TlsStream> {
        let current = self.current.load();
        let name = current.sni.as_ref().unwrap_or(name).clone();
        let mut config = current.config.clone();
        config.alpn_protocols = protocols;
        let connection = UnbufferedClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        Ok(TlsStream::new(transport, Connection::Client(connection), Arc::clone(&self.counts), NO_WORKER))
    }
}

/// A health check of TLS that the gateway only passes through: whoever answers, and whatever
/// certificate is shown, a handshake is all that is asked for. Nothing secret may be said behind it.
///
/// # Errors
/// Not for anything a server does.
pub fn knock(transport: Transport, name: ServerName<'static>) -> io::Result<TlsStream> {
    static MEANS: OnceLock<(Arc<ClientConfig>, Arc<Counts>)> = OnceLock::new();
    let (config, counts) = match MEANS.get() {
        Some(means) => means,
        None => {
            let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
                .with_protocol_versions(versions(checked::TlsVersion::V1_2))
                .map_err(io::Error::other)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody))
                .with_no_client_auth();
            config.resumption = Resumption::disabled();
            MEANS.get_or_init(|| (Arc::new(config), Counts::new(0)))
        }
    };
    let connection = UnbufferedClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    Ok(TlsStream::new(transport, Connection::Client(connection), Arc::clone(counts), NO_WORKER))
}

/// What is in force if it is made of the same, else a new one.
///
/// # Errors
/// A text for the operator.
pub(super) fn build(
    tls: &checked::PoolTls,
    material: &Material,
    pairs: &mut Pairs,
    before: Option<Arc<Built>>,
) -> Result<Arc<Built>, String> {
    let made_of = Ingredients::gather(tls, material)?;
    if let Some(before) = before.filter(|before| before.made_of == made_of) {
        return Ok(before);
    }
    let verifier: Arc<dyn ServerCertVerifier> = match (tls.verify, &tls.ca) {
        (false, _) => Arc::new(Anybody),
        (true, Some(path)) => {
            let named = |why: String| format!("{}: {why}", path.display());
            let authorities = sumun_certificates::authorities(made_of.authorities.bytes());
            let authorities = authorities.map_err(|problem| named(problem.to_string()))?;
            Arc::new(Verifier::new(authorities, true).map_err(named)?)
        }
        (true, None) => {
            let system = made_of.system.iter().map(|der| CertificateDer::from(der.bytes().to_vec()));
            let verifier = Verifier::new(system.collect(), false);
            let none = |_| "this host has no certificates of authorities; `ca` names a file of them".to_owned();
            Arc::new(verifier.map_err(none)?)
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions(tls.min_version))
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut expiry = None;
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let pair = pair(files, material, pairs)?;
            expiry = Some((Arc::from(pair.leaf.title()), pair.leaf.not_after));
            let certified = CertifiedKey::clone(&pair.certified);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    };
    // Each worker has its own, see `TlsConnector`; what is offered has its protocols.
    config.resumption = Resumption::disabled();
    let sni = tls.sni.clone().map(|name| ServerName::try_from(name).map_err(|error| error.to_string())).transpose()?;
    Ok(Arc::new(Built { config, sni, expiry, made_of }))
}

/// One worker's way to the servers of a pool. Sessions with them are its own, so that no worker
/// waits for another.
#[derive(Debug)]
pub struct TlsConnector {
    pool: Arc<TlsPool>,
    worker: usize,
    own: RefCell<Option<Own>>,
}

#[derive(Debug)]
struct Own {
    built: Arc<Built>,
    /// By what is offered.
    configs: [Option<(Arc<ClientConfig>, Arc<Sessions>)>; Offer::COUNT],
}

impl TlsConnector {
    #[must_use]
    pub fn new(pool: Arc<TlsPool>, worker: usize) -> Self {
        Self { pool, worker, own: RefCell::new(None) }
    }

    /// This is what the pool speaks.
    #[must_use]
    pub fn is_of(&self, pool: &Arc<TlsPool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    /// Over a connected socket. `name` is that of the server's address ([`server_name`]), `servers` how
    /// many there are: sessions with so many are remembered.
    ///
    /// # Errors
    /// Not for anything a server does.
    pub fn connect(
        &self,
        transport: Transport,
        name: &ServerName<'static>,
        offer: Offer,
        servers: usize,
    ) -> io::Result<TlsStream> {
        let (config, name) = self.config(name, offer, servers);
        let connection = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(TlsStream::new(transport, Connection::Client(connection), Arc::clone(&self.pool.counts), self.worker))
    }

    fn config(
        &self,
        name: &ServerName<'static>,
        offer: Offer,
        servers: usize,
    ) -> (Arc<ClientConfig>, ServerName<'static>) {
        let current = self.pool.current.load_full();
        let name = current.sni.as_ref().unwrap_or(name).clone();
        let mut own = self.own.borrow_mut();
        if own.as_ref().is_none_or(|own| !Arc::ptr_eq(&own.built, &current)) {
            *own = None;
        }
        let own = own.get_or_insert_with(|| Own { built: Arc::clone(&current), configs: Default::default() });
        let [nothing, http1, http2, either] = &mut own.configs;
        let place = match offer {
            Offer::Nothing => nothing,
            Offer::Http1 => http1,
            Offer::Http2 => http2,
            Offer::Either => either,
        };
        let (config, sessions) = place.get_or_insert_with(|| {
            let sessions = Arc::<Sessions>::default();
            let mut config = current.config.clone();
            config.alpn_protocols = offer.protocols();
            config.resumption = Resumption::store(Arc::clone(&sessions) as _);
            (Arc::new(config), sessions)
        });
        sessions.bound(servers);
        (Arc::clone(config), name)
    }
}

/// What the certificate of a server at this address has to be for, unless the pool says otherwise.
#[must_use]
pub fn server_name(address: &ServerAddress) -> ServerName<'static> {
    // Never sent, and never valid: a Unix socket has no name, and needs none where nothing is verified.
    let nameless = ServerName::IpAddress(IpAddr::from(Ipv4Addr::UNSPECIFIED).into());
    match address {
        ServerAddress::Ip(address) => ServerName::IpAddress(address.ip().into()),
        ServerAddress::Name { host, .. } => {
            let name = host.strip_suffix('.').unwrap_or(host).to_owned();
            ServerName::try_from(name).unwrap_or(nameless)
        }
        ServerAddress::Unix(_) => nameless,
    }
}
