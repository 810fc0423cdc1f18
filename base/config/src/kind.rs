//! Kinds of single values: how they are written, how they are checked, what a schema says.

use regex::Regex;

use crate::node::{Resolved, Scalar};
use crate::report::{Rule, nearest, or_list, quoted};
use crate::values::{self, Wrong, account, acme, address, health, http, limit, log, password, quic, tls};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One of these; the second list holds words that are not built yet, with their capability.
    Words(&'static [&'static str], &'static [(&'static str, &'static str)]),
    Switch,
    /// `off` or `false`, where what is on is written in another way.
    Off,
    Integer {
        least: u64,
        most: u64,
    },
    Duration,
    /// A duration that is not zero.
    Span,
    Size,
    Speed,
    Rate,
    LimitKey,
    Percent,
    Name,
    Text,
    Secret,
    Path,
    Control,
    Regex,
    Ip,
    Network,
    BindAddress,
    AdminAddress,
    ServerAddress,
    LogTarget,
    LogFormat,
    HostHeader,
    HostAndPort,
    Host,
    RoutePath,
    RequestPath,
    RewriteTarget,
    Method,
    HeaderName,
    EditedHeader,
    RequestIdHeader,
    HeaderValue,
    FieldMatch,
    CookieName,
    StatusRange,
    ErrorStatus,
    RedirectTarget,
    FileName,
    BelowRoot,
    MediaType,
    Extension,
    User,
    PasswordHash,
    Account,
    TlsVersion,
    ServerName,
    AlpnProtocol,
    DirectoryUrl,
    CertifiedName,
    Email,
    KeyId,
    HmacKey,
    Bytes,
    Credential,
    DomainName,
    Argument,
    QuicServerId,
    BlockKey,
}

