//! The hot path: one connection from its accept to its end, top to bottom.
//!
//! A connection is one task. What only its beginning needs is boxed and gone by the time that bytes
//! are passed on, so that one that waits is small.

mod announce;
pub(crate) mod datagrams;
pub(crate) mod flow;
pub(crate) mod newcomers;
pub(crate) mod open;
pub(crate) mod relay;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use sumun_config::checked::{Name, Source};
use sumun_engine::accept::{Admitted, client_key};
use sumun_engine::access_log::Entry;
use sumun_engine::preface::Taken;
use sumun_engine::tls::Transport;
use sumun_engine::{Deadline, Lease, Worker};
use sumun_pools::{
    Asker, Caller, Lease as ServerLease, NotAdmitted, Outcome, Permit, PickKey, Priority, Refused, Tried, key_of,
};

use self::relay::Relay;
use crate::backend::Backend;
use crate::control::Listening;
use crate::end::End;
use crate::events::Reason;
use crate::front::{Front, Way};
use sumun_engine::pace::Pace;

/// A client's connection, before it is known where it goes.
pub(crate) struct Client {
    pub(crate) end: End,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) worker: Rc<Worker>,
    pub(crate) front: Rc<Front>,
    /// Where it goes, once that is known.
    pub(crate) to: Option<Rc<Backend>>,
    pub(crate) deadline: Deadline,
    /// Counts this connection until it ends.
    pub(crate) admitted: Admitted,
    pub(crate) record: Record,
}

/// What is known of a connection when it ends. Times are those of the worker's clock, in microseconds.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) start_us: u64,
    pub(crate) queue_us: u64,
    pub(crate) connect_us: u64,
    /// When the first byte of the server had reached the client.
    pub(crate) first_byte_at_us: u64,
    pub(crate) tries: u32,
    pub(crate) server: Option<Name>,
    /// What a proxy in front said.
    pub(crate) preface: Option<Taken>,
    /// What the client's TLS asked for.
    pub(crate) name: Option<Box<str>>,
}

/// A connection that has found a server.
struct Connected {
    server: End,
    lease: ServerLease,
}

/// What a connection holds of its pool while it looks for a server.
struct Search {
    backend: Rc<Backend>,
    tried: Tried,
    /// A place in the pool's `concurrency`.
    permit: Option<Permit>,
}

impl Search {
    fn has_tries_left(&self) -> bool {
        self.tried.len() < self.backend.config.retries.tries as usize
    }
}

impl Client {
    /// Who it is among clients that share a bandwidth; those without an address are one.
    fn pace_key(&self) -> u64 {
        self.address.map_or(0, |address| client_key(address.ip()))
    }
}

/// Decides whether a connection may be there, and starts its task.
pub(crate) fn begin(transport: Transport, peer: Option<SocketAddr>, listening: &Listening, worker: &Rc<Worker>) {
    let front = Rc::clone(&listening.front.borrow());
    front.cell.accepted.increment();
    if front.admittance.is_beyond(&worker.own_limits, Priority::Normal, &transport) {
        return;
    }
    // A proxy is let in for the client it names, once it has named it.
    let awaited = front.awaits_header(peer);
    if !awaited && !front.may_connect(peer.map(|peer| peer.ip())) {
        return;
    }
    let Ok(admitted) = front.admittance.admit(peer.filter(|_| !awaited).map(|peer| peer.ip())) else { return };
    let to = match &front.way {
        Way::To(backend) => Some(Rc::clone(backend)),
        Way::ByName(..) => None,
        Way::Datagrams(..) => return,
    };
    let client = Client {
        end: End::Plain(transport),
        address: peer,
        worker: Rc::clone(worker),
        front,
        to,
        deadline: worker.deadlines.reserve(),
        admitted,
        record: Record { start_us: worker.clock.now_us(), ..Record::default() },
    };
    let door = listening.door.borrow().clone();
    if client.front.config.proxy_protocol || client.to.is_none() || door.is_some() {
        tokio::task::spawn_local(open::open(client, door));
    } else {
        tokio::task::spawn_local(serve(client));
    }
}

