//! Which server a connection gets, and what becomes of it where none can be had.

mod support;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use support::client::End;
use support::instance::{eventually, everywhere};
use support::l4::{
    Backend, Switch, accept_any, connect_from, converse, end, quoted, receive, refused, reset, send, tcp_config,
    turned_away,
};

/// An address at which nobody listens.
fn nobody(ip: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind(SocketAddr::new(ip, 0)).expect("a free port");
    listener.local_addr().expect("an address")
}

#[test]
fn a_server_that_refuses_is_skipped() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let servers = [nobody(place.ip), nobody(place.ip), backend.address];
        let switch = Switch::tcp(place, &servers, "balance: first, outlier: { failures: 0 },", "");
        for _ in 0..5 {
            let client = switch.connect();
            send(&client, "early");
            let server = backend.accept();
            assert_eq!(receive(&server, 5), b"early");
            converse(&client, &server);
        }
        switch.await_nothing_open();
        for line in switch.await_lines(5) {
            assert_eq!((&line["tries"], &line["server"]), (&3.into(), &backend.address.to_string().into()), "{line}");
        }
    });
}

#[test]
fn tries_are_bounded() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let servers = [nobody(place.ip), nobody(place.ip), backend.address];
        for (pool, tries) in [("retries: 1,", 2), ("retries: off,", 1)] {
            let switch =
                Switch::tcp(place, &servers, &format!("{pool} balance: first, outlier: {{ failures: 0 }},"), "");
            turned_away(switch.address);
            let line = switch.await_reason("connect_failed", 1);
            assert_eq!(line["tries"], tries, "{line}");
            switch.await_nothing_open();
        }
        assert!(backend.waiting().is_none());
    });
}

#[test]
fn where_all_are_down_the_connection_is_closed() {
    everywhere(|place| {
        let servers = [nobody(place.ip), nobody(place.ip)];
        let switch = Switch::tcp(place, &servers, "", "");
        turned_away(switch.address);
        switch.await_nothing_open();
        let line = switch.await_lines(1).remove(0);
        assert_eq!(line["reason"], "connect_failed", "{line}");
    });
}

/// Who says nothing and ends gives a server reason enough to leave: no client can have one taken out so.
#[test]
fn a_client_that_leaves_at_once_is_no_fault_of_the_server() {
    everywhere(|place| {
        let [first, other] = [(); 2].map(|()| Backend::new(place.ip));
        let servers = [first.address, other.address];
        let switch = Switch::tcp(place, &servers, "balance: first, outlier: { failures: 1, eject: 300s },", "");
        for _ in 0..3 {
            let client = switch.connect();
            client.shutdown(Shutdown::Write).expect("it is open");
            let server = first.accept();
            assert_eq!(end(&server), End::Closed);
            reset(server);
            refused(&client);
        }
        switch.await_nothing_open();
        assert!(other.waiting().is_none(), "nobody was sent elsewhere");
        let client = switch.connect();
        converse(&client, &first.accept());
    });
}

/// Nothing went through in either direction: it is as good as refused.
#[test]
fn a_server_that_leaves_at_once_is_left_for_another() {
    for how in ["closed", "reset"] {
        everywhere(|place| {
            let [bad, good] = [(); 2].map(|()| Backend::new(place.ip));
            let servers = [bad.address, good.address];
            let switch = Switch::tcp(place, &servers, "balance: first, outlier: { failures: 0 },", "");
            let client = switch.connect();
            let server = bad.accept();
            if how == "reset" {
                reset(server)
            } else {
                drop(server)
            }
            let server = good.accept();
            converse(&client, &server);
            drop(client);
            assert_eq!(end(&server), End::Closed);
            drop(server);
            assert_eq!(switch.await_lines(1)[0]["tries"], 2, "{how}");
            // Once a byte went through, there is no way back.
            let client = switch.connect();
            let server = bad.accept();
            send(&client, "x");
            assert_eq!(receive(&server, 1), b"x");
            if how == "reset" {
                reset(server)
            } else {
                drop(server)
            }
            assert_eq!(end(&client), if how == "reset" { End::Reset } else { End::Closed });
            drop(client);
            switch.await_nothing_open();
            assert!(good.waiting().is_none(), "{how}");
        });
    }
}

