//! Why a handshake failed.

use std::fmt;
use std::io;

use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible};

/// What the other side itself said when it refused us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    /// It does not accept who we are, or that we do not say so. This belongs to the handshake, however
    /// late it comes: nothing that we sent behind the handshake can have been looked at.
    Identity,
    Other,
}

impl Alert {
    fn of(error: &Error) -> Option<Self> {
        let Error::AlertReceived(description) = error else { return None };
        Some(match description {
            AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateRequired => Self::Identity,
            _ => Self::Other,
        })
    }
}

/// The kinds of failures that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The other side closed the connection, or it broke.
    Gone,
    /// It took too long; said by whoever waited ([`super::TlsStream::give_up`]).
    Timeout,
    /// What came is no TLS: a plain request on the port of the secure one, for instance.
    NotTls,
    /// No version that both sides speak.
    Version,
    /// No cipher suite, key exchange or signature that both sides know.
    Parameters,
    /// No application protocol in common (RFC 7301).
    Protocol,
    /// The other side showed no certificate, or one that is not accepted.
    Certificate,
    /// The other side refused us with an alert: it does not trust our certificate, for instance.
    Refused,
    /// The other side broke the protocol.
    Malformed,
    /// The other side sent a message that is longer than any that is taken
    /// ([`super::limits::HANDSHAKE_BYTES`]).
    TooLarge,
    /// Our own doing.
    Internal,
}

impl Reason {
    pub const ALL: [Self; 11] = [
        Self::Gone,
        Self::Timeout,
        Self::NotTls,
        Self::Version,
        Self::Parameters,
        Self::Protocol,
        Self::Certificate,
        Self::Refused,
        Self::Malformed,
        Self::TooLarge,
        Self::Internal,
    ];

    /// For metrics and the log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Timeout => "timeout",
            Self::NotTls => "not_tls",
            Self::Version => "version",
            Self::Parameters => "parameters",
            Self::Protocol => "protocol",
            Self::Certificate => "certificate",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Internal => "internal",
        }
    }
}

/// A handshake, or a connection after it, that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    pub reason: Reason,
    /// In words, for the log.
    pub words: String,
    /// The other side said it itself.
    pub alert: Option<Alert>,
}

impl Failure {
    pub(super) fn new(reason: Reason, words: impl Into<String>) -> Self {
        Self { reason, words: words.into(), alert: None }
    }

    pub(super) fn of_transport(error: &io::Error) -> Self {
        Self::new(Reason::Gone, error.to_string())
    }

    pub(super) fn of_tls(error: &Error) -> Self {
        Self { alert: Alert::of(error), ..Self::new(reason(error), error.to_string()) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.words)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let kind = match failure.reason {
            Reason::Gone => io::ErrorKind::ConnectionReset,
            Reason::Timeout => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, failure)
    }
}

fn reason(error: &Error) -> Reason {
    match error {
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls13RequiredForQuic,
        )
        | Error::AlertReceived(AlertDescription::ProtocolVersion) => Reason::Version,
        Error::PeerIncompatible(_) => Reason::Parameters,
        Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            Reason::Protocol
        }
        Error::NoCertificatesPresented | Error::InvalidCertificate(_) | Error::UnsupportedNameType => {
            Reason::Certificate
        }
        Error::AlertReceived(_) => Reason::Refused,
        Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => Reason::TooLarge,
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::InvalidMessage(_)
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord
        | Error::DecryptError => Reason::Malformed,
        _ => Reason::Internal,
    }
}
