//! Active health checks of a pool's servers.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub check: Check,
    pub every: Duration,
    pub timeout: Duration,
    /// Good answers in a row until a server is up.
    pub rise: u32,
    /// Bad answers in a row until a server is down.
    pub fall: u32,
    /// Another port than the server's own.
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    Tcp {
        /// Written once the connection is open; empty for nothing.
        send: Vec<u8>,
        /// Has to be found in what the server says; empty: a connection is enough.
        expect: Vec<u8>,
    },
    /// A handshake with whoever answers, where the pool itself speaks no TLS: it is passed through.
    Tls {
        /// Asked for by SNI; `None` takes the name in the server's address, if it has one.
        name: Option<String>,
    },
    /// PING, and PONG.
    Redis { login: Option<RedisLogin> },
    /// The beginning of a session of PostgreSQL, up to the server's first answer.
    Postgres {
        user: String,
        /// `None` is the one that is called as the user.
        database: Option<String>,
    },
    /// A question to a DNS server.
    Dns {
        /// As it stands in a message (RFC 1035 section 3.1). `None` asks for the root, and takes any
        /// answer that is no failure of the server.
        name: Option<Vec<u8>>,
        kind: RecordType,
        over_tcp: bool,
    },
    /// A command of this host, which the supervisor runs.
    Exec {
        /// Absolute.
        program: PathBuf,
        arguments: Vec<String>,
    },
    Http {
        path: String,
        /// Host header; `None` sends the server's address.
        host: Option<String>,
        /// Inclusive ranges of status codes that are good.
        status: Vec<(u16, u16)>,
    },
}

impl Check {
    /// A connection that opens is enough.
    pub const CONNECT: Self = Self::Tcp { send: Vec::new(), expect: Vec::new() };
}

/// What AUTH is said with.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisLogin {
    /// `None` is the server's default user.
    pub user: Option<String>,
    pub password: String,
}

/// Keeps the password out of logs.
impl fmt::Debug for RedisLogin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RedisLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Of records that a health check asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordType {
    A,
    Aaaa,
    Ns,
    Soa,
    Txt,
}
