//! Servers that fail, and what clients see of it.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;

use support::instance::{Instance, Place, eventually, everywhere};
use support::server::{Peer, Server, ok};

/// A server that says its letter.
fn letters(place: Place) -> (Server, Server) {
    (Server::saying(place.ip, "a"), Server::saying(place.ip, "b"))
}

/// Who answers to this many requests, each on a connection of its own.
fn answers(gateway: &Instance, count: usize) -> String {
    (0..count).map(|_| gateway.get("/").expect(200).text()).collect()
}

fn nobody(place: Place) -> SocketAddr {
    place.free_address()
}

/// A server dies in the middle of traffic: no client sees an error.
#[test]
fn a_dying_server_costs_no_request() {
    everywhere(|place| {
        let (mut dying, staying) = letters(place);
        let gateway = Instance::proxy(place, &[dying.address(), staying.address()], "", "");
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut client = gateway.connect();
                        let mut count = 0;
                        while !done.load(Ordering::SeqCst) || count < 50 {
                            client.get("/").expect(200);
                            count += 1;
                        }
                    })
                })
                .collect();
            dying.await_count(50);
            dying.stop();
            let before = staying.count();
            staying.await_count(before + 200);
            done.store(true, Ordering::SeqCst);
            for client in clients {
                client.join().expect("a client saw an error");
            }
        });
    });
}

/// What a server may have seen is sent again only if that has the same effect (RFC 9110 section 9.2.2).
#[test]
fn what_is_sent_again_and_what_not() {
    everywhere(|place| {
        let breaks = |peer: &mut Peer| {
            peer.request();
        };
        let first = Server::start(place.ip, breaks);
        let second = Server::answering(place.ip, |request| ok(&request.body));
        let config = "balance: first, outlier: off,";
        let gateway = Instance::proxy(place, &[first.address(), second.address()], config, "");
        for (method, wanted) in [("GET", 200), ("PUT", 200), ("DELETE", 200), ("POST", 502), ("PATCH", 502)] {
            let body: &[u8] = if matches!(method, "PUT" | "POST" | "PATCH") { b"once" } else { b"" };
            let (before, passed) = (first.count(), second.count());
            let answer = gateway.connect().request(method, "/", "", body).expect(wanted);
            assert_eq!(first.count(), before + 1, "{method}");
            assert_eq!(second.count(), passed + usize::from(wanted == 200), "{method}");
            if wanted == 200 {
                assert_eq!(answer.body, body);
            }
        }
        // Off is off.
        let config = "balance: first, outlier: off, retries: off,";
        let gateway = Instance::proxy(place, &[first.address(), second.address()], config, "");
        gateway.get("/").expect(502);
    });
}

/// Where no connection is made nothing can have been seen: any method goes elsewhere.
#[test]
fn a_server_that_is_not_there_costs_nothing() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| ok(&request.body));
        let config = "balance: first, outlier: off, retries: { budget: 0%, floor: 0 },";
        let gateway = Instance::proxy(place, &[nobody(place), server.address()], config, "");
        for _ in 0..20 {
            assert_eq!(gateway.connect().request("POST", "/", "", b"body").expect(200).text(), "body");
        }
        assert_eq!(server.count(), 20);
    });
}

#[test]
fn retries_have_a_budget() {
    everywhere(|place| {
        let first = Server::start(place.ip, |peer| {
            peer.request();
        });
        let second = Server::saying(place.ip, "b");
        let config = "balance: first, outlier: off, retries: { budget: 0%, floor: 0 },";
        let gateway = Instance::proxy(place, &[first.address(), second.address()], config, "");
        gateway.get("/").expect(502);
        assert_eq!(second.count(), 0);
    });
}

#[test]
fn nobody_is_there() {
    everywhere(|place| {
        let gateway = Instance::proxy(place, &[nobody(place), nobody(place)], "outlier: off,", "");
        gateway.get("/").expect(502);
        let config = "health: { tcp: {}, every: 50ms, fall: 1 },";
        let gone = nobody(place);
        let gateway = Instance::proxy(place, &[gone], config, "");
        gateway.await_state("app", gone, "down");
        let answer = gateway.get("/").expect(503);
        assert!(answer.header("retry-after").is_some());
    });
}

