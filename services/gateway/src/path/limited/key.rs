//! What a limit counts a request by.

use std::hash::Hasher;

use sumun_config::checked::{KeyPart, TokenPlace};

use super::super::{Exchange, client_address, proxy};
use crate::limiting::{Limit, Part};
use crate::site::Route;

/// Stands before a client's address where that stands for something that a request has not: nobody may
/// send the one as the other.
const CLIENT: u8 = 1;
const TEXT: u8 = 2;

/// The number that stands for the key of a request.
pub(super) fn of(exchange: &Exchange<'_>, route: &Route, limit: &Limit) -> u64 {
    let mut hasher = limit.hasher;
    for part in &limit.key {
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
    hasher.write_u64(client_address::key_of(exchange));
}
