//! Whether a request is within the rate limits of its route.

mod jwt;
mod key;

use sumun_config::limits::ROUTE_LIMITS;

pub(crate) use jwt::Verifier;

use super::{Ended, Exchange, answer, watch};
use crate::events::Reason;
use crate::limiting::Limit;
use crate::site::Route;

const SECOND_NS: u64 = 1_000_000_000;

/// Room for what is said of one limit with a name of usual length.
const FIELD_BYTES: usize = 128;

/// Why a request is not let pass.
struct Over<'a> {
    limits: &'a [Limit],
    /// How long to wait for each of them, in nanoseconds; 0 where it would let the request pass.
    waits_ns: [u64; ROUTE_LIMITS],
}

/// Counts the request; `Some`: it was one too many, and has been answered.
pub(super) async fn check(exchange: &mut Exchange<'_>, route: &Route) -> Option<Ended> {
    let Err(over) = ask(exchange, route) else {
        if route.limits.iter().any(|limit| limit.tells_always) {
            tell(exchange, route);
        }
        return None;
    };
    over.refusing().for_each(|(limit, _)| watch::note_refusal(exchange, &limit.name));
    Some(answer::refuse(exchange, Reason::RateLimited, |output| over.write(output)).await)
}

/// Asks all limits. Where one of them refuses, none has counted the request.
fn ask<'a>(exchange: &Exchange<'_>, route: &'a Route) -> Result<(), Over<'a>> {
    let limits = &*route.limits;
    let now_ns = exchange.record.start_us.saturating_mul(1000);
    let mut over = Over { limits, waits_ns: [0; ROUTE_LIMITS] };
    if let [limit] = limits {
        let key = key::of(exchange, route, limit);
        limit.quota.take(&limit.counted, key, now_ns).map_err(|empty| {
            limit.cell.refused.increment();
            over.waits_ns[0] = empty.retry_after_ns;
            over
        })?;
        limit.note(key);
        return Ok(());
    }
    let mut keys = [0; ROUTE_LIMITS];
    for ((limit, key), wait_ns) in limits.iter().zip(&mut keys).zip(&mut over.waits_ns) {
        *key = key::of(exchange, route, limit);
        if let Err(empty) = limit.quota.look(&limit.counted, *key, now_ns) {
            limit.cell.refused.increment();
            *wait_ns = empty.retry_after_ns;
        }
    }
    if over.waits_ns.iter().any(|wait_ns| *wait_ns > 0) {
        return Err(over);
    }
    for (index, (limit, key)) in limits.iter().zip(keys).enumerate() {
        // Another worker may have taken the last of it since it was looked at.
        if let Err(empty) = limit.quota.take(&limit.counted, key, now_ns) {
            limit.cell.refused.increment();
            for (before, key) in limits.iter().zip(keys).take(index) {
                before.quota.give_back(&before.counted, key, now_ns);
            }
            over.waits_ns[index] = empty.retry_after_ns;
            return Err(over);
        }
    }
    limits.iter().zip(keys).for_each(|(limit, key)| limit.note(key));
    Ok(())
}

/// How the client stands with the limits that tell it always, after this request: the same fields, but that
/// nobody has to wait (`t` is left out).
fn tell(exchange: &mut Exchange<'_>, route: &Route) {
    let now_ns = exchange.record.start_us.saturating_mul(1000);
    let telling = || route.limits.iter().filter(|limit| limit.tells_always);
    let mut fields = Vec::with_capacity(FIELD_BYTES * route.limits.len());
    fields.extend_from_slice(b"RateLimit-Policy: ");
    for (index, limit) in telling().enumerate() {
        fields.extend_from_slice(if index > 0 { b", " } else { b"" });
        fields.extend_from_slice(&limit.policy);
    }
    fields.extend_from_slice(b"\r\nRateLimit: ");
    let mut digits = itoa::Buffer::new();
    for (index, limit) in telling().enumerate() {
        let left = limit.quota.left(&limit.counted, key::of(exchange, route, limit), now_ns);
        fields.extend_from_slice(if index > 0 { b", \"" } else { b"\"" });
        fields.extend_from_slice(limit.name.as_bytes());
        fields.extend_from_slice(b"\";r=");
        fields.extend_from_slice(digits.format(left).as_bytes());
    }
    fields.extend_from_slice(b"\r\n");
    exchange.own_fields.append(&mut fields);
}

impl Over<'_> {
    fn refusing(&self) -> impl Iterator<Item = (&Limit, u64)> {
        self.limits.iter().zip(self.waits_ns).filter(|(_, wait_ns)| *wait_ns > 0)
    }

    /// RFC 9110 section 10.2.3, and draft-ietf-httpapi-ratelimit-headers-10 sections 3 and 4: the limits
    /// that refuse.
    fn write(&self, output: &mut Vec<u8>) {
        let seconds = |wait_ns: u64| wait_ns.div_ceil(SECOND_NS);
        let mut digits = itoa::Buffer::new();
        let longest = self.refusing().map(|(_, wait_ns)| wait_ns).max().unwrap_or_default();
        output.extend_from_slice(b"Retry-After: ");
        output.extend_from_slice(digits.format(seconds(longest)).as_bytes());
        output.extend_from_slice(b"\r\nRateLimit-Policy: ");
        for (index, (limit, _)) in self.refusing().enumerate() {
            output.extend_from_slice(if index > 0 { b", " } else { b"" });
            output.extend_from_slice(&limit.policy);
        }
        output.extend_from_slice(b"\r\nRateLimit: ");
        for (index, (limit, wait_ns)) in self.refusing().enumerate() {
            output.extend_from_slice(if index > 0 { b", \"" } else { b"\"" });
            output.extend_from_slice(limit.name.as_bytes());
            output.extend_from_slice(b"\";r=0;t=");
            output.extend_from_slice(digits.format(seconds(wait_ns)).as_bytes());
        }
        output.extend_from_slice(b"\r\n");
    }
}
