//! A flow: the datagrams of one client address and UDP port to one server, and the answers to them.
//!
//! It has a socket of its own towards its server, so that answers are known by the socket that they
//! come to. Where the server is taken out or refuses datagrams the flow is over, and the next datagram
//! of the client begins another one, at another server.

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use sumun_config::checked::Udp;
use sumun_engine::accept::{Admitted, client_key};
use sumun_engine::access_log::Entry;
use sumun_engine::{Deadline, Worker};
use sumun_host::datagrams::Outgoing;
use sumun_pools::{Lease as ServerLease, Named, Outcome, PickKey, Server, Target, Tried};
use tokio::io::{Interest, Ready};
use tokio::net::UdpSocket;

use super::datagrams::{Desk, Key, Receiver, take_batch};
use super::source_key;
use crate::backend::Backend;
use crate::events::Reason;
use crate::front::{Front, Way};
use crate::limits::{LAST_ANSWERS, UNANSWERED};
use crate::quic::Connection;
use sumun_engine::pace::Pace;

pub(crate) struct Flow {
    key: Key,
    front: Rc<Front>,
    backend: Rc<Backend>,
    responses: Option<u32>,
    lease: ServerLease,
    socket: UdpSocket,
    /// The time without a datagram; also wakes the task that waits for answers.
    deadline: Deadline,
    /// Somebody is there: there was an answer.
    is_known: Cell<bool>,
    /// There was a second datagram: it has more time, though its sender may be made up all the same.
    has_more: Cell<bool>,
    /// The client's datagrams come to somebody else from now on.
    is_last: Cell<bool>,
    /// Answers that are still to come.
    owed: Cell<u64>,
    end: Cell<Option<Reason>>,
    /// The pool as it was when the server was last looked for in it.
    generation: Cell<u64>,
    /// What is in it, where that is QUIC.
    connection: Option<Connection>,
    pace: Option<Rc<Pace>>,
    start_us: u64,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    /// Which of its listener's [`newcomers`](super::newcomers) it is, or was.
    number: u64,
    admitted: Cell<Option<Admitted>>,
}

/// A server, a socket to it, and how it was found where the datagram named it.
type Found = (ServerLease, UdpSocket, Option<Named>);

impl Flow {
    /// Begins with a first datagram, which has not been sent. `None`: there is no server, but for
    /// `avoided` perhaps, which has just refused another datagram of this client.
    pub(crate) fn begin(
        receiver: &Receiver,
        front: &Rc<Front>,
        (key, first): (Key, &[u8]),
        (backend, udp): (&Rc<Backend>, &Udp),
        admitted: Admitted,
        avoided: Option<&Server>,
    ) -> Option<Rc<Self>> {
        let deadline = receiver.worker.deadlines.reserve();
        let connection = front.quic.as_ref().map(|router| Connection::new(router, first, deadline.now_ms()));
        let generation = backend.pool.generation();
        let (lease, socket, named) = find(backend, connection.as_ref(), key, deadline.now_ms(), avoided)?;
        if connection.is_some() {
            front.cell.quic_found(named);
        }
        let own = front.pace.as_ref().and_then(|pace| pace.own());
        let flow = Self {
            key,
            front: Rc::clone(front),
            backend: Rc::clone(backend),
            responses: udp.responses,
            lease,
            socket,
            deadline,
            is_known: Cell::new(false),
            has_more: Cell::new(false),
            is_last: Cell::new(false),
            owed: Cell::new(0),
            end: Cell::new(None),
            generation: Cell::new(generation),
            connection,
            pace: Pace::new(front.pace.as_ref(), backend.pace.as_ref(), own.as_ref(), client_key(key.client.ip())),
            start_us: receiver.worker.clock.now_us(),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            number: front.newcomers.number(),
            admitted: Cell::new(Some(admitted)),
        };
        flow.touch();
        let flow = Rc::new(flow);
        front.newcomers.enter(flow.number, &flow);
        Some(flow)
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        self.lease.server()
    }

    /// Why it is over, if it is.
    pub(crate) fn end(&self) -> Option<Reason> {
        self.end.get()
    }

    /// It is over, for the first of the reasons that are given.
    pub(crate) fn end_with(&self, reason: Reason) {
        if self.end.get().is_none() {
            self.end.set(Some(reason));
            self.deadline.wake_task();
        }
    }

    /// Another one has its place from now on.
    pub(crate) fn make_way(&self) {
        drop(self.admitted.take());
        self.end_with(Reason::Displaced);
    }

    fn know(&self) {
        if !self.is_known.replace(true) {
            self.front.newcomers.leave(self.number);
        }
    }

