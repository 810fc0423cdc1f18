//! Texts of ACME: URLs of directories, names for certificates, addresses of people, keys.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Wrong, address};
use crate::checked::{AcmeDirectory, CertifiedName};
use crate::limits;
use crate::report::quoted;

pub(crate) const DIRECTORY_PATTERN: &str = r"^https?://[!-~]+$";

const DIRECTORY_FORM: &str = "a directory is a URL such as https://acme-v02.api.letsencrypt.org/directory";

/// Whoever can change what an authority says can have keys of accounts used, so it is asked over
/// TLS; a host that asks itself needs none.
pub(crate) fn directory(text: &str) -> Result<AcmeDirectory, Wrong> {
    let no_url = || Wrong::new(format!("{} is no URL of a directory", quoted(text))).help(DIRECTORY_FORM);
    let (is_secure, rest) = match text.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        _ => return Err(no_url()),
    };
    if !rest.bytes().all(|byte| byte.is_ascii_graphic()) || rest.contains(['#', '@', '\\']) {
        return Err(no_url());
    }
    if text.len() > limits::URL_BYTES {
        return Err(Wrong::new(format!("a URL of more than {} bytes", limits::URL_BYTES)));
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, _) = rest.split_at_checked(end).ok_or_else(no_url)?;
    let default_port = if is_secure { 443 } else { 80 };
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let with_port = if has_port { authority.to_owned() } else { format!("{authority}:{default_port}") };
    let servers =
        address::server(&with_port).map_err(|wrong| Wrong { help: Some(DIRECTORY_FORM.to_owned()), ..wrong })?;
    let [(_, server)] = servers.as_slice() else { return Err(no_url()) };
    let (host, port, is_loopback) = match server {
        address::ServerAt::Ip(address) => (address.ip().to_string(), address.port(), address.ip().is_loopback()),
        address::ServerAt::Name(name, port) => (name.clone(), *port, name == "localhost"),
        address::ServerAt::Unix(_) => return Err(no_url()),
    };
    if !is_secure && !is_loopback {
        let wrong = Wrong::new(format!("{} is asked without TLS", quoted(text)));
        return Err(
            wrong.help("write https; plain http is for an authority on this host (127.0.0.1, [::1], localhost)")
        );
    }
    Ok(AcmeDirectory { url: text.to_owned(), host, port, is_secure })
}

pub(crate) const CERTIFIED_NAME_PATTERN: &str = r"^[^/@\x09-\x0d\x20]+$";

/// A name in lower case without a final dot, or an IP address (RFC 8738).
pub(crate) fn certified_name(text: &str) -> Result<CertifiedName, Wrong> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(CertifiedName::Ip(address));
    }
    if text.contains('*') {
        let wrong = Wrong::new(format!(
            "{} is a wildcard, which authorities give out for a DNS-01 challenge only",
            quoted(text)
        ));
        return Err(wrong.help("Sumun answers HTTP-01 and TLS-ALPN-01: name each host, or use `certs`"));
    }
    if text.contains(['/', ':', '@']) {
        let wrong = Wrong::new(format!("{} is no name of a host", quoted(text)));
        return Err(wrong.help("write only the name, such as www.example.com"));
    }
    address::host_name(text)?;
    Ok(CertifiedName::Dns(text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()))
}

pub(crate) const EMAIL_PATTERN: &str = r"^[^@\x00-\x20]+@[^@\x00-\x20]+$";

/// RFC 8555 section 7.3: authorities take one address, without the further fields of a mailto URL.
pub(crate) fn email(text: &str) -> Result<(), Wrong> {
    let no_address =
        || Wrong::new(format!("{} is no address of a person", quoted(text))).help("write it as admin@example.com");
    let (person, host) = text.strip_prefix("mailto:").unwrap_or(text).split_once('@').ok_or_else(no_address)?;
    let fits = !person.is_empty()
        && text.len() <= limits::EMAIL_BYTES
        && !text.starts_with("mailto:")
        && person
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b',' | b'?' | b'%' | b'<' | b'>' | b'"'))
        && host.parse::<IpAddr>().is_err()
        && address::host_name(host).is_ok();
    if fits { Ok(()) } else { Err(no_address()) }
}

