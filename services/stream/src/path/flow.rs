//! A flow: the datagrams of one client address and UDP port, and the answers to them.
//!
//! It has a socket of its own towards its server, so that answers are known by the socket that they
//! come to. A server that is taken out or refuses datagrams loses its flows: the next datagram of the
//! client chooses another.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use sumun_config::checked::Udp;
use sumun_engine::accept::{Admitted, client_key};
use sumun_engine::access_log::Entry;
use sumun_engine::{Deadline, Worker};
use sumun_host::datagrams::{Outgoing, Sent};
use sumun_pools::{Lease as ServerLease, Named, Outcome, PickKey, Target, Tried};
use tokio::io::{Interest, Ready};
use tokio::net::UdpSocket;

use super::datagrams::{Desk, Key, Receiver, open, owed, take_batch};
use super::source_key;
use crate::backend::Backend;
use crate::events::Reason;
use crate::front::Front;
use crate::pace::Pace;
use crate::quic::Connection;

pub(crate) struct Flow {
    key: Key,
    front: Rc<Front>,
    backend: Rc<Backend>,
    responses: Udp,
    /// Where it goes; `None` once it is to choose anew.
    lease: RefCell<Option<ServerLease>>,
    /// Made with the first datagram, and connected to another server where the flow changes it.
    socket: OnceCell<UdpSocket>,
    /// The time without a datagram; also wakes the task that waits for answers.
    deadline: Deadline,
    /// Answers that are still to come.
    owed: Cell<u64>,
    /// Every datagram has had its answers.
    is_over: Cell<bool>,
    /// What is in it, where that is QUIC.
    connection: Option<Connection>,
    pace: Option<Rc<Pace>>,
    start_us: u64,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    servers: Cell<u32>,
    #[expect(dead_code, reason = "it does what it is for when it is dropped")]
    admitted: Admitted,
}

impl Flow {
    pub(crate) fn new(
        receiver: &Receiver,
        front: &Rc<Front>,
        (key, first): (Key, &[u8]),
        (backend, udp): (&Rc<Backend>, &Udp),
        admitted: Admitted,
    ) -> Rc<Self> {
        let deadline = receiver.worker.deadlines.reserve();
        deadline.set(front.config.bounds.idle);
        let connection = front.quic.as_ref().map(|router| Connection::new(router, first, deadline.now_ms()));
        Rc::new(Self {
            key,
            front: Rc::clone(front),
            backend: Rc::clone(backend),
            responses: udp.clone(),
            lease: RefCell::new(None),
            socket: OnceCell::new(),
            deadline,
            owed: Cell::new(0),
            is_over: Cell::new(false),
            connection,
            pace: Pace::new(front.pace.as_ref(), backend.pace.as_ref(), client_key(key.client.ip())),
            start_us: receiver.worker.clock.now_us(),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            servers: Cell::new(0),
            admitted,
        })
    }

    /// Whether there is a server for the next datagram: the one before if it is still there.
    pub(crate) fn find_server(&self) -> bool {
        let mut lease = self.lease.borrow_mut();
        if lease.as_ref().is_some_and(|lease| lease.server().keeps_sessions()) {
            return true;
        }
        *lease = self.find_home();
        if lease.is_some() {
            return true;
        }
        let mut tried = Tried::default();
        let key = PickKey { hash: Some(source_key(self.key.client)), ..PickKey::default() };
        while let Ok(found) = self.backend.picker.borrow_mut().pick(self.deadline.now_ms(), key, &tried) {
            if self.connect(&found).is_ok() {
                self.note_found(None);
                *lease = Some(found);
                return true;
            }
            tried.insert(found.server());
        }
        false
    }

    /// The server that knows its connection already, if it can be had.
    fn find_home(&self) -> Option<ServerLease> {
        let connection = self.connection.as_ref()?;
        if let Some(home) = connection.take_home() {
            let found = self.backend.picker.borrow_mut().pick_named(home, self.deadline.now_ms());
            let found = found.filter(|lease| self.connect(lease).is_ok());
            if found.is_some() {
                self.note_found(Some(home));
                return found;
            }
        }
        connection.begin_anew();
        None
    }

    fn note_found(&self, named: Option<Named>) {
        self.servers.set(self.servers.get() + 1);
        if self.connection.is_some() {
            self.front.cell.quic_found(named);
        }
    }

