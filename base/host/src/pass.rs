//! Passing descriptors to another process (SCM_RIGHTS) over a stream of bytes.
//!
//! Descriptors travel on marker bytes of their own, one for each batch, so that the reader knows
//! before each read whether descriptors come with it, and never reads past them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recv, recvmsg, send, sendmsg,
};

use crate::limits::DESCRIPTORS_PER_MESSAGE;
use crate::wait::wait_writable;

/// The byte that carries a batch; its value says nothing.
const MARKER: [u8; 1] = [b'd'];

/// Who is at the other end of a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id. For a connected client this is the process that called listen(2).
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Sends `descriptors` in their order, at most 253 with each marker byte.
/// The caller keeps its own; nothing is sent for an empty list.
pub fn send_descriptors(channel: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    for batch in descriptors.chunks(DESCRIPTORS_PER_MESSAGE) {
        loop {
            match send_batch(channel.as_fd(), batch, SendFlags::NOSIGNAL) {
                Ok(()) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn send_batch(channel: BorrowedFd<'_>, batch: &[BorrowedFd<'_>], flags: SendFlags) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(batch)) {
        // A batch larger than its buffer, which is as large as a batch may be.
        return Err(rustix::io::Errno::NOBUFS);
    }
    sendmsg(channel, &[IoSlice::new(&MARKER)], &mut control, flags).map(drop)
}

/// The same, with all of them sent before `deadline`, however slowly they are received; otherwise
/// `TimedOut`, and the channel is of no use any more.
pub fn send_descriptors_until(channel: impl AsFd, descriptors: &[BorrowedFd<'_>], deadline: Instant) -> io::Result<()> {
    let channel = channel.as_fd();
    for batch in descriptors.chunks(DESCRIPTORS_PER_MESSAGE) {
        until(channel, deadline, || send_batch(channel, batch, SendFlags::NOSIGNAL | SendFlags::DONTWAIT))?;
    }
    Ok(())
}

/// Sends all of `bytes` before `deadline`, as above.
pub fn send_until(channel: impl AsFd, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    let channel = channel.as_fd();
    while !bytes.is_empty() {
        let sent = until(channel, deadline, || send(channel, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT))?;
        bytes = bytes.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// Tries again whenever there is room, until `deadline`: also where there is room at once, for whoever
/// reads in a trickle makes some all the time.
fn until<T>(
    channel: BorrowedFd<'_>,
    deadline: Instant,
    mut attempt: impl FnMut() -> rustix::io::Result<T>,
) -> io::Result<T> {
    while Instant::now() < deadline {
        match attempt() {
            Err(rustix::io::Errno::AGAIN) => drop(wait_writable(channel, deadline)?),
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "it does not read fast enough"))
}

/// Receives exactly `count` descriptors that [`send_descriptors`] sent. They are close-on-exec.
///
/// Fails when the other end sent another number, closed, or when this process has no room for
/// them (its soft limit of open files).
pub fn receive_descriptors(channel: impl AsFd, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut received = Vec::new();
    while received.len() < count {
        let wanted = (count - received.len()).min(DESCRIPTORS_PER_MESSAGE);
        let before = received.len();
        receive_batch(&channel, &mut received)?;
        let came = received.len() - before;
        if came != wanted {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{came} descriptors came with a message that should carry {wanted}"),
            ));
        }
    }
    Ok(received)
}

fn receive_batch(channel: impl AsFd, received: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut marker = [0_u8; 1];
    let message = loop {
        let mut slices = [IoSliceMut::new(&mut marker)];
        match recvmsg(&channel, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            received.extend(descriptors);
        }
    }
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("not every descriptor could be taken over: the limit of open files is reached"));
    }
    Ok(())
}

