//! Sending datagrams, many with one call.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use super::control::{Control, Name};
use super::{Local, blank, datagrams_in};
use crate::limits::{DATAGRAMS_PER_TRAIN, MESSAGES_PER_BATCH, TRAIN_BYTES};

/// Messages that wait to be sent through one socket. Their bytes lie elsewhere, mostly in the
/// [`super::Batch`] that they came with.
#[derive(Debug, Default)]
pub struct Outgoing {
    queued: Vec<Queued>,
}

#[derive(Debug, Clone)]
struct Queued {
    bytes: Range<usize>,
    /// Length of the datagrams, where there are several.
    segment: Option<u16>,
    name: (Name, usize),
    control: (Control, usize),
}

/// What became of messages. Datagrams that a train was cut into are counted one by one.
#[derive(Debug, Default)]
pub struct Sent {
    pub datagrams: usize,
    /// Lost: the kernel refused them, or the socket's queue was full.
    pub dropped: usize,
    /// Why the last of them was.
    pub error: Option<io::Error>,
    /// The other end of a connected socket has said that nobody listens there: about datagrams sent
    /// earlier, not about those that count as sent now.
    pub refused: bool,
}

impl Outgoing {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// A message of the bytes at `bytes` of what is given to [`Self::flush`]: to `to`, or to the one
    /// peer of a connected socket; from `from`, or from where the route leads. With a `segment` it is
    /// a train of datagrams of this length, of which the last may be shorter.
    pub fn push(&mut self, bytes: Range<usize>, to: Option<SocketAddr>, from: Option<Local>, segment: Option<u16>) {
        let name = to.map_or((Name::EMPTY, 0), Name::of);
        let train = segment.filter(|segment| *segment > 0 && bytes.len() > usize::from(*segment));
        let Some(segment) = train else {
            return self.queued.push(Queued { bytes, segment: None, name, control: Control::of(from, None) });
        };
        // What came as one train may be longer than this kernel sends, or than fits the other family.
        let each = usize::from(segment);
        let most = each * (TRAIN_BYTES / each).clamp(1, DATAGRAMS_PER_TRAIN);
        for start in bytes.clone().step_by(most) {
            let bytes = start..bytes.end.min(start + most);
            let segment = Some(segment).filter(|_| bytes.len() > each);
            self.queued.push(Queued { bytes, segment, name, control: Control::of(from, segment) });
        }
    }

    /// Sends all of them through `socket`, which may block nobody: what finds no room is lost, as on any
    /// hop of a network. `pool` has the bytes. Afterwards it is empty.
    ///
    /// A message that the kernel refuses costs no other: it is counted, and those behind it are sent.
    /// Where trains cannot be sent in one piece, as through IPsec or where a datagram exceeds what the
    /// device takes, each of their datagrams is sent by itself.
    pub fn flush(&mut self, socket: impl AsFd, pool: &[u8]) -> Sent {
        let mut sent = Sent::default();
        let mut at = 0;
        // The message that was tried again already.
        let mut again = None;
        while at < self.queued.len() {
            let error = match transmit(&socket, &self.queued[at..], pool) {
                Ok(count) => {
                    sent.datagrams += count_of(&self.queued[at..at + count]);
                    at += count;
                    continue;
                }
                Err(error) => error,
            };
            match (error.raw_os_error(), self.queued[at].segment) {
                (Some(libc::EINTR), _) => {}
                (Some(libc::EAGAIN), _) => {
                    sent.dropped += count_of(&self.queued[at..]);
                    sent.error = Some(error);
                    break;
                }
                // This is about an earlier one; the message itself was not looked at.
                (Some(libc::ECONNREFUSED), _) if again != Some(at) => {
                    sent.refused = true;
                    again = Some(at);
                }
                // EMSGSIZE is what EINVAL was before Linux 6.14: longer than the device takes.
                (Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE), Some(segment)) => self.split(at, segment),
                _ => {
                    sent.dropped += count_of(&self.queued[at..=at]);
                    sent.error = Some(error);
                    at += 1;
                }
            }
        }
        self.queued.clear();
        sent
    }

    /// One message through a connected socket. Nothing may wait here.
    pub fn send(&mut self, socket: impl AsFd, bytes: &[u8], segment: Option<u16>) -> Sent {
        debug_assert!(self.is_empty(), "the bytes of what waits lie elsewhere");
        self.push(0..bytes.len(), None, None, segment);
        self.flush(socket, bytes)
    }

    /// One message to `to`. Nothing may wait here.
    pub fn send_to(
        &mut self,
        socket: impl AsFd,
        bytes: &[u8],
        to: SocketAddr,
        from: Option<Local>,
        segment: Option<u16>,
    ) -> Sent {
        debug_assert!(self.is_empty(), "the bytes of what waits lie elsewhere");
        self.push(0..bytes.len(), Some(to), from, segment);
        self.flush(socket, bytes)
    }

    /// Puts the datagrams of a train in its place.
    fn split(&mut self, at: usize, segment: u16) {
        let train = self.queued[at].clone();
        let each = usize::from(segment);
        // Of the control messages the one about the train is the last.
        let control = (train.control.0, train.control.1 - Control::SEGMENT_BYTES);
        let singles = train.bytes.clone().step_by(each).map(|start| Queued {
            bytes: start..train.bytes.end.min(start + each),
            segment: None,
            name: train.name,
            control,
        });
        self.queued.splice(at..=at, singles);
    }
}

fn count_of(queued: &[Queued]) -> usize {
    queued.iter().map(|one| datagrams_in(one.bytes.len(), one.segment)).sum()
}

/// Sends the first of `queued`; how many. An error is about the very first.
fn transmit(socket: impl AsFd, queued: &[Queued], pool: &[u8]) -> io::Result<usize> {
    let count = queued.len().min(MESSAGES_PER_BATCH);
    let (mut parts, mut headers) = blank();
    for ((one, part), header) in queued.iter().zip(&mut parts).zip(&mut headers) {
        let bytes = &pool[one.bytes.clone()];
        *part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let header = &mut header.msg_hdr;
        header.msg_iov = part;
        header.msg_iovlen = 1;
        if one.name.1 > 0 {
            header.msg_name = (&raw const one.name.0).cast_mut().cast();
            header.msg_namelen = one.name.1 as libc::socklen_t;
        }
        if one.control.1 > 0 {
            header.msg_control = (&raw const one.control.0).cast_mut().cast();
            header.msg_controllen = one.control.1 as _;
        }
    }
    // The types differ between C libraries.
    let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _;
    let (descriptor, list) = (socket.as_fd().as_raw_fd(), headers.as_mut_ptr());
    // SAFETY: the descriptor is borrowed for the length of the call, so it is open. The first `count`
    // headers were filled above; their pointers and lengths describe parts, bytes, names and control
    // messages that outlive the call. The kernel writes into the headers alone.
    #[allow(unsafe_code)]
    let sent = unsafe { libc::sendmmsg(descriptor, list, count as _, flags) };
    // It never says that it sent none.
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}
