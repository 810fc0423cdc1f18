//! What a client may not do, and what it is told.

mod support;

use std::net::{IpAddr, Ipv4Addr};

use support::client::End;
use support::instance::{Instance, eventually, everywhere, proxy_config};
use support::server::{Server, ok};
use support::talk::Client;

#[test]
fn headers_have_a_size_and_a_number() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let bounds = "bounds: { header: 4KiB, headers: 10, request_line: 1KiB },";
        let gateway = Instance::proxy(place, &[server.address()], "", bounds);
        let status = |request: String| {
            let mut client = gateway.connect();
            let answer = client.send(request).answer();
            if answer.status != 200 {
                assert_eq!(answer.header("connection"), Some("close"));
                assert_eq!(client.end(), End::Closed);
            }
            answer.status
        };
        let with = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        assert_eq!(status(with(&format!("X-A: {}\r\n", "x".repeat(3000)))), 200);
        assert_eq!(status(with(&format!("X-A: {}\r\n", "x".repeat(5000)))), 431);
        assert_eq!(status(with(&"X-A: b\r\n".repeat(9))), 200);
        assert_eq!(status(with(&"X-A: b\r\n".repeat(10))), 431);
        let line = |count| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(count));
        assert_eq!(status(line(900)), 200);
        assert_eq!(status(line(1100)), 414);
        // It is refused before its end has come.
        assert_eq!(status(format!("GET / HTTP/1.1\r\nX-A: {}", "x".repeat(5000))), 431);
        assert_eq!(server.count(), 3);
    });
}

#[test]
fn bodies_have_a_size() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| ok(request.body.len().to_string()));
        let config = format!(
            "pools: {{ app: {{ servers: [\"{}\"] }} }}\n\
             listeners: {{ web: {{ bounds: {{ body: 10KiB }}, bind: \"$BIND\", routes: [\n\
             \x20 {{ path: /more/, proxy: app, body: 1MiB }}, {{ path: /, proxy: app }}] }} }}\n",
            server.address()
        );
        let gateway = Instance::start(place, &config);
        let whole = |target: &str, size: usize| gateway.connect().request("PUT", target, "", &vec![b'x'; size]).status;
        assert_eq!(whole("/", 10 * 1024), 200);
        assert_eq!(whole("/more/", 600_000), 200);
        // By its length: before a byte of it has come.
        for (target, length) in [("/", 10 * 1024 + 1), ("/more/", 1024 * 1024 + 1)] {
            let mut client = gateway.connect();
            client.send(format!("PUT {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
            assert_eq!(client.answer().status, 413);
            assert_eq!(client.end(), End::Closed);
        }
        // In chunks: once it is too much.
        let mut client = gateway.connect();
        client.send("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(format!("1800\r\n{0}\r\n1800\r\n{0}\r\n", "x".repeat(0x1800)));
        assert_eq!(client.answer().status, 413);
        assert_eq!(server.count(), 2, "none of the refused ones reached the server");
    });
}

#[test]
fn a_slow_header_is_given_up() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let bounds = "bounds: { header_timeout: 300ms, idle: 300ms },";
        let gateway = Instance::proxy(place, &[server.address()], "", bounds);
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ");
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
        assert_eq!(client.end(), End::Closed);
        // One that sends a byte now and then gains nothing by it.
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n");
        let mut sink = client.stream.try_clone().expect("a second handle");
        let trickle = std::thread::spawn(move || {
            let mut count = 0;
            while std::io::Write::write_all(&mut sink, b"X-A: b\r\n").is_ok() && count < 500 {
                std::thread::sleep(std::time::Duration::from_millis(20));
                count += 1;
            }
            count
        });
        assert_eq!(client.answer().status, 408);
        drop(client);
        let count = trickle.join().expect("no panic");
        assert!(count < 500, "it was let trickle {count} times");
        // Who sends nothing at all is just closed.
        assert_eq!(gateway.connect().end(), End::Closed);
        assert_eq!(server.count(), 0);
    });
}

#[test]
fn a_slow_body_is_given_up() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| ok(&request.body));
        let bounds = "bounds: { header_timeout: 300ms, body_rate: 10KiB/s },";
        let gateway = Instance::proxy(place, &[server.address()], "", bounds);
        let mut client = gateway.connect();
        client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nstart");
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
        assert_eq!(server.count(), 0);
        gateway.connect().request("PUT", "/", "", b"quick").expect(200);
    });
}

