//! Sockets that listen, or are about to, and those that datagrams come to.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::net::SendFlags;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::process::umask;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::limits::{BACKLOG_CONNECTIONS, DATAGRAM_QUEUE_BYTES};
use crate::options::{set_option, tcp_info};
use crate::ports;

/// Why an address could not be listened on; `Display` is one line for the operator.
#[derive(Debug)]
pub enum ListenError {
    /// Somebody listens there already; the text names them where that can be told.
    InUse {
        address: String,
        holder: Option<String>,
    },
    /// A file that is not a socket lies in the place of the Unix socket.
    NotASocket {
        path: PathBuf,
    },
    Failed {
        address: String,
        error: io::Error,
    },
}

impl fmt::Display for ListenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { address, holder: Some(holder) } => {
                write!(out, "cannot listen on {address}: it is in use by {holder}")
            }
            Self::InUse { address, holder: None } => {
                write!(out, "cannot listen on {address}: it is in use by another process")
            }
            Self::NotASocket { path } => {
                write!(out, "cannot listen on unix:{}: a file that is not a socket lies there", path.display())
            }
            Self::Failed { address, error } => {
                write!(out, "cannot listen on {address}: {}", reason(error, address))
            }
        }
    }
}

impl std::error::Error for ListenError {}

fn reason(error: &io::Error, address: &str) -> String {
    match error.raw_os_error() {
        Some(libc::EACCES) => {
            let protocol = if address.ends_with(UDP_SUFFIX) { "UDP" } else { "TCP" };
            format!("permission denied ({protocol} ports below 1024 need root or CAP_NET_BIND_SERVICE)")
        }
        Some(libc::EADDRNOTAVAIL) => "no network interface has this address".to_owned(),
        Some(libc::EAFNOSUPPORT) => "this host has no such address family".to_owned(),
        _ => error.to_string(),
    }
}

/// Behind an address whose port is one of UDP, as in the config.
const UDP_SUFFIX: &str = "/udp";

/// Whether an address may already be in our own hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nobody may listen there yet. SO_REUSEPORT alone would let a second instance of the same
    /// user take half of the connections without a word.
    Exclusive,
    /// This process holds sockets at the port and adds to them.
    Shared,
}

/// `count` sockets bound to `address`, among which the kernel spreads new connections
/// (SO_REUSEPORT) from the moment on at which each of them listens ([`listen`]). TCP port 0: the
/// kernel chooses one, the same for all.
///
/// Each is non-blocking and close-on-exec, without a wait for more data (TCP_NODELAY, inherited by
/// accepted connections), and IPv6 ones take IPv6 only.
///
/// A connection waits in the queue of the socket it was given to, and closing that socket resets
/// it (unless net.ipv4.tcp_migrate_req is on): sockets are handed over, never reopened.
pub fn reuseport_sockets(address: SocketAddr, count: usize, claim: Claim) -> Result<Vec<OwnedFd>, ListenError> {
    let failed = |error: io::Error| failed_at(address, error);
    if claim == Claim::Exclusive && address.port() != 0 {
        // Bound without SO_REUSEPORT, this one fails where anybody listens. TIME_WAIT and
        // connections of an earlier life do not count (SO_REUSEADDR).
        let probe = tcp_socket(address).map_err(failed)?;
        probe.bind(&address.into()).map_err(failed)?;
    }
    let mut bound = address;
    let mut sockets = Vec::new();
    for _ in 0..count {
        let socket = tcp_socket(address).map_err(failed)?;
        bind_tcp(&socket, bound).map_err(failed)?;
        if bound.port() == 0 {
            bound = local_address(&socket).map_err(failed)?;
        }
        sockets.push(socket.into());
    }
    Ok(sockets)
}