    /// The client's next datagram can go this way too: the listener still has this pool, and the pool
    /// this server.
    pub(crate) fn stays(&self, front: &Front) -> bool {
        let pool = &self.backend.pool;
        let is_its_pool = matches!(&front.way, Way::Datagrams(backend, _) if Arc::ptr_eq(&backend.pool, pool));
        if self.end.get().is_some() || !is_its_pool || !self.server().keeps_sessions() {
            return false;
        }
        let generation = pool.generation();
        if self.generation.replace(generation) == generation {
            return true;
        }
        pool.servers().members().iter().any(|member| member.server.id() == self.server().id())
    }

    /// Every datagram is a flow of its own, since no answer is waited for.
    pub(crate) fn is_one_way(&self) -> bool {
        self.responses == Some(0)
    }

    /// Gives back what answers still come in the next moments, and ends.
    pub(crate) fn linger(&self) {
        self.deadline.set(LAST_ANSWERS.min(self.front.config.bounds.idle));
        self.is_last.set(true);
    }

    /// A datagram has passed. One that nobody has answered and nothing followed may be one of very many
    /// whose senders are made up: they are not to hold places for long.
    fn touch(&self) {
        let idle = self.front.config.bounds.idle;
        if !self.is_last.get() {
            self.deadline.set(if self.is_known.get() || self.has_more.get() { idle } else { idle.min(UNANSWERED) });
        }
    }

    /// Whether a message of so many bytes is within the bandwidth, of which it then takes its share.
    pub(crate) fn may_pass(&self, direction: usize, bytes: usize, worker: &Worker) -> bool {
        let Some(pace) = &self.pace else { return true };
        let now_ns = worker.clock.now_us().saturating_mul(1000);
        let may = pace.allows(direction, now_ns) > 0;
        if may {
            pace.note(direction, bytes as u64, now_ns);
        }
        may
    }

    /// So much is on its way to the server.
    pub(crate) fn note_asked(&self, datagrams: u64, bytes: u64) {
        self.front.cell.bytes_in.add(bytes);
        if datagrams > 1 || self.bytes_in.get() > 0 {
            self.has_more.set(true);
        }
        self.bytes_in.set(self.bytes_in.get() + bytes.max(1));
        let owed = self.responses.map_or(0, |responses| datagrams.saturating_mul(u64::from(responses)));
        self.owed.set(self.owed.get().saturating_add(owed));
        self.touch();
        if let Some(connection) = &self.connection {
            connection.keep(self.deadline.now_ms());
        }
    }

    /// Sends what was collected for its server.
    pub(crate) fn flush(&self, outgoing: &mut Outgoing, pool: &[u8]) {
        if outgoing.is_empty() {
            return;
        }
        let sent = outgoing.flush(&self.socket, pool);
        self.front.cell.dropped.add(sent.dropped as u64);
        // What has not gone out is not answered.
        let lost = (sent.dropped as u64).saturating_mul(self.responses.unwrap_or_default().into());
        self.owed.set(self.owed.get().saturating_sub(lost));
        if sent.refused {
            self.refused();
        }
    }

    /// Nobody listens at the server's address: its host said so.
    fn refused(&self) {
        if self.end.get().is_none() {
            self.lease.report(Outcome::ConnectFailed, self.deadline.now_ms());
            self.end_with(Reason::ServerReset);
        }
    }

