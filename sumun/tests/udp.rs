//! What the switch promises of datagrams: each arrives as it was, at the server of its flow, and the
//! answer comes from the address that the client wrote to.

mod support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::SockRef;
use support::instance::{PATIENCE, eventually, everywhere};
use support::l4::{Numbers, Switch, config, quoted, udp_config};

/// A socket of this address whose kernel keeps what a test did not read yet.
fn bind(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    SockRef::from(&socket).set_recv_buffer_size(4 * 1024 * 1024).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket
}

fn server(ip: IpAddr) -> UdpSocket {
    bind(SocketAddr::new(ip, 0))
}

fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("a bound socket has an address")
}

/// A client of the switch alone: what others send it does not see.
fn client(switch: &Switch) -> UdpSocket {
    let socket = server(switch.address.ip());
    socket.connect(switch.address).expect("it is an address");
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 65_536];
    let (count, from) = socket.recv_from(&mut bytes).unwrap_or_else(|error| panic!("no datagram came: {error}"));
    bytes.truncate(count);
    (bytes, from)
}

/// What came already, if anything.
fn waiting(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    socket.set_nonblocking(true).expect("a socket");
    let mut bytes = vec![0; 65_536];
    let received = socket.recv_from(&mut bytes);
    socket.set_nonblocking(false).expect("a socket");
    let (count, from) = received.ok()?;
    bytes.truncate(count);
    Some((bytes, from))
}

/// The next datagram at any of these servers, with the server's place in the list.
fn receive_any(servers: &[UdpSocket]) -> (usize, Vec<u8>, SocketAddr) {
    let mut found = None;
    eventually("a datagram at one of the servers", || {
        found = servers.iter().enumerate().find_map(|(at, server)| {
            let (bytes, from) = waiting(server)?;
            Some((at, bytes, from))
        });
        found.is_some()
    });
    found.expect("it was found")
}

/// Sends a datagram, answers it, and gives which server it was, and how it is called there.
fn exchange(client: &UdpSocket, servers: &[UdpSocket]) -> (usize, SocketAddr) {
    client.send(b"question").expect("sent");
    let (at, bytes, from) = receive_any(servers);
    assert_eq!(bytes, b"question");
    servers[at].send_to(b"answer", from).expect("sent");
    assert_eq!(receive(client).0, b"answer");
    (at, from)
}

#[test]
fn datagrams_of_all_sizes_pass_uncut() {
    everywhere(|place| {
        let server = server(place.ip);
        let switch = Switch::udp(place, &[address(&server)], "", "");
        let client = client(&switch);
        let bytes: Vec<u8> = (0..65_507_u32).map(|number| (number % 253) as u8).collect();
        for size in [1, 0, 0, 2, 511, 512, 1_472, 1_473, 9_000, 65_000, 65_507] {
            client.send(&bytes[..size]).expect("sent");
            let (came, from) = receive(&server);
            assert!(came == bytes[..size], "{} of {size} bytes came", came.len());
            server.send_to(&bytes[..size], from).expect("sent");
            let (came, from) = receive(&client);
            assert!(came == bytes[..size], "{} of {size} bytes came back", came.len());
            assert_eq!(from, switch.address);
        }
    });
}

/// Neither segmentation offload nor receive offload may merge, cut or reorder what belongs to a flow.
#[test]
fn many_in_a_row_keep_their_order_and_their_bounds() {
    const ROUNDS: u64 = 400;
    const ROW: u64 = 50;
    everywhere(|place| {
        let server = server(place.ip);
        let switch = Switch::udp(place, &[address(&server)], "", "");
        let client = client(&switch);
        let mut numbers = Numbers(7);
        let mut row = 0;
        for round in 0..ROUNDS {
            // Equal sizes, such as offloads look for; then a last one that is shorter; then any.
            let size = 8 + numbers.below(1_400) as usize;
            let sizes: Vec<usize> = (0..ROW)
                .map(|number| match round % 3 {
                    0 => size,
                    1 if number % 10 == 9 => 8 + numbers.below(size as u64 - 7) as usize,
                    1 => size,
                    _ => 8 + numbers.below(1_400) as usize,
                })
                .collect();
            let datagram = |at: usize| {
                let mut bytes = vec![(row as usize + at) as u8; sizes[at]];
                bytes[..8].copy_from_slice(&(row + at as u64).to_le_bytes());
                bytes
            };
            (0..sizes.len()).for_each(|at| {
                client.send(&datagram(at)).expect("sent");
            });
            let mut peer = None;
            for (at, size) in sizes.iter().enumerate() {
                let (bytes, from) = receive(&server);
                assert!(bytes == datagram(at), "number {at} of round {round}: {} of {size}", bytes.len());
                assert_eq!(*peer.get_or_insert(from), from);
            }
            let peer = peer.expect("there was one");
            (0..sizes.len()).for_each(|at| {
                server.send_to(&datagram(at), peer).expect("sent");
            });
            for at in 0..sizes.len() {
                let (bytes, _) = receive(&client);
                assert!(bytes == datagram(at), "back: number {at} of round {round}: {} bytes", bytes.len());
            }
            row += ROW;
        }
    });
}

