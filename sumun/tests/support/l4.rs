//! What tests of the switch share: an instance with a listener of L4, servers that a test drives by
//! hand, and a look at how connections end.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

use super::client::{self, End};
use super::instance::{Instance, PATIENCE, Place, eventually};
use super::talk::Client;

/// An instance with a listener `l4` beside one that speaks HTTP: a look whether it is ready is then no
/// connection of the switch.
pub(crate) struct Switch {
    pub(crate) gateway: Instance,
    /// Where its listener `l4` is.
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
}

/// A config with a pool `app`, in which `$L4` is the address of the switch. `pool` and `listener` are
/// further keys of the two, each ending in a comma.
pub(crate) fn tcp_config(servers: &[SocketAddr], pool: &str, listener: &str) -> String {
    config(&format!("app: {{ {pool} servers: [{}] }}", quoted(servers)), &format!("{listener} bind: \"$L4\", tcp: app"))
}

pub(crate) fn udp_config(servers: &[SocketAddr], pool: &str, listener: &str) -> String {
    config(
        &format!("app: {{ {pool} servers: [{}] }}", quoted(servers)),
        &format!("{listener} bind: \"$L4/udp\", udp: app"),
    )
}

/// With these pools, and these keys of the listener.
pub(crate) fn config(pools: &str, listener: &str) -> String {
    format!(
        "admin: \"$ADMIN\"\naccess_log: {{ to: $DIR/access.log, format: json }}\n\
         pools: {{ {pools} }}\n\
         listeners:\n  web: {{ bind: \"$BIND\", routes: [{{ path: /, respond: 204 }}] }}\n  l4: {{ {listener} }}\n"
    )
}

pub(crate) fn quoted(servers: &[SocketAddr]) -> String {
    servers.iter().map(|server| format!("\"{server}\"")).collect::<Vec<_>>().join(", ")
}

impl Switch {
    pub(crate) fn start(place: Place, config: &str) -> Self {
        Self::start_with(place, config, |config| Instance::start(place, config))
    }

    /// The same, started in some other way.
    pub(crate) fn start_with(place: Place, config: &str, start: impl FnOnce(&str) -> Instance) -> Self {
        let (address, admin) = (place.free_address(), place.free_address());
        let gateway = start(&filled_in(config, address, admin));
        Self { gateway, address, admin }
    }

    pub(crate) fn tcp(place: Place, servers: &[SocketAddr], pool: &str, listener: &str) -> Self {
        Self::start(place, &tcp_config(servers, pool, listener))
    }

    pub(crate) fn udp(place: Place, servers: &[SocketAddr], pool: &str, listener: &str) -> Self {
        Self::start(place, &udp_config(servers, pool, listener))
    }

    pub(crate) fn reload(&self, config: &str) -> String {
        self.gateway.reload(&filled_in(config, self.address, self.admin))
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Lines of the access log about the switch, so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.gateway.directory().join("access.log")).unwrap_or_default();
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(parse).filter(|line: &Value| line["listener"] == "l4").collect()
    }

    /// Waits for so many lines, and gives them.
    pub(crate) fn await_lines(&self, count: usize) -> Vec<Value> {
        let mut lines = Vec::new();
        eventually(&format!("{count} lines of the access log"), || {
            lines = self.lines();
            lines.len() >= count
        });
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }

    /// Waits until that many connections ended for this reason.
    pub(crate) fn await_reason(&self, reason: &str, count: usize) -> Value {
        let until = Instant::now() + PATIENCE;
        let mut found: Vec<Value>;
        loop {
            let lines = self.lines();
            found = lines.iter().filter(|line| line["reason"] == reason).cloned().collect();
            if found.len() >= count {
                break;
            }
            assert!(Instant::now() < until, "not {count} lines with reason {reason}: {lines:#?}");
            thread::sleep(Duration::from_millis(5));
        }
        found.pop().unwrap_or_default()
    }

    /// What `/metrics` says of everything whose name and labels contain all of these.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let mut client = Client::connect(self.admin);
        let answer = client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").answer().expect(200);
        let text = answer.text();
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let lines = text.lines().filter(of_name).filter(|line| labels.iter().all(|label| line.contains(label)));
        let value = |line: &str| line.rsplit_once(' ').and_then(|(_, value)| value.parse::<f64>().ok());
        lines.map(|line| value(line).unwrap_or_else(|| panic!("a sample {line:?}")) as u64).sum()
    }

    pub(crate) fn open(&self) -> u64 {
        self.metric("sumun_listener_connections", &["listener=\"l4\""])
    }

    /// Waits until nothing is left of any connection or flow.
    pub(crate) fn await_nothing_open(&self) {
        eventually("no connection is left", || self.open() == 0);
    }
}