/// Passes a connection on until it ends.
pub(crate) async fn serve(mut client: Client) {
    client.deadline.wake_this_task().await;
    let Some(backend) = &client.to else { return };
    let mut search = Box::new(Search { backend: Rc::clone(backend), tried: Tried::default(), permit: None });
    let mut unsent = None;
    let (reason, moved) = loop {
        let connected = match Box::pin(connect(&mut client, &mut search)).await {
            Ok(connected) => connected,
            Err(reason) => break (reason, (0, 0)),
        };
        match pass(&mut client, &mut search, connected, &mut unsent).await {
            Passed::Ended(reason, moved) => break (reason, moved),
            Passed::Again => {}
        }
    };
    finish(&client, reason, moved);
    if !matches!(reason, Reason::ClientEnded | Reason::ServerEnded | Reason::Idle | Reason::Drained) {
        // Nobody is to take what came for complete.
        client.end.reset_on_close();
    }
}

/// How a server's connection came to its end.
enum Passed {
    /// With the bytes that went up and down.
    Ended(Reason, (u64, u64)),
    /// Before its first byte: another server may be asked.
    Again,
}

/// Passes bytes on between the client and one server.
async fn pass(client: &mut Client, search: &mut Search, connected: Connected, unsent: &mut Option<Lease>) -> Passed {
    let Connected { mut server, lease } = connected;
    let listener = client.front.pace.as_ref();
    let own = listener.and_then(|listener| listener.own());
    let pace = Pace::new(listener, search.backend.pace.as_ref(), own.as_ref(), client.pace_key());
    let mut relay = Relay::new(&client.end, &server, pace.as_ref());
    relay.give_unsent(unsent.take());
    let idle = client.front.config.bounds.idle;
    let (worker, record) = (Rc::clone(&client.worker), &mut client.record);
    let first_byte = || {
        record.first_byte_at_us = worker.clock.now_us();
        lease.report(Outcome::Success, worker.clock.coarse_ms());
    };
    let (times, cell) = ((&*worker, &client.deadline), Arc::clone(&client.front.cell));
    let reason =
        relay.run(&mut client.end, &mut server, times, (idle, search.has_tries_left()), &cell, first_byte).await;
    let now_ms = worker.clock.coarse_ms();
    let is_silent = relay.down.moved == 0 && matches!(reason, Reason::ServerEnded | Reason::ServerReset);
    // Behind the client's first byte, what it said may be why: anybody could have a server taken out.
    if is_silent && relay.is_untouched() {
        lease.report(Outcome::CutOff, now_ms);
        if may_try_again(search, &lease) {
            *unsent = relay.take_unsent();
            return Passed::Again;
        }
    }
    if matches!(reason, Reason::ClientReset | Reason::ServerReset) || relay.holds_bytes() {
        server.reset_on_close();
        client.end.reset_on_close();
    }
    Passed::Ended(reason, (relay.up.moved, relay.down.moved))
}

/// Finds a server and connects to it; one that is not there is no reason to give up while there are
/// others.
async fn connect(client: &mut Client, search: &mut Search) -> Result<Connected, Reason> {
    let mut failure = None;
    loop {
        let lease = match pick(client, search).await {
            // Where there is no other, what the last one did says more.
            Err(Reason::NoServer) => return Err(failure.unwrap_or(Reason::NoServer)),
            other => other?,
        };
        client.record.tries += 1;
        client.record.server = Some(Arc::clone(lease.server().name()));
        let began_us = client.worker.clock.now_us();
        let first = announce::header(client, search.backend.config.proxy_protocol);
        let connected = search.backend.connect(lease.server(), (client.address, &first), &client.deadline).await;
        client.record.connect_us += client.worker.clock.now_us().saturating_sub(began_us);
        match connected {
            Ok(server) => return Ok(Connected { server, lease }),
            // Another server would not be reached either.
            Err(Reason::OwnLimits) => return Err(Reason::OwnLimits),
            Err(reason) => {
                // The server has no part in what this host lacks. And where it answers to the client's address,
                // silence may come from the way to that one.
                let is_foreign = search.backend.config.source == Source::Client;
                if reason != Reason::NoSource && !(is_foreign && reason == Reason::ConnectTimeout) {
                    lease.report(Outcome::ConnectFailed, client.worker.clock.coarse_ms());
                }
                if !may_try_again(search, &lease) {
                    return Err(reason);
                }
                failure = Some(reason);
            }
        }
    }
}