/// A socket in which these descriptors wait, for who reads it with [`receive_descriptors`]: also
/// another program that has it as its standard input. With the last copy of the socket they are gone.
///
/// Fails where there are more than the kernel holds for one socket, about 50,000.
pub fn queue_descriptors(descriptors: &[BorrowedFd<'_>]) -> io::Result<OwnedFd> {
    let (queue, entrance) = UnixStream::pair()?;
    // Nobody reads yet: to wait for room would be to wait for ever.
    entrance.set_nonblocking(true)?;
    send_descriptors(&entrance, descriptors)?;
    Ok(queue.into())
}

/// Appends to `buffer` what `socket` holds now, without waiting, until `buffer` is `limit` bytes
/// long. Descriptors that come along are dropped. `false` when the other end has closed and
/// everything was read.
pub fn read_available(socket: impl AsFd, buffer: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    let mut piece = [0_u8; 4096];
    while buffer.len() < limit {
        let wanted = piece.len().min(limit - buffer.len());
        // Without room for control data the kernel closes descriptors that were sent.
        match recv(&socket, &mut piece[..wanted], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Ok(false),
            Ok((count, _)) => buffer.extend_from_slice(&piece[..count]),
            Err(rustix::io::Errno::AGAIN) => return Ok(true),
            Err(rustix::io::Errno::CONNRESET) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Who is at the other end of `socket` (SO_PEERCRED).
pub fn peer_credentials(socket: &UnixStream) -> io::Result<PeerCredentials> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(PeerCredentials {
        pid: credentials.pid.as_raw_nonzero().get().unsigned_abs(),
        uid: credentials.uid.as_raw(),
        gid: credentials.gid.as_raw(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use super::*;

    #[test]
    fn descriptors_arrive_in_order_and_work() {
        let (left, right) = UnixStream::pair().unwrap();
        // More than one message's worth, each recognisable by what can be read from it.
        let ends: Vec<(UnixStream, UnixStream)> = (0..300).map(|_| UnixStream::pair().unwrap()).collect();
        let passed: Vec<BorrowedFd<'_>> = ends.iter().map(|(end, _)| end.as_fd()).collect();
        send_descriptors(&left, &passed).unwrap();
        let received = receive_descriptors(&right, ends.len()).unwrap();
        assert_eq!(received.len(), 300);
        for (index, (descriptor, (_, far_end))) in received.into_iter().zip(&ends).enumerate() {
            let mut far_end = far_end;
            far_end.write_all(&(index as u32).to_be_bytes()).unwrap();
            let mut bytes = [0; 4];
            UnixStream::from(descriptor).read_exact(&mut bytes).unwrap();
            assert_eq!(u32::from_be_bytes(bytes), index as u32);
        }
    }

    #[test]
    fn one_deadline_holds_for_all_of_a_message() {
        let (left, mut right) = UnixStream::pair().unwrap();
        let ends = vec![left.as_fd(); 300];
        let message = vec![7; 1024 * 1024];
        let far = Instant::now() + Duration::from_secs(60);
        // Read as fast as it comes, it arrives whole.
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut bytes = vec![0; message.len()];
                right.read_exact(&mut bytes[..8]).unwrap();
                assert_eq!(receive_descriptors(&right, 300).unwrap().len(), 300);
                right.read_exact(&mut bytes[8..]).unwrap();
                bytes
            });
            send_until(&left, &message[..8], far).unwrap();
            send_descriptors_until(&left, &ends, far).unwrap();
            send_until(&left, &message[8..], far).unwrap();
            assert_eq!(reader.join().unwrap(), message);
        });
        // A trickle has room for some more at any time, and never for all. The reader goes on for as
        // long as the sender is there, so that only the deadline can end it.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut bytes = [0; 8192];
                while right.read(&mut bytes).unwrap() > 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let error = send_until(&left, &message, Instant::now() + Duration::from_millis(200)).unwrap_err();
            left.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }

    #[test]
    fn bytes_around_the_descriptors_stay_in_place() {
        let (mut left, mut right) = UnixStream::pair().unwrap();
        left.write_all(b"before").unwrap();
        send_descriptors(&left, &[right.as_fd()]).unwrap();
        left.write_all(b"after").unwrap();
        let mut text = [0; 6];
        right.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"before");
        assert_eq!(receive_descriptors(&right, 1).unwrap().len(), 1);
        let mut text = [0; 5];
        right.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"after");
    }

    #[test]
    fn what_was_queued_outlives_who_queued_it() {
        let (left, mut right) = UnixStream::pair().unwrap();
        let queue = queue_descriptors(&vec![left.as_fd(); 1000]).unwrap();
        drop(left);
        let received = receive_descriptors(&queue, 1000).unwrap();
        UnixStream::from(received.into_iter().next_back().unwrap()).write_all(b"x").unwrap();
        let mut byte = [0];
        right.read_exact(&mut byte).unwrap();
        assert_eq!(receive_descriptors(&queue, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn none_sent_and_none_awaited() {
        let (left, right) = UnixStream::pair().unwrap();
        send_descriptors(&left, &[]).unwrap();
        assert!(receive_descriptors(&right, 0).unwrap().is_empty());
    }

    #[test]
    fn a_wrong_number_or_an_end_is_an_error() {
        let (left, right) = UnixStream::pair().unwrap();
        send_descriptors(&left, &[left.as_fd()]).unwrap();
        assert_eq!(receive_descriptors(&right, 2).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(left);
        assert_eq!(receive_descriptors(&right, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_there_is_read_without_waiting() {
        let (mut left, right) = UnixStream::pair().unwrap();
        let mut buffer = Vec::new();
        assert!(read_available(&right, &mut buffer, 100).unwrap());
        left.write_all(b"hello").unwrap();
        assert!(read_available(&right, &mut buffer, 3).unwrap());
        assert_eq!(buffer, b"hel");
        drop(left);
        assert!(!read_available(&right, &mut buffer, 100).unwrap());
        assert_eq!(buffer, b"hello");
    }

    #[test]
    fn the_peer_of_a_pair_is_this_process() {
        let (left, _right) = UnixStream::pair().unwrap();
        assert_eq!(peer_credentials(&left).unwrap().pid, std::process::id());
    }
}