#[test]
fn a_server_that_fails_again_and_again_is_ejected() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let dead = nobody(place.ip);
        let pool = "balance: first, outlier: { failures: 3, eject: 1s },";
        let switch = Switch::tcp(place, &[dead, backend.address], pool, "");
        for number in 1..=3 {
            assert_eq!(switch.gateway.server("app", dead)["state"], "up", "before connection {number}");
            let client = switch.connect();
            converse(&client, &backend.accept());
        }
        switch.gateway.await_state("app", dead, "ejected");
        // It comes back after a while, alive.
        let back = Backend::at(dead);
        eventually("it is taken again", || {
            let client = switch.connect();
            let (at, server) = accept_any(&[&back, &backend]);
            converse(&client, &server);
            at == 0
        });
    });
}

#[test]
fn health_checks_take_servers_out_and_put_them_back() {
    everywhere(|place| {
        let [first, second] = [(); 2].map(|()| Backend::new(place.ip));
        let servers = [first.address, second.address];
        let pool = "balance: first, health: { tcp: {}, every: 100ms, rise: 2, fall: 2 },";
        let switch = Switch::tcp(place, &servers, pool, "");
        // Checks are connections, too: only a conversation tells a client's.
        let arrives_at = |backend: &Backend| {
            let client = switch.connect();
            send(&client, "it is me");
            eventually("the client's connection", || {
                let Some(server) = backend.waiting() else { return false };
                let mut bytes = [0; 8];
                (&server).read_exact(&mut bytes).is_ok() && &bytes == b"it is me"
            });
        };
        arrives_at(&first);
        drop(first);
        switch.gateway.await_state("app", servers[0], "down");
        arrives_at(&second);
        let first = Backend::at(servers[0]);
        switch.gateway.await_state("app", servers[0], "up");
        arrives_at(&first);
    });
}

#[test]
fn backups_serve_where_nobody_else_can() {
    everywhere(|place| {
        let [main, backup] = [(); 2].map(|()| Backend::new(place.ip));
        let address = main.address;
        let config = tcp_config(&[address], "", "")
            .replace(&quoted(&[address]), &format!("\"{address}\", {{ address: \"{}\", backup: on }}", backup.address));
        let switch = Switch::start(place, &config);
        for _ in 0..5 {
            let client = switch.connect();
            converse(&client, &main.accept());
        }
        drop(main);
        for _ in 0..3 {
            let client = switch.connect();
            converse(&client, &backup.accept());
        }
        let main = Backend::at(address);
        eventually("the first one is taken again", || {
            let client = switch.connect();
            let (at, server) = accept_any(&[&main, &backup]);
            converse(&client, &server);
            at == 0
        });
    });
}

/// Connections beyond `max_connections` wait for a place in line.
#[test]
fn a_connection_waits_for_a_place() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let bounded = |queue: &str| {
            tcp_config(&[backend.address], queue, "").replace(
                &quoted(&[backend.address]),
                &format!("{{ address: \"{}\", max_connections: 2 }}", backend.address),
            )
        };
        let switch = Switch::start(place, &bounded("queue: { size: 2, timeout: 20s },"));
        let queued = || switch.gateway.json(&["pool", "app"])[0]["queued"].clone();
        let inside = [(); 2].map(|()| {
            let client = switch.connect();
            let server = backend.accept();
            converse(&client, &server);
            (client, server)
        });
        let third = switch.connect();
        eventually("one waits", || queued() == 1);
        // What it says meanwhile is not lost.
        send(&third, "in line");
        let fourth = switch.connect();
        eventually("two wait", || queued() == 2);
        turned_away(switch.address);
        switch.await_reason("queue_full", 1);
        assert!(backend.waiting().is_none());
        // One that goes away leaves the line.
        reset(fourth);
        eventually("one waits", || queued() == 1);
        let [(client, server), kept] = inside;
        drop((client, server));
        let server = backend.accept();
        assert_eq!(receive(&server, 7), b"in line");
        converse(&third, &server);
        converse(&kept.0, &kept.1);
        eventually("nobody waits", || queued() == 0);

        switch.reload(&bounded("queue: { size: 2, timeout: 300ms },"));
        turned_away(switch.address);
        switch.await_reason("queue_timeout", 1);
        drop((third, server, kept));
        switch.await_nothing_open();
    });
}

/// Where each of these clients gets.
fn homes(switch: &Switch, sources: &[IpAddr], backends: &[&Backend]) -> Vec<usize> {
    let home = |source: &IpAddr| {
        let client = connect_from(*source, switch.address);
        let (at, server) = accept_any(backends);
        converse(&client, &server);
        at
    };
    sources.iter().map(home).collect()
}

