//! What the switch promises of QUIC: a client that comes from another address or UDP port stays at its
//! server. The datagrams are made by hand; what is in them is no business of the switch.

mod support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};

use socket2::SockRef;
use support::instance::{PATIENCE, Place, eventually, everywhere};
use support::l4::{Switch, config, quoted};

/// Servers of a test. They are balanced in turn, so who is not known comes to all of them.
const SERVERS: usize = 4;
const LEARNT: &str = "bind: \"$L4/udp\", udp: { pool: app, quic: on },";

fn socket(place: Place) -> UdpSocket {
    let address = SocketAddr::new(place.ip, 0);
    let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    SockRef::from(&socket).set_recv_buffer_size(4 * 1024 * 1024).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket
}

fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("a bound socket has an address")
}

/// Clients of a switch, each from a UDP port that no other one has had: its flow is there for a while.
struct Clients {
    place: Place,
    switch: SocketAddr,
    all: RefCell<Vec<UdpSocket>>,
}

impl Clients {
    fn of(place: Place, switch: &Switch) -> Self {
        Self { place, switch: switch.address, all: RefCell::default() }
    }

    fn next(&self) -> UdpSocket {
        let socket = socket(self.place);
        socket.connect(self.switch).expect("it is an address");
        self.all.borrow_mut().push(socket.try_clone().expect("a descriptor"));
        socket
    }
}

fn servers(place: Place) -> [UdpSocket; SERVERS] {
    [(); SERVERS].map(|()| socket(place))
}

fn addresses(servers: &[UdpSocket]) -> Vec<SocketAddr> {
    servers.iter().map(address).collect()
}

/// A config with these servers, and these keys of the listener.
fn with(servers: &[SocketAddr], listener: &str) -> String {
    config(&format!("app: {{ balance: round-robin, servers: [{}] }}", quoted(servers)), listener)
}

/// The same with servers that are called 00, 01 and so on.
fn with_ids(servers: &[SocketAddr], server_id: &str) -> String {
    let servers = servers.iter().enumerate();
    let servers: Vec<String> =
        servers.map(|(at, server)| format!("{{ address: \"{server}\", quic_id: {at:02x} }}")).collect();
    let listener = format!("bind: \"$L4/udp\", udp: {{ pool: app, quic: {{ server_id: {{ {server_id} }} }} }}");
    config(&format!("app: {{ balance: round-robin, servers: [{}] }}", servers.join(", ")), &listener)
}

const INITIAL: u8 = 0;
const HANDSHAKE: u8 = 2;

/// RFC 9000 section 17.2.
fn long(kind: u8, destination: &[u8], source: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xc0 | kind << 4, 0, 0, 0, 1];
    for id in [destination, source] {
        bytes.push(u8::try_from(id.len()).expect("a short id"));
        bytes.extend(id);
    }
    bytes.extend([0xee; 1100]);
    bytes
}

/// RFC 9000 section 17.3.
fn short(destination: &[u8]) -> Vec<u8> {
    [&[0x41], destination, &[0xdd; 60]].concat()
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    let (count, _) = socket.recv_from(&mut bytes).unwrap_or_else(|error| panic!("no datagram came: {error}"));
    bytes.truncate(count);
    bytes
}

/// Sends a datagram; at which server it came, and from where.
fn send(client: &UdpSocket, datagram: &[u8], servers: &[UdpSocket]) -> (usize, SocketAddr) {
    client.send(datagram).expect("sent");
    let mut found = None;
    eventually("a datagram at one of the servers", || {
        found = servers.iter().enumerate().find_map(|(at, server)| {
            server.set_nonblocking(true).expect("a socket");
            let mut bytes = vec![0; 65_536];
            let received = server.recv_from(&mut bytes);
            server.set_nonblocking(false).expect("a socket");
            let (count, from) = received.ok()?;
            assert!(bytes[..count] == *datagram, "it arrives as it was sent");
            Some((at, from))
        });
        found.is_some()
    });
    found.expect("it was found")
}

