//! Connections to servers that speak HTTP/2: few of them, each with many requests at once.
//!
//! A request takes a stream on a connection that is open and has room, or waits for one that is being
//! opened, or starts one. A connection counts as open once the server's settings are here: so nothing
//! is asked of who does not speak HTTP/2, and nobody opens more streams than he may.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use sumun_engine::{Deadline, Lease, Worker};
use sumun_http::limits::FIELDS_MAX;
use sumun_http2::{Connection as Machine, Event as Happened, Settings};
use sumun_pools::Server;

use super::{Broken, Http2Stream, Mux, expire};
use crate::heads::ResponseLease;
use crate::io::{self, Stream};
use crate::limits::{
    HEAD_KEPT_BYTES, LINK_PING_AFTER, LINK_PING_AGAIN, LINK_PING_PATIENCE, LINK_SETTINGS_PATIENCE, LINK_STREAM_BYTES,
    LINK_STREAMS, RESPONSE_HEAD_BYTES,
};
use crate::number::NumberTable;
use crate::upstream::{ConnectError, LocalPool};

/// One worker's connections to the servers of one pool, by the server's number.
#[derive(Default)]
pub(crate) struct Links {
    table: RefCell<NumberTable<u64, Vec<Rc<Link>>>>,
    /// Servers that agreed on HTTP/2 the last time they were asked (`protocol: auto`).
    agreed: RefCell<NumberTable<u64, ()>>,
}

/// A connection to a server.
pub(crate) struct Link {
    server: Arc<Server>,
    state: Cell<State>,
    /// From when the server is connected to.
    mux: OnceCell<Rc<Mux>>,
    /// Requests that wait for it to open.
    waiting: RefCell<Vec<Waker>>,
    waiters: Cell<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Open,
    /// What has begun goes on, and nothing begins.
    Leaving,
    /// It never came to be open.
    Failed(ConnectError),
}

impl Links {
    /// A stream on a connection that is open and has room.
    pub(crate) fn take(&self, server: u64) -> Option<Http2Stream> {
        self.table.borrow().get(&server)?.iter().find_map(|link| link.stream())
    }

    /// The server spoke HTTP/2 when it could choose.
    pub(crate) fn has_agreed(&self, server: u64) -> bool {
        self.agreed.borrow().contains_key(&server)
    }

    /// A connection that is being opened, with room for one more to wait for it.
    fn opening(&self, server: u64) -> Option<Rc<Link>> {
        let has_room =
            |link: &&Rc<Link>| link.state.get() == State::Opening && link.waiters.get() < LINK_STREAMS as usize;
        self.table.borrow().get(&server)?.iter().find(has_room).map(Rc::clone)
    }

    /// Lets go of all, or of those to servers that are to get nothing new.
    pub(crate) fn retire(&self, all: bool) {
        for link in self.table.borrow().values().flatten() {
            if all || !link.server.may_be_asked() {
                link.leave();
            }
        }
    }

    fn forget(&self, link: &Rc<Link>) {
        let mut table = self.table.borrow_mut();
        let id = link.server.id();
        if let Some(list) = table.get_mut(&id) {
            list.retain(|other| !Rc::ptr_eq(other, link));
            if list.is_empty() {
                table.remove(&id);
            }
        }
    }
}

/// A stream to a server: on a connection that is there, or on one that is opened for it.
pub(crate) async fn open(
    pool: &Rc<LocalPool>,
    server: &Arc<Server>,
    deadline: &Deadline,
) -> Result<Http2Stream, ConnectError> {
    loop {
        if let Some(stream) = pool.links.take(server.id()) {
            return Ok(stream);
        }
        let link = pool.links.opening(server.id()).unwrap_or_else(|| start(pool, server));
        link.wait(deadline).await?;
        if link.takes_nothing() {
            return Err(ConnectError::Failed);
        }
    }
}

/// The same on a connection that came to speak HTTP/2; others share it from then on.
pub(crate) async fn adopt(
    pool: &Rc<LocalPool>,
    server: &Arc<Server>,
    stream: Stream,
    deadline: &Deadline,
) -> Result<Http2Stream, ConnectError> {
    pool.links.agreed.borrow_mut().insert(server.id(), ());
    let link = enter(pool, server);
    tokio::task::spawn_local(run(Rc::clone(&link), Rc::clone(pool), Some(stream)));
    link.wait(deadline).await?;
    match link.stream() {
        Some(stream) => Ok(stream),
        None => open(pool, server, deadline).await,
    }
}

