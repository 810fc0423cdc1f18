//! The PROXY protocol on both sides of the switch: who may name a client, who is told, and what.

mod support;

use std::net::{IpAddr, SocketAddr, TcpStream};

use support::certificates::{Authority, VERSIONS};
use support::client::End;
use support::instance::{Instance, Place, eventually, everywhere};
use support::l4::{
    Backend, Named, Switch, accept_any, config, connect_from, converse, end, quoted, read_v1, read_v2, receive,
    refused, reset, send, turned_away, v1, v2,
};
use support::talk::Client;

const TRUSTED: &str = "trusted_proxies: [127.0.0.1, \"::1\"]\n";

/// An address that documentation may use, of the place's family; each is a client of its own, which with
/// IPv6 is a network of 64 bits.
fn named(place: Place, last: u8, port: u16) -> SocketAddr {
    let text = if place.ip.is_ipv4() { format!("192.0.2.{last}") } else { format!("2001:db8:0:{last:x}::1") };
    SocketAddr::new(text.parse().expect("an address"), port)
}

fn start(place: Place, top: &str, servers: &[SocketAddr], pool: &str, listener: &str) -> Switch {
    let pools = format!("app: {{ {pool} servers: [{}] }}", quoted(servers));
    Switch::start(place, &format!("{top}{}", config(&pools, &format!("{listener} bind: \"$L4\", tcp: app"))))
}

fn local(stream: &TcpStream) -> SocketAddr {
    stream.local_addr().expect("an address")
}

/// Of both versions, from this source.
fn headers(place: Place, source: SocketAddr) -> [Vec<u8>; 2] {
    let destination = named(place, 200, 443);
    [v1(source, destination), v2(source, destination, &[(4, &[0; 9])])]
}

#[test]
fn a_trusted_proxy_names_its_client() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let switch = start(place, TRUSTED, &[backend.address], "", "proxy_protocol: accept,");
        let source = named(place, 7, 4711);
        for header in headers(place, source) {
            // In one piece with what follows; and each byte alone.
            let client = switch.connect();
            send(&client, [header.as_slice(), b"hello"].concat());
            let server = backend.accept();
            assert_eq!(receive(&server, 5), b"hello", "the header is not the server's");
            converse(&client, &server);
            let client = switch.connect();
            for byte in &header {
                send(&client, [*byte]);
            }
            converse(&client, &backend.accept());
        }
        switch.await_nothing_open();
        for line in switch.await_lines(4) {
            assert_eq!(line["client"], source.ip().to_string(), "{line}");
            let received = line["bytes_received"].as_u64().expect("a number");
            assert!(received == 15 || received == 20, "the header is not counted: {line}");
        }
    });
}

/// `LOCAL`, `UNKNOWN`: a proxy that speaks for itself.
#[test]
fn a_proxy_may_speak_for_itself() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let switch = start(place, TRUSTED, &[backend.address], "proxy_protocol: v2,", "proxy_protocol: accept,");
        let itself: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
        for header in [itself, b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN what ever 1 2\r\n"] {
            let client = switch.connect();
            send(&client, header);
            let server = backend.accept();
            let told = read_v2(&server);
            assert_eq!((told.source, told.destination), (local(&client), switch.address));
            converse(&client, &server);
        }
    });
}

#[test]
fn who_may_not_name_anybody_is_closed() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        // Nobody here is trusted.
        let switch = start(place, "trusted_proxies: [10.0.0.0/8]\n", &[backend.address], "", "proxy_protocol: accept,");
        for header in headers(place, named(place, 7, 4711)) {
            let client = switch.connect();
            send(&client, header);
            refused(&client);
        }
        switch.await_reason("preface", 2);
        switch.await_nothing_open();
        assert!(backend.waiting().is_none());
        // Without a header it is a client as any other.
        let client = switch.connect();
        send(&client, "GET / HTTP/1.1\r\n");
        assert_eq!(receive(backend.accept(), 16), b"GET / HTTP/1.1\r\n");
    });
}

