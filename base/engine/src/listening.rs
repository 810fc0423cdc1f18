//! Sockets that connections come to, as a worker has them.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sumun_config::checked::{BindAddress, Name};
use tokio::net::{TcpListener, UnixListener};

use crate::Worker;
use crate::limits::{ACCEPT_BATCH, ACCEPT_LOG_PAUSE, ACCEPT_PAUSE};
use crate::tls::Transport;

/// A socket of a listener, opened by the supervisor.
#[derive(Debug)]
pub struct Socket {
    pub listener: Name,
    pub address: BindAddress,
    pub descriptor: OwnedFd,
}

/// Where connections are accepted.
#[derive(Debug)]
pub enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// # Errors
    /// The descriptor is no listening socket of this kind.
    pub fn new(address: &BindAddress, descriptor: OwnedFd) -> io::Result<Self> {
        match address {
            BindAddress::Tcp(_) => TcpListener::from_std(descriptor.into()).map(Self::Tcp),
            BindAddress::Unix(_) => UnixListener::from_std(descriptor.into()).map(Self::Unix),
            BindAddress::Udp(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Transport, Option<SocketAddr>)>> {
        Poll::Ready(match self {
            Self::Tcp(listener) => {
                ready!(listener.poll_accept(context)).map(|(stream, client)| (Transport::Tcp(stream), Some(client)))
            }
            Self::Unix(listener) => {
                ready!(listener.poll_accept(context)).map(|(stream, _)| (Transport::Unix(stream), None))
            }
        })
    }

    /// How full the kernel's queue of this socket is, in thousandths; of Unix sockets it does not tell.
    pub(crate) fn fill_permille(&self) -> u32 {
        let Self::Tcp(listener) = self else { return 0 };
        let queue = sumun_host::sockets::accept_queue(listener);
        queue.map_or(0, |(waiting, most)| (u64::from(waiting) * 1000 / u64::from(most.max(1))) as u32)
    }

    /// Accepts until the worker drains, and then what the kernel has accepted already. `failed` is told
    /// when the kernel has no connection for us for another reason than that none has come; not each time,
    /// since it has none for a while then.
    pub async fn run(
        self,
        worker: &Worker,
        mut begin: impl FnMut(Transport, Option<SocketAddr>),
        failed: impl Fn(&io::Error),
    ) {
        let this = Rc::new(self);
        worker.acceptors.borrow_mut().push(Rc::downgrade(&this));
        let mut quiet_until_ms = 0;
        // Never set: it is there to be woken by when a drain begins.
        let wake = worker.deadlines.enter().await;
        let mut taken = 0;
        loop {
            let accepted = poll_fn(|context| match this.poll_accept(context) {
                Poll::Pending if worker.is_draining() => Poll::Ready(None),
                other => other.map(Some),
            })
            .await;
            match accepted {
                None => break drop(wake),
                Some(Ok((transport, client))) => {
                    begin(transport, client);
                    taken += 1;
                    if taken % ACCEPT_BATCH == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Some(Err(error)) => {
                    let now_ms = worker.clock.coarse_ms();
                    if now_ms >= quiet_until_ms {
                        quiet_until_ms = now_ms + ACCEPT_LOG_PAUSE.as_millis() as u64;
                        failed(&error);
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}