fn start(pool: &Rc<LocalPool>, server: &Arc<Server>) -> Rc<Link> {
    let link = enter(pool, server);
    tokio::task::spawn_local(run(Rc::clone(&link), Rc::clone(pool), None));
    link
}

fn enter(pool: &Rc<LocalPool>, server: &Arc<Server>) -> Rc<Link> {
    let link = Rc::new(Link {
        server: Arc::clone(server),
        state: Cell::new(State::Opening),
        mux: OnceCell::new(),
        waiting: RefCell::default(),
        waiters: Cell::default(),
    });
    pool.links.table.borrow_mut().entry(server.id()).or_default().push(Rc::clone(&link));
    link
}

impl Link {
    fn stream(&self) -> Option<Http2Stream> {
        let mux = self.mux.get().filter(|_| self.state.get() == State::Open)?;
        let has_room = mux.machine.borrow().capacity() > mux.opening.get();
        has_room.then(|| Http2Stream::asking(Rc::clone(mux)))
    }

    /// The server lets nobody ask it anything.
    fn takes_nothing(&self) -> bool {
        let is_idle = |mux: &Rc<Mux>| mux.open_streams() == 0 && mux.machine.borrow().capacity() == 0;
        self.state.get() != State::Opening && self.mux.get().is_none_or(is_idle)
    }

    /// Until it is open, or will not be.
    async fn wait(&self, deadline: &Deadline) -> Result<(), ConnectError> {
        let _counted = Waiter::of(&self.waiters);
        poll_fn(|context| match self.state.get() {
            State::Open | State::Leaving => Poll::Ready(Ok(())),
            State::Failed(error) => Poll::Ready(Err(error)),
            State::Opening if deadline.passed() => Poll::Ready(Err(ConnectError::Timeout)),
            State::Opening => {
                let mut waiting = self.waiting.borrow_mut();
                if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    waiting.push(context.waker().clone());
                }
                Poll::Pending
            }
        })
        .await
    }

    fn turn(&self, state: State) {
        self.state.set(state);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    fn leave(&self) {
        if self.state.get() == State::Open {
            self.turn(State::Leaving);
            if let Some(mux) = self.mux.get() {
                mux.wants_writing();
            }
        }
    }
}

/// One that waits, for as long as it does.
struct Waiter<'a>(&'a Cell<usize>);