#[test]
fn a_trusted_proxy_has_to_name_its_client() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let listener = "proxy_protocol: accept, bounds: { header_timeout: 20s },";
        let switch = start(place, TRUSTED, &[backend.address], "", listener);
        let mut broken = v2(named(place, 7, 1), named(place, 8, 2), &[]);
        // A version that does not exist.
        broken[12] = 0x31;
        let cases: [&[u8]; 6] = [
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 x\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            &broken,
            &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(),
        ];
        for (count, bytes) in cases.into_iter().enumerate() {
            eprintln!("{}", support::show(bytes));
            let client = switch.connect();
            send(&client, bytes);
            refused(&client);
            switch.await_reason("preface", count + 1);
        }
        assert!(backend.waiting().is_none());
        switch.await_nothing_open();
    });
}

#[test]
fn a_header_has_its_time() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let listener = "proxy_protocol: accept, bounds: { header_timeout: 500ms },";
        let switch = start(place, TRUSTED, &[backend.address], "", listener);
        let clients: Vec<TcpStream> = headers(place, named(place, 7, 1))
            .iter()
            .map(|header| {
                let client = switch.connect();
                send(&client, &header[..header.len() - 1]);
                client
            })
            .collect();
        clients.iter().for_each(refused);
        turned_away(switch.address);
        switch.await_nothing_open();
        switch.await_reason("preface", 3);
        assert!(backend.waiting().is_none());
    });
}

#[test]
fn the_named_client_is_the_one_that_counts() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let wanted = named(place, 7, 1).ip();
        let knock = |switch: &Switch, last: u8| {
            let client = switch.connect();
            send(&client, &headers(place, named(place, last, 4711))[1]);
            client
        };
        let listener = format!("proxy_protocol: accept, allow: [\"{wanted}\"],");
        let switch = start(place, TRUSTED, &[backend.address], "", &listener);
        converse(&knock(&switch, 7), &backend.accept());
        refused(knock(&switch, 8));
        switch.await_nothing_open();

        let listener = "proxy_protocol: accept, bounds: { per_client: 1 },";
        let switch = start(place, TRUSTED, &[backend.address], "", listener);
        let first = knock(&switch, 7);
        let server = backend.accept();
        converse(&first, &server);
        refused(knock(&switch, 7));
        let other = knock(&switch, 8);
        converse(&other, &backend.accept());
        drop((first, server));
        eventually("there is room again", || switch.open() <= 1);
        converse(&knock(&switch, 7), &backend.accept());
        assert!(backend.waiting().is_none());
    });
}

#[test]
fn the_named_client_keeps_its_server() {
    everywhere(|place| {
        let backends = [(); 3].map(|()| Backend::new(place.ip));
        let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
        let switch = start(place, TRUSTED, &addresses, "balance: maglev,", "proxy_protocol: accept,");
        let homes = |port: u16| -> Vec<usize> {
            let home = |last: u8| {
                let client = switch.connect();
                send(&client, &headers(place, named(place, last, port + u16::from(last)))[0]);
                let (at, server) = accept_any(&backends.each_ref());
                converse(&client, &server);
                at
            };
            (1..=40).map(home).collect()
        };
        let before = homes(1000);
        assert!((0..3).all(|at| before.contains(&at)), "{before:?}");
        assert_eq!(homes(2000), before, "whatever the TCP port is");
    });
}

#[test]
fn a_server_is_told_who_connects() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        for version in ["v1", "v2"] {
            let switch = start(place, "", &[backend.address], &format!("proxy_protocol: {version},"), "");
            let client = switch.connect();
            let server = backend.accept();
            let told = if version == "v1" { read_v1(&server) } else { read_v2(&server) };
            assert_eq!((told.source, told.destination), (local(&client), switch.address), "{version}");
            converse(&client, &server);
            drop(client);
            assert_eq!(end(&server), End::Closed);
            drop(server);
            let line = switch.await_lines(1).remove(0);
            assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&15.into(), &15.into()), "no header: {line}");
        }
        // A listener of all addresses: the one that was written to.
        if place.ip.is_ipv4() {
            let port = place.free_address().port();
            let pools = format!("app: {{ proxy_protocol: v2, servers: [\"{}\"] }}", backend.address);
            let switch = Switch::start(place, &config(&pools, &format!("bind: \":{port}\", tcp: app")));
            let wanted = SocketAddr::new("127.0.0.9".parse().expect("an address"), port);
            let source: IpAddr = "127.0.0.77".parse().expect("an address");
            let client = connect_from(source, wanted);
            let told = read_v2(&backend.accept());
            assert_eq!(told, Named { source: local(&client), destination: wanted, tlvs: told.tlvs.clone() });
            drop(switch);
        }
    });
}

