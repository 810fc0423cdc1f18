//! How connections end, and every line that the switch writes to the log.

use sumun_engine::preface::Refusal;
use sumun_engine::tls::Failure;

/// Whose doing the end of a connection was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Nobody,
    Client,
    Server,
    Host,
}

impl Side {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "none",
            Self::Client => "client",
            Self::Server => "server",
            Self::Host => "host",
        }
    }
}

/// Why a connection or a flow ended: the access log's `reason` and the `reason` label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Both sides ended in order, the client first.
    ClientEnded,
    /// Both sides ended in order, the server first.
    ServerEnded,
    /// The client broke the connection off.
    ClientReset,
    /// The server broke the connection off.
    ServerReset,
    /// A flow whose every datagram has had its answers.
    Answered,
    /// Nothing came from either side for too long.
    Idle,
    /// A flow of one datagram that nobody had answered, when another one needed its place.
    Displaced,
    /// The end of a drain.
    Drained,
    /// A PROXY protocol header that is missing, broken or not believed.
    Preface,
    /// The client's handshake failed.
    Handshake,
    /// What the client's TLS begins with did not come in time.
    HelloTimeout,
    /// What came is no TLS, or TLS that breaks its rules.
    BadHello,
    /// No pool is for the name that the client's TLS asks for, or for what it would speak.
    UnknownName,
    NoServer,
    ConnectFailed,
    ConnectTimeout,
    /// This host had no address or TCP port to connect from.
    NoSource,
    /// Connected, and TLS could not be agreed on or the certificate is not accepted.
    ServerHandshake,
    QueueFull,
    QueueTimeout,
    /// Overload: others went first.
    Shed,
    /// This process is short of what it has itself.
    OwnLimits,
}

impl Reason {
    pub const ALL: [Self; 22] = [
        Self::ClientEnded,
        Self::ServerEnded,
        Self::ClientReset,
        Self::ServerReset,
        Self::Answered,
        Self::Idle,
        Self::Displaced,
        Self::Drained,
        Self::Preface,
        Self::Handshake,
        Self::HelloTimeout,
        Self::BadHello,
        Self::UnknownName,
        Self::NoServer,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::NoSource,
        Self::ServerHandshake,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Shed,
        Self::OwnLimits,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientEnded => "client_ended",
            Self::ServerEnded => "server_ended",
            Self::ClientReset => "client_reset",
            Self::ServerReset => "server_reset",
            Self::Answered => "answered",
            Self::Idle => "idle",
            Self::Displaced => "displaced",
            Self::Drained => "drained",
            Self::Preface => "preface",
            Self::Handshake => "handshake",
            Self::HelloTimeout => "hello_timeout",
            Self::BadHello => "bad_hello",
            Self::UnknownName => "unknown_name",
            Self::NoServer => "no_server",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::NoSource => "no_source",
            Self::ServerHandshake => "server_handshake",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Shed => "shed",
            Self::OwnLimits => "own_limits",
        }
    }

    #[must_use]
    pub fn side(self) -> Side {
        match self {
            Self::ClientEnded | Self::ServerEnded | Self::Answered | Self::Idle | Self::Displaced => Side::Nobody,
            Self::ClientReset
            | Self::Preface
            | Self::Handshake
            | Self::HelloTimeout
            | Self::BadHello
            | Self::UnknownName => Side::Client,
            Self::ServerReset
            | Self::NoServer
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::ServerHandshake
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::Shed => Side::Server,
            Self::Drained | Self::OwnLimits | Self::NoSource => Side::Host,
        }
    }
}

/// A line of the control-plane log. Rare by construction: nothing here is written for each connection.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    AcceptFailed { listener: &'a str, error: &'a std::io::Error },
    HandshakeFailed { listener: &'a str, client: Option<std::net::SocketAddr>, failure: &'a Failure },
    ServerHandshakeFailed { pool: &'a str, server: &'a str, failure: &'a Failure },
    TlsUnusable { listener: &'a str, error: &'a std::io::Error },
    PrefaceRefused { listener: &'a str, peer: Option<std::net::SocketAddr>, refusal: Refusal },
}

impl Event<'_> {
    pub(crate) fn write(&self) {
        match self {
            Self::AcceptFailed { listener, error } => {
                tracing::error!("listener {listener}: cannot accept: {error}");
            }
            // Clients and scanners decide how many there are: they are counted.
            Self::HandshakeFailed { listener, client, failure } => {
                tracing::debug!(?client, reason = failure.reason.word(), "listener {listener}: handshake: {failure}");
            }
            Self::ServerHandshakeFailed { pool, server, failure } => {
                tracing::warn!(pool, server, reason = failure.reason.word(), "no TLS with the server: {failure}");
            }
            Self::TlsUnusable { listener, error } => {
                tracing::error!("listener {listener}: no TLS: {error}");
            }
            Self::PrefaceRefused { listener, peer, refusal } => {
                let peer = peer.map_or_else(|| "of a unix socket".to_owned(), |peer| peer.ip().to_string());
                tracing::warn!("listener {listener}: closed a connection of peer {peer}: {}", refusal.text());
            }
        }
    }
}