/// `count` sockets bound to the UDP port of `address`, among which the kernel spreads datagrams by their
/// source and destination (SO_REUSEPORT). UDP port 0: the kernel chooses one, the same for all.
///
/// There is no [`listen`] for them: a socket has its share of the datagrams from the moment on at which
/// it is bound. Until somebody reads it, that share waits in its queue, and what finds no room there is
/// lost. And each socket that is added or closed moves clients from one socket to another: who
/// keeps something for each client has to look for it at the other workers too. So whoever opens them has
/// their reader at hand, and sockets that are read already are handed over, never opened a second time:
/// both processes then take from the one queue.
///
/// Each is non-blocking and close-on-exec, IPv6 ones take IPv6 only, and trains of equal datagrams come
/// as one message where the kernel has them (UDP_GRO; see [`crate::datagrams`]). Where `address` stands
/// for all of the host's, each datagram tells which one it was sent to.
pub fn reuseport_udp_sockets(address: SocketAddr, count: usize, claim: Claim) -> Result<Vec<OwnedFd>, ListenError> {
    let failed = |error: io::Error| udp_failed_at(address, error);
    if claim == Claim::Exclusive && address.port() != 0 {
        // Bound without SO_REUSEPORT, this one fails where anybody is bound.
        udp_socket(address).and_then(|probe| probe.bind(&address.into())).map_err(failed)?;
    }
    let mut bound = address;
    let mut sockets = Vec::new();
    for _ in 0..count {
        let socket = udp_socket(address).map_err(failed)?;
        prepare_udp(&socket, address).map_err(failed)?;
        socket.bind(&bound.into()).map_err(failed)?;
        if bound.port() == 0 {
            bound = local_address(&socket).map_err(failed)?;
        }
        sockets.push(socket.into());
    }
    Ok(sockets)
}

fn udp_failed_at(address: SocketAddr, error: io::Error) -> ListenError {
    let written = format!("{address}{UDP_SUFFIX}");
    match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse {
            address: written,
            holder: ports::udp_holder_of(address).map(|holder| holder.to_string()),
        },
        _ => ListenError::Failed { address: written, error },
    }
}

fn udp_socket(address: SocketAddr) -> io::Result<Socket> {
    // Without SO_REUSEADDR: for UDP it means that several may be bound to the same port.
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn prepare_udp(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_reuse_port(true)?;
    // Before Linux 5.0 each datagram is a message of its own.
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1).ok();
    if set_socket_recv_buffer_size_force(socket, DATAGRAM_QUEUE_BYTES).is_err() {
        // The kernel takes what it may; any queue serves.
        socket.set_recv_buffer_size(DATAGRAM_QUEUE_BYTES).ok();
    }
    match address {
        // Elsewhere the address is known, and to be told it with each datagram has its price.
        _ if !address.ip().is_unspecified() => Ok(()),
        SocketAddr::V4(_) => set_option(socket, libc::SOL_IP, libc::IP_PKTINFO, 1),
        SocketAddr::V6(_) => set_option(socket, libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1),
    }
}

/// Lets a socket of [`reuseport_sockets`] listen: its share of new connections waits in it from now
/// on, so whoever accepts them has to be there. Changes nothing where it listens already.
pub fn listen(socket: impl AsFd) -> Result<(), ListenError> {
    let socket = SockRef::from(&socket);
    socket.listen(BACKLOG_CONNECTIONS).map_err(|error| match socket.local_addr().map(|address| address.as_socket()) {
        Ok(Some(address)) => failed_at(address, error),
        _ => ListenError::Failed { address: "a socket without an address".to_owned(), error },
    })
}

/// Whether connections can wait in it.
pub fn is_listening(socket: impl AsFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}

fn failed_at(address: SocketAddr, error: io::Error) -> ListenError {
    match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse {
            address: address.to_string(),
            holder: ports::holder_of(address).map(|holder| holder.to_string()),
        },
        _ => ListenError::Failed { address: address.to_string(), error },
    }
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn bind_tcp(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("a socket without an IP address"))
}

/// One socket listening on the Unix socket file `path`, whose permission bits are `mode`
/// (for example `0o660`). A file that a dead process left behind is removed first.
///
/// For a moment this process has no umask: another thread of it that makes files just then has to name
/// their modes.
pub fn unix_listener(path: &Path, mode: u32) -> Result<OwnedFd, ListenError> {
    let address = format!("unix:{}", path.display());
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => remove_stale_socket(path, &address)?,
        Err(_) => {}
    }
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { address: address.clone(), holder: None },
        _ => ListenError::Failed { address: address.clone(), error },
    };
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(failed)?;
    // Linux gives the file the mode of the socket less the umask: so it has its mode from its first
    // moment. A change of mode by its name would be one of whatever has that name by then.
    fchmod(&socket, Mode::from_raw_mode(mode)).map_err(|error| failed(error.into()))?;
    let address = SockAddr::unix(path).map_err(failed)?;
    let umask = umask(Mode::empty());
    let bound = socket.bind(&address);
    rustix::process::umask(umask);
    bound.map_err(failed)?;
    socket.listen(BACKLOG_CONNECTIONS).map_err(failed)?;
    Ok(socket.into())
}