#[test]
fn what_a_trusted_proxy_said_is_passed_on() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let (source, destination) = (named(place, 7, 4711), named(place, 8, 443));
        let ssl: &[u8] = b"\x01\0\0\0\0\x21\0\x07TLSv1.3";
        let tlvs: [(u8, &[u8]); 5] =
            [(1, b"h2"), (2, b"site.test"), (5, b"id-of-it"), (0x20, ssl), (0xe4, b"\0own\xff")];
        for (version, header) in [
            ("v1", v2(source, destination, &tlvs)),
            ("v2", v1(source, destination)),
            ("v2", v2(source, destination, &tlvs)),
        ] {
            let pool = format!("proxy_protocol: {version},");
            let switch = start(place, TRUSTED, &[backend.address], &pool, "proxy_protocol: accept,");
            let client = switch.connect();
            send(&client, &header);
            let server = backend.accept();
            let told = if version == "v1" { read_v1(&server) } else { read_v2(&server) };
            assert_eq!((told.source, told.destination), (source, destination), "{version}");
            if version == "v2" && !header.starts_with(b"PROXY") {
                for (kind, value) in tlvs {
                    assert_eq!(told.tlv(kind), Some(value), "TLV {kind:#x}");
                }
                assert_eq!(told.tlvs.iter().filter(|(kind, _)| *kind != 3).count(), tlvs.len(), "{told:?}");
            }
            converse(&client, &server);
        }
    });
}

/// PP2_TYPE_SSL of the PROXY protocol: the client came over TLS.
#[test]
fn a_server_is_told_of_tls() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let pair = authority.pair(&["site.test"]);
        let backend = Backend::new(place.ip);
        let pools = format!("app: {{ proxy_protocol: v2, servers: [\"{}\"] }}", backend.address);
        let keys = "tls: { certs: [{ cert: $DIR/site.pem, key: $DIR/site.key }] }, bind: \"$L4\", tcp: app";
        let switch = Switch::start_with(place, &config(&pools, keys), |config| {
            Instance::start_in(place, config, |directory| pair.write(directory, "site"))
        });
        for (version, name) in VERSIONS.into_iter().zip(["TLSv1.2", "TLSv1.3"]) {
            let mut client = Client::secure(switch.address, &authority.client(&[version], &[], None), "site.test");
            client.handshake().expect("a handshake");
            let server = backend.accept();
            let told = read_v2(&server);
            assert_eq!((told.source, told.destination), (local(&client.stream), switch.address));
            let ssl = told.tlv(0x20).unwrap_or_else(|| panic!("no SSL TLV: {told:?}"));
            // PP2_CLIENT_SSL; a certificate was not shown, so none was verified.
            assert_eq!(ssl[0] & 7, 1, "{ssl:?}");
            let parts = support::l4::split_tlvs(&ssl[5..]);
            let part = |kind: u8| parts.iter().find(|(found, _)| *found == kind).map(|(_, value)| value.as_slice());
            assert_eq!(part(0x21), Some(name.as_bytes()), "PP2_SUBTYPE_SSL_VERSION in {ssl:?}");
            client.send("over TLS");
            assert_eq!(receive(&server, 8), b"over TLS");
        }
    });
}

#[test]
fn many_half_headers_leave_nothing() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let listener = "proxy_protocol: accept, bounds: { header_timeout: 1s },";
        let switch = start(place, TRUSTED, &[backend.address], "", listener);
        let header = v2(named(place, 7, 1), named(place, 8, 2), &[(5, &[7; 100])]);
        let mut open: Vec<TcpStream> = (0..300)
            .map(|number| {
                let client = switch.connect();
                send(&client, &header[..number % header.len()]);
                client
            })
            .collect();
        open.drain(..150).for_each(reset);
        // The others are left to their time.
        open.iter().for_each(refused);
        switch.await_nothing_open();
        assert!(backend.waiting().is_none());
        let client = switch.connect();
        send(&client, &header);
        converse(&client, &backend.accept());
    });
}