/// A listener of all addresses answers from the one that was asked.
#[test]
fn the_answer_comes_from_where_the_question_went() {
    everywhere(|place| {
        let server = server(place.ip);
        let pools = format!("app: {{ servers: [\"{}\"] }}", address(&server));
        let port = place.free_address().port();
        let switch = Switch::start(place, &config(&pools, &format!("bind: \":{port}/udp\", udp: app")));
        let mut asked: Vec<IpAddr> = vec![place.ip, Ipv4Addr::LOCALHOST.into()];
        asked.extend([5, 77].map(|last| IpAddr::from(Ipv4Addr::new(127, 0, 0, last))));
        for ip in asked {
            let unspecified = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let client = bind(unspecified.parse().expect("an address"));
            client.send_to(b"to you", SocketAddr::new(ip, port)).expect("sent");
            let (_, from) = receive(&server);
            server.send_to(b"from you", from).expect("sent");
            assert_eq!(receive(&client), (b"from you".to_vec(), SocketAddr::new(ip, port)));
        }
        drop(switch);
    });
}

#[test]
fn a_flow_stays_at_its_server() {
    everywhere(|place| {
        let servers = [(); 3].map(|()| server(place.ip));
        let addresses: Vec<SocketAddr> = servers.iter().map(address).collect();
        let switch = Switch::udp(place, &addresses, "balance: round-robin,", "");
        let mut seen = BTreeSet::new();
        for _ in 0..12 {
            let client = client(&switch);
            let first = exchange(&client, &servers);
            for _ in 0..5 {
                assert_eq!(exchange(&client, &servers), first, "the same server, from the same UDP port");
            }
            seen.insert(first.0);
        }
        assert_eq!(seen.len(), 3, "each server has some");
    });
}

#[test]
fn two_thousand_clients_get_their_own_answers() {
    const CLIENTS: usize = 2_000;
    everywhere(|place| {
        let servers = [(); 2].map(|()| server(place.ip));
        let addresses: Vec<SocketAddr> = servers.iter().map(address).collect();
        let switch = Switch::udp(place, &addresses, "", "bounds: { per_client: 0 },");
        let clients: Vec<UdpSocket> = (0..CLIENTS).map(|_| client(&switch)).collect();
        let mut ports = BTreeSet::new();
        for round in 0..2 {
            let mut came = Vec::new();
            // As many at once as a server's kernel keeps.
            for (from, some) in clients.chunks(100).enumerate() {
                for (at, client) in some.iter().enumerate() {
                    client.send(&(100 * from + at).to_le_bytes()).expect("sent");
                }
                came.extend(some.iter().map(|_| receive_any(&servers)));
            }
            // The answers go out in another order.
            came.sort_by_key(|(_, bytes, _)| bytes.clone());
            for some in came.chunks(100) {
                for (at, bytes, from) in some {
                    servers[*at].send_to(&[bytes.as_slice(), b" for you"].concat(), from).expect("sent");
                    ports.insert(from.port());
                }
            }
            for (number, client) in clients.iter().enumerate() {
                assert_eq!(receive(client).0, [&number.to_le_bytes()[..], b" for you"].concat(), "round {round}");
                assert_eq!(waiting(client), None, "nobody else's");
            }
        }
        assert_eq!(switch.open(), CLIENTS as u64);
        assert_eq!(ports.len(), CLIENTS, "a UDP port for each flow");
    });
}