fn remove_stale_socket(path: &Path, address: &str) -> Result<(), ListenError> {
    match UnixStream::connect(path) {
        Ok(stream) => {
            let holder = crate::pass::peer_credentials(&stream).ok().map(|peer| crate::process::describe(peer.pid));
            Err(ListenError::InUse { address: address.to_owned(), holder })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| ListenError::Failed { address: address.to_owned(), error })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ListenError::Failed { address: address.to_owned(), error }),
    }
}

/// Sends what more comes behind soon: the kernel waits a moment for that, and puts both into the same packets.
///
/// # Errors
/// As of send(2); [`io::ErrorKind::WouldBlock`] when the socket is full.
pub fn send_more(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::net::send(&socket, bytes, SendFlags::MORE | SendFlags::NOSIGNAL))?)
}

/// Connections that wait at a listening TCP socket to be accepted, and how many may.
pub fn accept_queue(socket: impl AsFd) -> io::Result<(u32, u32)> {
    // What the kernel says in these two fields of a socket that listens (`tcp_get_info`).
    tcp_info(socket).map(|info| (info.tcpi_unacked, info.tcpi_sacked))
}

/// Bytes that the other end of a connected TCP socket has acknowledged since it was opened.
pub fn bytes_acknowledged(socket: impl AsFd) -> io::Result<u64> {
    tcp_info(socket).map(|info| info.tcpi_bytes_acked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn free(address: impl Into<std::net::IpAddr>) -> SocketAddr {
        SocketAddr::new(address.into(), 0)
    }

    fn listeners(descriptors: Vec<OwnedFd>) -> Vec<TcpListener> {
        for descriptor in &descriptors {
            listen(descriptor).unwrap();
        }
        descriptors.into_iter().map(TcpListener::from).collect()
    }

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("sumun-host-{}-{name}", crate::clock::monotonic_ns()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn all_sockets_share_one_tcp_port_and_do_not_block() {
        for address in [free(Ipv4Addr::LOCALHOST), free(Ipv6Addr::LOCALHOST)] {
            let sockets = listeners(reuseport_sockets(address, 3, Claim::Exclusive).unwrap());
            let bound = sockets[0].local_addr().unwrap();
            assert_ne!(bound.port(), 0);
            for socket in &sockets {
                assert_eq!(socket.local_addr().unwrap(), bound);
                assert_eq!(socket.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
            }
            TcpStream::connect(bound).unwrap().write_all(b"x").unwrap();
        }
    }

    #[test]
    fn only_sockets_that_listen_get_connections() {
        for address in [free(Ipv4Addr::LOCALHOST), free(Ipv6Addr::LOCALHOST)] {
            let one = listeners(reuseport_sockets(address, 1, Claim::Exclusive).unwrap()).remove(0);
            let address = one.local_addr().unwrap();
            let later = reuseport_sockets(address, 7, Claim::Shared).unwrap();
            assert!(later.iter().all(|socket| !is_listening(socket)));
            let clients: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
            let accepted: Vec<TcpStream> = std::iter::from_fn(|| one.accept().ok()).map(|(stream, _)| stream).collect();
            assert_eq!(accepted.len(), clients.len());
            let later = listeners(later);
            let others = |_: usize| TcpStream::connect(address).is_ok() && later.iter().any(|one| one.accept().is_ok());
            assert!((0..1000).any(others), "a share of what comes from now on is theirs");
        }
    }

    #[test]
    fn accepted_connections_inherit_nodelay() {
        let sockets = listeners(reuseport_sockets(free(Ipv4Addr::LOCALHOST), 1, Claim::Exclusive).unwrap());
        let _client = TcpStream::connect(sockets[0].local_addr().unwrap()).unwrap();
        sockets[0].set_nonblocking(false).unwrap();
        assert!(sockets[0].accept().unwrap().0.nodelay().unwrap());
    }

    #[test]
    fn both_families_at_the_same_tcp_port() {
        // Another test may hold the IPv6 side of a port that was free on the IPv4 side.
        let both = (0..100).any(|_| {
            let four = listeners(reuseport_sockets(free(Ipv4Addr::UNSPECIFIED), 1, Claim::Exclusive).unwrap());
            let port = four[0].local_addr().unwrap().port();
            let six = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            reuseport_sockets(six, 1, Claim::Exclusive).is_ok()
        });
        assert!(both);
    }

    #[test]
    fn an_address_in_use_is_named_with_its_holder() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let text = reuseport_sockets(address, 2, Claim::Exclusive).unwrap_err().to_string();
        assert!(text.contains(&address.to_string()), "{text}");
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    }

    #[test]
    fn our_own_reuseport_sockets_count_as_taken_unless_shared() {
        let first = listeners(reuseport_sockets(free(Ipv4Addr::LOCALHOST), 1, Claim::Exclusive).unwrap());
        let address = first[0].local_addr().unwrap();
        assert!(matches!(reuseport_sockets(address, 1, Claim::Exclusive), Err(ListenError::InUse { .. })));
        assert_eq!(reuseport_sockets(address, 2, Claim::Shared).unwrap().len(), 2);
    }

    #[test]
    fn datagrams_are_spread_among_sockets_of_one_udp_port() {
        for address in [free(Ipv4Addr::LOCALHOST), free(Ipv6Addr::LOCALHOST)] {
            let sockets = reuseport_udp_sockets(address, 3, Claim::Exclusive).unwrap();
            let sockets: Vec<UdpSocket> = sockets.into_iter().map(UdpSocket::from).collect();
            let bound = sockets[0].local_addr().unwrap();
            let clients: Vec<UdpSocket> = (0..100).map(|_| UdpSocket::bind(address).unwrap()).collect();
            clients.iter().for_each(|client| assert_eq!(client.send_to(b"x", bound).unwrap(), 1));
            let mut counts = Vec::new();
            for socket in &sockets {
                assert_eq!(socket.local_addr().unwrap(), bound);
                counts.push(std::iter::from_fn(|| socket.recv_from(&mut [0]).ok()).count());
            }
            assert_eq!(counts.iter().sum::<usize>(), clients.len());
            assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        }
    }

    #[test]
    fn a_udp_port_in_use_is_named_with_its_holder() {
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let text = reuseport_udp_sockets(address, 2, Claim::Exclusive).unwrap_err().to_string();
        assert!(text.contains(&format!("cannot listen on {address}/udp: it is in use by process")), "{text}");
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        let ours = reuseport_udp_sockets(free(Ipv4Addr::LOCALHOST), 1, Claim::Exclusive).unwrap().remove(0);
        let address = UdpSocket::from(ours.try_clone().unwrap()).local_addr().unwrap();
        assert!(matches!(reuseport_udp_sockets(address, 1, Claim::Exclusive), Err(ListenError::InUse { .. })));
        assert_eq!(reuseport_udp_sockets(address, 2, Claim::Shared).unwrap().len(), 2);
    }

    #[test]
    fn ports_without_permission_are_of_the_protocol_asked_for() {
        let text = |address: &str| {
            let error = io::Error::from_raw_os_error(libc::EACCES);
            ListenError::Failed { address: address.to_owned(), error }.to_string()
        };
        assert!(text("127.0.0.1:53/udp").contains("(UDP ports below 1024"));
        assert!(text("127.0.0.1:53").contains("(TCP ports below 1024"));
    }

    #[test]
    fn an_address_of_nobody_says_so() {
        // 192.0.2.0/24 is for documentation (RFC 5737), so no interface has it.
        let text = reuseport_sockets("192.0.2.1:80".parse().unwrap(), 1, Claim::Exclusive).unwrap_err().to_string();
        assert!(text.contains("no network interface has this address"), "{text}");
    }

    #[test]
    fn a_unix_socket_has_its_mode_and_replaces_only_a_dead_one() {
        let path = scratch("unix").join("web.sock");
        drop(UnixListener::bind(&path).unwrap());
        let socket = unix_listener(&path, 0o660).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let text = unix_listener(&path, 0o660).unwrap_err().to_string();
        assert!(text.contains("in use by process"), "{text}");
        drop(socket);
        unix_listener(&path, 0o600).unwrap();
    }

    #[test]
    fn a_file_in_the_place_of_a_unix_socket_is_left_alone() {
        let path = scratch("file").join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(unix_listener(&path, 0o660), Err(ListenError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn who_waits_to_be_accepted_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (none, most) = accept_queue(&listener).unwrap();
        let _clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
        assert_eq!((none, accept_queue(&listener).unwrap()), (0, (2, most)));
        assert!(most > 2);
    }

    #[test]
    fn what_the_other_end_has_taken_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _server = listener.accept().unwrap();
        let before = bytes_acknowledged(&client).unwrap();
        client.write_all(&[0; 1000]).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while bytes_acknowledged(&client).unwrap() < before + 1000 {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
    }
}