#[test]
fn health_checks_take_servers_out_and_in() {
    everywhere(|place| {
        let status = Arc::new(AtomicU16::new(200));
        let now = Arc::clone(&status);
        let checked = Server::answering(place.ip, move |request| {
            if request.target == "/healthz" {
                let status = now.load(Ordering::SeqCst);
                return format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").into_bytes();
            }
            ok("a")
        });
        let other = Server::saying(place.ip, "b");
        let config = "health: { http: { path: /healthz, host: check.example, status: [200, 204] }, every: 50ms, \
                      rise: 2, fall: 2 }, balance: round-robin,";
        let gateway = Instance::proxy(place, &[checked.address(), other.address()], config, "");
        let address = checked.address();
        let is_check = |seen: &support::server::Request| seen.target == "/healthz";
        eventually("it is checked", || checked.requests().iter().any(is_check));
        assert!(answers(&gateway, 8).contains('a'));
        let check = checked.requests().into_iter().find(is_check).expect("it was checked");
        assert_eq!(check.header("host").as_deref(), Some("check.example"));
        status.store(503, Ordering::SeqCst);
        gateway.await_state("app", address, "down");
        assert_eq!(answers(&gateway, 8), "bbbbbbbb");
        assert!(gateway.server("app", address)["reason"].as_str().is_some_and(|reason| reason.contains("503")));
        status.store(204, Ordering::SeqCst);
        gateway.await_state("app", address, "up");
        eventually("it gets requests again", || answers(&gateway, 4).contains('a'));
    });
}

#[test]
fn a_server_that_fails_live_requests_is_ejected() {
    everywhere(|place| {
        let failing = Server::answering(place.ip, |_| b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec());
        let good = Server::saying(place.ip, "b");
        let config = "balance: round-robin, outlier: { failures: 3, eject: 60s },";
        let gateway = Instance::proxy(place, &[failing.address(), good.address()], config, "");
        let statuses = || -> Vec<u16> { (0..20).map(|_| gateway.get("/").status).collect() };
        let bad = statuses().into_iter().filter(|status| *status == 503).count();
        // Each worker has turns of its own; failures are counted together.
        assert!((3..=5).contains(&bad), "{bad}");
        assert_eq!(gateway.server("app", failing.address())["state"], "ejected");
        assert!(statuses().iter().all(|status| *status == 200));
        gateway.await_log("server is ejected");
    });
}

