//! Waiting for descriptors on a thread that has no event loop.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Waits until one of `descriptors` can be read, was hung up or failed, or `timeout` has passed
/// (`None` waits for ever). Says for each whether there is something to look at. A signal ends
/// the wait early with every answer `false`.
pub fn wait_readable(descriptors: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> =
        descriptors.iter().map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN)).collect();
    // A duration beyond the kernel's range is as good as none.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => Ok(polled.iter().map(|one| !one.revents().is_empty()).collect()),
        Err(rustix::io::Errno::INTR) => Ok(vec![false; descriptors.len()]),
        Err(error) => Err(error.into()),
    }
}

/// Waits until something can be written to `descriptor`, or writing would fail; `false` when `deadline`
/// has passed before.
pub fn wait_writable(descriptor: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)], Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn tells_which_one_is_ready() {
        let (quiet, _quiet_end) = UnixStream::pair().unwrap();
        let (ready, mut ready_end) = UnixStream::pair().unwrap();
        let (closed, closed_end) = UnixStream::pair().unwrap();
        ready_end.write_all(b"x").unwrap();
        drop(closed_end);
        let answer = wait_readable(&[quiet.as_fd(), ready.as_fd(), closed.as_fd()], None).unwrap();
        assert_eq!(answer, [false, true, true]);
    }

    #[test]
    fn waits_for_room_until_the_deadline() {
        let (full, reader) = UnixStream::pair().unwrap();
        full.set_nonblocking(true).unwrap();
        let mut held = 0;
        while let Ok(count) = (&full).write(&[0; 4096]) {
            held += count;
        }
        assert!(!wait_writable(full.as_fd(), Instant::now() + Duration::from_millis(10)).unwrap());
        let far = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (&reader).read_exact(&mut vec![0; held]).unwrap();
            });
            assert!(wait_writable(full.as_fd(), far).unwrap());
        });
        drop(reader);
        assert!(wait_writable(full.as_fd(), far).unwrap(), "whoever writes learns that it is closed");
    }

    #[test]
    fn gives_up_after_the_timeout() {
        let (quiet, _end) = UnixStream::pair().unwrap();
        assert_eq!(wait_readable(&[quiet.as_fd()], Some(Duration::ZERO)).unwrap(), [false]);
    }
}
