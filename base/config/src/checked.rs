//! The checked form of the config: what a service may rely on.
//!
//! A value in here cannot be wrong, so no service validates again. Every type is compared by
//! value: a reload acts on what differs and on nothing else.

mod access;
mod blocks;
mod cache;
mod health;
mod limits;
mod pool;
mod shared;
mod stream;
mod waiting_room;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use access::Access;
pub use blocks::BlockRule;
pub use cache::{
    CacheBypass, CacheGroup, CacheKey, CacheQuery, CacheStore, CacheVolume, CookieMatch, PhysicalVolume, RouteCache,
};
pub use health::{Check, Health, RecordType, RedisLogin};
use ipnet::IpNet;
pub use limits::{Jwt, JwtAlgorithm, JwtKey, KeyPart, Limit, RateWindow, TokenPlace};
pub use pool::{
    Balance, Concurrency, HashOn, HostHeader, Outlier, Pool, Protocol, ProxyProtocol, Queue, Retries, Server,
    ServerAddress, Source, Sticky, Timeouts,
};
pub use shared::{SharedSecret, SharedThrough};
pub use stream::{Bandwidth, BlockKey, ByProtocol, Quic, QuicServerId, Rate, Sni, Stream, Udp};
pub use sumun_certificates::KeyType;
pub use sumun_hello::quic_lb::ServerId;
pub use sumun_traffic::Priority;
pub use waiting_room::{Challenge, WaitingRoom};

pub type Name = Arc<str>;

/// Everything one file says, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Worker threads; at least 1. Default: one per CPU.
    pub workers: usize,
    /// The admin listener; `None` when it is `off`.
    pub admin: Option<Admin>,
    /// Unix socket through which the command line reaches the running instance.
    pub control: PathBuf,
    /// Peers whose `X-Forwarded-*`, `Forwarded` and PROXY protocol are believed.
    pub trusted_proxies: Vec<IpNet>,
    pub access_log: Option<AccessLog>,
    /// How long old connections may live after stop or upgrade.
    pub drain: Duration,
    /// Whom the worker process becomes where we are root; `None`: see [`crate::account`].
    pub user: Option<User>,
    pub sandbox: Sandbox,
    /// What is kept between two starts; `None`: the place that is usual for this user.
    pub state: Option<PathBuf>,
    /// Whoever breaks one of these is blocked for a while, on every listener that speaks HTTP.
    pub blocks: Vec<BlockRule>,
    pub shared: Option<SharedThrough>,
    pub cache: CacheStore,
    /// Files of a table of autonomous systems, for the statistics of traffic; empty where there is none.
    pub asn_table: Vec<PathBuf>,
    pub pools: BTreeMap<Name, Arc<Pool>>,
    pub limits: BTreeMap<Name, Arc<Limit>>,
    pub listeners: BTreeMap<Name, Arc<Listener>>,
}

/// A user of the host, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    Name(String),
    Ids {
        uid: u32,
        /// `None`: the groups of that user.
        gid: Option<u32>,
    },
}

/// Whether the worker process gives up what it does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandbox {
    /// As far as the kernel can.
    On,
    Off,
    /// All of it, or it does not start.
    Require,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub address: SocketAddr,
    /// Bearer token; always there when the address is not a loopback one.
    pub token: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLog {
    pub to: LogTarget,
    pub format: LogFormat,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    Stdout,
    Stderr,
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// Apache's combined format.
    Combined,
    /// One JSON object a line.
    Json,
    /// The operator's own line, already split.
    Template(Vec<LogPart>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPart {
    Text(String),
    Field(LogField),
}

/// What a template can name as `{name}`; header fields as `{request.NAME}`, `{response.NAME}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogField {
    Time,
    Client,
    Method,
    Target,
    Host,
    Version,
    Status,
    BytesSent,
    BytesReceived,
    RequestId,
    Listener,
    Route,
    Pool,
    Server,
    Tries,
    ReadMs,
    QueueMs,
    ConnectMs,
    FirstByteMs,
    TotalMs,
    Reason,
    User,
    RequestHeader(String),
    ResponseHeader(String),
}

// ---------------------------------------------------------------- listeners

/// An address where clients connect, and what is spoken there.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub name: Name,
    pub bind: Vec<BindAddress>,
    /// The addresses of `bind` that speak TLS; the others are plain.
    pub tls: BTreeMap<BindAddress, Arc<ListenerTls>>,
    /// Where requests that came without TLS are sent; `None` serves them.
    pub redirect_https: Option<RedirectHttps>,
    pub hsts: Option<Hsts>,
    /// A PROXY protocol header (v1 or v2) is expected from `trusted_proxies`.
    pub proxy_protocol: bool,
    pub bounds: Bounds,
    pub access: Access,
    /// `None`: HTTP is spoken here, and `routes` and what is below it hold.
    pub stream: Option<Stream>,
    pub bandwidth: Bandwidth,
    pub routes: Vec<Arc<Route>>,
    /// TRACE is answered (RFC 9110 section 9.3.8) and not refused.
    pub trace: bool,
    /// Header field that carries the request id.
    pub request_id: String,
    /// Own error pages: status code to file.
    pub error_pages: BTreeMap<u16, PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BindAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Udp(SocketAddr),
}