/// What JSON makes of a value of some kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Words(&'static [&'static str]),
    /// Truth values, and texts that stand for them.
    Switch(&'static [bool], &'static [&'static str]),
    Integer {
        least: u64,
        most: u64,
    },
    /// Text that fits a pattern.
    Text(&'static str),
    /// Text that fits a pattern, or the number 0, which needs no unit.
    TextOrZero(&'static str),
    /// Text that fits a pattern, or a number or truth value, taken as it is written.
    Scalar(&'static str),
}

/// A value that is refused.
pub(crate) struct Refusal {
    pub(crate) rule: Rule,
    pub(crate) wrong: Wrong,
}

const ANY: &str = "";

impl Kind {
    pub(crate) fn form(self) -> Form {
        match self {
            Self::Words(words, _) => Form::Words(words),
            Self::Switch => Form::Switch(&[true, false], &["on", "off", "true", "false"]),
            Self::Off => Form::Switch(&[false], &["off", "false"]),
            Self::Integer { least, most } => Form::Integer { least, most },
            Self::Duration => Form::TextOrZero(values::DURATION_PATTERN),
            Self::Span => Form::Text(values::DURATION_PATTERN),
            Self::Size => Form::TextOrZero(values::SIZE_PATTERN),
            Self::Speed => Form::TextOrZero(values::SPEED_PATTERN),
            Self::Rate => Form::Text(values::RATE_PATTERN),
            Self::LimitKey => Form::Text(limit::KEY_PATTERN),
            Self::Percent => Form::Text(values::PERCENT_PATTERN),
            Self::Name => Form::Text(values::NAME_PATTERN),
            Self::Text => Form::Scalar(ANY),
            Self::Secret => Form::Scalar(http::TOKEN_TEXT_PATTERN),
            Self::Path | Self::Control => Form::Text(values::PATH_PATTERN),
            Self::BelowRoot => Form::Text(values::PATH_PATTERN),
            Self::Regex => Form::Text(ANY),
            Self::Ip => Form::Text(values::IP_PATTERN),
            Self::Network => Form::Text(values::NETWORK_PATTERN),
            Self::BindAddress => Form::Text(address::BIND_PATTERN),
            Self::AdminAddress => Form::Text(address::ADMIN_PATTERN),
            Self::ServerAddress => Form::Text(address::SERVER_PATTERN),
            Self::LogTarget => Form::Text(log::TARGET_PATTERN),
            Self::LogFormat => Form::Text(log::FORMAT_PATTERN),
            Self::HostHeader | Self::HostAndPort => Form::Text(http::HOST_HEADER_PATTERN),
            Self::Host => Form::Text(http::HOST_PATTERN),
            Self::RoutePath => Form::Text(http::ROUTE_PATH_PATTERN),
            Self::RequestPath => Form::Text(http::REQUEST_PATH_PATTERN),
            Self::RewriteTarget => Form::Scalar(http::REWRITE_TARGET_PATTERN),
            Self::Method => Form::Text(http::METHOD_PATTERN),
            Self::HeaderName | Self::EditedHeader | Self::RequestIdHeader | Self::CookieName => {
                Form::Text(http::TOKEN_PATTERN)
            }
            Self::HeaderValue => Form::Scalar(http::HEADER_VALUE_PATTERN),
            Self::FieldMatch => Form::Scalar(ANY),
            Self::StatusRange => Form::Text(http::STATUS_RANGE_PATTERN),
            Self::ErrorStatus => Form::Text(http::ERROR_STATUS_PATTERN),
            Self::RedirectTarget => Form::Text(http::REDIRECT_PATTERN),
            Self::FileName => Form::Text(http::FILE_NAME_PATTERN),
            Self::MediaType => Form::Text(http::MEDIA_TYPE_PATTERN),
            Self::Extension => Form::Text(http::EXTENSION_PATTERN),
            Self::User => Form::Text(http::USER_PATTERN),
            Self::PasswordHash => Form::Text(password::HASH_PATTERN),
            Self::Account => Form::Scalar(account::PATTERN),
            Self::TlsVersion => Form::Scalar(tls::VERSION_PATTERN),
            Self::ServerName => Form::Text(tls::SERVER_NAME_PATTERN),
            Self::AlpnProtocol => Form::Text(tls::PROTOCOL_PATTERN),
            Self::DirectoryUrl => Form::Text(acme::DIRECTORY_PATTERN),
            Self::CertifiedName => Form::Text(acme::CERTIFIED_NAME_PATTERN),
            Self::Email => Form::Text(acme::EMAIL_PATTERN),
            Self::KeyId => Form::Scalar(acme::KEY_ID_PATTERN),
            Self::HmacKey => Form::Scalar(acme::HMAC_KEY_PATTERN),
            Self::Bytes => Form::Scalar(health::BYTES_PATTERN),
            Self::Credential => Form::Scalar(health::CREDENTIAL_PATTERN),
            Self::Argument => Form::Scalar(health::ARGUMENT_PATTERN),
            Self::DomainName => Form::Text(health::DOMAIN_NAME_PATTERN),
            Self::QuicServerId => Form::Scalar(quic::SERVER_ID_PATTERN),
            Self::BlockKey => Form::Scalar(quic::KEY_PATTERN),
        }
    }

    /// "a duration such as 2s": for messages and the reference.
    pub(crate) fn describe(self) -> String {
        let text = match self {
            Self::Words(words, _) => return or_list(words.iter().copied()),
            Self::Integer { least, most: u64::MAX } => return format!("a number from {least}"),
            Self::Integer { least, most } => return format!("a number from {least} to {most}"),
            Self::Switch => "on or off",
            Self::Off => "off",
            Self::Duration => "a duration such as 250ms, 2s or 5m",
            Self::Span => "a duration above zero such as 250ms, 2s or 5m",
            Self::Size => "a size such as 64KiB or 10MB",
            Self::Speed => "a speed such as 1KiB/s or 10Mbit/s",
            Self::Rate => "a rate such as 50/s or 1000/m",
            Self::LimitKey => "client, path or a template with {fields}",
            Self::Percent => "a share such as 20%",
            Self::Name => "a name",
            Self::Text => "text",
            Self::Secret => "a secret text of at least 16 characters",
            Self::Path => "a path, relative to the file",
            Self::Control => "unix:PATH or a path",
            Self::Regex => "a regular expression",
            Self::Ip => "an IP address",
            Self::Network => "a network such as 10.0.0.0/8",
            Self::BindAddress => "an address such as 127.0.0.1:8080, \":8080\", 127.0.0.1:5353/udp or unix:/run/x.sock",
            Self::AdminAddress => "an address such as 127.0.0.1:9900",
            Self::ServerAddress => {
                "a server such as 10.0.0.5:8000, app.example.com:80, 10.0.0.5:8000-8010 or unix:/run/x.sock"
            }
            Self::LogTarget => "stdout, stderr or a path",
            Self::LogFormat => "combined, json or a template with {fields}",
            Self::HostHeader => "keep, server or a host",
            Self::HostAndPort => "a host such as app.example.com",
            Self::Host => "a host such as example.com or \"*.example.com\"",
            Self::RoutePath => "a path such as /x/, /x or \"~^/x[0-9]+$\"",
            Self::RequestPath => "a path such as /healthz",
            Self::RewriteTarget => "a path with groups such as /v2/$1",
            Self::Method => "a method such as GET",
            Self::HeaderName | Self::EditedHeader | Self::RequestIdHeader => "the name of a header field",
            Self::HeaderValue => "the value of a header field",
            Self::FieldMatch => "present, absent, \"~pattern\" or the whole value",
            Self::CookieName => "the name of a cookie",
            Self::StatusRange => "a status such as 200 or 200-299",
            Self::ErrorStatus => "a status from 400 to 599",
            Self::RedirectTarget => "a path or URL such as https://{host}{path}{?query}",
            Self::FileName => "the name of a file",
            Self::BelowRoot => "a path below the root",
            Self::MediaType => "a media type such as text/css",
            Self::Extension => "a file extension such as css",
            Self::User => "a user name",
            Self::PasswordHash => "a password hash, $2b$…, $5$… or $6$…",
            Self::Account => "a user of this host such as www-data or 1000:1000",
            Self::TlsVersion => "1.2 or 1.3",
            Self::ServerName => "a name such as app.example.com",
            Self::AlpnProtocol => "a protocol such as h2, or default",
            Self::DirectoryUrl => "a URL such as https://acme.example/directory",
            Self::CertifiedName => "a name such as www.example.com, or an IP address",
            Self::Email => "an address such as admin@example.com",
            Self::KeyId => "the id of a key",
            Self::HmacKey => "a key in base64url",
            Self::Argument => "a path or an argument",
            Self::DomainName => "a name such as app.example.com",
            Self::Credential => "text that a server knows",
            Self::Bytes => "text, or bytes such as \"hex:0d 0a\"",
            Self::QuicServerId => "1 to 15 bytes in hexadecimal such as 0a01",
            Self::BlockKey => "a key of 16 bytes in hexadecimal",
        };
        text.to_owned()
    }

    pub(crate) fn check_text(self, text: &str) -> Result<(), Wrong> {
        match self {
            Self::Words(words, later) => word(text, words, later),
            Self::Switch => values::switch(text).map(drop),
            Self::Off => values::off(text),
            Self::Integer { least, most } => values::integer(text, least, most).map(drop),
            Self::Duration => values::duration(text).map(drop),
            Self::Span => values::duration(text).and_then(|span| {
                let long_enough = !span.is_zero();
                if long_enough {
                    Ok(())
                } else {
                    Err(Wrong::new(format!("{} is too short: it has to be above zero", quoted(text))))
                }
            }),
            Self::Size => values::size(text).map(drop),
            Self::Speed => values::speed(text).map(drop),
            Self::Rate => values::rate(text).map(drop),
            Self::LimitKey => limit::key(text).map(drop),
            Self::Percent => values::percent(text).map(drop),
            Self::Name => values::name(text),
            Self::Text => Ok(()),
            Self::Secret => http::secret(text),
            Self::Path => values::path(text),
            Self::Control => address::socket_path(text.strip_prefix("unix:").unwrap_or(text)),
            Self::Regex => values::pattern(text).map(drop),
            Self::Ip => values::ip(text).map(drop),
            Self::Network => values::network(text).map(drop),
            Self::BindAddress => address::bind(text).map(drop),
            Self::AdminAddress => address::admin(text).map(drop),
            Self::ServerAddress => address::server(text).map(drop),
            Self::LogTarget => log::target(text),
            Self::LogFormat => log::format(text).map(drop),
            Self::HostHeader => http::host_header(text),
            Self::HostAndPort => http::host_and_port(text),
            Self::Host => http::host(text).map(drop),
            Self::RoutePath => http::route_path(text).map(drop),
            Self::RequestPath => http::request_path(text),
            Self::RewriteTarget => http::rewrite_target(text),
            Self::Method => http::method(text),
            Self::HeaderName => http::header_name(text),
            Self::CookieName => http::cookie_name(text),
            Self::EditedHeader => http::edited_header(text),
            Self::RequestIdHeader => http::request_id_header(text),
            Self::HeaderValue => http::header_value(text),
            Self::FieldMatch => http::field_match(text).map(drop),
            Self::StatusRange => http::status_range(text).map(drop),
            Self::ErrorStatus => http::error_status(text).map(drop),
            Self::RedirectTarget => http::redirect(text),
            Self::FileName => http::file_name(text),
            Self::BelowRoot => http::below_root(text),
            Self::MediaType => http::media_type(text),
            Self::Extension => http::extension(text),
            Self::User => http::user(text),
            Self::PasswordHash => password::hash(text),
            Self::Account => account::user(text).map(drop),
            Self::TlsVersion => tls::version(text).map(drop),
            Self::ServerName => tls::server_name(text).map(drop),
            Self::AlpnProtocol => tls::protocol(text),
            Self::DirectoryUrl => acme::directory(text).map(drop),
            Self::CertifiedName => acme::certified_name(text).map(drop),
            Self::Email => acme::email(text),
            Self::KeyId => acme::key_id(text),
            Self::HmacKey => acme::hmac_key(text).map(drop),
            Self::Bytes => health::bytes(text).map(drop),
            Self::Credential => health::credential(text),
            Self::DomainName => health::domain_name(text).map(drop),
            Self::Argument => health::argument(text),
            Self::QuicServerId => quic::server_id(text).map(drop),
            Self::BlockKey => quic::key(text).map(drop),
        }
    }

    pub(crate) fn check(self, scalar: &Scalar) -> Result<(), Refusal> {
        if scalar.broken {
            return Ok(());
        }
        let typed = scalar.filled || self.takes(scalar.resolved());
        let wrong = match self.check_text(&scalar.text) {
            Ok(()) if typed => return Ok(()),
            Ok(()) => untyped(scalar),
            Err(wrong) => wrong,
        };
        // Whatever a variable is filled with, a schema saw only the variable.
        let rule = if scalar.filled || self.schema_accepts(scalar) { Rule::Meaning } else { Rule::Shape };
        Err(Refusal { rule, wrong })
    }

    /// The name of a key in a map of names.
    pub(crate) fn check_key(self, key: &str) -> Result<(), Refusal> {
        self.check_text(key).map_err(|wrong| {
            let rule = if self.pattern_accepts(key) { Rule::Meaning } else { Rule::Shape };
            Refusal { rule, wrong }
        })
    }

    fn takes(self, resolved: Resolved) -> bool {
        match self.form() {
            Form::Words(_) | Form::Text(_) => resolved == Resolved::Text,
            Form::Switch(..) => matches!(resolved, Resolved::Bool | Resolved::Text),
            Form::Integer { .. } => resolved == Resolved::Integer,
            // Of the numbers only 0 passes the check of the text.
            Form::TextOrZero(_) => matches!(resolved, Resolved::Text | Resolved::Integer),
            Form::Scalar(_) => resolved != Resolved::Null,
        }
    }

    /// Would the JSON Schema let this value pass?
    fn schema_accepts(self, scalar: &Scalar) -> bool {
        let text = scalar.text.as_str();
        let resolved = scalar.resolved();
        if resolved == Resolved::Text && Regex::new(crate::fill::PATTERN).is_ok_and(|pattern| pattern.is_match(text)) {
            return true;
        }
        match self.form() {
            Form::Words(words) => resolved == Resolved::Text && words.contains(&text),
            Form::Switch(truths, texts) => match resolved {
                Resolved::Bool => truths.contains(&text.eq_ignore_ascii_case("true")),
                Resolved::Text => texts.contains(&text),
                Resolved::Null | Resolved::Integer | Resolved::Float => false,
            },
            Form::Integer { least, most } => match resolved {
                Resolved::Integer => {
                    json_integer(text).is_some_and(|number| (i128::from(least)..=i128::from(most)).contains(&number))
                }
                // To JSON Schema 2.0 is an integer.
                Resolved::Float => text
                    .parse::<f64>()
                    .is_ok_and(|number| number.fract() == 0.0 && (least as f64..=most as f64).contains(&number)),
                Resolved::Null | Resolved::Bool | Resolved::Text => false,
            },
            Form::Text(_) => resolved == Resolved::Text && self.pattern_accepts(text),
            Form::TextOrZero(_) => match resolved {
                Resolved::Integer => json_integer(text) == Some(0),
                Resolved::Float => text.parse::<f64>().is_ok_and(|number| number == 0.0),
                Resolved::Text => self.pattern_accepts(text),
                Resolved::Null | Resolved::Bool => false,
            },
            Form::Scalar(_) => match resolved {
                Resolved::Null => false,
                Resolved::Bool | Resolved::Integer | Resolved::Float => true,
                Resolved::Text => self.pattern_accepts(text),
            },
        }
    }

    pub(crate) fn pattern_accepts(self, text: &str) -> bool {
        match self.form() {
            Form::Text(pattern) | Form::TextOrZero(pattern) | Form::Scalar(pattern) => {
                Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
            }
            Form::Words(words) => words.contains(&text),
            Form::Switch(..) | Form::Integer { .. } => true,
        }
    }
}

fn json_integer(text: &str) -> Option<i128> {
    if let Some(digits) = text.strip_prefix("0x") {
        return i128::from_str_radix(digits, 16).ok();
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return i128::from_str_radix(digits, 8).ok();
    }
    text.parse().ok()
}

/// The text is fine, but YAML does not take it for text, or takes it for text only.
fn untyped(scalar: &Scalar) -> Wrong {
    let text = &scalar.text;
    match scalar.resolved() {
        Resolved::Text => {
            Wrong::new(format!("{} stands in quotes, which make it text", quoted(text))).help("leave the quotes out")
        }
        Resolved::Null => Wrong::new("nothing is written here"),
        Resolved::Bool => Wrong::new(format!("YAML takes {} for a truth value", quoted(text)))
            .help(format!("write it in quotes: \"{text}\"")),
        Resolved::Integer | Resolved::Float => Wrong::new(format!("YAML takes {} for a number", quoted(text)))
            .help(format!("write it in quotes: \"{text}\"")),
    }
}

fn word(text: &str, words: &[&str], later: &[(&str, &str)]) -> Result<(), Wrong> {
    if words.contains(&text) {
        return Ok(());
    }
    if let Some((_, capability)) = later.iter().find(|(word, _)| *word == text) {
        return Err(Wrong::new(format!("{} is not built yet: it comes with {capability}", quoted(text))));
    }
    let wrong = Wrong::new(format!("{} is not known here; expected {}", quoted(text), or_list(words.iter().copied())));
    Err(match nearest(text, words.iter().copied()) {
        Some(meant) => wrong.help(format!("did you mean `{meant}`?")),
        None => wrong,
    })
}
