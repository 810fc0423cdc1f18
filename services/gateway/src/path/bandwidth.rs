//! Bodies go no faster than the bandwidths of their listener and route.
//!
//! Who has had its share of a tick of the worker's clock is woken by the next one. Where there is no
//! bandwidth, nothing is asked but whether there is one.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use sumun_engine::limits::LARGE_BUFFER_BYTES;
use sumun_engine::pace::{Lane, Pace};
use sumun_engine::{Deadline, Worker};

use super::{Exchange, client_address};
use crate::events::Reason;
use crate::io::{self, Stopped};
use crate::site::Route;

/// One direction of a body, or of a tunnel.
#[derive(Default)]
pub(crate) struct Paced(Option<Box<Share>>);

struct Share {
    lane: Lane,
    worker: Rc<Worker>,
}

/// What holds for a request on a route.
pub(super) fn begin(exchange: &mut Exchange<'_>, route: &Route) {
    let listener = exchange.site.pace.as_ref();
    if listener.is_some() || route.pace.is_some() {
        exchange.pace = Pace::new(listener, route.pace.as_ref(), exchange.own_pace, client_address::key_of(exchange));
    }
}

impl Paced {
    /// Direction [`sumun_engine::pace::UP`] or [`sumun_engine::pace::DOWN`] of a request.
    pub(super) fn new(exchange: &Exchange<'_>, direction: usize) -> Self {
        let Some(pace) = &exchange.pace else { return Self(None) };
        let lane = Lane::new(Some(pace), direction);
        Self(Some(Box::new(Share { lane, worker: Rc::clone(exchange.worker) })))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// At most so many bytes may go now; 0: none in this tick.
    #[inline]
    pub(crate) fn allows(&mut self) -> usize {
        let Some(share) = &mut self.0 else { return usize::MAX };
        share.lane.begin(share.worker.clock.coarse_ms());
        share.lane.allows(|| share.worker.clock.now_us().saturating_mul(1000))
    }

    /// So many bytes have gone.
    #[inline]
    pub(crate) fn note(&mut self, bytes: usize) {
        if let Some(share) = &mut self.0 {
            share.lane.note(bytes, || share.worker.clock.now_us().saturating_mul(1000));
        }
    }

    /// It has had its share of this tick.
    #[inline]
    pub(crate) fn waits(&mut self) -> bool {
        let Some(share) = &mut self.0 else { return false };
        share.lane.begin(share.worker.clock.coarse_ms());
        share.lane.waits()
    }
}

/// Has the task look again at the next tick.
pub(crate) fn wake_at_next_tick(deadline: &Deadline, limit_ms: u64) {
    deadline.set_at(deadline.now_ms().saturating_add(1).min(limit_ms));
}

/// How many bytes may go, once any may.
pub(super) async fn share(exchange: &Exchange<'_>, paced: &mut Paced) -> Result<usize, Reason> {
    poll_fn(|_| match paced.allows() {
        0 if exchange.is_over_limit() => Poll::Ready(Err(Reason::Deadline)),
        0 => {
            wake_at_next_tick(exchange.deadline, exchange.limit_ms);
            Poll::Pending
        }
        most => Poll::Ready(Ok(most)),
    })
    .await
}

/// Writes everything to the client, of which all but the first `head` bytes are a body's.
pub(super) async fn write_all(
    exchange: &mut Exchange<'_>,
    paced: &mut Paced,
    bytes: &[u8],
    head: usize,
) -> Result<(), Reason> {
    let stopped = |stopped| match stopped {
        Stopped::Deadline => Reason::ClientStalled,
        Stopped::Broken => Reason::ClientClosed,
    };
    let (mut head, mut rest) = (head, bytes);
    while !rest.is_empty() {
        // In pieces: a client that takes each of them in time is not idle.
        let most = if paced.is_on() { share(exchange, paced).await? } else { LARGE_BUFFER_BYTES };
        let (piece, behind) = rest.split_at(rest.len().min(most.saturating_add(head)));
        exchange.set_deadline(exchange.site.config.bounds.idle);
        io::write_all(exchange.stream, exchange.deadline, piece).await.map_err(stopped)?;
        paced.note(piece.len() - head);
        exchange.record.bytes_out += (piece.len() - head) as u64;
        (head, rest) = (0, behind);
    }
    Ok(())
}
