//! Texts of TLS: versions, names of servers.

use super::{Wrong, address};
use crate::checked::TlsVersion;
use crate::report::quoted;

pub(crate) const VERSION_PATTERN: &str = r"^1\.[23]$";

pub(crate) fn version(text: &str) -> Result<TlsVersion, Wrong> {
    match text {
        "1.2" => Ok(TlsVersion::V1_2),
        "1.3" => Ok(TlsVersion::V1_3),
        "1.0" | "1.1" => {
            let wrong = Wrong::new(format!("TLS {text} is broken and never spoken"));
            Err(wrong.help("1.2 is the oldest version that is left (RFC 8996)"))
        }
        _ => Err(Wrong::new(format!("{} is no version of TLS", quoted(text))).help("write 1.2 or 1.3")),
    }
}

pub(crate) const PROTOCOL_PATTERN: &str = r"^[!-~]{1,255}$";

/// A protocol's name in ALPN (RFC 7301 section 6), or `default`.
pub(crate) fn protocol(text: &str) -> Result<(), Wrong> {
    if (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Wrong::new(format!("{} is no name of a protocol", quoted(text))).help("such as h2, http/1.1 or imap"))
}

pub(crate) const SERVER_NAME_PATTERN: &str = r"^[^/*\x09-\x0d\x20:\[\]]+$";

/// In lower case.
pub(crate) fn server_name(text: &str) -> Result<String, Wrong> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        let wrong = Wrong::new(format!("{} is an IP address", quoted(text)));
        return Err(wrong.help("leave it out: the address of a server is verified by itself, and never asked for"));
    }
    if text.contains('*') {
        let wrong = Wrong::new(format!("{} holds a *", quoted(text)));
        return Err(wrong.help("one name is asked for; a certificate for *.example.com fits a.example.com"));
    }
    if text.contains([':', '/', '[', ']']) || text.ends_with('.') {
        let wrong = Wrong::new(format!("{} is no name of a host", quoted(text)));
        return Err(wrong.help("write only the name, such as app.example.com"));
    }
    address::host_name(text)?;
    Ok(text.to_ascii_lowercase())
}
