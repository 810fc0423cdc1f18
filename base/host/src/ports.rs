//! Who holds a TCP or UDP port: for the message beside "address in use".

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::{PROC_FILE_BYTES, PROCESSES_SEARCHED};
use crate::process;

/// State LISTEN as /proc/net/tcp writes it.
const LISTEN: &str = "0A";

/// The tables of a protocol, and the state in which a socket holds its port; without one, in any.
type Tables = ([&'static str; 2], Option<&'static str>);
const TCP: Tables = (["/proc/net/tcp", "/proc/net/tcp6"], Some(LISTEN));
const UDP: Tables = (["/proc/net/udp", "/proc/net/udp6"], None);

/// A process that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&process::describe(self.pid))
    }
}

/// The process that listens where `address` would; `None` where it cannot be told, as for other
/// users' processes without root.
pub fn holder_of(address: SocketAddr) -> Option<Holder> {
    holder_in(TCP, address)
}

/// The same for a UDP port, which is held by whoever is bound to it.
pub fn udp_holder_of(address: SocketAddr) -> Option<Holder> {
    holder_in(UDP, address)
}

fn holder_in((tables, state): Tables, address: SocketAddr) -> Option<Holder> {
    let inodes: Vec<String> =
        tables.into_iter().filter_map(read_bounded).flat_map(|table| inodes(&table, state, address)).collect();
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    if links.is_empty() {
        return None;
    }
    fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .take(PROCESSES_SEARCHED)
        .find(|pid| holds_one_of(*pid, &links))
        .map(|pid| Holder { pid })
}

fn holds_one_of(pid: u32, links: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
}

fn read_bounded(path: &str) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(PROC_FILE_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Inodes of the sockets in `table` in this state whose address collides with `wanted`.
fn inodes(table: &str, wanted_state: Option<&str>, wanted: SocketAddr) -> Vec<String> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let local = fields.nth(1)?;
            let state = fields.nth(1)?;
            let inode = fields.nth(5)?;
            let (address, port) = local.split_once(':')?;
            let held = parse_address(address)?;
            let port = u16::from_str_radix(port, 16).ok()?;
            let holds = wanted_state.is_none_or(|wanted| state == wanted);
            (holds && port == wanted.port() && collides(held, wanted.ip())).then(|| inode.to_owned())
        })
        .collect()
}

fn collides(held: IpAddr, wanted: IpAddr) -> bool {
    // `::` may be open to IPv4 as well, so it collides with either family.
    held == wanted
        || held == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || held.is_ipv4() == wanted.is_ipv4() && (held.is_unspecified() || wanted.is_unspecified())
}

/// Words of 32 bits in the byte order of this host, as hexadecimal digits.
fn parse_address(digits: &str) -> Option<IpAddr> {
    let mut bytes = [0_u8; 16];
    let length = digits.len() / 2;
    for (index, word) in digits.as_bytes().chunks(8).enumerate() {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.get_mut(index * 4..index * 4 + 4)?.copy_from_slice(&word.to_ne_bytes());
    }
    match length {
        4 => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        16 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn finds_this_process() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let holder = holder_of(listener.local_addr().unwrap());
            assert_eq!(holder, Some(Holder { pid: std::process::id() }));
            let socket = UdpSocket::bind(address).unwrap();
            let holder = udp_holder_of(socket.local_addr().unwrap());
            assert_eq!(holder, Some(Holder { pid: std::process::id() }));
        }
    }

    #[test]
    fn an_address_for_all_collides_with_each_of_its_family() {
        let all: IpAddr = "0.0.0.0".parse().unwrap();
        let one: IpAddr = "127.0.0.1".parse().unwrap();
        let six: IpAddr = "::1".parse().unwrap();
        assert!(collides(all, one) && collides(one, all) && collides(one, one));
        assert!(!collides(all, six) && !collides(one, six));
        assert!(collides("::".parse().unwrap(), one));
    }

    #[test]
    fn odd_tables_name_nobody() {
        let wanted = "127.0.0.1:80".parse().unwrap();
        for table in ["", "head\n", "head\n0: zz:0050 x 0A", "head\n 0: 0100007F:0050 0:0 01 a b c d e 7"] {
            assert!(inodes(table, TCP.1, wanted).is_empty(), "{table}");
        }
    }
}