impl<'a> Waiter<'a> {
    fn of(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What we ask of servers. Streams that nobody reads hold up no others: the connection's window is
/// that of all its streams together.
fn settings(pool: &LocalPool) -> Settings {
    Settings {
        streams_max: LINK_STREAMS,
        stream_window: LINK_STREAM_BYTES,
        connection_window: LINK_STREAM_BYTES * LINK_STREAMS,
        head_bytes: RESPONSE_HEAD_BYTES,
        fields_max: FIELDS_MAX,
        stall_ms: pool.config.timeouts.idle.as_millis() as u64,
        head_ms: LINK_SETTINGS_PATIENCE.as_millis() as u64,
        settings_ack_ms: LINK_SETTINGS_PATIENCE.as_millis() as u64,
        extended_connect: false,
    }
}

/// Whether the server is there, when nothing comes from it that is waited for.
#[derive(Debug, Clone, Copy)]
enum Ping {
    /// To be asked after a while of silence.
    Due,
    /// The connection is dead unless something comes until then.
    Asked { until_ms: u64 },
    /// It was there, and has said nothing of weight since. Servers of gRPC cut off who asks again
    /// and again meanwhile.
    Answered { again_ms: u64 },
}

/// Why a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The server has closed it, or it had done its work.
    Ended,
    TimedOut,
    /// The server does not speak HTTP/2 as it should.
    Malformed,
}

struct Driver {
    link: Rc<Link>,
    pool: Rc<LocalPool>,
    worker: Rc<Worker>,
    deadline: Deadline,
    stream: Stream,
    mux: Rc<Mux>,
    idle_since_ms: u64,
    is_busy: bool,
    /// When something came last, or began to be waited for.
    heard_ms: u64,
    ping: Ping,
}

/// Opens a connection and drives it until it ends.
async fn run(link: Rc<Link>, pool: Rc<LocalPool>, stream: Option<Stream>) {
    let worker = Rc::clone(&pool.worker);
    let deadline = worker.deadlines.enter().await;
    deadline.set(pool.config.timeouts.connect);
    let dialled = match stream {
        Some(stream) => Ok(stream),
        None => pool.dial(&link.server, &deadline).await,
    };
    let opened = match dialled {
        Ok(mut stream) if stream.is_secure() && !stream.has_agreed_on_http2() => {
            stream.say_goodbye();
            Err(ConnectError::Protocol)
        }
        other => other,
    };
    let stream = match opened {
        Ok(stream) => stream,
        Err(error) => {
            if error == ConnectError::Protocol {
                pool.links.agreed.borrow_mut().remove(&link.server.id());
            }
            pool.links.forget(&link);
            return link.turn(State::Failed(error));
        }
    };
    let now_ms = deadline.now_ms();
    let mux = Mux::new(Machine::client(&settings(&pool), now_ms), &worker);
    mux.is_secure.set(stream.is_secure());
    let mux = Rc::clone(link.mux.get_or_init(|| mux));
    let connect_ms = pool.config.timeouts.connect.as_millis() as u64;
    let mut driver = Driver {
        link,
        pool,
        worker,
        deadline,
        stream,
        mux,
        idle_since_ms: now_ms,
        is_busy: false,
        heard_ms: now_ms,
        ping: Ping::Due,
    };
    let why = poll_fn(|context| {
        driver.mux.drive(context);
        driver.poll_round(now_ms + connect_ms, context)
    })
    .await;
    let Driver { link, pool, mux, mut stream, deadline, .. } = driver;
    pool.links.forget(&link);
    let opened = matches!(link.state.get(), State::Open | State::Leaving);
    let refusal = if why == Why::Ended && !opened { io::refusal(&mut stream, &deadline).await } else { None };
    link.turn(match why {
        _ if opened => State::Leaving,
        Why::Malformed => State::Failed(ConnectError::Protocol),
        Why::TimedOut => State::Failed(ConnectError::Timeout),
        Why::Ended if refusal.is_some() => State::Failed(ConnectError::Handshake),
        Why::Ended => State::Failed(ConnectError::Failed),
    });
    if let Some(refusal) = refusal {
        pool.note_handshake(&link.server, &refusal, deadline.now_ms());
    }
    stream.say_goodbye();
    mux.break_all(Broken::Lost);
}

impl Driver {
    /// One look at everything. Ready: the connection is at its end.
    fn poll_round(&mut self, open_until_ms: u64, context: &mut Context<'_>) -> Poll<Why> {
        let now_ms = self.deadline.now_ms();
        let mux = Rc::clone(&self.mux);
        let mut why = Why::Ended;
        loop {
            if let Err(error) = expire(&mux, now_ms, |cause| self.pool.cell.http2.stream(cause)) {
                self.pool.cell.http2.connection(error);
                why = Why::Malformed;
            }
            if self.link.state.get() == State::Opening && now_ms >= open_until_ms {
                return Poll::Ready(Why::TimedOut);
            }
            self.consider_the_end(now_ms);
            let flushed = mux.poll_flush(&mut self.stream, context);
            mux.wake_writers();
            if !flushed.is_pending() {
                mux.wake_openers();
            }
            let machine = mux.machine.borrow();
            if flushed == Poll::Ready(Err(()))
                || machine.is_over()
                || (machine.is_drained() && mux.open_streams() == 0)
                || self.is_dead(now_ms)
            {
                return Poll::Ready(why);
            }
            drop(machine);
            // Read whatever the server takes: two ends that wait for each other to read wait forever.
            // What comes is bounded by the windows, what we have to say to it by the machine.
            let mut lease = Lease::medium();
            match self.stream.poll_read(context, lease.spare()) {
                Poll::Pending => break,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Why::Ended),
                Poll::Ready(Ok(count)) => lease.advance(count),
            }
            self.heard_ms = now_ms;
            if let Ping::Asked { .. } = self.ping {
                self.ping = Ping::Answered { again_ms: now_ms + LINK_PING_AGAIN.as_millis() as u64 };
            }
            if self.take(now_ms, lease.filled()).is_err() {
                why = Why::Malformed;
            }
        }
        self.ask_whether_it_is_there(now_ms);
        // What was said in this round goes out in it.
        if mux.poll_flush(&mut self.stream, context) == Poll::Ready(Err(())) {
            return Poll::Ready(Why::Ended);
        }
        self.set_deadline(now_ms, open_until_ms);
        Poll::Pending
    }

