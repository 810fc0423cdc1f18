//! What is wrong, whose fault it is, and what the peer is told.

use std::fmt;

use crate::budget::Abuse;

/// RFC 9113 section 7. A code that is not known is kept as it came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    pub const NO_ERROR: Self = Self(0x0);
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    pub const INTERNAL_ERROR: Self = Self(0x2);
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    pub const STREAM_CLOSED: Self = Self(0x5);
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    pub const REFUSED_STREAM: Self = Self(0x7);
    pub const CANCEL: Self = Self(0x8);
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    pub const CONNECT_ERROR: Self = Self(0xa);
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    pub const INADEQUATE_SECURITY: Self = Self(0xc);
    pub const HTTP_1_1_REQUIRED: Self = Self(0xd);

    /// The name in the registry; `UNKNOWN` for others.
    #[must_use]
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(self.0 as usize).copied().unwrap_or("UNKNOWN")
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}({:#x})", self.name(), self.0)
    }
}

/// The connection is over. Its GOAWAY lies in the output already. The peer's fault, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionError {
    pub code: ErrorCode,
    pub fault: Fault,
}

impl From<Fault> for ConnectionError {
    fn from(fault: Fault) -> Self {
        Self { code: fault.code(), fault }
    }
}

impl From<Abuse> for ConnectionError {
    fn from(abuse: Abuse) -> Self {
        Fault::Abuse(abuse).into()
    }
}

/// The rule of the framing layer that a peer broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Something else than the preface, or no SETTINGS behind it (RFC 9113 section 3.4).
    Preface,
    /// A frame above our SETTINGS_MAX_FRAME_SIZE (section 4.2).
    FrameTooLarge,
    /// A frame whose type does not come in this size.
    FrameSize,
    /// A frame on stream 0 that belongs to a stream, or the other way round.
    StreamZero,
    /// A stream of the wrong parity, or below one that is open already (section 5.1.1).
    StreamIdentifier,
    /// A frame on a stream that nobody has opened (section 5.1).
    StreamIdle,
    /// A frame on a stream that has ended (section 5.1).
    StreamClosed,
    /// A header block was not followed by its CONTINUATION, or one came without (section 6.10).
    Continuation,
    /// As much padding as payload, or more (section 6.1).
    Padding,
    /// A stream that depends on itself (RFC 7540 section 5.3.1).
    SelfDependency,
    /// A setting outside its range (section 6.5.2).
    SettingValue,
    /// SETTINGS_INITIAL_WINDOW_SIZE above 2^31-1 (section 6.5.2).
    SettingWindow,
    /// Our settings were not acknowledged in time (section 6.5.3).
    SettingsTimeout,
    /// A PUSH_PROMISE (section 8.4): a client cannot push, and we allow no server to.
    Push,
    /// WINDOW_UPDATE by zero (section 6.9).
    WindowIncrement,
    /// A window above 2^31-1 (section 6.9.1).
    WindowOverflow,
    /// More data than the window allows (section 6.9.1).
    FlowControl,
    /// A header block that cannot be decoded (RFC 7541).
    Compression,
    /// A PRIORITY_UPDATE from a server, or one that names no stream (RFC 9218 section 7.1).
    PriorityUpdate,
    Abuse(Abuse),
}

impl Fault {
    /// What the peer is told.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::FrameTooLarge | Self::FrameSize => ErrorCode::FRAME_SIZE_ERROR,
            Self::StreamClosed => ErrorCode::STREAM_CLOSED,
            Self::SettingWindow | Self::WindowOverflow | Self::FlowControl => ErrorCode::FLOW_CONTROL_ERROR,
            Self::SettingsTimeout => ErrorCode::SETTINGS_TIMEOUT,
            Self::Compression => ErrorCode::COMPRESSION_ERROR,
            Self::Abuse(_) => ErrorCode::ENHANCE_YOUR_CALM,
            _ => ErrorCode::PROTOCOL_ERROR,
        }
    }

    /// One word for logs and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Preface => "h2_preface",
            Self::FrameTooLarge => "h2_frame_too_large",
            Self::FrameSize => "h2_frame_size",
            Self::StreamZero => "h2_stream_zero",
            Self::StreamIdentifier => "h2_stream_identifier",
            Self::StreamIdle => "h2_stream_idle",
            Self::StreamClosed => "h2_stream_closed",
            Self::Continuation => "h2_continuation",
            Self::Padding => "h2_padding",
            Self::SelfDependency => "h2_self_dependency",
            Self::SettingValue => "h2_setting_value",
            Self::SettingWindow => "h2_setting_window",
            Self::SettingsTimeout => "h2_settings_timeout",
            Self::Push => "h2_push",
            Self::WindowIncrement => "h2_window_increment",
            Self::WindowOverflow => "h2_window_overflow",
            Self::FlowControl => "h2_flow_control",
            Self::Compression => "h2_compression",
            Self::PriorityUpdate => "h2_priority_update",
            Self::Abuse(abuse) => abuse.reason(),
        }
    }
}

/// The rule of RFC 9113 section 8 that a message broke. Its stream is reset with `PROTOCOL_ERROR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Not a token in lower case (section 8.2.1).
    Name,
    /// A control character, or white space at an end (section 8.2.1).
    Value,
    /// `Connection` and its like (section 8.2.2).
    ConnectionField,
    /// `TE` other than `trailers` (section 8.2.2).
    Te,
    /// A pseudo-field that is not defined, or not for this message (section 8.3).
    PseudoUnknown,
    PseudoRepeated,
    /// Behind a regular field (section 8.3).
    PseudoLate,
    PseudoMissing,
    /// In a trailer section (section 8.1).
    PseudoInTrailers,
    /// Empty, or neither a path nor `*` (section 8.3.1).
    Path,
    /// None, or an empty one (section 8.3.1).
    Authority,
    /// `Host` names somebody else than `:authority`, or comes twice (section 8.3.1).
    Host,
    /// Neither a number nor alone.
    ContentLength,
    /// More or less data than `Content-Length` said (section 8.1.1).
    BodyLength,
    /// Not three digits, or 101 (section 8.6).
    Status,
    /// More 1xx responses than anybody needs, or one that ends the stream.
    Interim,
    /// A field section behind the head that does not end the stream (section 8.1).
    TrailersWithoutEnd,
    /// A trailer section larger than `sumun_http` takes.
    TrailersTooLarge,
    /// Fields behind the head of a CONNECT (section 8.5).
    FieldsInTunnel,
}

impl Malformed {
    /// One word for logs and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Name => "h2_field_name",
            Self::Value => "h2_field_value",
            Self::ConnectionField => "h2_connection_field",
            Self::Te => "h2_te",
            Self::PseudoUnknown => "h2_pseudo_unknown",
            Self::PseudoRepeated => "h2_pseudo_repeated",
            Self::PseudoLate => "h2_pseudo_late",
            Self::PseudoMissing => "h2_pseudo_missing",
            Self::PseudoInTrailers => "h2_pseudo_in_trailers",
            Self::Path => "h2_path",
            Self::Authority => "h2_authority",
            Self::Host => "h2_host",
            Self::ContentLength => "h2_content_length",
            Self::BodyLength => "h2_body_length",
            Self::Status => "h2_status",
            Self::Interim => "h2_interim",
            Self::TrailersWithoutEnd => "h2_trailers_without_end",
            Self::TrailersTooLarge => "h2_trailers_too_large",
            Self::FieldsInTunnel => "h2_fields_in_tunnel",
        }
    }
}