fn filled_in(config: &str, address: SocketAddr, admin: SocketAddr) -> String {
    config.replace("$L4", &address.to_string()).replace("$ADMIN", &admin.to_string())
}

/// Takes connections when the test wants them.
pub(crate) struct Backend {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Backend {
    pub(crate) fn new(ip: IpAddr) -> Self {
        Self::at(SocketAddr::new(ip, 0))
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        // On Linux this bounds `accept`, too.
        SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).expect("a bound");
        Self { listener, address }
    }

    pub(crate) fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().unwrap_or_else(|error| panic!("no connection came: {error}"));
        patient(stream)
    }

    /// The next connection if there is one already.
    pub(crate) fn waiting(&self) -> Option<TcpStream> {
        self.listener.set_nonblocking(true).expect("a socket");
        let accepted = self.listener.accept();
        self.listener.set_nonblocking(false).expect("a socket");
        let (stream, _) = accepted.ok()?;
        stream.set_nonblocking(false).expect("a socket");
        Some(patient(stream))
    }
}

/// The connection of whichever of these servers gets one, with the server's place in the list.
pub(crate) fn accept_any(backends: &[&Backend]) -> (usize, TcpStream) {
    let mut found = None;
    eventually("a connection at one of the servers", || {
        found = backends.iter().enumerate().find_map(|(at, backend)| Some((at, backend.waiting()?)));
        found.is_some()
    });
    found.expect("it was found")
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    patient(client::connect(address, PATIENCE).unwrap_or_else(|error| panic!("{address}: {error}")))
}

/// From this address of this host.
pub(crate) fn connect_from(source: IpAddr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap_or_else(|error| panic!("{source}: {error}"));
    socket.connect(&address.into()).unwrap_or_else(|error| panic!("{address} from {source}: {error}"));
    patient(socket.into())
}

/// Breaks the connection off, as the kernel does for a program that was killed in the middle.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("the connection is there");
}

pub(crate) fn send(mut stream: impl Write, bytes: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).expect("the gateway takes what is sent");
}

/// Exactly this many bytes.
pub(crate) fn receive(mut stream: impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap_or_else(|error| panic!("not {count} bytes: {error}"));
    bytes
}

/// All that still comes, and how that ends.
pub(crate) fn rest(mut stream: impl Read) -> (Vec<u8>, End) {
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return (bytes, End::Closed),
            Ok(count) => bytes.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock | ErrorKind::TimedOut => return (bytes, End::TimedOut),
                _ => return (bytes, End::Reset),
            },
        }
    }
}

/// How it ends; bytes before that fail the test.
pub(crate) fn end(stream: impl Read) -> End {
    let (bytes, end) = rest(stream);
    assert!(bytes.is_empty(), "bytes before the end ({end:?}): {}", super::show(&bytes));
    end
}

/// It is over, in whichever way, and nothing came.
pub(crate) fn refused(stream: impl Read) {
    let end = end(stream);
    assert!(end != End::TimedOut, "it stays open");
}

