//! Waiting for a place: of the route, of the pool, of a server.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sumun_http::Known;
use sumun_pools::{Admission, Asker, Caller, Lease, NotAdmitted, Permit, Priority, Sent, TraceGuard};

use super::{Exchange, client_address};
use crate::events::Reason;
use crate::io::Gone;
use crate::site::Route;
use crate::upstream::LocalPool;

/// What a request holds while it is with a pool; given back on drop.
#[derive(Default)]
pub(crate) struct Places {
    route: Option<Permit>,
    pool: Option<Permit>,
    /// Of the server that is asked, where its concurrency is adaptive.
    server: Option<Permit>,
    /// Where the pool has `throttle`.
    sent: Option<Sent>,
    _trace: Option<TraceGuard>,
}

impl Places {
    /// Of the pool alone.
    pub(super) fn of_pool(permit: Permit) -> Self {
        Self { pool: Some(permit), ..Self::default() }
    }

    /// A server is asked.
    pub(super) fn begin(&mut self, server: &mut Lease, now_us: u64) {
        self.server = server.take_place();
        self.permits().for_each(|permit| permit.begin(now_us));
    }

    /// The head of its answer is here.
    pub(super) fn answered(&mut self, status: u16, now_us: u64) {
        // Quick refusals say nothing about how long answers take.
        let refused = matches!(status, 429 | 503);
        self.note(refused);
        self.permits().for_each(|permit| if refused { permit.failed(now_us) } else { permit.answered(now_us) });
    }

    /// It did not come.
    pub(super) fn failed(&mut self, reason: Reason, now_us: u64) {
        match reason {
            Reason::ClientClosed | Reason::ClientStalled => self.permits().for_each(|permit| permit.abandoned(now_us)),
            Reason::FirstByteTimeout | Reason::Deadline | Reason::ConnectTimeout | Reason::ConnectFailed => {
                self.permits().for_each(|permit| permit.failed(now_us));
                self.note(true);
            }
            _ => {}
        }
        self.server = None;
    }

    /// What the server that was asked last has made of the request.
    fn note(&mut self, refused: bool) {
        if let Some(sent) = &mut self.sent {
            sent.is_refused = refused;
        }
    }

    /// The server is free for somebody else. The route's place is for as long as the request lasts.
    pub(super) fn server_is_free(&mut self) {
        if let Some(permit) = &mut self.pool {
            permit.release();
        }
        self.server = None;
    }

    fn permits(&mut self) -> impl Iterator<Item = &mut Permit> {
        self.route.iter_mut().chain(&mut self.pool).chain(&mut self.server)
    }
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
        places.route = Some(admit(exchange, route, admission, Caller::Client, route.config.queue.timeout).await?);
    }
    places.pool = Some(admit(exchange, route, pool.pool.admission(), caller, pool.config.queue.timeout).await?);
    if pool.config.throttle {
        let asker = asker(exchange, caller, route.config.priority);
        let sent = pool.pool.throttle().send(asker, exchange.worker.clock.coarse_ms());
        places.sent = Some(sent.ok_or(Reason::Throttled)?);
    }
    Ok(places)
}

/// A place, waited for where there is none.
async fn admit(
    exchange: &mut Exchange<'_>,
    route: &Route,
    admission: &Arc<Admission>,
    caller: Caller,
    timeout: Duration,
) -> Result<Permit, Reason> {
    if let Some(permit) = admission.try_acquire(caller).map_err(reason)? {
        return Ok(permit);
    }
    let asker = asker(exchange, caller, route.config.priority);
    let waiting = admission.acquire(asker, timeout, time_left(exchange));
    wait(exchange, waiting).await?.map_err(reason)
}

pub(super) fn asker(exchange: &Exchange<'_>, caller: Caller, priority: Priority) -> Asker {
    Asker::new(caller, priority, client_address::key_of(exchange))
}

/// Until the whole request has to be answered; `None`: there is no such time.
pub(super) fn time_left(exchange: &Exchange<'_>) -> Option<Duration> {
    let left_ms = exchange.limit_ms.saturating_sub(exchange.deadline.now_ms());
    (exchange.limit_ms != u64::MAX).then_some(Duration::from_millis(left_ms))
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
        NotAdmitted::Shed => Reason::Shed,
        NotAdmitted::TimedOut => Reason::QueueTimeout,
        NotAdmitted::SelfCall => Reason::SelfCall,
    }
}
