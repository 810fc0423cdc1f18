//! Connections that go where their TLS wants to go: names, protocols, and hellos that are none.

mod support;

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use support::certificates::{Authority, VERSIONS};
use support::client::End;
use support::instance::{Instance, Place, eventually, everywhere, memory_kib};
use support::l4::{Backend, Switch, config, converse, read_v2, receive, refused, reset, rest, send};
use support::server::Server;
use support::talk::Client;

/// Pools of one server each, and a listener with this map.
fn start(place: Place, pools: &[(&str, &Backend)], map: &str, listener: &str) -> Switch {
    Switch::start(place, &sni_config(pools, map, listener))
}

fn sni_config(pools: &[(&str, &Backend)], map: &str, listener: &str) -> String {
    let pools: Vec<String> =
        pools.iter().map(|(name, server)| format!("{name}: {{ servers: [\"{}\"] }}", server.address)).collect();
    config(&pools.join(", "), &format!("{listener} bind: \"$L4\", sni: {{ {map} }}"))
}

/// The first message of a client that asks for this name, and would speak these protocols.
fn hello(authority: &Authority, name: &str, protocols: &[&str]) -> Vec<u8> {
    hello_of(&authority.client(&VERSIONS, protocols, None), name)
}

fn hello_of(config: &Arc<ClientConfig>, name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).expect("a server's name");
    let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a client's side of TLS");
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).expect("memory takes it");
    bytes
}

/// The same message in records of so many bytes.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let (head, message) = hello.split_at(5);
    let record = |piece: &[u8]| {
        let length = u16::try_from(piece.len()).expect("a short record").to_be_bytes();
        [&head[..3], &length, piece].concat()
    };
    message.chunks(size).flat_map(record).collect()
}

/// Of so many bytes, by an extension that nobody knows.
fn grown(hello: &[u8], to: usize) -> Vec<u8> {
    let message = &hello[9..];
    // Its own head, and that of the message.
    let by = to - message.len() - 8;
    // Version, random, session id, cipher suites, compression methods.
    let session = 35 + usize::from(message[34]);
    let suites = session + 2 + usize::from(u16::from_be_bytes([message[session], message[session + 1]]));
    let extensions = suites + 1 + usize::from(message[suites]);
    let length = |bytes: usize| u16::try_from(bytes).expect("below 64 KiB").to_be_bytes();
    let there = &message[extensions + 2..];
    let body = [&message[..extensions], &length(there.len() + by + 4), &[0xfa, 0xce], &length(by), &vec![0; by], there]
        .concat();
    let whole = [&[1, 0], &length(body.len())[..], &body].concat();
    // Records hold 16 KiB at most.
    in_records(&[&hello[..5], &whole].concat(), 16_384)
}

/// It reaches this server as it was sent, and both sides can speak.
fn reaches(switch: &Switch, backend: &Backend, hello: &[u8]) {
    let client = switch.connect();
    send(&client, hello);
    let server = backend.accept();
    assert!(receive(&server, hello.len()) == hello, "the hello came otherwise");
    converse(&client, &server);
}

#[test]
fn the_name_chooses_the_pool() {
    everywhere(|place| {
        let [one, wild, deep, exact, other] = [(); 5].map(|()| Backend::new(place.ip));
        let pools = [("one", &one), ("wild", &wild), ("deep", &deep), ("exact", &exact), ("other", &other)];
        let map =
            "one.test: one, \"*.wild.test\": wild, \"*.deep.wild.test\": deep, a.wild.test: exact, default: other";
        let switch = start(place, &pools, map, "");
        let authority = Authority::new("authority");
        let address = place.ip.to_string();
        for (name, backend) in [
            ("one.test", &one),
            ("b.wild.test", &wild),
            ("d.c.b.wild.test", &wild),
            ("a.wild.test", &exact),
            ("b.a.wild.test", &wild),
            ("x.deep.wild.test", &deep),
            ("y.x.deep.wild.test", &deep),
            ("deep.wild.test", &wild),
            // The name above is none of those below it.
            ("wild.test", &other),
            ("notwild.test", &other),
            ("one.test.example", &other),
            ("xone.test", &other),
            // An address is not sent as a name: there is none.
            (&address, &other),
        ] {
            eprintln!("{name}");
            let hello = hello(&authority, name, &["http/1.1"]);
            reaches(&switch, backend, &hello);
        }
        switch.await_nothing_open();
    });
}