impl std::fmt::Display for BindAddress {
    /// As a config would write it.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Udp(address) => write!(formatter, "{address}/udp"),
        }
    }
}

/// TLS on an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// The first of these and of `acme` is for clients that name no host, or one that no
    /// certificate is for; there is at least one.
    pub certificates: Vec<CertificateFiles>,
    /// Obtained by ourselves.
    pub acme: Vec<Acme>,
    pub min_version: TlsVersion,
    pub client_auth: Option<ClientAuth>,
    /// Sessions are resumed (RFC 8446 section 2.2, RFC 5077).
    pub tickets: bool,
    /// HTTP/2 and HTTP/1.1 are what can be agreed on (RFC 7301); else nothing is.
    pub is_http: bool,
}

/// Where a certificate, its key and its OCSP response lie.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertificateFiles {
    /// PEM: the certificate, then the chain up to the authority.
    pub certificate: PathBuf,
    /// PEM; may be the same file.
    pub key: PathBuf,
    /// DER (RFC 6960); sent to clients that ask.
    pub ocsp: Option<PathBuf>,
}

/// A certificate that is obtained by ACME (RFC 8555).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    pub directory: AcmeDirectory,
    /// At least one, no doubles; the first names the certificate.
    pub domains: Vec<CertifiedName>,
    pub email: Option<String>,
    pub challenge: AcmeChallenge,
    pub key_type: KeyType,
    /// PEM: the authorities that the directory's certificate may come from; `None`: those of the host.
    pub ca: Option<PathBuf>,
    pub external_account: Option<ExternalAccount>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeDirectory {
    pub url: String,
    /// In lower case; an IP address without brackets.
    pub host: String,
    pub port: u16,
    /// Always, but for an authority on this host.
    pub is_secure: bool,
}

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CertifiedName {
    /// In lower case, without a final dot; no wildcard.
    Dns(String),
    /// RFC 8738.
    Ip(IpAddr),
}

impl std::fmt::Display for CertifiedName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(name) => formatter.write_str(name),
            Self::Ip(address) => address.fmt(formatter),
        }
    }
}

/// How an authority sees that a name is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// RFC 8555 section 8.3.
    Http01,
    /// RFC 8737.
    TlsAlpn01,
}

/// External account binding (RFC 8555 section 7.3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    pub key_id: String,
    pub hmac_key: HmacKey,
}

/// Keeps the key out of logs.
impl std::fmt::Debug for ExternalAccount {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ExternalAccount").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Eq)]
pub enum HmacKey {
    Bytes(Vec<u8>),
    /// A file with base64url in it.
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// Clients show a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// PEM: the authorities whose certificates are taken.
    pub ca: PathBuf,
    /// A client without a certificate gets no connection.
    pub required: bool,
    /// The request header field with the subject (RFC 4514), in lower case. Nobody else may set it.
    pub header: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedirectHttps {
    /// TCP port of the new URL; 443 is not written in it.
    pub port: u16,
    /// 301, 302, 307 or 308.
    pub status: u16,
}

/// Strict-Transport-Security (RFC 6797).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hsts {
    pub max_age: Duration,
    pub subdomains: bool,
    pub preload: bool,
}

/// TLS towards the servers of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTls {
    /// The server's certificate has to be valid, for its name, and from an authority that is trusted.
    pub verify: bool,
    /// PEM: the authorities that are trusted; `None`: those of the host.
    pub ca: Option<PathBuf>,
    /// The name that is asked for and verified; `None`: the one in the server's address, and for
    /// an IP address that address, which is not sent (RFC 6066 section 3).
    pub sni: Option<String>,
    /// What we show to servers that ask for a certificate.
    pub identity: Option<CertificateFiles>,
    pub min_version: TlsVersion,
}

