//! What is known of a request when it ends, and what of it a format wants.

use std::net::SocketAddr;
use std::ops::BitOr;

use sumun_config::checked::{LogField, LogFormat, LogPart};

/// One finished request. Everything is borrowed: what the format needs is copied, nothing else.
///
/// An empty text means that there is none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry<'a> {
    /// When the request began, in milliseconds since 1970.
    pub unix_ms: u64,
    /// From the first byte of the request to the end of its head.
    pub read_us: u64,
    /// Waited for a place in a queue.
    pub queue_us: u64,
    /// Until a connection to the server was there; 0 where one was reused.
    pub connect_us: u64,
    /// From the request sent to the first byte of the answer.
    pub first_byte_us: u64,
    /// From the first byte of the request to the last byte of the answer.
    pub total_us: u64,
    /// 0 where nothing was answered.
    pub status: u16,
    /// Bytes of bodies, as they went over the wire.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Servers that were asked.
    pub tries: u32,
    /// Who ended it, in which phase: one word.
    pub reason: &'static str,
    /// `None` on a unix socket.
    pub client: Option<SocketAddr>,
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub host: &'a [u8],
    pub version: &'a [u8],
    pub referer: &'a [u8],
    pub user_agent: &'a [u8],
    pub request_id: &'a [u8],
    pub listener: &'a [u8],
    pub route: &'a [u8],
    pub pool: &'a [u8],
    pub server: &'a [u8],
    /// Who authenticated.
    pub user: &'a [u8],
    /// From `LogSender::keep_request_headers`; `None` where there are none.
    pub request_headers: Option<&'a KeptHeaders>,
    /// From `LogSender::keep_response_headers`.
    pub response_headers: Option<&'a KeptHeaders>,
}

/// Values of the header fields that a template names, kept until the request ends.
#[derive(Debug, Clone, Default)]
pub struct KeptHeaders {
    /// The plan that asked for them: another one asks for others.
    pub(super) plan: u64,
    /// In the plan's order, each behind its length.
    pub(super) values: Vec<u8>,
}

/// The texts of an entry, in the order in which they are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Method,
    Target,
    Host,
    Version,
    Referer,
    UserAgent,
    RequestId,
    Listener,
    Route,
    Pool,
    Server,
    User,
}

pub(super) const TEXTS: usize = Text::User as usize + 1;

impl<'a> Entry<'a> {
    pub(super) fn texts(&self) -> [&'a [u8]; TEXTS] {
        [
            self.method,
            self.target,
            self.host,
            self.version,
            self.referer,
            self.user_agent,
            self.request_id,
            self.listener,
            self.route,
            self.pool,
            self.server,
            self.user,
        ]
    }
}

/// Which texts a format needs; the others need not be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs(u32);

impl Needs {
    pub const NOTHING: Self = Self(0);
    pub const METHOD: Self = Self::of(Text::Method);
    pub const TARGET: Self = Self::of(Text::Target);
    pub const HOST: Self = Self::of(Text::Host);
    pub const VERSION: Self = Self::of(Text::Version);
    pub const REFERER: Self = Self::of(Text::Referer);
    pub const USER_AGENT: Self = Self::of(Text::UserAgent);
    pub const REQUEST_ID: Self = Self::of(Text::RequestId);
    pub const LISTENER: Self = Self::of(Text::Listener);
    pub const ROUTE: Self = Self::of(Text::Route);
    pub const POOL: Self = Self::of(Text::Pool);
    pub const SERVER: Self = Self::of(Text::Server);
    pub const USER: Self = Self::of(Text::User);
    /// `LogSender::keep_request_headers` has something to do.
    pub const REQUEST_HEADERS: Self = Self(1 << TEXTS);
    pub const RESPONSE_HEADERS: Self = Self(1 << (TEXTS + 1));

    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The text if it is needed, else nothing without looking.
    pub fn text<'a>(self, need: Self, text: impl FnOnce() -> &'a [u8]) -> &'a [u8] {
        if self.contains(need) { text() } else { b"" }
    }

    pub(super) const fn of(text: Text) -> Self {
        Self(1 << text as u32)
    }

    pub(super) const fn has(self, text: usize) -> bool {
        self.0 & (1 << text) != 0
    }

    pub(super) fn of_format(format: &LogFormat) -> Self {
        match format {
            LogFormat::Combined => {
                Self::METHOD | Self::TARGET | Self::VERSION | Self::REFERER | Self::USER_AGENT | Self::USER
            }
            LogFormat::Json => Self((1 << TEXTS) - 1),
            LogFormat::Template(parts) => parts.iter().fold(Self::NOTHING, |needs, part| match part {
                LogPart::Text(_) => needs,
                LogPart::Field(field) => needs | Self::of_field(field),
            }),
        }
    }

    fn of_field(field: &LogField) -> Self {
        match field {
            LogField::Method => Self::METHOD,
            LogField::Target => Self::TARGET,
            LogField::Host => Self::HOST,
            LogField::Version => Self::VERSION,
            LogField::RequestId => Self::REQUEST_ID,
            LogField::Listener => Self::LISTENER,
            LogField::Route => Self::ROUTE,
            LogField::Pool => Self::POOL,
            LogField::Server => Self::SERVER,
            LogField::User => Self::USER,
            LogField::RequestHeader(_) => Self::REQUEST_HEADERS,
            LogField::ResponseHeader(_) => Self::RESPONSE_HEADERS,
            LogField::Time
            | LogField::Client
            | LogField::Status
            | LogField::BytesSent
            | LogField::BytesReceived
            | LogField::Tries
            | LogField::ReadMs
            | LogField::QueueMs
            | LogField::ConnectMs
            | LogField::FirstByteMs
            | LogField::TotalMs
            | LogField::Reason => Self::NOTHING,
        }
    }
}

impl BitOr for Needs {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
