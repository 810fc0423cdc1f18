//! Connections of the switch while its config, its program and its end come and go, and TLS that ends
//! or begins here.

mod support;

use std::fs;
use std::net::{Shutdown, TcpStream};
use std::process::Command;

use support::certificates::{Authority, VERSIONS};
use support::client::End;
use support::gateway;
use support::instance::{Instance, eventually, everywhere, with_spare};
use support::l4::{
    Backend, Switch, config, connect, converse, end, receive, refused, rest, send, tcp_config, turned_away,
};
use support::server::Server;
use support::talk::Client;

#[test]
fn a_reload_leaves_connections_alone() {
    everywhere(|place| {
        let [old, new] = [(); 2].map(|()| Backend::new(place.ip));
        let spare = |config: &str| with_spare(config, new.address);
        let switch = Switch::start(place, &spare(&tcp_config(&[old.address], "", "")));
        let process = switch.gateway.worker_process();
        let client = switch.connect();
        let server = old.accept();
        converse(&client, &server);
        // Another server, then another listener, then none.
        switch.reload(&spare(&tcp_config(&[new.address], "", "")));
        converse(&client, &server);
        let second = switch.connect();
        let second_server = new.accept();
        converse(&second, &second_server);
        assert!(old.waiting().is_none());
        switch.reload(&spare(&tcp_config(&[new.address], "", "bounds: { connections: 2 },")));
        converse(&client, &server);
        converse(&second, &second_server);
        let without = spare(&tcp_config(&[new.address], "", ""));
        let without: Vec<&str> = without.lines().filter(|line| !line.starts_with("  l4:")).collect();
        switch.reload(&without.join("\n"));
        eventually("its socket is closed", || TcpStream::connect(switch.address).is_err());
        converse(&client, &server);
        client.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(end(&server), End::Closed);
        send(&server, "the last word");
        drop(server);
        assert_eq!(rest(&client), (b"the last word".to_vec(), End::Closed));
        converse(&second, &second_server);
        assert_eq!(switch.gateway.worker_process(), process);
    });
}

/// A listener keeps its name and its address, and is another service: nobody gets the one before.
#[test]
fn a_listener_may_become_one_of_http_and_back() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let tcp = tcp_config(&[backend.address], "", "");
        let switch = Switch::start(place, &tcp);
        let listener = tcp.lines().find(|line| line.starts_with("  l4:")).expect("it is there").to_owned();
        let http = tcp.replace(&listener, "  l4: { bind: \"$L4\", routes: [{ path: /, respond: { status: 418 } }] }");
        let old = switch.connect();
        let old_server = backend.accept();
        converse(&old, &old_server);
        for _ in 0..2 {
            switch.reload(&http);
            eventually("HTTP is answered", || {
                let mut client = Client::connect(switch.address);
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                client.try_answer(false).is_ok_and(|answer| answer.status == 418)
            });
            switch.reload(&tcp);
            let client = switch.connect();
            let server = backend.accept();
            converse(&client, &server);
        }
        converse(&old, &old_server);
    });
}

#[test]
fn a_stop_lets_connections_go_on_for_a_while() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let config = format!("drain: 3s\n{}", tcp_config(&[backend.address], "", ""));
        let mut switch = Switch::start(place, &config);
        let [first, second] = [(); 2].map(|()| {
            let client = switch.connect();
            let server = backend.accept();
            converse(&client, &server);
            (client, server)
        });
        switch.gateway.signal("TERM");
        eventually("nobody is let in", || TcpStream::connect(switch.address).is_err());
        converse(&first.0, &first.1);
        first.0.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(end(&first.1), End::Closed);
        drop(first.1);
        assert_eq!(end(&first.0), End::Closed);
        converse(&second.0, &second.1);
        // The one that stays is cut on both sides.
        refused(&second.0);
        refused(&second.1);
        switch.gateway.await_end();
        // Beside the looks whether anybody is let in.
        let reasons: Vec<String> = switch.lines().iter().map(|line| line["reason"].to_string()).collect();
        for reason in ["\"client_ended\"", "\"drained\""] {
            assert!(reasons.iter().any(|found| found == reason), "{reasons:?}");
        }
    });
}

#[test]
fn an_upgrade_keeps_connections() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let config = format!("drain: 20s\n{}", tcp_config(&[backend.address], "", ""));
        let switch = Switch::start_with(place, &config, |config| {
            Instance::start_as(
                place,
                config,
                |directory| {
                    // By another process: a file that this one writes could not be executed yet.
                    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_sumun")).arg(directory).status();
                    assert!(copied.is_ok_and(|status| status.success()), "a copy of the program");
                },
                |directory, log| gateway::command(directory.join("sumun"), log),
            )
        });
        let before = switch.gateway.worker_process();
        let client = switch.connect();
        let server = backend.accept();
        converse(&client, &server);
        let said = switch.gateway.command_ok(&["upgrade"]);
        assert!(said.starts_with("upgraded from "), "{said}");
        assert_ne!(switch.gateway.worker_process(), before);
        converse(&client, &server);
        let descriptors = |process: u32| fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count);
        let had = descriptors(before);
        for _ in 0..10 {
            let newcomer = switch.connect();
            let its_server = backend.accept();
            converse(&newcomer, &its_server);
            assert!(descriptors(before) <= had, "the old process takes nobody");
            converse(&client, &server);
        }
        client.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(end(&server), End::Closed);
        drop(server);
        assert_eq!(end(&client), End::Closed);
        eventually("the old process has ended", || !fs::exists(format!("/proc/{before}")).unwrap_or_default());
    });
}

