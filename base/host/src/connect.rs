//! Outgoing TCP connections, and UDP sockets with one peer.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::options::set_option;

/// An address to connect from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// One of this host.
    Own(IpAddr),
    /// Anybody's. Answers come here only where routes lead them to this host, and it takes them for its
    /// own. Needs CAP_NET_RAW or CAP_NET_ADMIN, see [`can_be_transparent`].
    Foreign(IpAddr),
}

impl Source {
    fn bind(self, socket: &Socket) -> io::Result<()> {
        let (Self::Own(ip) | Self::Foreign(ip)) = self;
        if matches!(self, Self::Foreign(_)) {
            make_transparent(socket, ip.is_ipv4())?;
        }
        socket.bind(&SocketAddr::new(ip, 0).into())
    }
}

fn make_transparent(socket: &Socket, is_v4: bool) -> io::Result<()> {
    match is_v4 {
        true => set_option(socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1),
        false => set_option(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1),
    }
}

/// Whether this process may connect from addresses that are not this host's.
pub fn can_be_transparent() -> io::Result<()> {
    make_transparent(&Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?, true)
}

/// A socket ready to connect to `destination`: non-blocking, close-on-exec, TCP_NODELAY, and bound
/// to `source` where one is given. The source's TCP port is chosen at connect time
/// (IP_BIND_ADDRESS_NO_PORT), so that one source address can reach each destination with the
/// whole range of ports.
pub fn outgoing_socket(destination: SocketAddr, source: Option<Source>) -> io::Result<Socket> {
    let domain = Domain::for_address(destination);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        set_option(&socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        source.bind(&socket)?;
    }
    Ok(socket)
}

/// Starts to connect and does not wait. Once the stream is writable, `take_error` says how it went.
pub fn start_connect(destination: SocketAddr, source: Option<Source>) -> io::Result<TcpStream> {
    let socket = outgoing_socket(destination, source)?;
    match socket.connect(&destination.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// Descriptors or memory are short, of this process or of the host.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// A socket that exchanges datagrams with `destination` alone: non-blocking, close-on-exec, from
/// `source` where one is given, and it takes trains of equal datagrams as one message where the kernel
/// has them (UDP_GRO; see [`crate::datagrams`]). What the other end's host says by ICMP ends up in its
/// next call as an error, "connection refused" where nobody listens.
///
/// The kernel chooses a UDP port that no other socket of this host has at this source address, whatever
/// their destinations: so many sockets as its range of ports has (net.ipv4.ip_local_port_range) can be
/// had for each source.
pub fn connected_udp_socket(destination: SocketAddr, source: Option<Source>) -> io::Result<OwnedFd> {
    let domain = Domain::for_address(destination);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    // Before Linux 5.0 each datagram is a message of its own.
    set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1).ok();
    if let Some(source) = source {
        source.bind(&socket)?;
    }
    socket.connect(&destination.into())?;
    Ok(socket.into())
}

/// Has TCP probe a connection on which nothing comes for a minute, each quarter of a minute; it is
/// broken off when four probes in a row stay unanswered.
pub fn keep_alive(socket: &impl AsFd) -> io::Result<()> {
    let probes =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
    SockRef::from(socket).set_tcp_keepalive(&probes)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn connects_from_the_address_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let source: IpAddr = "127.0.0.77".parse().unwrap();
        let stream = start_connect(listener.local_addr().unwrap(), Some(Source::Own(source))).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), source);
        assert_eq!(stream.local_addr().unwrap(), peer);
        assert!(stream.nodelay().unwrap());
        assert!(stream.take_error().unwrap().is_none());
    }

    #[test]
    fn the_source_port_is_chosen_late() {
        let socket = outgoing_socket("[::1]:1".parse().unwrap(), "::1".parse().ok().map(Source::Own)).unwrap();
        let bound = socket.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(bound, "[::1]:0".parse().unwrap());
    }

    #[test]
    fn datagrams_come_from_the_address_asked_for() {
        for (place, source) in [("127.0.0.1:0", "127.0.0.77"), ("[::1]:0", "::1")] {
            let server = UdpSocket::bind(place).unwrap();
            let source: IpAddr = source.parse().unwrap();
            let socket = connected_udp_socket(server.local_addr().unwrap(), Some(Source::Own(source)));
            let client = UdpSocket::from(socket.unwrap());
            client.send(b"x").unwrap();
            let (_, peer) = server.recv_from(&mut [0]).unwrap();
            assert_eq!((peer.ip(), peer), (source, client.local_addr().unwrap()));
            assert_eq!(client.recv(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }
}
