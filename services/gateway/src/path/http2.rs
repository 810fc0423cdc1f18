//! The driver of a client's HTTP/2 connection: the socket on one side, a task for each request on
//! the other.
//!
//! The driver reads, hands out, writes and keeps the time; it never waits for a request. Reading
//! stops while the client does not take what is written.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll};

use sumun_engine::pace::Both;
use sumun_engine::{Deadline, Lease, Worker};
use sumun_http::{BodyLength, Method};
use sumun_http2::{Connection as Machine, Event as Happened, StreamId};
use sumun_traffic::pacer::Pacer;

use super::hands::Hand;
use super::{Connection, Reason, Request, refuse, serve_request};
use crate::client::ClientText;
use crate::heads::HeadLease;
use crate::http2::{self, Broken, Mux, Wanted};
use crate::io::{self, Stream};
use crate::limits::LINGER;
use crate::site::Site;

/// Serves a connection that speaks HTTP/2 until it ends. `first` was read already.
pub(super) async fn serve(connection: &mut Connection, mut first: Option<Box<Lease>>) {
    let site = Rc::clone(&connection.site.borrow());
    let now_ms = connection.deadline.now_ms();
    let machine = Machine::server(&http2::settings(&site.config.bounds), now_ms);
    let mux = Mux::new(machine, &connection.worker);
    drop(site);
    connection.site.borrow().cell.http2_connections.increment();
    let mut idle_since_ms = now_ms;
    let client_text = ClientText::of(connection.client.map(SocketAddr::from));
    poll_fn(|context| {
        mux.drive(context);
        poll_round(connection, &mux, &client_text, &mut first, &mut idle_since_ms, context)
    })
    .await;
    mux.break_all(Broken::Lost);
    io::close_gently(&mut connection.stream, &connection.deadline).await;
}

/// One look at everything. Ready: the connection is at its end.
fn poll_round(
    connection: &mut Connection,
    mux: &Rc<Mux>,
    client_text: &ClientText,
    first: &mut Option<Box<Lease>>,
    idle_since_ms: &mut u64,
    context: &mut Context<'_>,
) -> Poll<()> {
    let now_ms = connection.deadline.now_ms();
    if let Some(read) = first.take() {
        take(connection, mux, client_text, now_ms, read.filled());
    }
    let whole_idle = connection.site.borrow().config.bounds.idle;
    let idle_ms = connection.worker.own_limits.shortened(whole_idle).as_millis() as u64;
    loop {
        let ends = |cause| connection.site.borrow().cell.http2.stream(cause);
        if let Err(error) = http2::expire(mux, now_ms, ends) {
            connection.site.borrow().cell.http2.connection(error);
            // The last words, as far as the client takes them.
            return mux.poll_flush(&mut connection.stream, context).map(drop);
        }
        if mux.open_streams() > 0 {
            *idle_since_ms = now_ms;
        } else if now_ms >= *idle_since_ms + idle_ms {
            mux.machine.borrow_mut().shutdown(now_ms);
        }
        if connection.worker.is_draining() {
            mux.machine.borrow_mut().shutdown(now_ms);
        }
        if now_ms >= *idle_since_ms + idle_ms + LINGER.as_millis() as u64 {
            return Poll::Ready(());
        }
        let written = mux.poll_flush(&mut connection.stream, context);
        mux.wake_writers();
        match written {
            Poll::Ready(Err(())) => return Poll::Ready(()),
            Poll::Ready(Ok(())) => {
                let machine = mux.machine.borrow();
                if machine.is_over() || (machine.is_drained() && mux.open_streams() == 0) {
                    return Poll::Ready(());
                }
            }
            // Who does not read is not read from.
            Poll::Pending => break,
        }
        if mux.machine.borrow().output().is_empty() {
            let mut lease = Lease::medium();
            match connection.stream.poll_read(context, lease.spare()) {
                Poll::Pending => break,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(count)) => lease.advance(count),
            }
            take(connection, mux, client_text, now_ms, lease.filled());
        }
    }
    let next_ms = mux.machine.borrow().deadline().unwrap_or(u64::MAX);
    let idle_end_ms = *idle_since_ms + whole_idle.as_millis() as u64;
    if idle_end_ms <= next_ms {
        connection.deadline.set_idle_at(idle_end_ms, whole_idle);
    } else {
        connection.deadline.set_at(next_ms);
    }
    Poll::Pending
}

