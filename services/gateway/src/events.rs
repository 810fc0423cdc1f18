//! How requests end, and every line that the gateway writes to the log.

use sumun_engine::preface::Refusal;
use sumun_engine::tls::Failure;
use sumun_http::Reject;
use sumun_store::pool::State as DeviceState;

/// Whose doing the end of a request was. It decides the counter and the log level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Nobody,
    Client,
    Server,
    Config,
    Host,
}

impl Side {
    pub const ALL: [Self; 5] = [Self::Nobody, Self::Client, Self::Server, Self::Config, Self::Host];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "none",
            Self::Client => "client",
            Self::Server => "server",
            Self::Config => "config",
            Self::Host => "host",
        }
    }
}

/// Why a request ended as it did: the access log's `reason` and the `reason` label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Answered in full.
    Done,
    Rejected(Reject),
    /// A request in plain text where TLS is spoken.
    PlainHttp,
    NoRoute,
    MethodNotAllowed,
    Denied,
    /// It broke a rule of `blocks` not long ago.
    Blocked,
    Unauthorized,
    /// Too many passwords wait to be verified.
    AuthBusy,
    /// More requests than a limit of the route allows.
    RateLimited,
    BodyTooLarge,
    HeaderTimeout,
    BodyTimeout,
    /// The client went away before it was answered in full.
    ClientClosed,
    /// The client does not take its answer.
    ClientStalled,
    NoServer,
    ConnectFailed,
    ConnectTimeout,
    /// Connected, and TLS could not be agreed on or the certificate is not accepted.
    ServerHandshake,
    FirstByteTimeout,
    /// The server closed before it answered.
    ServerClosed,
    /// The server's answer breaks the rules of HTTP.
    ServerProtocol,
    /// The server ended or stalled inside a body.
    ServerCutShort,
    Deadline,
    QueueFull,
    QueueTimeout,
    /// Overload: others went first.
    Shed,
    /// This process is short of what it has itself, and others went first.
    OwnLimits,
    /// The servers refuse most of what they get.
    Throttled,
    /// The visitor waits in the waiting room, or asked how things stand there.
    WaitingRoom,
    /// The client has not solved the challenge of the route.
    Challenge,
    /// As many wait there as may.
    WaitingRoomFull,
    /// The client wants too many places there.
    WaitingRoomTickets,
    /// More requests that a pool makes to itself than it may have in flight.
    SelfCall,
    /// The client wants nothing but what is cached.
    NotCached,
    /// The request came back to the gateway that sent it.
    Loop,
    TunnelClosed,
    FileUnreadable,
    /// Files have nothing of that name.
    NotFound,
    /// A condition or a range does not hold, or a write is not possible as asked.
    Refused,
    /// Too many disk operations wait.
    DiskBusy,
    DiskFull,
}

impl Reason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Rejected(reject) => reject.reason(),
            Self::PlainHttp => "plain_http",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Denied => "denied",
            Self::Blocked => "blocked",
            Self::Unauthorized => "unauthorized",
            Self::AuthBusy => "auth_busy",
            Self::RateLimited => "rate_limited",
            Self::BodyTooLarge => "body_too_large",
            Self::HeaderTimeout => "header_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::ClientClosed => "client_closed",
            Self::ClientStalled => "client_stalled",
            Self::NoServer => "no_server",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::ServerHandshake => "server_handshake",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::ServerClosed => "server_closed",
            Self::ServerProtocol => "server_protocol",
            Self::ServerCutShort => "server_cut_short",
            Self::Deadline => "deadline",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Shed => "shed",
            Self::OwnLimits => "own_limits",
            Self::Throttled => "throttled",
            Self::WaitingRoom => "waiting_room",
            Self::Challenge => "challenge",
            Self::WaitingRoomFull => "waiting_room_full",
            Self::WaitingRoomTickets => "waiting_room_tickets",
            Self::SelfCall => "self_call",
            Self::NotCached => "not_cached",
            Self::Loop => "loop",
            Self::TunnelClosed => "tunnel_closed",
            Self::FileUnreadable => "file_unreadable",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::DiskBusy => "disk_busy",
            Self::DiskFull => "disk_full",
        }
    }

    #[must_use]
    pub fn side(self) -> Side {
        match self {
            Self::Done | Self::TunnelClosed | Self::WaitingRoom => Side::Nobody,
            Self::Rejected(_)
            | Self::PlainHttp
            | Self::NoRoute
            | Self::MethodNotAllowed
            | Self::Denied
            | Self::Blocked
            | Self::Unauthorized
            | Self::RateLimited
            | Self::BodyTooLarge
            | Self::HeaderTimeout
            | Self::BodyTimeout
            | Self::ClientClosed
            | Self::ClientStalled
            | Self::NotFound
            | Self::Refused
            | Self::NotCached
            | Self::Challenge
            | Self::WaitingRoomTickets => Side::Client,
            Self::NoServer
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::ServerHandshake
            | Self::FirstByteTimeout
            | Self::ServerClosed
            | Self::ServerProtocol
            | Self::ServerCutShort
            | Self::Deadline
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::Shed
            | Self::Throttled
            | Self::WaitingRoomFull
            | Self::SelfCall
            | Self::Loop => Side::Server,
            Self::OwnLimits | Self::FileUnreadable | Self::AuthBusy | Self::DiskBusy | Self::DiskFull => Side::Host,
        }
    }

    /// The status that the client gets, if it gets one of ours.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Done | Self::TunnelClosed => 200,
            Self::Rejected(reject) => reject.status(),
            Self::PlainHttp => 400,
            Self::NoRoute | Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Refused => 409,
            Self::Denied | Self::Blocked | Self::Challenge => 403,
            Self::Unauthorized => 401,
            Self::RateLimited => 429,
            Self::BodyTooLarge => 413,
            Self::HeaderTimeout | Self::BodyTimeout => 408,
            // nginx's number for "nobody is there to read a status".
            Self::ClientClosed | Self::ClientStalled => 499,
            Self::ConnectFailed
            | Self::ServerHandshake
            | Self::ServerClosed
            | Self::ServerProtocol
            | Self::ServerCutShort => 502,
            Self::NoServer
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::Shed
            | Self::OwnLimits
            | Self::Throttled
            | Self::WaitingRoom
            | Self::WaitingRoomFull
            | Self::SelfCall
            | Self::AuthBusy
            | Self::DiskBusy => 503,
            Self::ConnectTimeout | Self::FirstByteTimeout | Self::Deadline | Self::NotCached => 504,
            Self::WaitingRoomTickets => 429,
            Self::Loop => 508,
            Self::DiskFull => 507,
            Self::FileUnreadable => 500,
        }
    }
}