/// A handshake: the server calls itself `id`, and the client has heard of it.
fn shake_hands(client: &UdpSocket, servers: &[UdpSocket], id: &[u8]) -> usize {
    let (at, from) = send(client, &long(INITIAL, b"8 or more, at random", b"client"), servers);
    let answer = long(INITIAL, b"client", id);
    servers[at].send_to(&answer, from).expect("sent");
    assert!(receive(client) == answer);
    assert_eq!(send(client, &long(HANDSHAKE, id, b"client"), servers), (at, from));
    assert_eq!(send(client, &short(id), servers), (at, from), "it is one flow");
    at
}

fn found(switch: &Switch, how: &str) -> u64 {
    switch.metric("sumun_stream_quic_flows_total", &["listener=\"l4\"", &format!("found=\"{how}\"")])
}

#[test]
fn a_client_from_another_port_stays_at_its_server() {
    const CLIENTS: usize = 12;
    everywhere(|place| {
        let servers = servers(place);
        let switch = Switch::start(place, &with(&addresses(&servers), LEARNT));
        let clients = Clients::of(place, &switch);
        let mut homes = BTreeSet::new();
        for number in 0..CLIENTS {
            // Ids of the same beginning and of several lengths.
            let id = [&[0x77; 3][..], &number.to_be_bytes(), &vec![number as u8; number % 8]].concat();
            let first = clients.next();
            let home = shake_hands(&first, &servers, &id);
            homes.insert(home);
            // From so many ports that both workers see some of them.
            for round in 0..8 {
                let other = clients.next();
                let datagram = if round == 0 { long(HANDSHAKE, &id, b"client") } else { short(&id) };
                let (at, from) = send(&other, &datagram, &servers);
                assert_eq!(at, home, "client {number}, round {round}");
                // It is another flow: the server sees that the client moved, and answers there.
                servers[at].send_to(&short(b"client"), from).expect("sent");
                assert!(receive(&other) == short(b"client"));
                assert_eq!(send(&other, &short(&id), &servers), (at, from));
            }
        }
        assert_eq!(homes.len(), SERVERS, "each server has some");
        assert_eq!(found(&switch, "learnt"), 8 * CLIENTS as u64);
        assert_eq!(found(&switch, "balanced"), CLIENTS as u64);
    });
}

#[test]
fn ids_that_nobody_used_are_balanced() {
    everywhere(|place| {
        let servers = servers(place);
        let switch = Switch::start(place, &with(&addresses(&servers), LEARNT));
        let clients = Clients::of(place, &switch);
        let home = shake_hands(&clients.next(), &servers, b"known to us");
        let mut seen = BTreeSet::new();
        for number in 0..8 * SERVERS {
            let datagram = match number % 4 {
                0 => short(b"unknown"),
                1 => short(b"known to u"),
                2 => long(HANDSHAKE, b"known to us, too", b"x"),
                _ => b"\xff\0\0".to_vec(),
            };
            seen.insert(send(&clients.next(), &datagram, &servers).0);
        }
        assert_eq!(seen.len(), SERVERS, "they come to all of them");
        assert_eq!(send(&clients.next(), &short(b"known to us"), &servers).0, home);
    });
}

#[test]
fn without_quic_ids_are_bytes_like_others() {
    everywhere(|place| {
        let servers = servers(place);
        let switch = Switch::start(place, &with(&addresses(&servers), "bind: \"$L4/udp\", udp: app"));
        let clients = Clients::of(place, &switch);
        shake_hands(&clients.next(), &servers, b"known to us");
        let send = |_| send(&clients.next(), &short(b"known to us"), &servers).0;
        assert_eq!((0..4 * SERVERS).map(send).collect::<BTreeSet<usize>>().len(), SERVERS);
        assert_eq!(found(&switch, "balanced"), 0);
    });
}

