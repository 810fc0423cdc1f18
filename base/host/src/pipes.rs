//! Pipes through which bytes go from one socket to another without being copied.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// A pipe counts pages: a server that sends from its page cache fills the kernel's usual sixteen
/// with 64 KiB. Four times as many save system calls and waking the client again and again. More
/// would soon use up what one user may have in all its pipes. Bytes.
const PIPE_BYTES: usize = 256 * 1024;

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Where the user has too many pages in pipes already, it stays as it is.
        fcntl_setpipe_size(&write, PIPE_BYTES).ok();
        Ok(Self { read, write, held: 0 })
    }

    /// Bytes that went in and have not come out.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves up to `most` bytes from a socket into the pipe, which has to be empty: then "would
    /// block" can only mean that the socket has nothing. 0 is the socket's end.
    pub fn fill(&mut self, socket: impl AsFd, most: usize) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let count = retry(|| splice(&socket, None, &self.write, None, most, flags))?;
        self.held += count;
        Ok(count)
    }

    /// Moves what is in the pipe into a socket. Without the hint that more follows: with it, the
    /// same bytes cost half as much again.
    pub fn empty(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let count = retry(|| splice(&self.read, None, &socket, None, self.held, flags))?;
        self.held -= count;
        Ok(count)
    }
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_go_through() {
        let ((mut from, near), (far, mut to)) = (pair(), pair());
        from.write_all(b"hello").unwrap();
        let mut pipe = Pipe::new().unwrap();
        let mut went_in = 0;
        while went_in < 5 {
            went_in += pipe.fill(&near, 5 - went_in).unwrap();
            while pipe.held() > 0 {
                pipe.empty(&far).unwrap();
            }
        }
        let mut bytes = [0; 5];
        to.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        drop(from);
        assert_eq!(pipe.fill(&near, 5).unwrap(), 0);
    }
}
