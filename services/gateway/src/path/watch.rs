//! Who asked, for the statistics, and whether they may: blocked clients are turned away before anything
//! is done for them.

use std::net::{IpAddr, SocketAddr};

use sumun_http::Known;
use sumun_traffic::blocks::Block;

use super::{Ended, Exchange, answer};
use crate::events::Reason;
use crate::site::Site;
use crate::traffic::Seen;

/// Answers of this status and above are errors, to the statistics.
const ERRORS: u16 = 400;

/// A connection of this address is not even to be opened.
pub(super) fn is_shut_out(site: &Site, client: Option<SocketAddr>, now_ms: u64) -> bool {
    let Some(guard) = site.blocks.as_ref().filter(|guard| guard.is_needed()) else { return false };
    let block = client.and_then(|client| guard.of(client.ip(), now_ms));
    let is_shut_out = block.is_some_and(|block| block.closes);
    if is_shut_out {
        guard.blocks.note_refused();
    }
    is_shut_out
}

/// The block of who asks, if there is one. One load while nobody is blocked.
#[inline]
pub(super) fn block(exchange: &Exchange<'_>) -> Option<Block> {
    let guard = exchange.site.blocks.as_ref().filter(|guard| guard.is_needed())?;
    guard.of(visitor(exchange)?, exchange.worker.clock.coarse_ms())
}

/// Turns a blocked client away.
pub(super) async fn turn_away(exchange: &mut Exchange<'_>, block: Block) -> Ended {
    if let Some(guard) = &exchange.site.blocks {
        guard.blocks.note_refused();
    }
    // The connection of a proxy is not only its own.
    if block.closes && !exchange.trusted {
        return Ended::aborted(Reason::Blocked);
    }
    answer::of_reason(exchange, Reason::Blocked).await
}

/// A request has ended: counts it, and who has earned it is blocked.
#[inline]
pub(super) fn note(exchange: &Exchange<'_>, reason: Reason) {
    let status = exchange.record.status;
    let is_error = status >= ERRORS || status == 0;
    let now_ms = exchange.worker.clock.coarse_ms();
    let seen = || Seen { client: visitor(exchange), texts: texts(exchange) };
    exchange.site.traffic.count(now_ms, is_error, exchange.record.bytes_out, seen);
    if status >= ERRORS
        && reason != Reason::Blocked
        && let Some(guard) = &exchange.site.blocks
        && let Some(client) = visitor(exchange)
        && !exchange.site.trusts(client)
    {
        guard.judge(client, status, now_ms);
    }
}

fn texts<'a>(exchange: &Exchange<'a>) -> Option<(&'a [u8], &'a [u8])> {
    // Of what was not understood there is no path.
    let agent = || exchange.head.known(exchange.bytes, Known::UserAgent).unwrap_or_default();
    (!exchange.bytes.is_empty()).then(|| (exchange.path, agent()))
}

/// Whose request it is: the peer, or whom a trusted proxy says it is for.
fn visitor(exchange: &Exchange<'_>) -> Option<IpAddr> {
    let peer = exchange.client?.ip();
    if !exchange.trusted {
        return Some(peer);
    }
    let values = exchange.head.values(exchange.bytes, b"x-forwarded-for");
    Some(named(values, |address| exchange.site.trusts(address)).unwrap_or(peer))
}

/// The last address of the list that is no trusted proxy's: each proxy adds whom it was asked by, and
/// what stands before one that is not trusted, or is no address, may be anybody's invention.
fn named<'a>(values: impl Iterator<Item = &'a [u8]>, trusts: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut found = None;
    for element in values.flat_map(|value| value.split(|byte| *byte == b',')) {
        match address(element.trim_ascii()) {
            Some(address) if trusts(address) => {}
            other => found = other,
        }
    }
    found
}

/// With or without a TCP port; of IPv6 with or without brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port).or_else(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_that_is_not_trusted_is_who_asked() {
        let named = |lines: &[&str]| {
            let trusts = |address: IpAddr| address.to_string().starts_with("10.");
            named(lines.iter().map(|line| line.as_bytes()), trusts).map(|address| address.to_string())
        };
        for (lines, client) in [
            (&["203.0.113.7"][..], Some("203.0.113.7")),
            (&["192.0.2.66, 203.0.113.7, 10.0.0.1,10.0.0.2"], Some("203.0.113.7")),
            (&["192.0.2.66", "203.0.113.7:4711, 10.0.0.1"], Some("203.0.113.7")),
            (&["[2001:db8::1]:80"], Some("2001:db8::1")),
            (&["[2001:db8::1]"], Some("2001:db8::1")),
            (&["192.0.2.66, unknown"], None),
            (&["192.0.2.66,"], None),
            (&["10.0.0.9"], None),
            (&[], None),
        ] {
            assert_eq!(named(lines).as_deref(), client, "{lines:?}");
        }
    }
}
