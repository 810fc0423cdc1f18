//! Things that a sandbox has to stop, to be tried from inside one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketType, sendto};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Protocol, Socket, Type};

use super::calls;

/// Something to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Open a file and read a byte of it.
    Read(PathBuf),
    /// List a directory.
    List(PathBuf),
    /// Make a file, and remove it again.
    Write(PathBuf),
    /// Connect over TCP.
    Connect(SocketAddr),
    /// The same by sending with MSG_FASTOPEN.
    FastOpen(SocketAddr),
    /// The same with Multipath TCP.
    Multipath(SocketAddr),
    /// Bind a TCP port.
    Bind(SocketAddr),
    /// Listen at a TCP port of the kernel's choice, without bind(2).
    Listen,
    /// Open a netlink socket.
    Netlink,
    /// Open a socket for packets made by hand.
    Raw,
    /// Open a pair of netlink sockets, which the kernel has none of.
    NetlinkPair,
    /// Become another program.
    Exec(PathBuf),
    /// Start another program.
    Spawn(PathBuf),
    /// Ask a process whether it takes signals from us.
    Signal(u32),
    /// Ask for a limit of a process.
    Limit(u32),
    /// Start a thread.
    Thread,
    /// One of [`calls::denied`], [`calls::WITHOUT_UDP`] and [`calls::UNKNOWN`], by name, with zeros for arguments.
    Call(String),
}

/// Tries it; the error is the kernel's.
pub fn attempt(act: &Act) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    match act {
        Act::Read(path) => io::Read::read(&mut File::open(path)?, &mut [0]).map(drop),
        Act::List(path) => fs::read_dir(path).map(drop),
        Act::Write(path) => {
            OpenOptions::new().write(true).create_new(true).open(path)?;
            fs::remove_file(path)
        }
        Act::Connect(address) => TcpStream::connect_timeout(address, PATIENCE).map(drop),
        Act::FastOpen(address) => {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
            let flags = SendFlags::NOSIGNAL.union(SendFlags::from_bits_retain(libc::MSG_FASTOPEN as u32));
            Ok(sendto(&socket, b"x", flags, address).map(drop)?)
        }
        Act::Multipath(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::MPTCP))?;
            socket.connect_timeout(&(*address).into(), PATIENCE)
        }
        Act::Bind(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&(*address).into())
        }
        Act::Listen => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.listen(1)?;
            TcpListener::from(socket).local_addr().map(drop)
        }
        Act::Netlink => Ok(rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None).map(drop)?),
        Act::Raw => {
            Ok(rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(rustix::net::ipproto::UDP)).map(drop)?)
        }
        Act::NetlinkPair => {
            let flags = rustix::net::SocketFlags::empty();
            Ok(rustix::net::socketpair(AddressFamily::NETLINK, SocketType::RAW, flags, None).map(drop)?)
        }
        Act::Exec(path) => Err(Command::new(path).exec()),
        Act::Spawn(path) => Command::new(path).status().map(drop),
        Act::Signal(pid) => {
            let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            Ok(kill_process(pid, Signal::CONT)?)
        }
        Act::Limit(pid) => {
            let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            // More than it has: of one's own processes it is always granted.
            let limit = rustix::process::Rlimit { current: None, maximum: None };
            Ok(rustix::process::prlimit(Some(pid), rustix::process::Resource::Cpu, limit).map(drop)?)
        }
        Act::Thread => match std::thread::Builder::new().spawn(|| {})?.join() {
            Ok(()) => Ok(()),
            Err(_) => Err(io::Error::other("the thread panicked")),
        },
        Act::Call(name) => call(name),
    }
}

/// Makes the system call of this name, which has to be one that the filter lets through never, or for
/// UDP alone.
fn call(name: &str) -> io::Result<()> {
    let in_part = calls::WITHOUT_UDP.iter().chain(calls::UNKNOWN).copied();
    let known = calls::denied().chain(in_part).find(|(known, _)| *known == name);
    let (_, number) = known.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    if !super::is_filtered() || returns_twice(name) {
        return Err(io::Error::other("this is tried only where the filter holds, and by a process that can try it"));
    }
    // SAFETY: the filter is in force and answers each of these calls with an error before the kernel
    // looks at an argument, so nothing in this process changes. Those that UDP needs, where it is served,
    // are about no message at all: their count is 0 as well.
    #[allow(unsafe_code)]
    let result = unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// If one of these were let through, memory would be shared in a way that no code here expects.
/// [`Act::Spawn`] tries them in their proper form.
fn returns_twice(name: &str) -> bool {
    matches!(name, "fork" | "vfork" | "clone3")
}