#[test]
fn names_are_compared_in_any_case() {
    everywhere(|place| {
        let [one, wild, other] = [(); 3].map(|()| Backend::new(place.ip));
        let map = "One.TEST: one, \"*.wild.test\": wild, default: other";
        let switch = start(place, &[("one", &one), ("wild", &wild), ("other", &other)], map, "");
        let authority = Authority::new("authority");
        for (name, backend) in [("one.test", &one), ("a.wild.test", &wild)] {
            let plain = hello(&authority, name, &[]);
            reaches(&switch, backend, &plain);
            let at = plain.windows(name.len()).position(|piece| piece == name.as_bytes()).expect("the name");
            let mut loud = plain;
            loud[at..at + name.len()].make_ascii_uppercase();
            reaches(&switch, backend, &loud);
        }
    });
}

#[test]
fn what_would_be_spoken_chooses_too() {
    everywhere(|place| {
        let [two, one, other] = [(); 3].map(|()| Backend::new(place.ip));
        let map = "site.test: { h2: two, default: one }, default: { acme-tls/1: two, default: other }";
        let switch = start(place, &[("two", &two), ("one", &one), ("other", &other)], map, "");
        let authority = Authority::new("authority");
        for (name, protocols, backend) in [
            ("site.test", &["h2", "http/1.1"][..], &two),
            ("site.test", &["http/1.1", "h2"], &two),
            ("site.test", &["http/1.1"], &one),
            ("site.test", &["h2c"], &one),
            ("site.test", &[], &one),
            ("other.test", &["h2"], &other),
            ("other.test", &["acme-tls/1"], &two),
        ] {
            eprintln!("{name} {protocols:?}");
            reaches(&switch, backend, &hello(&authority, name, protocols));
        }
    });
}

#[test]
fn a_hello_in_pieces_is_understood() {
    everywhere(|place| {
        let [one, other] = [(); 2].map(|()| Backend::new(place.ip));
        let switch = start(place, &[("one", &one), ("other", &other)], "one.test: one, default: other", "");
        let hello = hello(&Authority::new("authority"), "one.test", &["h2"]);
        // Each byte in a segment of its own.
        let client = switch.connect();
        for byte in &hello {
            send(&client, [*byte]);
        }
        let server = one.accept();
        assert_eq!(receive(&server, hello.len()), hello);
        converse(&client, &server);
        // In records of one byte, of a few, and both at once.
        for size in [1, 7, 100] {
            let hello = in_records(&hello, size);
            reaches(&switch, &one, &hello);
            let client = switch.connect();
            hello.chunks(3).for_each(|piece| send(&client, piece));
            let server = one.accept();
            assert_eq!(receive(&server, hello.len()), hello);
            converse(&client, &server);
        }
        // What comes right behind it is the server's as well.
        let client = switch.connect();
        send(&client, [hello.as_slice(), b"early data"].concat());
        client.shutdown(Shutdown::Write).expect("it is open");
        let server = one.accept();
        assert_eq!(rest(&server), ([hello.as_slice(), b"early data"].concat(), End::Closed));
        // Large ones are not rare any more.
        reaches(&switch, &one, &grown(&hello, 16_000));
    });
}