/// Nothing was said to the server that failed: another one costs nobody anything but time.
fn may_try_again(search: &mut Search, failed: &ServerLease) -> bool {
    let may = search.has_tries_left();
    search.tried.insert(failed.server());
    if may {
        search.backend.cell.retries.increment();
    }
    may
}

/// Takes a place at a server, after a wait where all are taken.
async fn pick(client: &mut Client, search: &mut Search) -> Result<ServerLease, Reason> {
    let backend = Rc::clone(&search.backend);
    let began_us = client.worker.clock.now_us();
    if search.permit.is_none() {
        let admission = backend.pool.admission();
        search.permit = Some(match admission.try_acquire(Caller::Client).map_err(of_queue)? {
            Some(permit) => permit,
            None => {
                let source = client.address.map(source_key).unwrap_or_default();
                let asker = Asker::new(Caller::Client, Priority::Normal, source);
                let waiting = admission.acquire(asker, backend.config.queue.timeout, None);
                wait(client, waiting).await?.map_err(of_queue)?
            }
        });
    }
    let key = PickKey { hash: client.address.map(source_key), ..PickKey::default() };
    let picked = backend.picker.borrow_mut().pick(client.worker.clock.coarse_ms(), key, &search.tried);
    let lease = match picked {
        Ok(lease) => lease,
        Err(Refused::NoServer) => return Err(Reason::NoServer),
        Err(Refused::AtCapacity) => {
            let timeout = backend.config.queue.timeout;
            wait(client, backend.pool.wait_for_place(&search.tried, Priority::Normal, timeout))
                .await?
                .map_err(of_queue)?
        }
    };
    client.record.queue_us += client.worker.clock.now_us().saturating_sub(began_us);
    Ok(lease)
}

/// Waits in a queue, which a client that breaks off leaves. One that ends its direction may still want
/// what the server says.
async fn wait<T>(client: &Client, waiting: impl Future<Output = T>) -> Result<T, Reason> {
    let mut waiting = pin!(waiting);
    let mut broken = pin!(client.end.transport_socket().broken());
    poll_fn(|context| match waiting.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Ok(result)),
        Poll::Pending => broken.as_mut().poll(context).map(|()| Err(Reason::ClientReset)),
    })
    .await
}

/// The same client address is the same key, whatever its port.
pub(crate) fn source_key(address: SocketAddr) -> u64 {
    match address.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => key_of(&ip.octets()),
        std::net::IpAddr::V6(ip) => key_of(&ip.octets()),
    }
}

fn of_queue(refused: NotAdmitted) -> Reason {
    match refused {
        NotAdmitted::Full | NotAdmitted::SelfCall => Reason::QueueFull,
        NotAdmitted::Shed => Reason::Shed,
        NotAdmitted::TimedOut => Reason::QueueTimeout,
    }
}

/// Counts the connection and writes it to the access log.
fn finish(client: &Client, reason: Reason, (up, down): (u64, u64)) {
    let (front, record) = (&client.front, &client.record);
    front.cell.ended(reason);
    if front.log.wants_line(&client.worker.own_limits) {
        write_line(client, reason, (up, down), record);
    }
}

#[cold]
fn write_line(client: &Client, reason: Reason, (up, down): (u64, u64), record: &Record) {
    let clock = &client.worker.clock;
    let total_us = clock.now_us().saturating_sub(record.start_us);
    client.front.log.write(&Entry {
        unix_ms: clock.unix_ms().saturating_sub(total_us / 1000),
        queue_us: record.queue_us,
        connect_us: record.connect_us,
        first_byte_us: record.first_byte_at_us.saturating_sub(record.start_us),
        total_us,
        bytes_received: up,
        bytes_sent: down,
        tries: record.tries,
        reason: reason.as_str(),
        client: client.address,
        host: record.name.as_deref().unwrap_or_default().as_bytes(),
        listener: client.front.config.name.as_bytes(),
        pool: client.to.as_ref().map_or(&b""[..], |to| to.config.name.as_bytes()),
        server: record.server.as_deref().unwrap_or_default().as_bytes(),
        ..Entry::default()
    });
}
