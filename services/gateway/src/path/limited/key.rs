//! What a limit counts a request by.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};

use sumun_config::checked::{KeyPart, TokenPlace};
use sumun_engine::accept::client_key;
use sumun_http::Known;

use super::super::{Exchange, proxy};
use crate::limiting::Part;
use crate::limits::FORWARDED_ELEMENTS;
use crate::site::Route;

/// Stands before a client's address where that stands for something that a request has not: nobody may
/// send the one as the other.
const CLIENT: u8 = 1;
const TEXT: u8 = 2;

/// The number that stands for the key of a request.
pub(super) fn of(exchange: &Exchange<'_>, route: &Route, parts: &[Part]) -> u64 {
    let keys: &RandomState = &exchange.site.limit_keys;
    let mut hasher = keys.build_hasher();
    for part in parts {
        match part {
            Part::Plain(part) => enter(exchange, route, part, &mut hasher),
            Part::Claim(verifier) => {
                let token = match verifier.token() {
                    TokenPlace::Header(name) => exchange.head.values(exchange.bytes, name.as_bytes()).next(),
                    TokenPlace::Cookie(name) => proxy::cookie(exchange, name),
                };
                let claim = token.and_then(|token| verifier.claim(token, exchange.worker.clock.unix_seconds()));
                match claim {
                    Some(claim) => {
                        hasher.write_u8(TEXT);
                        hasher.write_u64(claim);
                    }
                    None => enter_client(exchange, &mut hasher),
                }
            }
        }
    }
    hasher.finish()
}

fn enter(exchange: &Exchange<'_>, route: &Route, part: &KeyPart, hasher: &mut impl Hasher) {
    let text: &[u8] = match part {
        // It is the same in all keys of a limit, and only tells its neighbours apart.
        KeyPart::Text(text) => text.as_bytes(),
        KeyPart::Path => exchange.path,
        KeyPart::Method => exchange.head.method.as_str().as_bytes(),
        KeyPart::Listener => exchange.site.config.name.as_bytes(),
        KeyPart::Host => return enter_host(exchange.head.host_value(exchange.bytes), hasher),
        KeyPart::Route => route.config.name.as_bytes(),
        KeyPart::Client | KeyPart::Claim(_) => return enter_client(exchange, hasher),
        KeyPart::Header(name) => match exchange.head.values(exchange.bytes, name.as_bytes()).next() {
            Some(value) => value,
            None => return enter_client(exchange, hasher),
        },
        KeyPart::Cookie(name) => match proxy::cookie(exchange, name) {
            Some(value) => value,
            None => return enter_client(exchange, hasher),
        },
    };
    hasher.write_u8(TEXT);
    hasher.write(text);
    // Where it ends: what follows cannot be a part of it.
    hasher.write_usize(text.len());
}

/// In lower case, without a TCP port.
fn enter_host(host: &[u8], hasher: &mut impl Hasher) {
    let (name, _) = sumun_http::target::split_port(host);
    let name = name.strip_suffix(b".").unwrap_or(name);
    hasher.write_u8(TEXT);
    for byte in name {
        hasher.write_u8(byte.to_ascii_lowercase());
    }
    hasher.write_usize(name.len());
}

fn enter_client(exchange: &Exchange<'_>, hasher: &mut impl Hasher) {
    hasher.write_u8(CLIENT);
    hasher.write_u64(of_client(exchange));
}

/// The number that stands for the client alone.
pub(in crate::path) fn of_client(exchange: &Exchange<'_>) -> u64 {
    // A unix socket's peers have no address: together they are one client.
    client(exchange).map_or(0, client_key)
}

/// Whose request it is. A peer among the trusted proxies says so in X-Forwarded-For: it is the last
/// address that is none of theirs, since everything before that one could have been made up.
fn client(exchange: &Exchange<'_>) -> Option<IpAddr> {
    let peer = exchange.client?.ip();
    if !exchange.trusted || !exchange.head.has(Known::XForwardedFor) {
        return Some(peer);
    }
    let fields = exchange.head.fields.iter().rev().filter(|field| field.known == Known::XForwardedFor);
    let lines = fields.map(|field| field.value.of_bytes(exchange.bytes));
    let elements = lines.flat_map(|line| line.rsplit(|byte| *byte == b',')).take(FORWARDED_ELEMENTS);
    let mut client = peer;
    for element in elements {
        let Some(address) = address(element.trim_ascii()) else { break };
        client = address;
        if !exchange.site.trusts(address) {
            break;
        }
    }
    Some(client)
}

/// An address, alone or with a TCP port, as proxies write it.
fn address(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn addresses() {
        for text in ["192.0.2.1", "192.0.2.1:80"] {
            assert_eq!(address(text.as_bytes()), "192.0.2.1".parse().ok(), "{text}");
        }
        for text in ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:80"] {
            assert_eq!(address(text.as_bytes()), "2001:db8::1".parse().ok(), "{text}");
        }
        for text in ["", "unknown", "_hidden", "[192.0.2.1", "192.0.2.1:"] {
            assert_eq!(address(text.as_bytes()), None, "{text}");
        }
    }
}