#[test]
fn what_is_no_hello_is_closed() {
    everywhere(|place| {
        let other = Backend::new(place.ip);
        let switch = start(place, &[("other", &other)], "default: other", "bounds: { header_timeout: 20s },");
        let hello = hello(&Authority::new("authority"), "one.test", &["h2"]);
        let mut broken = hello.clone();
        // The length of the extensions, or of something before them, is another.
        broken[43] = broken[43].wrapping_add(77);
        let alert: &[u8] = b"\x15\x03\x01\x00\x02\x01\x00";
        let garbage: Vec<u8> = (0..200_u32).map(|number| (number * 89 % 256) as u8).collect();
        let server_hello = [&hello[..5], &[2], &hello[6..]].concat();
        let empty: &[u8] = b"\x16\x03\x01\x00\x00";
        let cases: [(&str, &[u8]); 8] = [
            ("HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("an alert", alert),
            ("garbage", &garbage),
            ("SSH", b"SSH-2.0-x\r\n"),
            ("broken lengths", &broken),
            ("a ServerHello", &server_hello),
            ("more than 16 KiB", &grown(&hello, 17_000)),
            ("empty records", &empty.repeat(2000)),
        ];
        for (count, (what, bytes)) in cases.into_iter().enumerate() {
            eprintln!("{what}");
            let client = switch.connect();
            send(&client, bytes);
            refused(&client);
            switch.await_reason("bad_hello", count + 1);
        }
        // An end in the middle of one.
        let client = switch.connect();
        send(&client, &hello[..50]);
        client.shutdown(Shutdown::Write).expect("it is open");
        refused(&client);
        switch.await_nothing_open();
        assert!(other.waiting().is_none(), "no server was asked");
        let ended = |reason: &str| switch.metric("sumun_stream_ended_total", &["listener=\"l4\"", reason]);
        assert!(ended("reason=\"bad_hello\"") >= 8);
    });
}

#[test]
fn silence_is_closed_in_time() {
    everywhere(|place| {
        let other = Backend::new(place.ip);
        let switch = start(place, &[("other", &other)], "default: other", "bounds: { header_timeout: 500ms },");
        let hello = hello(&Authority::new("authority"), "one.test", &["h2"]);
        let silent = switch.connect();
        let begun = switch.connect();
        send(&begun, &hello[..hello.len() - 1]);
        refused(&silent);
        refused(&begun);
        // A byte now and then does not prolong it.
        let mut slow = switch.connect();
        slow.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
        let mut bytes = hello.iter();
        eventually("the slow one is closed", || {
            use std::io::{Read as _, Write as _};
            let Some(byte) = bytes.next() else { return false };
            slow.write_all(&[*byte]).is_err()
                || slow.read(&mut [0; 8]).map_or_else(|error| error.raw_os_error() == Some(104), |count| count == 0)
        });
        switch.await_reason("hello_timeout", 3);
        switch.await_nothing_open();
        assert!(other.waiting().is_none());
    });
}

/// RFC 6066 section 3: a server that does not know the name may say so with a fatal alert.
#[test]
fn an_unknown_name_is_told_so() {
    everywhere(|place| {
        let one = Backend::new(place.ip);
        let switch = start(place, &[("one", &one)], "one.test: one", "");
        let authority = Authority::new("authority");
        let address = place.ip.to_string();
        for (count, name) in ["two.test", "a.one.test", &address].into_iter().enumerate() {
            let client = switch.connect();
            send(&client, hello(&authority, name, &[]));
            let (alert, end) = rest(&client);
            assert_eq!(end, End::Closed, "{name}");
            assert!(alert.len() == 7 && alert.starts_with(&[21, 3]), "{name}: {alert:?}");
            assert_eq!(alert[3..], [0, 2, 2, 112], "{name}: fatal, unrecognized_name");
            switch.await_reason("unknown_name", count + 1);
        }
        // A real client understands that.
        let mut client = Client::secure(switch.address, &authority.plain_client(), "two.test");
        let error = client.handshake().expect_err("no handshake").to_string();
        assert!(error.to_lowercase().replace('_', "").contains("unrecogni"), "{error}");
        switch.await_nothing_open();
        assert!(one.waiting().is_none());
    });
}

#[test]
fn the_handshake_is_that_of_the_server() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let servers = ["one.test", "two.test"].map(|name| {
            let config = authority.pair(&[name]).server(&VERSIONS);
            Server::secure(place.ip, &config, move |peer| {
                while let Some(bytes) = peer.exactly(4) {
                    peer.send([&bytes, name.as_bytes()].concat());
                }
            })
        });
        let pools: Vec<String> = ["one", "two"]
            .iter()
            .zip(&servers)
            .map(|(name, server)| format!("{name}: {{ servers: [\"{}\"] }}", server.address()))
            .collect();
        let map = "bind: \"$L4\", sni: { one.test: one, two.test: two }";
        let switch = Switch::start(place, &config(&pools.join(", "), map));
        for name in ["one.test", "two.test"] {
            for version in VERSIONS {
                let client = authority.client(&[version], &[], None);
                let mut client = Client::secure(switch.address, &client, name);
                assert_eq!(client.send("ping").bytes(12), [b"ping", name.as_bytes()].concat());
                client.finish();
                assert_eq!(client.end(), End::Closed);
            }
        }
        switch.await_nothing_open();
    });
}

