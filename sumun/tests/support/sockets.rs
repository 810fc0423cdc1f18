//! What the kernel says of TCP sockets (sock_diag(7)): whether what was written has been read, so that a
//! test waits for that and not for a time. The tables of `/proc/net` say it too, but all of them at once:
//! thousands of connections that are over make that slow, and lines are missed while others come and go.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// Between two questions; the kernel tells nobody when a queue has been emptied.
const LOOK_EVERY: Duration = Duration::from_micros(100);

// Of the kernel's headers (linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h).
const NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const HEADER_BYTES: usize = 16;
const STATE_AT: usize = HEADER_BYTES + 1;
const UNREAD_AT: usize = HEADER_BYTES + 56;
const TIME_WAIT: u8 = 6;
const LISTENS: u8 = 10;

/// Which sockets are asked for.
#[derive(Clone, Copy)]
enum Which {
    /// The one of this connection, `local` being its own end.
    Connection { local: SocketAddr, remote: SocketAddr },
    /// All with this TCP port, but those that are over.
    Port(SocketAddr),
}

/// Waits until every socket of this local address has been read empty. False if that did not
/// happen within the bound.
pub(crate) fn wait_until_read(local: SocketAddr, bound: Duration) -> bool {
    wait_until_nothing_is_unread(Which::Port(local), bound)
}

/// Waits until `peer` has read what was sent to it from this local address, or the bound is
/// over: a peer need not read on before it has answered.
pub(crate) fn wait_until_peer_read(client: SocketAddr, peer: SocketAddr, bound: Duration) {
    // On loopback a write lies in the peer's queue when it returns. Our own queue would tell
    // less: it is emptied by acknowledgements, and those are delayed.
    wait_until_nothing_is_unread(Which::Connection { local: peer, remote: client }, bound);
}

fn wait_until_nothing_is_unread(which: Which, bound: Duration) -> bool {
    let until = Instant::now() + bound;
    let mut kernel = Socket::new(Domain::from(NETLINK), Type::DGRAM, Some(Protocol::from(NETLINK_SOCK_DIAG)))
        .expect("the kernel tells of sockets");
    loop {
        if !is_anything_unread(&mut kernel, which).expect("the kernel answers") {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Bytes (for a listening socket: connections) that arrived and were not taken yet.
fn is_anything_unread(kernel: &mut Socket, which: Which) -> std::io::Result<bool> {
    kernel.write_all(&question(which))?;
    let mut found = false;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = kernel.read(&mut buffer)?;
        let mut rest = buffer.get(..count).unwrap_or_default();
        while let Some(length) = word(rest, 0).filter(|length| *length as usize >= HEADER_BYTES) {
            let kind = rest.get(4..6).map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
            match (kind, which) {
                // Of a connection that is not there any more nothing is unread.
                (ERROR, Which::Connection { .. }) => return Ok(false),
                (ERROR, Which::Port(_)) => return Err(std::io::Error::other("it cannot tell of TCP")),
                (DONE, _) => return Ok(found),
                // Instead of a connection that is gone, the kernel tells of who listens there.
                (_, Which::Connection { .. }) => {
                    return Ok(rest.get(STATE_AT) != Some(&LISTENS) && word(rest, UNREAD_AT) > Some(0));
                }
                (_, Which::Port(_)) => found |= word(rest, UNREAD_AT) > Some(0),
            }
            rest = rest.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes)
}

/// A `nlmsghdr` and an `inet_diag_req_v2`.
fn question(which: Which) -> Vec<u8> {
    let (local, remote, flags) = match which {
        Which::Connection { local, remote } => (local, Some(remote), REQUEST),
        Which::Port(local) => (local, None, REQUEST | DUMP),
    };
    let family = if local.is_ipv4() { 2 } else { 10 };
    let mut message = 72_u32.to_ne_bytes().to_vec();
    message.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[family, 6, 0, 0]);
    message.extend_from_slice(&(!(1_u32 << TIME_WAIT)).to_ne_bytes());
    message.extend_from_slice(&local.port().to_be_bytes());
    message.extend_from_slice(&remote.map_or(0, |remote| remote.port()).to_be_bytes());
    for end in [Some(local), remote] {
        let mut address = [0; 16];
        match end.map(|end| end.ip()) {
            Some(IpAddr::V4(ip)) => address[..4].copy_from_slice(&ip.octets()),
            Some(IpAddr::V6(ip)) => address = ip.octets(),
            None => {}
        }
        message.extend_from_slice(&address);
    }
    // Any interface, and any socket: no cookie.
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&[0xff; 8]);
    message
}