    /// Hears what the server's host has said, and that it has been heard.
    fn take_error(&self) {
        if matches!(self.socket.take_error(), Ok(Some(_))) {
            self.refused();
        }
        self.socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into())).ok();
    }

    /// One batch of answers to the client. True: there was no more.
    fn give_back(&self, receiver: &Receiver) -> io::Result<bool> {
        let mut desk = receiver.desk.borrow_mut();
        let Desk { batch, outgoing } = &mut *desk;
        let count = match batch.recv(&self.socket) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            // It was about a datagram sent before, and is said once.
            Err(error) => {
                let is_refusal = matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::HostUnreachable
                        | io::ErrorKind::NetworkUnreachable
                );
                if is_refusal {
                    self.refused();
                }
                return Ok(false);
            }
        };
        let (mut datagrams, mut bytes) = (0, 0);
        for message in batch.messages() {
            if message.truncated || !self.may_pass(1, message.bytes.len(), &receiver.worker) {
                self.front.cell.dropped.add(message.datagrams() as u64);
                continue;
            }
            if let Some(connection) = &self.connection {
                connection.note_answer(message.bytes, self.server().id(), self.deadline.now_ms());
            }
            datagrams += message.datagrams() as u64;
            bytes += message.bytes.len() as u64;
            outgoing.push(message.range, Some(self.key.client), self.key.from(), message.segment);
        }
        let sent = outgoing.flush(&receiver.socket, batch.pool());
        self.front.cell.dropped.add(sent.dropped as u64);
        self.note_answered(datagrams, bytes);
        Ok(count < batch.capacity())
    }

    fn note_answered(&self, datagrams: u64, bytes: u64) {
        if datagrams == 0 {
            return;
        }
        if self.bytes_out.get() == 0 {
            self.lease.report(Outcome::Success, self.deadline.now_ms());
        }
        self.front.cell.bytes_out.add(bytes);
        self.bytes_out.set(self.bytes_out.get() + bytes);
        self.know();
        self.touch();
        if let Some(connection) = &self.connection {
            connection.keep(self.deadline.now_ms());
        }
        let left = self.owed.get().saturating_sub(datagrams);
        if self.owed.replace(left) > 0 && left == 0 {
            self.end_with(Reason::Answered);
        }
    }

    fn finish(&self, receiver: &Receiver, reason: Reason) {
        self.front.cell.ended(reason);
        if self.front.log.wants_line(&receiver.worker.own_limits) {
            self.write_line(receiver, reason);
        }
    }

    #[cold]
    fn write_line(&self, receiver: &Receiver, reason: Reason) {
        let clock = &receiver.worker.clock;
        let total_us = clock.now_us().saturating_sub(self.start_us);
        self.front.log.write(&Entry {
            unix_ms: clock.unix_ms().saturating_sub(total_us / 1000),
            total_us,
            bytes_received: self.bytes_in.get(),
            bytes_sent: self.bytes_out.get(),
            tries: 1,
            reason: reason.as_str(),
            client: Some(self.key.client),
            listener: self.front.config.name.as_bytes(),
            pool: self.backend.config.name.as_bytes(),
            server: self.server().name().as_bytes(),
            ..Entry::default()
        });
    }
}

/// The server of a flow that begins, by what its first datagram names or by balance.
fn find(
    backend: &Backend,
    connection: Option<&Connection>,
    key: Key,
    now_ms: u64,
    avoided: Option<&Server>,
) -> Option<Found> {
    if let Some(home) = connection.and_then(Connection::take_home)
        && let Some(lease) = backend.picker.borrow_mut().pick_named(home, now_ms)
        && let Ok(socket) = open(backend, &lease, key)
    {
        return Some((lease, socket, Some(home)));
    }
    if let Some(connection) = connection {
        connection.begin_anew();
    }
    let mut tried = Tried::default();
    if let Some(server) = avoided {
        tried.insert(server);
    }
    let source = PickKey { hash: Some(source_key(key.client)), ..PickKey::default() };
    loop {
        let lease = backend.picker.borrow_mut().pick(now_ms, source, &tried).ok()?;
        match open(backend, &lease, key) {
            Ok(socket) => return Some((lease, socket, None)),
            Err(_) => tried.insert(lease.server()),
        }
    }
}

/// A socket to a server.
fn open(backend: &Backend, lease: &ServerLease, key: Key) -> io::Result<UdpSocket> {
    let Target::Tcp(server) = *lease.target() else { return Err(io::ErrorKind::Unsupported.into()) };
    let source = backend.dialer.source_for(server.ip(), Some(key.client));
    UdpSocket::from_std(sumun_host::connect::connected_udp_socket(server, source)?.into())
}

/// Gives answers back until none can come any more.
pub(crate) async fn answer(receiver: Rc<Receiver>, flow: Rc<Flow>) {
    flow.deadline.wake_this_task().await;
    let reason = loop {
        let ready = match wait(&receiver, &flow).await {
            Ok(ready) => ready,
            Err(reason) => break reason,
        };
        if ready.is_error() {
            flow.take_error();
        }
        if ready.is_readable() && !take_batch(&flow.socket, || flow.give_back(&receiver)) {
            // There is more of it; others have their turn first.
            tokio::task::yield_now().await;
        }
    };
    receiver.forget(&flow);
    flow.finish(&receiver, reason);
}

/// Waits for an answer, or for the word of the server's host that nobody listens there. An error: the
/// flow is over.
async fn wait(receiver: &Receiver, flow: &Flow) -> Result<Ready, Reason> {
    let mut ready = pin!(flow.socket.ready(Interest::READABLE | Interest::ERROR));
    poll_fn(|context| {
        if let Some(reason) = flow.end.get() {
            return Poll::Ready(Err(reason));
        }
        if receiver.worker.is_over() {
            return Poll::Ready(Err(Reason::Drained));
        }
        if let Poll::Ready(Ok(ready)) = ready.as_mut().poll(context) {
            return Poll::Ready(Ok(ready));
        }
        match flow.deadline.passed() {
            true if flow.is_last.get() => Poll::Ready(Err(Reason::Drained)),
            true => Poll::Ready(Err(Reason::Idle)),
            false => Poll::Pending,
        }
    })
    .await
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.front.newcomers.leave(self.number);
    }
}

impl Flow {
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}
