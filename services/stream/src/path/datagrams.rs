//! The hot path of datagrams: those of clients to servers here, answers in `flow.rs`.
//!
//! A worker's socket gives what has come in batches. Datagrams of one flow that follow each other
//! leave with one call; a train of equal ones (see `sumun_host::datagrams`) passes in one piece.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};

use sumun_engine::Worker;
use sumun_host::datagrams::{Batch, Local, Outgoing};
use sumun_pools::Priority;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::flow::{self, Flow};
use crate::control::Listening;
use crate::events::Reason;
use crate::front::{Front, Way};

/// What all sockets of a worker share: memory for datagrams, which are gone again when a call returns.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) batch: Batch,
    pub(crate) outgoing: Outgoing,
}

/// One socket of a listener, and the flows that came to it.
pub(crate) struct Receiver {
    pub(crate) socket: UdpSocket,
    pub(crate) desk: Rc<RefCell<Desk>>,
    pub(crate) worker: Rc<Worker>,
    flows: RefCell<HashMap<Key, Rc<Flow>>>,
}

/// What tells flows apart, which have the listener's UDP port in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) client: SocketAddr,
    /// Which address of ours it came to, where the socket is bound to all of them.
    to: Option<(IpAddr, u32)>,
}

impl Key {
    fn new(client: SocketAddr, to: Option<Local>) -> Self {
        Self { client, to: to.map(|to| (to.address, to.interface)) }
    }

    /// Where answers come from.
    pub(crate) fn from(&self) -> Option<Local> {
        self.to.map(|(address, interface)| Local { address, interface })
    }
}

/// Receives until the worker drains.
pub(crate) async fn receive(listening: Listening, socket: UdpSocket, desk: Rc<RefCell<Desk>>, worker: Rc<Worker>) {
    // Never set: it is there to be woken by when a drain begins.
    let wake = worker.deadlines.enter().await;
    let receiver = Rc::new(Receiver { socket, desk, worker, flows: RefCell::default() });
    let _closing = Closing(Rc::clone(&receiver));
    poll_fn(|context| {
        loop {
            if receiver.worker.is_draining() {
                return Poll::Ready(());
            }
            let front = Rc::clone(&listening.front.borrow());
            // An error of the socket is one of some datagram.
            ready!(receiver.socket.poll_recv_ready(context)).ok();
            if !take_batch(&receiver.socket, || receiver.forward(&front)) {
                // There is more of it; others have their turn first.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    })
    .await;
    drop(wake);
}

/// Nobody receives at this socket any more: its flows end too, and let go of it. In a drain they give
/// back first what answers are on their way.
struct Closing(Rc<Receiver>);

impl Drop for Closing {
    fn drop(&mut self) {
        let is_draining = self.0.worker.is_draining();
        for flow in self.0.flows.borrow().values() {
            if is_draining { flow.linger() } else { flow.end_with(Reason::Drained) }
        }
    }
}

/// Calls `take` on a socket that is ready. It says whether that was all, as is said here in turn; then
/// the next wait is for what is not here yet, and no system call is spent on hearing that there is
/// nothing.
pub(crate) fn take_batch(socket: &UdpSocket, mut take: impl FnMut() -> io::Result<bool>) -> bool {
    let taken = socket.try_io(Interest::READABLE, || match take() {
        Ok(true) => Err(io::ErrorKind::WouldBlock.into()),
        other => other.map(drop),
    });
    // Another error of the socket is one of some datagram, and `take` has seen it.
    matches!(taken, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl Receiver {
    /// One batch to the servers. True: there was no more.
    fn forward(self: &Rc<Self>, front: &Rc<Front>) -> io::Result<bool> {
        let mut desk = self.desk.borrow_mut();
        let Desk { batch, outgoing } = &mut *desk;
        let count = match batch.recv(&self.socket) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            // About an answer sent before: nothing that concerns what comes.
            Err(_) => return Ok(false),
        };
        let mut last: Option<(Key, Rc<Flow>)> = None;
        for message in batch.messages() {
            if message.truncated {
                front.cell.dropped.add(message.datagrams() as u64);
                continue;
            }
            let key = Key::new(message.from, message.to);
            if last.as_ref().is_none_or(|(other, _)| *other != key) {
                if let Some((_, flow)) = last.take() {
                    flow.flush(outgoing, batch.pool());
                }
                last = self.flow(front, key, message.bytes).map(|flow| (key, flow));
            }
            match &last {
                Some((_, flow)) if flow.may_pass(0, message.bytes.len(), &self.worker) => {
                    flow.note_asked(message.datagrams() as u64, message.bytes.len() as u64);
                    outgoing.push(message.range, None, None, message.segment);
                    if flow.is_one_way() {
                        flow.flush(outgoing, batch.pool());
                        flow.end_with(Reason::Answered);
                        last = None;
                    }
                }
                _ => front.cell.dropped.add(message.datagrams() as u64),
            }
        }
        if let Some((_, flow)) = last {
            flow.flush(outgoing, batch.pool());
        }
        Ok(count < batch.capacity())
    }

    /// The flow that a datagram belongs to; a new one where there is none that it can go on with, and
    /// one may be.
    fn flow(self: &Rc<Self>, front: &Rc<Front>, key: Key, datagram: &[u8]) -> Option<Rc<Flow>> {
        let before = self.flows.borrow().get(&key).map(Rc::clone);
        if let Some(flow) = before.as_ref().filter(|flow| flow.stays(front)) {
            return Some(Rc::clone(flow));
        }
        if let Some(flow) = &before {
            flow.end_with(Reason::ServerReset);
            self.flows.borrow_mut().remove(&key);
        }
        let refused = before.filter(|flow| flow.end() == Some(Reason::ServerReset));
        let ip = Some(key.client.ip());
        if !front.may_connect(ip) {
            return None;
        }
        if self.worker.own_limits.refuses(Priority::Normal) {
            front.admittance.refused_own_limits.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if front.admittance.is_full() {
            front.newcomers.displace_oldest();
        }
        let admitted = front.admittance.admit(ip).ok()?;
        let Way::Datagrams(backend, udp) = &front.way else { return None };
        let avoided = refused.as_ref().map(|flow| &**flow.server());
        let flow = Flow::begin(self, front, (key, datagram), (backend, udp), admitted, avoided)?;
        front.cell.accepted.increment();
        tokio::task::spawn_local(flow::answer(Rc::clone(self), Rc::clone(&flow)));
        self.flows.borrow_mut().insert(key, Rc::clone(&flow));
        Some(flow)
    }

    /// The flow is over; another one may be in its place already.
    pub(crate) fn forget(&self, flow: &Rc<Flow>) {
        let mut flows = self.flows.borrow_mut();
        if flows.get(flow.key()).is_some_and(|there| Rc::ptr_eq(there, flow)) {
            flows.remove(flow.key());
        }
        // What a crowd took is given back once it has gone.
        if flows.capacity() > 64 && flows.capacity() / 8 > flows.len() {
            let kept = flows.len() * 2;
            flows.shrink_to(kept);
        }
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Receiver({:?}, {} flows)", self.socket.as_fd(), self.flows.borrow().len())
    }
}
