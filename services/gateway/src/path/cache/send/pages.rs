//! Stored bodies that lie in pages: the kernel puts these into the socket as they are.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use sumun_engine::pace::DOWN;
use sumun_host::pages::Run;

use super::super::super::Exchange;
use super::super::super::bandwidth::Paced;
use super::super::super::files::{send_head, send_moved};
use super::super::super::uptake::Uptake;
use super::{Plan, begin};
use crate::cache::Head;
use crate::events::Reason;
use crate::limits::CACHE_MOVED_BYTES;
use crate::site::Route;

/// The head, and what the plan says of the body.
pub(super) async fn send_whole(
    exchange: &mut Exchange<'_>,
    route: &Route,
    response: Head<'_>,
    plan: &Plan<'_>,
    run: &Run,
) -> Result<(), Reason> {
    let range = plan.range();
    if !is_moved(exchange, &range) {
        return super::send_whole(exchange, route, response, plan, std::slice::from_ref(run)).await;
    }
    begin(exchange, plan.status);
    let mut head = Vec::with_capacity(512);
    plan.write_head(&mut head, exchange, route, response, false);
    let mut uptake = Uptake::new(exchange, exchange.site.config.bounds.idle);
    send_head(exchange, &mut uptake, &head, range.end - range.start).await?;
    send(exchange, &mut uptake, run, range).await
}

/// The kernel is to move it: to a socket, as fast as that takes it.
pub(super) fn is_moved(exchange: &Exchange<'_>, range: &Range<u64>) -> bool {
    let is_worth_it = range.end.saturating_sub(range.start) >= *CACHE_MOVED_BYTES.start();
    is_worth_it && exchange.stream.is_socket() && !Paced::new(exchange, DOWN).is_on()
}

/// These bytes of it.
pub(super) async fn send(
    exchange: &mut Exchange<'_>,
    uptake: &mut Uptake,
    run: &Run,
    mut range: Range<u64>,
) -> Result<(), Reason> {
    while range.start < range.end {
        let left = (range.end - range.start) as usize;
        let send = |socket: BorrowedFd<'_>| {
            sumun_host::files::send_file(socket, run.file(), &mut (run.at() + range.start), left)
        };
        let count = send_moved(exchange, uptake, send).await?;
        if count == 0 {
            return Err(Reason::FileUnreadable);
        }
        uptake.pauses(exchange.deadline.now_ms());
        exchange.record.bytes_out += count as u64;
        range.start += count as u64;
    }
    Ok(())
}
