//! Waiting for a place: of the route, of the pool, of a server.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use sumun_http::Known;
use sumun_pools::{Caller, NotAdmitted, Permit, TraceGuard};

use super::Exchange;
use crate::events::Reason;
use crate::io::Gone;
use crate::site::Route;
use crate::upstream::LocalPool;

/// What a request holds while it is with a pool; given back on drop.
#[derive(Default)]
pub(super) struct Places {
    _route: Option<Permit>,
    _pool: Option<Permit>,
    _trace: Option<TraceGuard>,
}

/// Takes the request's places, or says why it cannot have them.
pub(super) async fn enter(
    exchange: &mut Exchange<'_>,
    route: &Rc<Route>,
    pool: &Rc<LocalPool>,
) -> Result<Places, Reason> {
    let mut places = Places::default();
    let mut caller = Caller::Client;
    if exchange.client.is_some_and(|client| pool.pool.is_own_server(client.ip())) {
        caller = Caller::OwnServer;
    }
    if let Some(trace) = exchange.head.known(exchange.bytes, Known::TraceParent) {
        let client = exchange.client.map(|client| client.ip());
        let guard = pool.pool.enter_trace(sumun_pools::key_of(trace_id(trace)), client);
        if guard.is_self_call() {
            caller = Caller::OwnServer;
        }
        places._trace = Some(guard);
    }
    if let Some(admission) = &route.admission {
        places._route = Some(match admission.try_acquire(Caller::Client).map_err(reason)? {
            Some(permit) => permit,
            None => {
                let waiting = admission.acquire(Caller::Client, route.config.queue.timeout);
                wait(exchange, waiting).await?.map_err(reason)?
            }
        });
    }
    let admission = pool.pool.admission();
    places._pool = Some(match admission.try_acquire(caller).map_err(reason)? {
        Some(permit) => permit,
        None => {
            let waiting = admission.acquire(caller, pool.config.queue.timeout);
            wait(exchange, waiting).await?.map_err(reason)?
        }
    });
    Ok(places)
}

/// The trace id of a traceparent (W3C Trace Context section 3.2.2): an application that calls
/// itself opens a span of its own, but stays in the trace.
fn trace_id(traceparent: &[u8]) -> &[u8] {
    traceparent.get(3..35).unwrap_or(traceparent)
}

/// Waits, as long as the client and the request's own deadline allow; then it leaves the queue.
pub(super) async fn wait<T>(exchange: &mut Exchange<'_>, waiting: impl Future<Output = T>) -> Result<T, Reason> {
    exchange.deadline.set_at(exchange.limit_ms);
    let mut waiting = pin!(waiting);
    let mut watching = true;
    let began_us = exchange.worker.clock.now_us();
    let result = poll_fn(|context| {
        if let Poll::Ready(result) = waiting.as_mut().poll(context) {
            return Poll::Ready(Ok(result));
        }
        if watching {
            match exchange.stream.poll_gone(context) {
                // Who ends its direction while it waits in a queue has most likely gone: no server
                // has seen the request, and others wait.
                Poll::Ready(Gone::Yes | Gone::SendsNoMore) => return Poll::Ready(Err(Reason::ClientClosed)),
                Poll::Ready(Gone::SentMore) => watching = false,
                Poll::Pending => {}
            }
        }
        if exchange.is_over_limit() { Poll::Ready(Err(Reason::Deadline)) } else { Poll::Pending }
    })
    .await;
    exchange.record.queue_us += exchange.worker.clock.now_us().saturating_sub(began_us);
    result
}

pub(super) fn reason(refused: NotAdmitted) -> Reason {
    match refused {
        NotAdmitted::Full => Reason::QueueFull,
        NotAdmitted::TimedOut => Reason::QueueTimeout,
        NotAdmitted::SelfCall => Reason::SelfCall,
    }
}