    fn connect(&self, lease: &ServerLease) -> io::Result<()> {
        let Target::Tcp(server) = *lease.target() else { return Err(io::ErrorKind::Unsupported.into()) };
        match self.socket.get() {
            Some(socket) => sumun_host::connect::reconnect_udp(socket, server),
            None => {
                // Set by nobody else: this is the one place, and it is not waited in.
                self.socket.set(open(&self.backend, server)?).ok();
                self.deadline.wake_task();
                Ok(())
            }
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
        self.bytes_in.set(self.bytes_in.get() + bytes);
        self.owed.set(self.owed.get().saturating_add(owed(&self.responses, datagrams)));
        self.deadline.set(self.front.config.bounds.idle);
        if let Some(connection) = &self.connection {
            connection.keep(self.deadline.now_ms());
        }
    }

    /// Sends what was collected for its server.
    pub(crate) fn flush(&self, outgoing: &mut Outgoing, pool: &[u8]) {
        let Some(socket) = self.socket.get().filter(|_| !outgoing.is_empty()) else { return };
        let sent = outgoing.flush(socket, pool);
        self.note_sent(&sent);
        if self.responses.responses == Some(0) {
            *self.lease.borrow_mut() = None;
        }
    }

    fn note_sent(&self, sent: &Sent) {
        self.front.cell.dropped.add(sent.dropped as u64);
        if sent.refused {
            self.refused();
        }
    }

    /// Nobody listens at the server's address: its host said so.
    fn refused(&self) {
        if let Some(lease) = self.lease.borrow_mut().take() {
            lease.report(Outcome::ConnectFailed, self.deadline.now_ms());
        }
    }

    /// Hears what the server's host has said, and that it has been heard.
    fn take_error(&self, socket: &UdpSocket) {
        if matches!(socket.take_error(), Ok(Some(_))) {
            self.refused();
        }
        socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into())).ok();
    }

    /// One batch of answers to the client. True: there was no more.
    fn give_back(&self, receiver: &Receiver, socket: &UdpSocket) -> io::Result<bool> {
        let mut desk = receiver.desk.borrow_mut();
        let Desk { batch, outgoing } = &mut *desk;
        let count = match batch.recv(socket) {
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
                return Ok(!is_refusal);
            }
        };
        let (mut datagrams, mut bytes) = (0, 0);
        for message in batch.messages() {
            if message.truncated || !self.may_pass(1, message.bytes.len(), &receiver.worker) {
                self.front.cell.dropped.add(message.datagrams() as u64);
                continue;
            }
            if let Some(connection) = &self.connection {
                self.learn(connection, message.bytes, message.from);
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

    /// An answer may still be one of the server before.
    fn learn(&self, connection: &Connection, datagram: &[u8], from: SocketAddr) {
        if let Some(lease) = &*self.lease.borrow()
            && *lease.target() == Target::Tcp(from)
        {
            connection.note_answer(datagram, lease.server().id(), self.deadline.now_ms());
        }
    }

    fn note_answered(&self, datagrams: u64, bytes: u64) {
        if self.bytes_out.get() == 0
            && let Some(lease) = &*self.lease.borrow()
        {
            lease.report(Outcome::Success, self.deadline.now_ms());
        }
        self.front.cell.bytes_out.add(bytes);
        self.bytes_out.set(self.bytes_out.get() + bytes);
        self.deadline.set(self.front.config.bounds.idle);
        if let Some(connection) = &self.connection {
            connection.keep(self.deadline.now_ms());
        }
        let left = self.owed.get().saturating_sub(datagrams);
        // The next datagram is one of a flow of its own.
        self.is_over.set(self.owed.replace(left) > 0 && left == 0);
    }

    fn finish(&self, receiver: &Receiver, reason: Reason) {
        self.front.cell.ended(reason);
        if self.front.log.is_on() {
            self.write_line(receiver, reason);
        }
    }

    #[cold]
    fn write_line(&self, receiver: &Receiver, reason: Reason) {
        let clock = &receiver.worker.clock;
        let total_us = clock.now_us().saturating_sub(self.start_us);
        let lease = self.lease.borrow();
        self.front.log.write(&Entry {
            unix_ms: clock.unix_ms().saturating_sub(total_us / 1000),
            total_us,
            bytes_received: self.bytes_in.get(),
            bytes_sent: self.bytes_out.get(),
            tries: self.servers.get(),
            reason: reason.as_str(),
            client: Some(self.key.client),
            listener: self.front.config.name.as_bytes(),
            pool: self.backend.config.name.as_bytes(),
            server: lease.as_ref().map_or(&b""[..], |lease| lease.server().name().as_bytes()),
            ..Entry::default()
        });
    }
}

/// Gives answers back until none can come any more.
pub(crate) async fn answer(receiver: Rc<Receiver>, flow: Rc<Flow>) {
    flow.deadline.wake_this_task().await;
    let reason = loop {
        match wait(&receiver, &flow).await {
            Woken::Over(reason) => break reason,
            Woken::Again => {}
            Woken::Ready(socket, ready) => {
                if ready.is_error() {
                    flow.take_error(socket);
                }
                if ready.is_readable() {
                    take_batch(socket, || flow.give_back(&receiver, socket));
                }
                if flow.is_over.get() {
                    break Reason::Answered;
                }
            }
        }
    };
    receiver.forget(&flow.key);
    flow.finish(&receiver, reason);
}

/// What the task of a flow has to see to.
enum Woken<'a> {
    Ready(&'a UdpSocket, Ready),
    /// There is a socket now.
    Again,
    Over(Reason),
}

async fn wait<'a>(receiver: &Receiver, flow: &'a Flow) -> Woken<'a> {
    let socket = flow.socket.get();
    // An answer, or the word of the server's host that nobody listens there.
    let mut ready = pin!(async {
        match socket {
            Some(socket) => socket.ready(Interest::READABLE | Interest::ERROR).await,
            None => std::future::pending().await,
        }
    });
    poll_fn(|context| {
        if receiver.worker.is_over() {
            return Poll::Ready(Woken::Over(Reason::Drained));
        }
        if let (Poll::Ready(Ok(ready)), Some(socket)) = (ready.as_mut().poll(context), socket) {
            return Poll::Ready(Woken::Ready(socket, ready));
        }
        let has_server = flow.servers.get() > 0;
        match () {
            () if flow.deadline.passed() && has_server => Poll::Ready(Woken::Over(Reason::Idle)),
            () if flow.deadline.passed() => Poll::Ready(Woken::Over(Reason::NoServer)),
            () if socket.is_none() && flow.socket.get().is_some() => Poll::Ready(Woken::Again),
            () => Poll::Pending,
        }
    })
    .await
}