#[test]
fn idle_connections_end() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let gateway = Instance::proxy(place, &[server.address()], "", "bounds: { idle: 200ms },");
        let mut client = gateway.connect();
        client.get("/").expect(200);
        assert_eq!(client.end(), End::Closed);
    });
}

/// A connection that is refused ends without an answer.
fn is_refused(gateway: &Instance) -> bool {
    let mut client = gateway.connect();
    // The gateway may have closed it already.
    std::io::Write::write_all(&mut client.stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").ok();
    client.try_answer(false).is_err_and(|cut| cut.end != End::TimedOut && cut.answer.status == 0)
}

#[test]
fn connections_are_counted() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        for bound in ["connections: 3", "per_client: 3"] {
            let gateway = Instance::proxy(place, &[server.address()], "", &format!("bounds: {{ {bound} }},"));
            // The one that saw whether the gateway is there may still be counted.
            eventually("three connections are served", || {
                let mut clients: Vec<Client> = (0..3).map(|_| gateway.connect()).collect();
                let served = clients.iter_mut().all(|client| {
                    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                    client.try_answer(false).is_ok()
                });
                // Their places stay taken while they are open.
                if served {
                    assert!(is_refused(&gateway), "{bound}");
                    assert_eq!(clients[0].get("/").text(), "hi", "those that are there live on");
                }
                served
            });
            // A place that comes free is given away again.
            eventually("a place is free", || !is_refused(&gateway));
        }
    });
}

/// One client's connections are not another's.
#[test]
fn clients_are_counted_each_by_itself() {
    everywhere(|place| {
        if !place.ip.is_ipv4() {
            return;
        }
        let server = Server::saying(place.ip, "hi");
        let gateway = Instance::proxy(place, &[server.address()], "", "bounds: { per_client: 2 },");
        let from = |last: u8| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            let source = std::net::SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0);
            socket.bind(&source.into()).expect("all of 127.0.0.0/8 is ours");
            socket.connect(&gateway.address.into()).expect("the gateway listens");
            Client::of(socket.into())
        };
        let mut held: Vec<Client> = (0..2).map(|_| from(5)).collect();
        for client in &mut held {
            client.get("/").expect(200);
        }
        let mut third = from(5);
        std::io::Write::write_all(&mut third.stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").ok();
        assert!(third.try_answer(false).is_err());
        from(6).get("/").expect(200);
    });
}

#[test]
fn clients_without_a_bound_are_not_refused() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let gateway = Instance::proxy(place, &[server.address()], "", "bounds: { per_client: 0 },");
        let mut clients: Vec<Client> = (0..20).map(|_| gateway.connect()).collect();
        for client in &mut clients {
            assert_eq!(client.get("/").expect(200).text(), "hi");
        }
        // From now on there is one, for those who come.
        gateway.reload(&proxy_config(&[server.address()], "", "bounds: { per_client: 1 },"));
        let mut newer = gateway.connect();
        assert_eq!(newer.get("/").expect(200).text(), "hi");
        assert!(is_refused(&gateway));
        assert_eq!(clients[0].get("/").expect(200).text(), "hi", "those that are there live on");
    });
}

#[test]
fn requests_of_a_connection_are_counted() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let gateway = Instance::proxy(place, &[server.address()], "", "bounds: { requests: 3 },");
        let mut client = gateway.connect();
        for number in 1..=3 {
            let closes = client.get("/").expect(200).header("connection").is_some_and(|value| value == "close");
            assert_eq!(closes, number == 3, "request {number}");
        }
        assert_eq!(client.end(), End::Closed);
    });
}

/// What a listener refuses for the address, it refuses without a word.
#[test]
fn a_listener_lets_in_whom_it_is_told_to() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let gateway = Instance::proxy(place, &[server.address()], "", "allow: [192.0.2.0/24],");
        assert!(is_refused(&gateway));
        let gateway = Instance::proxy(place, &[server.address()], "", "deny: [192.0.2.0/24],");
        gateway.get("/").expect(200);
        assert_eq!(server.count(), 1);
    });
}
