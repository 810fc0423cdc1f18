//! Outgoing TCP connections.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use socket2::{Domain, Protocol, Socket, Type};

/// A socket ready to connect to `destination`: non-blocking, close-on-exec, TCP_NODELAY, and bound
/// to `source` where one is given. The source's TCP port is chosen at connect time
/// (IP_BIND_ADDRESS_NO_PORT), so that one source address can reach each destination with the
/// whole range of ports.
pub fn outgoing_socket(destination: SocketAddr, source: Option<IpAddr>) -> io::Result<Socket> {
    let domain = Domain::for_address(destination);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        set_bind_address_no_port(&socket)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// Starts to connect and does not wait. Once the stream is writable, `take_error` says how it went.
pub fn start_connect(destination: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = outgoing_socket(destination, source)?;
    match socket.connect(&destination.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

fn set_bind_address_no_port(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // Neither rustix nor socket2 offers this option.
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is borrowed for the length of the call, so it is open; the pointer
    // and the length describe `on`, which outlives the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn connects_from_the_address_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let source: IpAddr = "127.0.0.77".parse().unwrap();
        let stream = start_connect(listener.local_addr().unwrap(), Some(source)).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), source);
        assert_eq!(stream.local_addr().unwrap(), peer);
        assert!(stream.nodelay().unwrap());
        assert!(stream.take_error().unwrap().is_none());
    }

    #[test]
    fn the_source_port_is_chosen_late() {
        let socket = outgoing_socket("[::1]:1".parse().unwrap(), Some("::1".parse().unwrap())).unwrap();
        let bound = socket.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(bound, "[::1]:0".parse().unwrap());
    }
}
