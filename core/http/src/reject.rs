//! Why a message was not understood.

/// The first rule that a message broke. The message that broke it is never forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// Bare LF, bare CR or another control character.
    ControlCharacter,
    LeadingEmptyLines,
    RequestLine,
    RequestLineTooLong,
    HeadTooLarge,
    TooManyFields,
    /// Not `name: value`: white space before the colon, an empty name, a folded line, a bad character.
    FieldSyntax,
    /// A method that this gateway does not know (RFC 9110 section 9.1).
    Method,
    /// `HTTP/2.0` and up in a request line.
    Version,
    Target,
    HostMissing,
    HostRepeated,
    HostSyntax,
    ContentLength,
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 section 6.1).
    LengthAndCoding,
    TransferEncoding,
    /// A transfer coding other than `chunked`.
    CodingNotImplemented,
    /// An `Expect` other than `100-continue`.
    Expectation,
    Connection,
    ChunkSize,
    ChunkData,
    ChunkExtension,
    Trailer,
    StatusLine,
    /// More 1xx before a final response than anybody needs.
    InterimResponses,
}

impl Reject {
    /// Status code for the client that sent such a request.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::RequestLineTooLong => 414,
            Self::HeadTooLarge | Self::TooManyFields => 431,
            Self::Method | Self::CodingNotImplemented => 501,
            Self::Version => 505,
            Self::Expectation => 417,
            _ => 400,
        }
    }

    /// One word for logs, metrics and error pages.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::ControlCharacter => "control_character",
            Self::LeadingEmptyLines => "leading_empty_lines",
            Self::RequestLine => "request_line",
            Self::RequestLineTooLong => "request_line_too_long",
            Self::HeadTooLarge => "header_too_large",
            Self::TooManyFields => "too_many_headers",
            Self::FieldSyntax => "header_syntax",
            Self::Method => "method_unknown",
            Self::Version => "version",
            Self::Target => "target",
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::HostSyntax => "host_syntax",
            Self::ContentLength => "content_length",
            Self::LengthAndCoding => "content_length_and_transfer_encoding",
            Self::TransferEncoding => "transfer_encoding",
            Self::CodingNotImplemented => "transfer_coding_unknown",
            Self::Expectation => "expectation",
            Self::Connection => "connection_header",
            Self::ChunkSize => "chunk_size",
            Self::ChunkData => "chunk_data",
            Self::ChunkExtension => "chunk_extension",
            Self::Trailer => "trailer",
            Self::StatusLine => "status_line",
            Self::InterimResponses => "interim_responses",
        }
    }
}