#[test]
fn one_response_ends_a_flow() {
    everywhere(|place| {
        let servers = [(); 2].map(|()| server(place.ip));
        let addresses: Vec<SocketAddr> = servers.iter().map(address).collect();
        let pools = format!("app: {{ balance: round-robin, servers: [{}] }}", quoted(&addresses));
        // It does not end by its age.
        let listener = "bind: \"$L4/udp\", udp: { pool: app, responses: 1 }, bounds: { idle: 1h }";
        let switch = Switch::start(place, &config(&pools, listener));
        let client = client(&switch);
        let first = exchange(&client, &servers).0;
        for number in 1..10 {
            let (at, _) = exchange(&client, &servers);
            assert_eq!(at, (first + number) % 2, "datagram {number} goes to the next server");
        }
        switch.await_nothing_open();
        // Two that are under way together are answered both.
        client.send(b"one").expect("sent");
        client.send(b"two").expect("sent");
        let came = [(); 2].map(|()| receive_any(&servers));
        for (at, bytes, from) in &came {
            servers[*at].send_to(bytes, from).expect("sent");
        }
        let answers = BTreeSet::from([receive(&client).0, receive(&client).0]);
        assert_eq!(answers, BTreeSet::from([b"one".to_vec(), b"two".to_vec()]));
        switch.await_nothing_open();
    });
}

#[test]
fn without_responses_each_datagram_is_alone() {
    everywhere(|place| {
        let servers = [(); 2].map(|()| server(place.ip));
        let addresses: Vec<SocketAddr> = servers.iter().map(address).collect();
        let pools = format!("app: {{ balance: round-robin, servers: [{}] }}", quoted(&addresses));
        let switch = Switch::start(
            place,
            &config(&pools, "bind: \"$L4/udp\", udp: { pool: app, responses: 0 }, bounds: { idle: 1h }"),
        );
        let client = client(&switch);
        let mut counts = [0; 2];
        for number in 0..20_u8 {
            client.send(&[number]).expect("sent");
            let (at, bytes, _) = receive_any(&servers);
            assert_eq!(bytes, [number]);
            counts[at] += 1;
        }
        assert_eq!(counts, [10, 10]);
        switch.await_nothing_open();
        assert_eq!(switch.metric("sumun_stream_ended_total", &["reason=\"answered\""]), 20, "none is waited for");
    });
}

#[test]
fn an_idle_flow_is_forgotten() {
    everywhere(|place| {
        let server = server(place.ip);
        let servers = [server];
        let switch = Switch::udp(place, &[address(&servers[0])], "", "bounds: { idle: 500ms },");
        let client = client(&switch);
        exchange(&client, &servers);
        switch.await_nothing_open();
        let line = switch.await_reason("idle", 1);
        assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&8.into(), &6.into()), "{line}");
        assert_eq!(line["server"], address(&servers[0]).to_string());
        assert_eq!(line["client"], place.ip.to_string());
        assert_eq!(switch.metric("sumun_stream_ended_total", &["listener=\"l4\"", "reason=\"idle\""]), 1);
        // The next one begins a flow again.
        exchange(&client, &servers);
    });
}

/// Nothing listens at the server's UDP port any more: the kernel says so, and its flows go elsewhere.
#[test]
fn a_dead_server_loses_its_flows() {
    everywhere(|place| {
        let mut servers = vec![server(place.ip), server(place.ip)];
        let addresses: Vec<SocketAddr> = servers.iter().map(address).collect();
        let switch = Switch::udp(place, &addresses, "", "");
        let clients: Vec<UdpSocket> = (0..20).map(|_| client(&switch)).collect();
        let homes: Vec<usize> = clients.iter().map(|client| exchange(client, &servers).0).collect();
        assert!(homes.contains(&0) && homes.contains(&1), "{homes:?}");
        drop(servers.remove(0));
        for (client, home) in clients.iter().zip(homes) {
            let mut sent = 0;
            eventually("the client's datagrams reach a server", || {
                client.send(b"question").expect("sent");
                sent += 1;
                std::thread::sleep(Duration::from_millis(5));
                waiting(&servers[0]).is_some()
            });
            assert!(home == 0 || sent < 20, "a flow of the other server goes on");
            assert!(sent < 200, "{sent} datagrams until one arrived");
            while waiting(&servers[0]).is_some() {}
        }
    });
}

#[test]
fn flows_beyond_the_bound_are_dropped_and_counted() {
    everywhere(|place| {
        let servers = [server(place.ip)];
        let switch = Switch::udp(place, &[address(&servers[0])], "", "bounds: { connections: 10 },");
        let inside: Vec<UdpSocket> = (0..10).map(|_| client(&switch)).collect();
        inside.iter().for_each(|client| {
            exchange(client, &servers);
        });
        let outside: Vec<UdpSocket> = (0..10).map(|_| client(&switch)).collect();
        outside.iter().for_each(|client| {
            client.send(b"no room").expect("sent");
        });
        eventually("they are counted", || {
            switch.metric("sumun_stream_datagrams_dropped_total", &["listener=\"l4\""])
                + switch.metric("sumun_stream_datagrams_refused_total", &["listener=\"l4\""])
                == 10
        });
        assert_eq!(switch.open(), 10);
        inside.iter().for_each(|client| {
            exchange(client, &servers);
        });
        assert_eq!(waiting(&servers[0]), None);
    });
}

