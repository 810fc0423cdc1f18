//! Datagrams in batches: many with one system call, with the address they were sent to, and trains of
//! equal ones as a single message.
//!
//! A *train* is what the kernel makes of datagrams of one length that come from one place to another,
//! one after the other (UDP_GRO): their bytes side by side, of which only the last datagram may be
//! shorter. It goes out in the same form (UDP_SEGMENT, called GSO), so that what passes through costs one
//! walk through the kernel instead of up to 64.
//!
//! ```text
//! recvmmsg ► Batch: one pool of memory ► Message ► Outgoing::push ► flush: sendmmsg
//! ```
//!
//! Sockets come from [`crate::sockets::reuseport_udp_sockets`] and
//! [`crate::connect::connected_udp_socket`].

mod control;
mod outgoing;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use control::{Control, Name, Received};
pub use outgoing::{Outgoing, Sent};

use crate::limits::{MESSAGE_BYTES, MESSAGES_PER_BATCH};

/// An address of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    pub address: IpAddr,
    /// Index of the network interface that the datagram came in at; where one is sent it counts for
    /// link-local addresses only, which several interfaces may have.
    pub interface: u32,
}

/// A message that came: a datagram, or a train of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'batch> {
    pub bytes: &'batch [u8],
    /// Where they lie in [`Batch::pool`].
    pub range: Range<usize>,
    pub from: SocketAddr,
    /// Which address of ours it was sent to, where the socket is bound to all of them.
    pub to: Option<Local>,
    /// Length of each datagram of a train but the last.
    pub segment: Option<u16>,
    /// Not all of it is here: to be dropped and counted.
    pub truncated: bool,
}

impl Message<'_> {
    /// How many datagrams it is.
    pub fn datagrams(&self) -> usize {
        datagrams_in(self.bytes.len(), self.segment)
    }
}

fn datagrams_in(bytes: usize, segment: Option<u16>) -> usize {
    segment.map_or(1, |segment| bytes.div_ceil(usize::from(segment)).max(1))
}

/// Messages that were received together, and the memory for them: one for each worker.
#[derive(Debug)]
pub struct Batch {
    pool: Vec<u8>,
    /// Of the pool, for each message.
    message_bytes: usize,
    names: Vec<Name>,
    controls: Vec<Control>,
    received: Vec<Envelope>,
}

#[derive(Debug, Clone, Copy)]
struct Envelope {
    length: usize,
    from: SocketAddr,
    received: Received,
    truncated: bool,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// Room for [`MESSAGES_PER_BATCH`] messages of [`MESSAGE_BYTES`]; what no message has reached yet
    /// takes no memory.
    pub fn new() -> Self {
        Self::sized(MESSAGE_BYTES)
    }

    fn sized(message_bytes: usize) -> Self {
        Self {
            // Of zeros, so that the system gives it page by page as it is written to.
            pool: vec![0; MESSAGES_PER_BATCH * message_bytes],
            message_bytes,
            names: vec![Name::EMPTY; MESSAGES_PER_BATCH],
            controls: vec![Control::EMPTY; MESSAGES_PER_BATCH],
            received: Vec::with_capacity(MESSAGES_PER_BATCH),
        }
    }

    /// Receives what is there, in place of what was; how many messages. Fewer than [`Self::capacity`]: the
    /// socket had no more.
    ///
    /// # Errors
    /// "Would block" where there is nothing. "Connection refused" on a connected socket is the answer of
    /// the other end's host to an earlier datagram: nobody listens there. It is said once, and the
    /// socket goes on as before.
    pub fn recv(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.received.clear();
        self.append(socket)
    }

    /// The same behind what other sockets gave, so that answers of several servers leave together; how
    /// many came. The batch must not be full.
    pub fn append(&mut self, socket: impl AsFd) -> io::Result<usize> {
        debug_assert!(!self.is_full(), "there is no room to say how many came");
        let count = loop {
            match self.receive(&socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        Ok(count)
    }

    pub const fn capacity(&self) -> usize {
        MESSAGES_PER_BATCH
    }

    pub fn is_full(&self) -> bool {
        self.received.len() == MESSAGES_PER_BATCH
    }

    pub fn messages(&self) -> impl ExactSizeIterator<Item = Message<'_>> {
        (0..self.received.len()).map(|index| self.message(index))
    }

    /// # Panics
    /// There are not so many.
    pub fn message(&self, index: usize) -> Message<'_> {
        let Envelope { length, from, received: Received { to, segment }, truncated } = self.received[index];
        let start = index * self.message_bytes;
        let range = start..start + length;
        Message { bytes: &self.pool[range.clone()], range, from, to, segment, truncated }
    }

    /// What [`Outgoing::flush`] takes the bytes of messages from.
    pub fn pool(&self) -> &[u8] {
        &self.pool
    }

    fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let first = self.received.len();
        let free = MESSAGES_PER_BATCH - first;
        let (mut parts, mut headers) = blank();
        let buffers = self.pool.chunks_exact_mut(self.message_bytes).zip(&mut self.names).zip(&mut self.controls);
        for (((buffer, name), control), (part, header)) in buffers.skip(first).zip(parts.iter_mut().zip(&mut headers)) {
            *part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let header = &mut header.msg_hdr;
            header.msg_name = (&raw mut *name).cast();
            header.msg_namelen = Name::BYTES as libc::socklen_t;
            header.msg_iov = part;
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut *control).cast();
            header.msg_controllen = Control::BYTES as _;
        }
        // The types differ between C libraries.
        let flags = libc::MSG_DONTWAIT as _;
        let timeout = std::ptr::null_mut();
        let (descriptor, list) = (socket.as_fd().as_raw_fd(), headers.as_mut_ptr());
        // SAFETY: the descriptor is borrowed for the length of the call, so it is open. The first `free`
        // headers were filled above; their pointers and lengths describe parts, buffers, names and control
        // messages that outlive the call and that nothing else looks at meanwhile. Whatever bytes the
        // kernel writes there are valid, and it writes no more than the lengths say.
        #[allow(unsafe_code)]
        let count = unsafe { libc::recvmmsg(descriptor, list, free as _, flags, timeout) };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        let count = count as usize;
        for (index, header) in headers.iter().enumerate().take(count) {
            let from = self.names[first + index].address();
            let control: usize = header.msg_hdr.msg_controllen as _;
            self.received.push(Envelope {
                length: (header.msg_len as usize).min(self.message_bytes),
                received: self.controls[first + index].read(control),
                truncated: header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 || from.is_none(),
                from: from.unwrap_or_else(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)),
            });
        }
        Ok(count)
    }
}

/// What the system calls want for each message, still about nothing.
fn blank() -> ([libc::iovec; MESSAGES_PER_BATCH], [libc::mmsghdr; MESSAGES_PER_BATCH]) {
    // SAFETY: they consist of integers and pointers, for which zero is a value.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::zeroed()
    }
}