#[test]
fn a_server_that_is_gone_is_not_looked_for() {
    everywhere(|place| {
        let servers = servers(place);
        let all = addresses(&servers);
        let switch = Switch::start(place, &with(&all, LEARNT));
        let clients = Clients::of(place, &switch);
        let home = shake_hands(&clients.next(), &servers, b"the server's");
        // What is known lives on over a reload.
        switch.reload(&with(&all, &format!("{LEARNT} bounds: {{ connections: 5000 }}")));
        let elsewhere = clients.next();
        assert_eq!(send(&elsewhere, &short(b"the server's"), &servers).0, home);
        let mut others = all.clone();
        others.remove(home);
        switch.reload(&with(&others, LEARNT));
        let mut seen = BTreeSet::new();
        for _ in 0..4 * SERVERS {
            seen.insert(send(&clients.next(), &short(b"the server's"), &servers).0);
        }
        assert_eq!(seen, (0..SERVERS).filter(|&at| at != home).collect());
        // The connection begins anew, and its id is another server's.
        let again = shake_hands(&clients.next(), &servers, b"the server's");
        assert_ne!(again, home);
        assert_eq!(send(&clients.next(), &short(b"the server's"), &servers).0, again);
    });
}

/// An id outlives its flow, since that is when a NAT has forgotten the client.
#[test]
fn a_client_that_was_silent_comes_back_to_its_server() {
    everywhere(|place| {
        let servers = servers(place);
        let listener = format!("{LEARNT} bounds: {{ idle: 2s }}");
        let switch = Switch::start(place, &with(&addresses(&servers), &listener));
        let clients = Clients::of(place, &switch);
        let client = clients.next();
        let home = shake_hands(&client, &servers, b"the server's");
        switch.await_nothing_open();
        assert_eq!(send(&client, &short(b"the server's"), &servers).0, home);
        assert!(found(&switch, "learnt") >= 1);
    });
}

#[test]
fn ids_that_name_their_server_need_not_be_known() {
    everywhere(|place| {
        let servers = servers(place);
        let switch = Switch::start(place, &with_ids(&addresses(&servers), "bytes: 1, nonce: 6, config: 2"));
        let clients = Clients::of(place, &switch);
        for number in 0..3 * SERVERS {
            let at = number % SERVERS;
            let id = [0x40 | 7, at as u8, 1, 2, 3, 4, 5, 6];
            assert_eq!(send(&clients.next(), &short(&id), &servers).0, at);
            assert_eq!(send(&clients.next(), &long(HANDSHAKE, &id, b"x"), &servers).0, at);
        }
        assert_eq!(found(&switch, "server_id"), 6 * SERVERS as u64);
        // Of another configuration; of a server that is not there; too short.
        for id in [&[0x67, 0, 1, 2, 3, 4, 5, 6][..], &[0x47, 99, 1, 2, 3, 4, 5, 6]] {
            let send = |_| send(&clients.next(), &short(id), &servers).0;
            assert_eq!((0..4 * SERVERS).map(send).collect::<BTreeSet<usize>>().len(), SERVERS);
        }
        // What a server was seen to use is learnt all the same.
        let home = shake_hands(&clients.next(), &servers, b"\xe0 of no server");
        assert_eq!(send(&clients.next(), &short(b"\xe0 of no server"), &servers).0, home);
    });
}

/// The ids are those that the draft's tests list, for the server `ed793a`.
#[test]
fn encrypted_ids_name_their_server() {
    everywhere(|place| {
        let servers = servers(place);
        let ids = ["000000", "ed793a", "ffffff", "ed793b"];
        let list: Vec<String> = addresses(&servers)
            .iter()
            .zip(ids)
            .map(|(server, id)| format!("{{ address: \"{server}\", quic_id: {id} }}"))
            .collect();
        let server_id = "bytes: 3, nonce: 4, key: 8f95f09245765f80256934e50c66207f";
        let listener = format!("bind: \"$L4/udp\", udp: {{ pool: app, quic: {{ server_id: {{ {server_id} }} }} }}");
        let pools = format!("app: {{ balance: round-robin, servers: [{}] }}", list.join(", "));
        let switch = Switch::start(place, &config(&pools, &listener));
        let clients = Clients::of(place, &switch);
        for _ in 0..2 * SERVERS {
            let id = [0x07, 0x20, 0xb1, 0xd0, 0x7b, 0x35, 0x9d, 0x3c];
            assert_eq!(send(&clients.next(), &short(&id), &servers).0, 1);
        }
    });
}