/// Whoever makes senders up pushes out others of the kind, and none that are really there.
#[test]
fn who_was_not_answered_makes_way() {
    const KNOWN: usize = 60;
    const STRANGERS: usize = 240;
    everywhere(|place| {
        let servers = [server(place.ip)];
        let switch = Switch::udp(place, &[address(&servers[0])], "", "bounds: { connections: 120 },");
        let known: Vec<UdpSocket> = (0..KNOWN).map(|_| client(&switch)).collect();
        let homes: Vec<SocketAddr> = known.iter().map(|client| exchange(client, &servers).1).collect();
        let strangers: Vec<UdpSocket> = (0..STRANGERS).map(|_| client(&switch)).collect();
        strangers.iter().for_each(|client| {
            client.send(b"who am I").expect("sent");
            assert_eq!(receive(&servers[0]).0, b"who am I");
        });
        switch.await_reason("displaced", STRANGERS - (120 - KNOWN));
        let newcomer = client(&switch);
        exchange(&newcomer, &servers);
        for (client, home) in known.iter().zip(homes) {
            assert_eq!(exchange(client, &servers).1, home, "it is another flow");
        }
        exchange(&newcomer, &servers);
    });
}

#[test]
fn clients_that_may_not_are_not_heard() {
    everywhere(|place| {
        let servers = [server(place.ip)];
        for listener in ["allow: [10.0.0.0/8],", "deny: [\"127.0.0.0/8\", \"::1\"],"] {
            let switch = Switch::udp(place, &[address(&servers[0])], "", listener);
            let client = client(&switch);
            client.send(b"let me in").expect("sent");
            eventually("it is counted", || {
                switch.metric("sumun_stream_datagrams_dropped_total", &["listener=\"l4\""])
                    + switch.metric("sumun_stream_datagrams_refused_total", &["listener=\"l4\""])
                    + switch.metric("sumun_listener_connections_refused_total", &["listener=\"l4\"", "denied"])
                    > 0
            });
            assert_eq!((switch.open(), waiting(&servers[0])), (0, None));
        }
    });
}

#[test]
fn a_reload_leaves_flows_alone_whose_server_stays() {
    everywhere(|place| {
        let servers = [server(place.ip), server(place.ip)];
        let addresses: Vec<SocketAddr> = servers.iter().map(address).collect();
        let switch = Switch::udp(place, &addresses, "balance: first,", "");
        let process = switch.gateway.worker_process();
        let client = client(&switch);
        let (at, from) = exchange(&client, &servers);
        assert_eq!(at, 0);
        // The listener is another one.
        let other = udp_config(&addresses, "balance: first,", "");
        switch.reload(&other.replace("udp: app", "udp: app, bounds: { connections: 5000 }"));
        assert_eq!(exchange(&client, &servers), (0, from));
        // The server that it is at is taken out of the pool.
        switch.reload(&udp_config(&addresses[1..], "balance: first,", ""));
        let (at, moved) = exchange(&client, &servers);
        assert_eq!(at, 1);
        assert_ne!(moved, from, "a socket of its own for each server");
        let newcomer = self::client(&switch);
        assert_eq!(exchange(&newcomer, &servers).0, 1);
        // It comes back, and those who went stay where they are.
        switch.reload(&other);
        assert_eq!(exchange(&client, &servers), (1, moved));
        assert_eq!(switch.gateway.worker_process(), process);
    });
}

/// Only the server of a flow may answer in it.
#[test]
fn a_stranger_does_not_get_into_a_flow() {
    everywhere(|place| {
        let servers = [server(place.ip)];
        let switch = Switch::udp(place, &[address(&servers[0])], "", "");
        let client = client(&switch);
        let (_, upstream) = exchange(&client, &servers);
        let stranger = server(place.ip);
        // The kernel may say that nobody is there for it.
        match stranger.send_to(b"spoofed", upstream) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
        }
        servers[0].send_to(b"genuine", upstream).expect("sent");
        assert_eq!(receive(&client).0, b"genuine");
        assert_eq!(waiting(&client), None);
        exchange(&client, &servers);
    });
}