pub(crate) const KEY_ID_PATTERN: &str = r"^[ -~]+$";

pub(crate) fn key_id(text: &str) -> Result<(), Wrong> {
    let fits = !text.is_empty()
        && text.len() <= limits::KEY_ID_BYTES
        && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if fits {
        return Ok(());
    }
    let message =
        format!("{} is no id of a key: 1 to {} visible characters of ASCII", quoted(text), limits::KEY_ID_BYTES);
    Err(Wrong::new(message))
}

pub(crate) const HMAC_KEY_PATTERN: &str = r"^[A-Za-z0-9_=-]+$";

/// base64url, as authorities give it out; the text is never repeated in a message.
pub(crate) fn hmac_key(text: &str) -> Result<Vec<u8>, Wrong> {
    let wrong = |message: &str| {
        Wrong::new(message).help("it is the text in base64url that the authority gave with the key's id")
    };
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| wrong("this key is no base64url"))?;
    if bytes.len() < limits::HMAC_KEY_LEAST_BYTES || bytes.len() > limits::HMAC_KEY_BYTES {
        let (least, most) = (limits::HMAC_KEY_LEAST_BYTES, limits::HMAC_KEY_BYTES);
        return Err(wrong(&format!("this key has {} bytes, and not {least} to {most}", bytes.len())));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories() {
        let found = |text: &str| directory(text).map(|found| (found.host, found.port, found.is_secure));
        assert_eq!(found("https://Acme.Example/dir"), Ok(("acme.example".to_owned(), 443, true)));
        assert_eq!(found("https://acme.example:14000"), Ok(("acme.example".to_owned(), 14000, true)));
        assert_eq!(found("https://[2001:db8::1]/dir?a=b"), Ok(("2001:db8::1".to_owned(), 443, true)));
        assert_eq!(found("http://[::1]:4001/dir"), Ok(("::1".to_owned(), 4001, false)));
        assert_eq!(found("http://localhost/dir"), Ok(("localhost".to_owned(), 80, false)));
        for text in [
            "acme.example/dir",
            "http://acme.example/dir",
            "http://10.0.0.1/dir",
            "ftp://acme.example/",
            "https://",
            "https:///dir",
            "https://a b/",
            "https://me:you@acme.example/",
            "https://acme.example/#a",
            "https://acme.example:0/",
            "https://acme.example:99999/",
            "https://acme.example:1-9/",
            "https://unix:x:1/",
            "https://é.example/",
        ] {
            assert!(directory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(certified_name("WWW.Example.com."), Ok(CertifiedName::Dns("www.example.com".to_owned())));
        assert_eq!(certified_name("::1"), Ok(CertifiedName::Ip("::1".parse().expect("an address"))));
        for text in ["*.example.com", "example.com:443", "https://example.com", "a b", "", "-a.example", "300.1.1.1"] {
            assert!(certified_name(text).is_err(), "{text}");
        }
        assert!(certified_name("*.example.com").is_err_and(|wrong| wrong.message.contains("DNS-01")));
    }

    #[test]
    fn people() {
        assert_eq!(email("admin+acme@example.com"), Ok(()));
        for text in
            ["admin", "@example.com", "a@", "mailto:a@example.com", "a@b@c.example", "a,b@example.com", "a@1.2.3.4"]
        {
            assert!(email(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys() {
        assert_eq!(hmac_key("AAECAwQFBgcICQoLDA0ODw==").map(|key| key.len()), Ok(16));
        for text in ["", "AAEC", "not base64!", &"A".repeat(8000)] {
            assert!(hmac_key(text).is_err(), "{text}");
        }
    }
}