#[test]
fn a_client_keeps_its_server() {
    for balance in ["maglev", "hash"] {
        everywhere(|place| {
            let backends = [(); 4].map(|()| Backend::new(place.ip));
            let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
            let pool = format!("balance: {balance}, outlier: {{ failures: 1, eject: 300s }},");
            let switch = Switch::tcp(place, &addresses, &pool, "");
            let sources: Vec<IpAddr> = if place.ip.is_ipv4() {
                (1..=60).map(|last| Ipv4Addr::new(127, 0, 1, last).into()).collect()
            } else {
                vec![place.ip; 10]
            };
            let all = backends.each_ref();
            let before = homes(&switch, &sources, &all);
            assert_eq!(homes(&switch, &sources, &all), before, "{balance}");
            let used: BTreeSet<usize> = before.iter().copied().collect();
            assert_eq!(used.len(), if place.ip.is_ipv4() { 4 } else { 1 }, "{balance}: {before:?}");
            // One is lost; only its clients move.
            let lost = before[0];
            let left: Vec<&Backend> = {
                let dead = addresses[lost];
                switch.gateway.command_ok(&["server", "disable", "app", &dead.to_string()]);
                all.iter().copied().filter(|backend| backend.address != dead).collect()
            };
            let after = homes(&switch, &sources, &left);
            let others = before.iter().zip(&after).filter(|(was, _)| **was != lost);
            let moved = others.filter(|(was, now)| addresses[**was] != left[**now].address).count();
            // A table of Maglev moves a few of the others too: 4 % in the mean, of a single pool more.
            let most = if balance == "maglev" { sources.len() / 4 } else { 0 };
            assert!(moved <= most, "{balance}: {moved} of {} moved that had no reason to", sources.len());
        });
    }
}

#[test]
fn an_idle_connection_is_closed() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let switch = Switch::tcp(place, &[backend.address], "", "bounds: { idle: 1s },");
        let client = switch.connect();
        let server = backend.accept();
        // Bytes in one direction keep both alive: twice the bound altogether.
        for _ in 0..10 {
            send(&server, "x");
            assert_eq!(receive(&client, 1), b"x");
            thread::sleep(Duration::from_millis(200));
        }
        converse(&client, &server);
        refused(&client);
        refused(&server);
        switch.await_reason("idle", 1);
        switch.await_nothing_open();
    });
}

/// The server's side of a connection if it was let in, and not closed.
fn let_in(client: &TcpStream, backend: &Backend) -> Option<TcpStream> {
    let mut server = None;
    client.set_nonblocking(true).expect("a socket");
    let mut closed = false;
    eventually("it is let in, or closed", || {
        server = backend.waiting();
        let mut client = client;
        closed = !matches!(client.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        server.is_some() || closed
    });
    client.set_nonblocking(false).expect("a socket");
    if let Some(server) = &server {
        converse(client, server);
    }
    server
}

#[test]
fn bounds_close_connections_unanswered() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        for (bounds, cause) in [("connections: 3", "full"), ("per_client: 3", "client")] {
            let switch = Switch::tcp(place, &[backend.address], "", &format!("bounds: {{ {bounds} }},"));
            let mut open: Vec<_> = (0..3)
                .map(|_| {
                    let client = switch.connect();
                    let server = let_in(&client, &backend).unwrap_or_else(|| panic!("{bounds}: closed"));
                    (client, server)
                })
                .collect();
            turned_away(switch.address);
            let labels = ["listener=\"l4\"", &format!("cause=\"{cause}\"")];
            eventually("it is counted", || switch.metric("sumun_listener_connections_refused_total", &labels) == 1);
            // One that ends makes room.
            drop(open.remove(0));
            eventually("there is room", || switch.open() == 2);
            assert!(let_in(&switch.connect(), &backend).is_some(), "{bounds}");
        }
    });
}

#[test]
fn networks_are_let_in_or_not() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let (own, wider) = if place.ip.is_ipv4() { ("127.0.0.1", "127.0.0.0/8") } else { ("\"::1\"", "\"::/64\"") };
        for (listener, is_open) in [
            ("allow: [192.0.2.0/24],".to_owned(), false),
            (format!("allow: [{own}],"), true),
            (format!("deny: [{wider}],"), false),
            (format!("deny: [{wider}], allow: [{own}],"), true),
            (format!("deny: [{own}], allow: [{wider}],"), false),
        ] {
            let switch = Switch::tcp(place, &[backend.address], "", &listener);
            if is_open {
                assert!(let_in(&switch.connect(), &backend).is_some(), "{listener}");
            } else {
                turned_away(switch.address);
                let labels = ["listener=\"l4\"", "cause=\"denied\""];
                eventually("it is counted", || switch.metric("sumun_listener_connections_refused_total", &labels) == 1);
            }
        }
    });
}