#[test]
fn the_listener_may_end_tls_after_the_choice() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let pair = authority.pair(&["one.test", "two.test", "three.test"]);
        let [one, two] = [(); 2].map(|()| Backend::new(place.ip));
        let config = sni_config(
            &[("one", &one), ("two", &two)],
            "one.test: one, two.test: two",
            "tls: { certs: [{ cert: $DIR/site.pem, key: $DIR/site.key }] },",
        );
        let switch = Switch::start_with(place, &config, |config| {
            Instance::start_in(place, config, |directory| pair.write(directory, "site"))
        });
        for (name, backend) in [("one.test", &one), ("two.test", &two)] {
            for version in VERSIONS {
                let client = authority.client(&[version], &[], None);
                let mut client = Client::secure(switch.address, &client, name);
                client.handshake().expect("a handshake");
                client.send("in the clear");
                let server = backend.accept();
                assert_eq!(receive(&server, 12), b"in the clear");
                send(&server, "so they are");
                assert_eq!(client.bytes(11), b"so they are");
                drop(server);
                assert_eq!(client.end(), End::Closed, "with close_notify");
            }
        }
        let mut stranger = Client::secure(switch.address, &authority.plain_client(), "three.test");
        assert!(stranger.handshake().is_err(), "it has a certificate, and no pool");
        drop(stranger);
        switch.await_nothing_open();
    });
}

/// PP2_TYPE_AUTHORITY of the PROXY protocol.
#[test]
fn a_server_is_told_the_name() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let pools = format!("app: {{ proxy_protocol: v2, servers: [\"{}\"] }}", backend.address);
        let switch = Switch::start(place, &config(&pools, "bind: \"$L4\", sni: { default: app }"));
        let authority = Authority::new("authority");
        let address = place.ip.to_string();
        for (name, told) in [("one.test", Some("one.test")), (&address, None)] {
            let client = switch.connect();
            let hello = hello(&authority, name, &[]);
            send(&client, &hello);
            let server = backend.accept();
            let named = read_v2(&server);
            assert_eq!(named.source, client.local_addr().expect("an address"));
            assert_eq!(named.destination, switch.address);
            assert_eq!(named.tlv(2), told.map(str::as_bytes));
            assert_eq!(named.tlv(0x20), None, "the TLS is not ours");
            assert_eq!(receive(&server, hello.len()), hello);
        }
    });
}

/// Connections that say nothing, or half of something, and are gone.
#[test]
fn many_half_hellos_leave_nothing() {
    everywhere(|place| {
        let other = Backend::new(place.ip);
        let switch = start(place, &[("other", &other)], "default: other", "bounds: { header_timeout: 20s },");
        let process = switch.gateway.worker_process();
        let hello = grown(&hello(&Authority::new("authority"), "one.test", &["h2"]), 16_000);
        let flood = |count: usize| {
            let open: Vec<TcpStream> = (0..count)
                .map(|number| {
                    let client = switch.connect();
                    send(&client, &hello[..hello.len() * number / count]);
                    client
                })
                .collect();
            open.into_iter().for_each(reset);
            switch.await_nothing_open();
        };
        // Until the allocator has what it keeps.
        (0..5).for_each(|_| flood(300));
        let before_kib = memory_kib(process, "VmRSS");
        (0..10).for_each(|_| flood(300));
        let grown_kib = memory_kib(process, "VmRSS").saturating_sub(before_kib);
        assert!(grown_kib < 8 * 1024, "the worker grew by {grown_kib} KiB");
        assert!(other.waiting().is_none());
        reaches(&switch, &other, &hello);
    });
}