/// A listener with TLS, a pool with TLS, and both.
#[test]
fn tls_ends_and_begins_here() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let pair = authority.pair(&["site.test", &place.ip.to_string()]);
        let secure = Server::secure(place.ip, &pair.server(&VERSIONS), |peer| {
            while let Some(bytes) = peer.exactly(4) {
                peer.send(bytes);
            }
            peer.send("farewell");
        });
        let plain = Server::start(place.ip, |peer| {
            while let Some(bytes) = peer.exactly(4) {
                peer.send(bytes);
            }
            peer.send("farewell");
        });
        let certs = "tls: { certs: [{ cert: $DIR/site.pem, key: $DIR/site.key }] },";
        for (front, back) in [(true, false), (false, true), (true, true)] {
            let server = if back { secure.address() } else { plain.address() };
            let pool = if back { "tls: { ca: $DIR/authority.pem }," } else { "" };
            let config = tcp_config(&[server], pool, if front { certs } else { "" });
            let switch = Switch::start_with(place, &config, |config| {
                Instance::start_in(place, config, |directory| {
                    pair.write(directory, "site");
                    fs::write(directory.join("authority.pem"), &authority.pem).expect("a file");
                })
            });
            for version in VERSIONS {
                let config = authority.client(&[version], &["h2", "smtp"], None);
                let mut client = if front {
                    Client::secure(switch.address, &config, "site.test")
                } else {
                    Client::connect(switch.address)
                };
                assert_eq!(client.send("ping").bytes(4), b"ping", "{front} {back}");
                assert_eq!(client.tls.as_ref().and_then(|tls| tls.alpn_protocol()), None);
                let much: Vec<u8> = (0..400_000_u32).map(|number| number as u8).collect();
                assert!(client.send(&much).bytes(much.len()) == much, "{front} {back}");
                client.finish();
                assert_eq!(client.bytes(8), b"farewell", "{front} {back}");
                assert_eq!(client.end(), End::Closed, "{front} {back}");
            }
            switch.await_nothing_open();
        }
    });
}

#[test]
fn a_server_that_cannot_be_verified_is_not_spoken_with() {
    everywhere(|place| {
        let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
        let pair = stranger.pair(&[&place.ip.to_string()]);
        let server = Server::secure(place.ip, &pair.server(&VERSIONS), |peer| {
            peer.drain();
        });
        let config = tcp_config(&[server.address()], "tls: { ca: $DIR/authority.pem },", "");
        let switch = Switch::start_with(place, &config, |config| {
            Instance::start_in(place, config, |directory| {
                fs::write(directory.join("authority.pem"), &authority.pem).expect("a file");
            })
        });
        turned_away(switch.address);
        switch.await_reason("server_handshake", 1);
        // One that speaks no TLS at all.
        let plain = Backend::new(place.ip);
        let config = tcp_config(&[plain.address], "retries: off, tls: { ca: $DIR/authority.pem },", "");
        let switch = Switch::start_with(place, &config, |config| {
            Instance::start_in(place, config, |directory| {
                fs::write(directory.join("authority.pem"), &authority.pem).expect("a file");
            })
        });
        let client = switch.connect();
        send(plain.accept(), "220 hello\r\n");
        refused(&client);
        switch.await_reason("server_handshake", 1);
        switch.await_nothing_open();
    });
}

/// What is no TLS, or gives up in the middle of it, costs no server a connection.
#[test]
fn a_handshake_that_fails_asks_no_server() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let pair = authority.pair(&["site.test"]);
        let backend = Backend::new(place.ip);
        let keys = "tls: { certs: [{ cert: $DIR/site.pem, key: $DIR/site.key }] }, bounds: { header_timeout: 1s }, \
                    bind: \"$L4\", tcp: app";
        let config = config(&format!("app: {{ servers: [\"{}\"] }}", backend.address), keys);
        let switch = Switch::start_with(place, &config, |config| {
            Instance::start_in(place, config, |directory| pair.write(directory, "site"))
        });
        let plain = switch.connect();
        send(&plain, "GET / HTTP/1.1\r\n\r\n");
        rest(&plain);
        let silent = connect(switch.address);
        refused(&silent);
        switch.await_reason("handshake", 2);
        switch.await_nothing_open();
        assert!(backend.waiting().is_none());
        let mut client = Client::secure(switch.address, &authority.plain_client(), "site.test");
        client.handshake().expect("a handshake");
        client.send("hello");
        assert_eq!(receive(backend.accept(), 5), b"hello");
    });
}