/// Bounds of what a client may ask for; each has a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Request line and header section together, bytes.
    pub header: u64,
    pub headers: u32,
    pub request_line: u64,
    /// Request body, bytes.
    pub body: u64,
    /// From the first byte of a request to the end of its header section.
    pub header_timeout: Duration,
    /// A connection without a request is closed after this.
    pub idle: Duration,
    /// A request body has to come at least at this speed, bytes a second; 0 turns it off.
    pub body_rate: u64,
    /// A client has to take its answer at least at this speed, bytes a second; 0 turns it off.
    pub answer_rate: u64,
    pub connections: u32,
    /// Connections of one client address; 0 turns it off.
    pub per_client: u32,
    /// New connections of one client address.
    pub connection_rate: Option<Rate>,
    /// Requests on one connection; the last answer says `Connection: close`.
    pub requests: u64,
}

/// A rule in an HTTP listener: what it matches, and what is done. First match wins.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// For metrics, the log and the API: `name:` or the path as it was written.
    pub name: Name,
    pub hosts: Vec<HostMatch>,
    pub path: PathMatch,
    /// Empty matches every method.
    pub methods: Vec<String>,
    /// All of them have to match.
    pub headers: Vec<FieldMatch>,
    pub query: Vec<FieldMatch>,
    pub action: Action,
    pub strip_prefix: bool,
    pub rewrite: Option<Rewrite>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub access: Access,
    pub basic_auth: Option<BasicAuth>,
    pub forward_auth: Option<ForwardAuth>,
    /// Names of limits that all have to let a request pass; at most [`crate::limits::ROUTE_LIMITS`].
    pub limits: Vec<Name>,
    /// Bytes a second in each direction; 0 is no bound.
    pub bandwidth: u64,
    /// Requests in flight on this route.
    pub concurrency: Concurrency,
    /// Who goes first where requests wait for a place.
    pub priority: Priority,
    pub queue: Queue,
    /// The whole request has to be answered within this.
    pub deadline: Option<Duration>,
    /// Overrides `bounds.body`.
    pub body: Option<u64>,
    /// Served where no server gives an answer; never written to.
    pub degrade: Option<Files>,
    /// Of routes that go to servers alone.
    pub waiting_room: Option<WaitingRoom>,
    /// Of routes that go to servers alone.
    pub cache: Option<RouteCache>,
    pub challenge: Option<Challenge>,
}

impl Route {
    /// Directories that it serves from.
    pub fn roots(&self) -> impl Iterator<Item = &Files> {
        let served = match &self.action {
            Action::Files(files) => Some(files),
            Action::Proxy(_) | Action::Redirect(_) | Action::Respond(_) => None,
        };
        served.into_iter().chain(&self.degrade)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMatch {
    /// Lower case, without a TCP port.
    Exact(String),
    /// `*.example.com`, kept as `.example.com`: any number of labels, at least one.
    Suffix(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum PathMatch {
    /// `/x/`: everything below it, and `/x` itself. Kept with the trailing slash.
    Prefix(String),
    Exact(String),
    Regex(Pattern),
}

/// A header field or query parameter: there at all, equal to a text, or matching a pattern (`~…`).
#[derive(Debug, Clone, PartialEq)]
pub struct FieldMatch {
    /// Header names in lower case; query names as written.
    pub name: String,
    pub value: ValueMatch,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ValueMatch {
    Present,
    Absent,
    Exact(String),
    Regex(Pattern),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Proxy(Name),
    Files(Files),
    Redirect(Redirect),
    Respond(Respond),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// May hold `${host}`, `${path}`, `${query}`, written in YAML as `{host}` and so on.
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respond {
    pub status: u16,
    pub body: String,
    pub content_type: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rewrite {
    pub pattern: Pattern,
    /// `$1`, `${name}` as the regex crate expands them.
    pub to: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderEdits {
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasicAuth {
    pub realm: String,
    /// User to hash in the crypt(3) form: `$2b$…` (bcrypt), `$6$…`/`$5$…` (SHA-crypt).
    pub users: BTreeMap<String, String>,
}

/// A subrequest decides: 2xx lets the request pass, anything else is the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardAuth {
    pub pool: Name,
    pub path: String,
    /// Copied from the answer into the request.
    pub copy: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Files {
    pub root: PathBuf,
    pub index: Vec<String>,
    /// Served where nothing is found, for single-page applications; relative to the root.
    pub fallback: Option<String>,
    /// `.br`, `.zst`, `.gz` beside the file are taken where the client accepts them.
    pub precompressed: bool,
    /// Text is compressed on the fly.
    pub compress: bool,
    /// A directory without an index file is listed.
    pub list: bool,
    /// PUT and DELETE are allowed.
    pub write: bool,
    /// First match wins; the pattern is matched against the file's name.
    pub cache_control: Vec<(Glob, String)>,
    /// File extension (lower case) to media type, over the built-in table.
    pub types: BTreeMap<String, String>,
}

/// A name pattern with `*` and `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(pub String);

/// A compiled regular expression, compared by its source text.
#[derive(Debug, Clone)]
pub struct Pattern(pub regex::Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}