/// Connects to where nobody is let in. That may be told before `connect` has returned.
pub(crate) fn turned_away(address: SocketAddr) {
    match client::connect(address, PATIENCE) {
        Ok(stream) => refused(patient(stream)),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

/// Bytes pass in both directions.
pub(crate) fn converse(client: &TcpStream, server: &TcpStream) {
    send(client, "from the client");
    assert_eq!(receive(server, 15), b"from the client");
    send(server, "from the server");
    assert_eq!(receive(client, 15), b"from the server");
}

/// Numbers that are the same in each run with the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One time of so many.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// What a header of the PROXY protocol says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) tlvs: Vec<(u8, Vec<u8>)>,
}

impl Named {
    pub(crate) fn tlv(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs.iter().find(|(found, _)| *found == kind).map(|(_, value)| value.as_slice())
    }
}

/// Reads a line of version 1 and nothing behind it.
pub(crate) fn read_v1(stream: &TcpStream) -> Named {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        assert!(line.len() < 107, "no line of version 1: {}", super::show(&line));
        line.extend(receive(stream, 1));
    }
    let line = String::from_utf8(line).expect("a line of version 1 is ASCII");
    let words: Vec<&str> = line.trim_end_matches("\r\n").split(' ').collect();
    assert_eq!(words.len(), 6, "{line:?}");
    let address = |ip: &str, port: &str| {
        SocketAddr::new(ip.parse().unwrap_or_else(|_| panic!("{line:?}")), port.parse().expect("a port"))
    };
    let (source, destination) = (address(words[2], words[4]), address(words[3], words[5]));
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    assert_eq!((words[0], words[1]), ("PROXY", family), "{line:?}");
    Named { source, destination, tlvs: Vec::new() }
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads a header of version 2 and nothing behind it.
pub(crate) fn read_v2(stream: &TcpStream) -> Named {
    let head = receive(stream, 16);
    let body = receive(stream, usize::from(u16::from_be_bytes([head[14], head[15]])));
    assert_eq!(&head[..12], SIGNATURE);
    assert_eq!(head[12], 0x21, "version 2, PROXY");
    let (addresses, ip_bytes) = match head[13] {
        0x11 => (12, 4),
        0x21 => (36, 16),
        other => panic!("family and transport {other:#x}"),
    };
    let ip = |at: usize| -> IpAddr {
        let bytes = &body[at..at + ip_bytes];
        match <[u8; 4]>::try_from(bytes) {
            Ok(bytes) => bytes.into(),
            Err(_) => <[u8; 16]>::try_from(bytes).expect("16 bytes").into(),
        }
    };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let (source, destination) =
        (SocketAddr::new(ip(0), port(2 * ip_bytes)), SocketAddr::new(ip(ip_bytes), port(2 * ip_bytes + 2)));
    Named { source, destination, tlvs: split_tlvs(&body[addresses..]) }
}

pub(crate) fn split_tlvs(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut tlvs = Vec::new();
    while let [kind, high, low, rest @ ..] = bytes {
        let (value, behind) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        tlvs.push((*kind, value.to_vec()));
        bytes = behind;
    }
    assert!(bytes.is_empty(), "TLVs end where the header ends");
    tlvs
}

/// A header of version 2 for a stream.
pub(crate) fn v2(source: SocketAddr, destination: SocketAddr, tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for ip in [source.ip(), destination.ip()] {
        match ip {
            IpAddr::V4(ip) => body.extend(ip.octets()),
            IpAddr::V6(ip) => body.extend(ip.octets()),
        }
    }
    body.extend(source.port().to_be_bytes());
    body.extend(destination.port().to_be_bytes());
    for (kind, value) in tlvs {
        body.push(*kind);
        body.extend(u16::try_from(value.len()).expect("a short TLV").to_be_bytes());
        body.extend(*value);
    }
    let family = if source.is_ipv4() { 0x11 } else { 0x21 };
    let length = u16::try_from(body.len()).expect("a short header").to_be_bytes();
    [SIGNATURE.as_slice(), &[0x21, family], &length, &body].concat()
}

pub(crate) fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}
