//! Who asked, for the statistics, and whether they may: blocked clients are turned away before anything
//! is done for them.

use std::net::SocketAddr;

use sumun_http::Known;
use sumun_traffic::blocks::Block;

use super::{Ended, Exchange, answer, client_address};
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
    guard.of(client_address::of(exchange)?, exchange.worker.clock.coarse_ms())
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
    let seen = || Seen { client: client_address::of(exchange), texts: texts(exchange) };
    exchange.site.traffic.count(now_ms, is_error, exchange.record.bytes_out, seen);
    // Who gave up got no answer. Who got one and did not take it to its end cannot take it back by that.
    let gave_up = matches!(reason, Reason::ClientClosed | Reason::ClientStalled) && status == reason.status();
    if status >= ERRORS
        && !matches!(reason, Reason::Blocked | Reason::Challenge)
        && !gave_up
        && let Some(guard) = &exchange.site.blocks
        && let Some(client) = client_address::of(exchange)
        && !exchange.site.trusts(client)
    {
        guard.judge(client, status, now_ms);
    }
}

/// A limit has refused a request, which its client may earn a block by.
pub(super) fn note_refusal(exchange: &Exchange<'_>, limit: &str) {
    if let Some(guard) = &exchange.site.blocks
        && let Some(client) = client_address::of(exchange)
        && !exchange.site.trusts(client)
    {
        guard.judge_refusal(client, limit, exchange.worker.clock.coarse_ms());
    }
}

fn texts<'a>(exchange: &Exchange<'a>) -> Option<(&'a [u8], &'a [u8])> {
    // Of what was not understood there is no path.
    let agent = || exchange.head.known(exchange.bytes, Known::UserAgent).unwrap_or_default();
    (!exchange.bytes.is_empty()).then(|| (exchange.path, agent()))
}
