//! The kernel's table of TCP sockets (`/proc/net/tcp`, `/proc/net/tcp6`): tells whether what
//! was written has been read, so that a test waits for that and not for a time.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at the table; the kernel tells nobody when a queue has been emptied.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// One TCP socket of this network namespace.
#[derive(Debug, Clone, Copy)]
struct Socket {
    local_port: u16,
    remote_port: u16,
    /// Bytes (for a listening socket: connections) that arrived and were not taken yet.
    unread: u64,
}

/// Sockets of one address family; the kernel takes milliseconds for each of the two tables.
fn sockets(family: IpAddr) -> Vec<Socket> {
    let table = if family.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let text = fs::read_to_string(table).unwrap_or_else(|error| panic!("{table}: {error}"));
    text.lines().skip(1).filter_map(parse_line).collect()
}

/// `sl local_address rem_address st tx_queue:rx_queue …`, addresses as `HEX:PORT`.
fn parse_line(line: &str) -> Option<Socket> {
    let mut columns = line.split_whitespace().skip(1);
    let port = |column: &str| u16::from_str_radix(column.rsplit_once(':')?.1, 16).ok();
    let local_port = port(columns.next()?)?;
    let remote_port = port(columns.next()?)?;
    let (_, unread) = columns.nth(1)?.split_once(':')?;
    Some(Socket { local_port, remote_port, unread: u64::from_str_radix(unread, 16).ok()? })
}

/// Waits until every socket of this local address has been read empty. False if that did not
/// happen within the bound.
pub(crate) fn wait_until_read(local: SocketAddr, bound: Duration) -> bool {
    let until = Instant::now() + bound;
    loop {
        let waiting = sockets(local.ip()).iter().any(|socket| socket.local_port == local.port() && socket.unread > 0);
        if !waiting {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Waits until the other end has read what was sent from this local address, or the bound is
/// over: a peer need not read on before it has answered.
pub(crate) fn wait_until_peer_read(client: SocketAddr, bound: Duration) {
    let until = Instant::now() + bound;
    loop {
        // On loopback a write lies in the peer's queue when it returns. Our own queue would tell
        // less: it is emptied by acknowledgements, and those are delayed.
        let waiting =
            sockets(client.ip()).iter().any(|socket| socket.remote_port == client.port() && socket.unread > 0);
        if !waiting || Instant::now() > until {
            return;
        }
        thread::sleep(LOOK_EVERY);
    }
}