/// Who fails again after its time is over stays away for longer.
#[test]
fn ejections_grow() {
    everywhere(|place| {
        let failing = Server::answering(place.ip, |_| b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n".to_vec());
        let good = Server::saying(place.ip, "b");
        let config = "balance: round-robin, outlier: { failures: 2, eject: 200ms, eject_max: 500ms },";
        let gateway = Instance::proxy(place, &[failing.address(), good.address()], config, "");
        for (count, for_ms) in [(1, 200), (2, 400), (3, 500)] {
            eventually("it fails until it is ejected", || {
                gateway.get("/");
                gateway.log().contains(&format!("for_ms={for_ms} count={count} "))
            });
        }
    });
}

/// A server that came back is not given its whole share at once.
#[test]
fn who_came_back_starts_slowly() {
    everywhere(|place| {
        let shares = ["", "slow_start: 600s,"].map(|slow_start| {
            let up = Arc::new(AtomicBool::new(false));
            let now = Arc::clone(&up);
            let back = Server::answering(place.ip, move |request| match request.target.as_str() {
                "/healthz" if !now.load(Ordering::SeqCst) => b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
                _ => ok("a"),
            });
            let other = Server::saying(place.ip, "b");
            let config = format!(
                "health: {{ http: /healthz, every: 50ms, rise: 1, fall: 1 }}, balance: round-robin, {slow_start}"
            );
            let gateway = Instance::proxy(place, &[back.address(), other.address()], &config, "");
            gateway.await_state("app", back.address(), "down");
            up.store(true, Ordering::SeqCst);
            gateway.await_state("app", back.address(), "up");
            answers(&gateway, 60).matches('a').count()
        });
        assert!((25..=35).contains(&shares[0]), "{shares:?}");
        // A tenth of the weight: one in eleven.
        assert!((2..=12).contains(&shares[1]), "{shares:?}");
    });
}

#[test]
fn sticky_sessions_stay() {
    everywhere(|place| {
        let (one, other) = letters(place);
        let config = "sticky: { cookie: SID, secret: sixteen-characters-and-more }, balance: round-robin,";
        let gateway = Instance::proxy(place, &[one.address(), other.address()], config, "");
        let answer = gateway.get("/").expect(200);
        let set = answer.header("set-cookie").expect("the first answer sets it").to_owned();
        let cookie = set.split(';').next().unwrap_or_default().to_owned();
        assert!(cookie.starts_with("SID=") && set.contains("HttpOnly"), "{set}");
        for _ in 0..10 {
            let again = gateway.connect().get_with("/", &format!("Cookie: a=b; {cookie}\r\n")).expect(200);
            assert_eq!(again.text(), answer.text());
            assert_eq!(again.header("set-cookie"), None, "it has it already");
        }
        // One that we did not sign leads nowhere in particular.
        let forged = format!("{}x", cookie);
        let again = gateway.connect().get_with("/", &format!("Cookie: {forged}\r\n")).expect(200);
        assert!(again.header("set-cookie").is_some());
        // The session's server goes: the session goes on at the other one.
        let (mut gone, left) = if answer.text() == "a" { (one, "b") } else { (other, "a") };
        gone.stop();
        let again = gateway.connect().get_with("/", &format!("Cookie: {cookie}\r\n")).expect(200);
        assert_eq!(again.text(), left);
        assert!(again.header("set-cookie").is_some_and(|new| !new.starts_with(&cookie)));
    });
}

#[test]
fn requests_wait_for_a_place() {
    everywhere(|place| {
        for setting in ["concurrency: 1,", "max_connections"] {
            let (server, go) = Server::gated(place.ip);
            let (pool, address) = (if setting == "max_connections" { "" } else { setting }, server.address());
            let bound = if setting == "max_connections" { ", max_connections: 1" } else { "" };
            let config = format!(
                "pools: {{ app: {{ {pool} queue: {{ size: 1, timeout: 20s }}, retries: off, \
                 servers: [{{ address: \"{address}\"{bound} }}] }} }}\n\
                 listeners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /, proxy: app }}] }} }}\n"
            );
            let gateway = Instance::start(place, &config);
            let mut clients: Vec<_> = (0..2).map(|_| gateway.connect()).collect();
            for client in &mut clients {
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            }
            server.await_count(1);
            let queued = || gateway.json(&["pool", "app"])[0]["queued"].clone();
            eventually("one waits", || queued() == 1);
            assert_eq!(server.count(), 1, "one at a time");
            // The queue is full.
            let answer = gateway.get("/").expect(503);
            assert!(answer.header("retry-after").is_some());
            go.send(()).expect("the server waits");
            go.send(()).expect("the server waits");
            for mut client in clients {
                client.answer().expect(200);
            }
            assert_eq!(server.count(), 2, "{setting}");
        }
    });
}

#[test]
fn waiting_has_an_end() {
    everywhere(|place| {
        let (server, go) = Server::gated(place.ip);
        let config = "concurrency: 1, queue: { size: 5, timeout: 100ms },";
        let gateway = Instance::proxy(place, &[server.address()], config, "");
        let mut first = gateway.connect();
        first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        server.await_count(1);
        let fields = "Accept: application/json\r\n";
        let answer = gateway.connect().get_with("/", fields).expect(503);
        assert!(answer.text().contains("queue_timeout"), "{}", answer.text());
        go.send(()).expect("the server waits");
        first.answer().expect(200);
    });
}

/// Who has gone does not take a place from those behind it.
#[test]
fn a_client_that_goes_leaves_the_queue() {
    everywhere(|place| {
        let (server, go) = Server::gated(place.ip);
        let gateway = Instance::proxy(place, &[server.address()], "concurrency: 1, queue: { timeout: 20s },", "");
        let mut clients: Vec<_> = (0..3).map(|_| gateway.connect()).collect();
        let queued = || gateway.json(&["pool", "app"])[0]["queued"].clone();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
            eventually("it is at the server, or waits", || server.count() == 1 && queued() == number);
        }
        clients.remove(1).reset();
        eventually("only one waits", || queued() == 1);
        for mut client in clients {
            go.send(()).expect("the server waits");
            client.answer().expect(200);
        }
        let targets: Vec<String> = server.requests().into_iter().map(|request| request.target).collect();
        assert_eq!(targets, ["/0", "/2"]);
    });
}

#[test]
fn timeouts_are_504() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            if peer.request().is_some() {
                peer.drain();
            }
        });
        let config = "timeouts: { first_byte: 200ms }, retries: 2,";
        let gateway = Instance::proxy(place, &[server.address()], config, "");
        gateway.get("/").expect(504);
        assert_eq!(server.count(), 1, "a request that was seen and took too long is not repeated");
        let config = format!(
            "pools: {{ app: {{ servers: [\"{}\"] }} }}\n\
             listeners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /, proxy: app, deadline: 200ms }}] }} }}\n",
            server.address()
        );
        let answer = Instance::start(place, &config).connect().get_with("/", "Accept: application/json\r\n");
        assert!(answer.expect(504).text().contains("deadline"));
    });
}