    /// Gives the machine what was read, and does what comes out.
    fn take(&mut self, now_ms: u64, mut input: &[u8]) -> Result<(), ()> {
        let mux = Rc::clone(&self.mux);
        loop {
            let mut machine = mux.machine.borrow_mut();
            let step = machine.receive(now_ms, input).map_err(|error| self.pool.cell.http2.connection(error))?;
            input = input.get(step.consumed..).unwrap_or_default();
            let Some(event) = step.event else { return Ok(()) };
            match event {
                Happened::Head { stream, end } => {
                    let mut head = ResponseLease::take();
                    let mut bytes = mux.head_bytes.take();
                    let taken = machine.take_response(&mut head, &mut bytes);
                    drop(machine);
                    if taken.is_ok() {
                        mux.deliver_head(stream, &head, &bytes, end);
                    } else {
                        mux.break_off(stream, Broken::Malformed);
                    }
                    bytes.shrink_to(HEAD_KEPT_BYTES);
                    mux.head_bytes.replace(bytes);
                    self.ping = Ping::Due;
                }
                Happened::Data { stream, bytes, end } => {
                    drop(machine);
                    mux.deliver(stream, bytes, end);
                    self.ping = Ping::Due;
                }
                Happened::Trailers { stream } => {
                    let mut lines = Vec::new();
                    machine.take_trailers(&mut lines);
                    drop(machine);
                    mux.deliver_trailers(stream, &lines);
                    self.ping = Ping::Due;
                }
                Happened::Reset { stream, code, cause } => {
                    drop(machine);
                    self.pool.cell.http2.stream(cause);
                    mux.break_off(stream, Broken::of(cause, code));
                }
                Happened::Settings => {
                    drop(machine);
                    if self.link.state.get() == State::Opening {
                        self.idle_since_ms = now_ms;
                        self.link.turn(State::Open);
                    }
                }
                Happened::GoAway { .. } => {
                    drop(machine);
                    if self.link.state.get() == State::Open {
                        self.link.turn(State::Leaving);
                    }
                }
                Happened::Pong { .. } => {}
            }
        }
    }

    /// Nobody needs it any more, or it may take nothing new.
    fn consider_the_end(&mut self, now_ms: u64) {
        if self.link.state.get() == State::Opening {
            return;
        }
        // Whoever waited for it to open is about to take a stream.
        let is_idle = self.mux.open_streams() == 0 && self.link.waiters.get() == 0;
        if !is_idle {
            self.idle_since_ms = now_ms;
            if !self.is_busy {
                self.heard_ms = now_ms;
            }
        }
        self.is_busy = !is_idle;
        let idle_too_long = is_idle && now_ms >= self.idle_since_ms + self.idle_ms();
        if idle_too_long || (is_idle && self.worker.is_draining()) || self.link.state.get() == State::Leaving {
            self.link.turn(State::Leaving);
            self.mux.machine.borrow_mut().shutdown(now_ms);
        }
    }

    fn idle_ms(&self) -> u64 {
        if self.pool.config.keepalive == 0 { 0 } else { self.pool.config.timeouts.keepalive.as_millis() as u64 }
    }

    fn is_dead(&self, now_ms: u64) -> bool {
        matches!(self.ping, Ping::Asked { until_ms } if now_ms >= until_ms)
    }

    fn ask_whether_it_is_there(&mut self, now_ms: u64) {
        if self.next_ping_ms().is_some_and(|at_ms| now_ms >= at_ms) {
            self.mux.machine.borrow_mut().ping(*b"there ? ");
            self.ping = Ping::Asked { until_ms: now_ms + LINK_PING_PATIENCE.as_millis() as u64 };
        }
    }

    fn next_ping_ms(&self) -> Option<u64> {
        match self.ping {
            _ if self.mux.open_streams() == 0 => None,
            Ping::Due => Some(self.heard_ms + LINK_PING_AFTER.as_millis() as u64),
            Ping::Answered { again_ms } => Some(again_ms),
            Ping::Asked { .. } => None,
        }
    }

    fn set_deadline(&self, now_ms: u64, open_until_ms: u64) {
        let idle_ms = match self.link.state.get() {
            State::Opening => Some(open_until_ms),
            _ if self.mux.open_streams() > 0 => None,
            _ => Some(self.idle_since_ms + self.idle_ms()),
        };
        let dead_ms = match self.ping {
            Ping::Asked { until_ms } => Some(until_ms),
            _ => None,
        };
        let machine_ms = self.mux.machine.borrow().deadline();
        let late_ms = self.mux.end_late(now_ms);
        let next_ms = [idle_ms, dead_ms, machine_ms, late_ms, self.next_ping_ms()].into_iter().flatten().min();
        self.deadline.set_at(next_ms.unwrap_or(u64::MAX));
    }
}
