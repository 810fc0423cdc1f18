//! What was open before this program began: sockets that the service manager has opened for us
//! (sd_listen_fds(3)), and what whoever started us left open by mistake.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::sockopt;
use socket2::SockRef;

/// The first one that is passed.
const FIRST: RawFd = 3;

/// A descriptor that was passed.
#[derive(Debug)]
pub struct Given {
    /// As the service manager calls it; empty where it does not.
    pub name: String,
    pub descriptor: OwnedFd,
}

/// Where a listening socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listening {
    Tcp {
        address: SocketAddr,
        /// An IPv6 socket that takes IPv4 as well.
        both_families: bool,
    },
    Unix(PathBuf),
}

/// The descriptors that were passed to this process: LISTEN_FDS of them from 3 on, where LISTEN_PID
/// is us. They are close-on-exec from here on. Gives them once; later there are none.
///
/// # Errors
/// One of them is not open: LISTEN_FDS is not true.
pub fn take_given() -> io::Result<Vec<Given>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name: &str| std::env::var(name).ok();
    let count = count(variable("LISTEN_PID").as_deref(), variable("LISTEN_FDS").as_deref(), std::process::id());
    if count == 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let mut given = Vec::new();
    for number in FIRST..FIRST.saturating_add(count) {
        let descriptor = take(number)?;
        given.push(Given { name: names.next().unwrap_or_default(), descriptor });
    }
    Ok(given)
}

/// Closes what was open in this process before this program began, apart from standard input, output
/// and error. To be called first of all: nothing that was opened here may be open yet.
///
/// # Errors
/// Nothing can be told of what is open.
pub fn close_inherited() -> io::Result<()> {
    // What is not close-on-exec came from before: everything that is opened here is.
    for number in inherited()? {
        // SAFETY: it was there before this program began, and by the rule above nobody has taken it.
        #[allow(unsafe_code)]
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
    Ok(())
}

/// What is open and was left open by execve(2), from the first one behind standard error on.
fn inherited() -> io::Result<Vec<RawFd>> {
    let names = std::fs::read_dir("/proc/self/fd")?.map(|entry| entry.map(|entry| entry.file_name()));
    let names = names.collect::<io::Result<Vec<std::ffi::OsString>>>()?;
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse().ok());
    Ok(numbers.filter(|number| *number >= FIRST && came_from_before(*number)).collect())
}

fn count(pid: Option<&str>, count: Option<&str>, we: u32) -> RawFd {
    match (pid.map(str::parse::<u32>), count.map(str::parse::<RawFd>)) {
        (Some(Ok(pid)), Some(Ok(count))) if pid == we => count.max(0),
        _ => 0,
    }
}

fn take(number: RawFd) -> io::Result<OwnedFd> {
    if !came_from_before(number) {
        return Err(io::Error::other(format!("descriptor {number} of LISTEN_FDS was not passed to this process")));
    }
    // SAFETY: it is open, and nobody else in this process owns it: it was there before this program
    // began, as it is not close-on-exec, which everything is that is opened here. `take_given` comes
    // here once.
    #[allow(unsafe_code)]
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

/// Whether a descriptor is open and was left open by execve(2), so that it was there before this
/// program began.
fn came_from_before(number: RawFd) -> bool {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_CLOEXEC == 0)
}

/// Where a socket listens; `None` for what is no listening stream socket of a family we serve.
pub fn listening(descriptor: impl AsFd) -> Option<Listening> {
    let is_stream = sockopt::socket_type(&descriptor).is_ok_and(|kind| kind == rustix::net::SocketType::STREAM);
    if !is_stream || !sockopt::socket_acceptconn(&descriptor).unwrap_or(false) {
        return None;
    }
    let address = SockRef::from(&descriptor).local_addr().ok()?;
    if let Some(path) = address.as_pathname() {
        return Some(Listening::Unix(path.to_owned()));
    }
    let address = address.as_socket()?;
    // An IPv4 socket has no such option.
    let both_families = address.is_ipv6() && !sockopt::ipv6_v6only(&descriptor).unwrap_or(true);
    Some(Listening::Tcp { address, both_families })
}

/// Gives a listening socket of somebody else what ours have: it never makes us wait, and what it
/// accepts does not wait for more data (TCP_NODELAY is inherited).
pub fn prepare(descriptor: impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(&descriptor);
    socket.set_nonblocking(true)?;
    match listening(&descriptor) {
        Some(Listening::Tcp { .. }) => socket.set_tcp_nodelay(true),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn they_are_for_the_process_they_name() {
        assert_eq!(count(Some("7"), Some("2"), 7), 2);
        assert_eq!(count(Some("8"), Some("2"), 7), 0);
        assert_eq!(count(None, Some("2"), 7), 0);
        assert_eq!(count(Some("7"), Some("-2"), 7), 0);
        assert_eq!(count(Some("7"), Some("two"), 7), 0);
        assert_eq!(count(Some("7"), None, 7), 0);
    }

    #[test]
    fn nothing_was_given_to_a_test() {
        assert!(take_given().unwrap().is_empty());
        assert!(take(RawFd::MAX).is_err());
        // What was opened here is nobody's gift.
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(take(std::os::fd::AsRawFd::as_raw_fd(&ours)).is_err());
    }

    #[test]
    fn nothing_of_ours_is_taken_for_inherited() {
        // Whoever started the tests may have left something open that is no business of theirs.
        let before = inherited().unwrap();
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(inherited().unwrap(), before);
        // As if it had been there before.
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::empty()).unwrap();
        assert!(inherited().unwrap().contains(&std::os::fd::AsRawFd::as_raw_fd(&ours)));
    }

    #[test]
    fn where_a_socket_listens() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = four.local_addr().unwrap();
        assert_eq!(listening(&four), Some(Listening::Tcp { address, both_families: false }));
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(listening(&client), None);
        let six = TcpListener::bind("[::]:0").unwrap();
        assert!(matches!(listening(&six), Some(Listening::Tcp { both_families: true, .. })));
        let path = std::env::temp_dir().join(format!("sumun-given-{}", std::process::id()));
        let unix = UnixListener::bind(&path).unwrap();
        assert_eq!(listening(&unix), Some(Listening::Unix(path.clone())));
        assert_eq!(listening(std::fs::File::open("/dev/null").unwrap()), None);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_prepared_socket_does_not_wait() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        prepare(&socket).unwrap();
        assert_eq!(socket.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(SockRef::from(&socket).tcp_nodelay().unwrap());
    }
}