/// Gives the machine what was read, and does what comes out.
fn take(connection: &mut Connection, mux: &Rc<Mux>, client_text: &ClientText, now_ms: u64, mut input: &[u8]) {
    loop {
        let mut machine = mux.machine.borrow_mut();
        let step = match machine.receive(now_ms, input) {
            Ok(step) => step,
            // Why stands in the GOAWAY that the machine has written.
            Err(error) => {
                let site = connection.site.borrow();
                site.cell.rejected.increment();
                site.cell.http2.connection(error);
                return;
            }
        };
        input = input.get(step.consumed..).unwrap_or_default();
        let Some(event) = step.event else { return };
        match event {
            Happened::Head { stream, end } => {
                let mut head = HeadLease::take();
                let hand = Hand::take();
                let mut bytes = hand.bytes();
                let taken = machine.take_request(&mut head, &mut bytes);
                drop(machine);
                if head.websocket {
                    // What it is in HTTP/1.1 (RFC 8441 section 5): that is how everything behind
                    // here knows it.
                    head.method = Method::Get;
                    head.body = BodyLength::None;
                }
                let rejected = taken.err().map(Reason::Rejected);
                let asked = Asked { head, bytes, client_text: *client_text, rejected };
                begin(connection, mux, stream, end, hand, asked);
            }
            Happened::Data { stream, bytes, end } => {
                drop(machine);
                mux.deliver(stream, bytes, end);
            }
            Happened::Trailers { stream } => {
                let mut lines = Vec::new();
                machine.take_trailers(&mut lines);
                drop(machine);
                mux.deliver_trailers(stream, &lines);
            }
            Happened::Reset { stream, code, cause } => {
                drop(machine);
                connection.site.borrow().cell.http2.stream(cause);
                mux.break_off(stream, Broken::of(cause, code));
            }
            Happened::Settings | Happened::Pong { .. } | Happened::GoAway { .. } => {}
        }
    }
}

/// A request as it was read.
struct Asked {
    head: HeadLease,
    /// The head's bytes.
    bytes: Vec<u8>,
    client_text: ClientText,
    rejected: Option<Reason>,
}

/// What a task has to do to serve a request.
pub(super) struct Work {
    stream: Stream,
    worker: Rc<Worker>,
    /// Those of the connection, and the newest of them when the request came.
    sites: Rc<RefCell<Rc<Site>>>,
    site: Rc<Site>,
    client: Option<(IpAddr, u16)>,
    /// What the connection has of bandwidth for all its streams.
    pace: Option<Rc<Both<Pacer>>>,
    asked: Asked,
}

/// Has a request served.
fn begin(connection: &mut Connection, mux: &Rc<Mux>, id: StreamId, end: bool, hand: Rc<Hand>, asked: Asked) {
    let is_chunked = matches!(asked.head.body, BodyLength::Chunked);
    let wanted = match asked.head.method {
        _ if asked.head.websocket => Wanted::WebSocket,
        Method::Head => Wanted::Head,
        _ => Wanted::All,
    };
    let mut stream = mux.answer(id, is_chunked, wanted);
    stream.security = connection.stream.security();
    if end {
        mux.deliver(id, b"", true);
    }
    connection.requests += 1;
    let site = Rc::clone(&connection.site.borrow());
    if u64::from(connection.requests) >= site.config.bounds.requests {
        mux.machine.borrow_mut().shutdown(connection.deadline.now_ms());
    }
    if let Some(pace) = &site.pace {
        pace.renew_own(&mut connection.pace);
    }
    let work = Work {
        stream: Stream::Http2(Box::new(stream)),
        worker: Rc::clone(&connection.worker),
        sites: Rc::clone(&connection.site),
        site,
        client: connection.client,
        pace: connection.pace.clone(),
        asked,
    };
    hand.give(&connection.worker, work);
}

/// Serves a request, and gives back what the task has for the next one.
pub(super) async fn answer(work: Work, deadline: Deadline) -> (Deadline, Vec<u8>) {
    let Work { stream, worker, sites, site, client, pace, asked } = work;
    let Asked { mut head, bytes, client_text, rejected } = asked;
    let mut request = Connection { stream, worker, site: sites, client, deadline, requests: 0, pace, admitted: None };
    // Taken back before anything was done about it: who asks and resets again and again gets no work
    // out of us, nor out of a server. Who has asked and left may have meant it.
    if request.stream.broken().is_some_and(|how| how != Broken::Lost) {
        return (request.deadline, bytes);
    }
    if let Some(reason) = rejected {
        refuse(&mut request, &client_text, &site, reason).await;
        return (request.deadline, bytes);
    }
    let parsed = Request { head: &mut head, bytes: &bytes, arrived: b"", began_us: None };
    let (ended, ..) = serve_request(&mut request, &client_text, &site, parsed).await;
    let Connection { mut stream, deadline, .. } = request;
    if ended.abort {
        stream.reset_on_close();
        return (deadline, bytes);
    }
    deadline.set(site.config.bounds.idle);
    poll_fn(|context| match stream.poll_shutdown(context) {
        Poll::Pending if deadline.passed() => Poll::Ready(()),
        other => other.map(drop),
    })
    .await;
    (deadline, bytes)
}
