//! Signals as something a poll loop can wait for.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

/// What the operator asked for by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the config again.
    Hangup,
    /// SIGUSR1: open the logs again.
    User1,
    /// SIGUSR2: go on in the new program.
    User2,
    /// SIGTERM.
    Terminate,
    /// SIGINT: Ctrl-C.
    Interrupt,
}

const ALL: [(i32, Signal); 5] = [
    (SIGHUP, Signal::Hangup),
    (SIGUSR1, Signal::User1),
    (SIGUSR2, Signal::User2),
    (SIGTERM, Signal::Terminate),
    (SIGINT, Signal::Interrupt),
];

/// The signals above, caught; each is told apart by a socket of its own.
#[derive(Debug)]
pub struct Signals {
    sockets: Vec<(UnixStream, Signal)>,
}

impl Signals {
    /// Catches them from now on and for the rest of this process's life.
    pub fn catch() -> io::Result<Self> {
        let mut sockets = Vec::new();
        for (number, signal) in ALL {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(number, theirs)?;
            sockets.push((ours, signal));
        }
        Ok(Self { sockets })
    }

    /// Readable when a signal came.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(|(socket, _)| socket.as_fd())
    }

    /// What came since the last call, each as often as it came, but SIGHUP, SIGUSR1 and SIGUSR2 once.
    pub fn take(&mut self) -> Vec<Signal> {
        let mut came = Vec::new();
        for (socket, signal) in &mut self.sockets {
            let mut bytes = [0_u8; 64];
            let mut count = 0;
            while let Ok(more @ 1..) = socket.read(&mut bytes) {
                count += more;
            }
            if matches!(signal, Signal::Hangup | Signal::User1 | Signal::User2) {
                count = count.min(1);
            }
            came.extend(std::iter::repeat_n(*signal, count));
        }
        came
    }
}

/// Lets those signals pass without effect: for a process that is told by its supervisor what to
/// do, while a terminal or a service manager signals the whole group.
pub fn disregard() -> io::Result<()> {
    for (number, _) in ALL {
        signal_hook::flag::register(number, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}

/// A write to a pipe that nobody reads is an error and not our end. Every program of Rust begins so;
/// an attempt to become another program ends it.
pub(crate) fn disregard_broken_pipes() {
    // SAFETY: no handler is installed, and nothing of this process relies on the signal's effect.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Holds those signals back until [`unblock`], also over an execve(2): it takes the handlers away,
/// and what comes before there are new ones would end the process. For a process of one thread.
pub fn block() -> io::Result<()> {
    mask(libc::SIG_BLOCK)
}

/// Lets them through again: those that came meanwhile come now.
pub fn unblock() -> io::Result<()> {
    mask(libc::SIG_UNBLOCK)
}

fn mask(how: libc::c_int) -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` makes the set before anything reads it, the numbers are those of
    // signals, and the kernel only reads the set; the old one is not asked for.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for (number, _) in ALL {
            libc::sigaddset(set.as_mut_ptr(), number);
        }
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::wait_readable;

    #[test]
    fn signals_come_as_they_were_sent() {
        let mut signals = Signals::catch().unwrap();
        assert!(signals.take().is_empty());
        let me = rustix::process::getpid();
        for signal in [rustix::process::Signal::HUP, rustix::process::Signal::HUP, rustix::process::Signal::TERM] {
            rustix::process::kill_process(me, signal).unwrap();
        }
        let mut came = Vec::new();
        while came.len() < 2 {
            let descriptors: Vec<BorrowedFd<'_>> = signals.descriptors().collect();
            wait_readable(&descriptors, None).unwrap();
            came.extend(signals.take());
        }
        assert!(came.contains(&Signal::Hangup) && came.contains(&Signal::Terminate), "{came:?}");
    }

    #[test]
    fn a_blocked_signal_comes_later() {
        let mut signals = Signals::catch().unwrap();
        // To this thread alone: another one of the tests' would take it.
        let send = || signal_hook::low_level::raise(SIGUSR2).unwrap();
        block().unwrap();
        send();
        assert!(signals.take().is_empty());
        unblock().unwrap();
        assert_eq!(signals.take(), [Signal::User2]);
    }
}