/// A line of the control-plane log. Rare by construction: nothing here is written for each request.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    AcceptFailed { listener: &'a str, error: &'a std::io::Error },
    HandshakeFailed { listener: &'a str, client: Option<std::net::SocketAddr>, failure: &'a Failure },
    ServerHandshakeFailed { pool: &'a str, server: &'a str, failure: &'a Failure },
    TlsUnusable { listener: &'a str, error: &'a std::io::Error },
    Loop { listener: &'a str, path: &'a [u8] },
    PrefaceRefused { listener: &'a str, peer: Option<std::net::SocketAddr>, refusal: Refusal },
    RoomLost { room: &'a str, why: &'a str },
    Blocked { client: &'a str, reason: &'a str, lasts: std::time::Duration },
    AsnTableRead { ranges: usize, bytes: usize },
    AsnTableUnusable { path: &'a std::path::Path, why: &'a str },
    PageUnreadable { page: &'a std::path::Path, error: &'a std::io::Error },
    RootUnreadable { root: &'a std::path::Path, error: &'a std::io::Error },
    StorageOpen { devices: usize, answers: u64 },
    StorageClosed { why: &'a str },
    StorageUnchanged { why: &'a str },
    PurgesNotKept { why: &'a str },
    NoPages { error: &'a std::io::Error },
    DeviceState { path: &'a std::path::Path, state: &'a DeviceState },
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
            Self::RoomLost { room, why } => {
                tracing::error!("waiting room {room}: what was kept of it is not understood ({why}): it begins anew");
            }
            Self::AsnTableRead { ranges, bytes } => {
                tracing::info!("table of autonomous systems: {ranges} ranges in {bytes} bytes");
            }
            Self::AsnTableUnusable { path, why } => {
                tracing::error!("table of autonomous systems: {}: {why}; not used", path.display());
            }
            Self::PageUnreadable { page, error } => {
                tracing::error!("page {}: {error}; the built-in one is used", page.display());
            }
            Self::RootUnreadable { root, error } => {
                tracing::error!("root {}: {error}; its route is left out", root.display());
            }
            Self::StorageOpen { devices, answers } => {
                tracing::info!("the storage of the cache is open: answers {answers}, physical volumes {devices}");
            }
            Self::StorageClosed { why } => {
                tracing::error!("the storage of the cache: {why}; answers are kept in memory alone");
            }
            Self::PurgesNotKept { why } => {
                tracing::error!("purges of the cache are not durable yet: {why}; they hold until the next start");
            }
            Self::NoPages { error } => {
                tracing::info!("bodies of the cache in memory are copied to be sent, however hot they are: {error}");
            }
            Self::StorageUnchanged { why } => {
                tracing::error!("the storage of the cache is open, and not what the config says: {why}");
            }
            Self::DeviceState { path, state } => match state {
                DeviceState::Working => tracing::info!("physical volume {}: works again", path.display()),
                DeviceState::Slow => tracing::error!(
                    "physical volume {}: it takes too long to write or read; what lies on it is asked of servers meanwhile",
                    path.display()
                ),
                DeviceState::Failed(why) => tracing::error!(
                    "physical volume {}: failed ({why}); what lies on it is asked of servers",
                    path.display()
                ),
            },
            Self::Blocked { client, reason, lasts } => {
                let end = jiff::Timestamp::now()
                    .checked_add(*lasts)
                    .map_or_else(|_| "later".to_owned(), |end| format!("{end:.0}"));
                tracing::warn!(client, reason, "blocked {client} for {lasts:?}, until {end}: {reason}");
            }
            Self::PrefaceRefused { listener, peer, refusal } => {
                let peer = peer.map_or_else(|| "of a unix socket".to_owned(), |peer| peer.ip().to_string());
                let why = refusal.text();
                tracing::warn!("listener {listener}: closed a connection of peer {peer}: {why}");
            }
            Self::Loop { listener, path } => {
                tracing::warn!(
                    "listener {listener}: {} came back to this gateway (CDN-Loop names it); answered 508. \
                     A server of a pool is calling itself through its own front end.",
                    String::from_utf8_lossy(path)
                );
            }
        }
    }
}
