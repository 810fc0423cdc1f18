//! Who a request is counted for.

use std::net::{IpAddr, SocketAddr};

use sumun_engine::accept::client_key;
use sumun_http::Known;

use super::Exchange;
use crate::limits::FORWARDED_ELEMENTS;

/// The number that stands for the client alone.
pub(super) fn key_of(exchange: &Exchange<'_>) -> u64 {
    // A unix socket's peers have no address: together they are one client.
    of(exchange).map_or(0, client_key)
}

/// Whose request it is. A peer among the trusted proxies says so in X-Forwarded-For: it is the last
/// address that is none of theirs, since everything before that one could have been made up.
pub(super) fn of(exchange: &Exchange<'_>) -> Option<IpAddr> {
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
