//! Which server of a pool gets a request.

mod support;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use support::instance::{Instance, Place, eventually, everywhere, proxy_config, with_spare};
use support::server::{Server, ok};

/// Three servers that say a, b and c.
fn three(place: Place) -> [Server; 3] {
    ["a", "b", "c"].map(|letter| Server::saying(place.ip, letter))
}

fn start(place: Place, servers: &[Server], pool: &str) -> Instance {
    let addresses: Vec<_> = servers.iter().map(Server::address).collect();
    Instance::proxy(place, &addresses, pool, "")
}

/// Who answers to this many requests of one client.
fn answers(gateway: &Instance, count: usize, fields: &str) -> String {
    let mut client = gateway.connect();
    (0..count).map(|_| client.get_with("/", fields).expect(200).text()).collect()
}

#[test]
fn every_way_uses_every_server() {
    everywhere(|place| {
        let servers = three(place);
        for way in ["p2c", "round-robin", "least-request", "random"] {
            let gateway = start(place, &servers, &format!("balance: {way},"));
            let text = answers(&gateway, 90, "");
            for letter in ['a', 'b', 'c'] {
                let count = text.matches(letter).count();
                assert!(count >= 5, "{way}: {letter} got {count} of 90");
            }
            if way == "round-robin" {
                assert_eq!(text.matches('a').count(), 30, "{text}");
                assert!(!text.contains("aa"), "{text}");
            }
        }
        assert!(answers(&start(place, &servers, "balance: first,"), 9, "").chars().all(|letter| letter == 'a'));
    });
}

#[test]
fn equal_keys_go_to_the_same_server() {
    everywhere(|place| {
        let servers = three(place);
        for way in ["hash", "maglev"] {
            for (key, field) in [("{ header: X-User }", "X-User: u"), ("{ cookie: sid }", "Cookie: a=b; sid=")] {
                let gateway = start(place, &servers, &format!("balance: {way}, hash: {key},"));
                let mut seen = String::new();
                for number in 0..40 {
                    let text = answers(&gateway, 3, &format!("{field}{number}\r\n"));
                    assert!(["aaa", "bbb", "ccc"].contains(&&*text), "{way} {key} {number}: {text}");
                    seen.push_str(&text);
                }
                for letter in ['a', 'b', 'c'] {
                    assert!(seen.contains(letter), "{way} {key}: nothing for {letter}");
                }
            }
            let gateway = start(place, &servers, &format!("balance: {way}, hash: source,"));
            let text = answers(&gateway, 6, "");
            assert!(text.chars().all(|letter| text.starts_with(letter)), "{way} source: {text}");
        }
    });
}

#[test]
fn weights_count() {
    everywhere(|place| {
        let servers = three(place);
        let [a, b, _] = &servers;
        let config = format!(
            "pools: {{ app: {{ balance: round-robin, servers: [{{ address: \"{}\", weight: 3 }}, \"{}\"] }} }}\n\
             listeners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /, proxy: app }}] }} }}\n",
            a.address(),
            b.address()
        );
        let gateway = Instance::start(place, &config);
        assert_eq!(answers(&gateway, 40, "").matches('a').count(), 30);
        gateway.command_ok(&["server", "weight", "app", &a.address().to_string(), "1"]);
        assert_eq!(answers(&gateway, 40, "").matches('a').count(), 20);
    });
}

#[test]
fn backups_and_zones() {
    everywhere(|place| {
        let [mut near, far, backup] = three(place);
        let config = format!(
            "pools:\n  app:\n    zone: here\n    servers:\n\
             \x20     - {{ address: \"{}\", zone: here }}\n\
             \x20     - {{ address: \"{}\", zone: there }}\n\
             \x20     - {{ address: \"{}\", backup: on }}\n\
             \x20   health: {{ tcp: {{}}, every: 50ms, fall: 1, rise: 1 }}\n\
             listeners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /, proxy: app }}] }} }}\n",
            near.address(),
            far.address(),
            backup.address()
        );
        let gateway = Instance::start(place, &config);
        let mut far = far;
        assert_eq!(answers(&gateway, 6, ""), "aaaaaa");
        near.stop();
        assert_eq!(answers(&gateway, 6, ""), "bbbbbb", "the other zone before the backup");
        far.stop();
        assert_eq!(answers(&gateway, 6, ""), "cccccc");
    });
}

/// The same server at one TCP port of both families.
fn in_both_families() -> [Server; 2] {
    loop {
        let four = Server::saying(Ipv4Addr::LOCALHOST.into(), "named");
        let six = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), four.address().port());
        if let Ok(listener) = TcpListener::bind(six) {
            return [four, Server::start_on(listener, |peer| peer.answer_all(&|_| ok("named")))];
        }
    }
}

/// Every address that a name has becomes a server.
#[test]
fn servers_by_name() {
    everywhere(|place| {
        let servers = in_both_families();
        let config = format!(
            "pools: {{ app: {{ balance: round-robin, servers: [\"localhost:{}\"] }} }}\n\
             listeners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /, proxy: app }}] }} }}\n",
            servers[0].address().port()
        );
        let gateway = Instance::start(place, &config);
        for _ in 0..8 {
            assert_eq!(gateway.get("/").expect(200).text(), "named");
        }
        // A host may have localhost in one family only.
        let pools = gateway.json(&["pool", "app"]);
        let known: Vec<&serde_json::Value> = pools[0]["servers"].as_array().into_iter().flatten().collect();
        assert!(!known.is_empty(), "{pools}");
        for server in &servers {
            let address = server.address().to_string();
            let is_known = known.iter().any(|found| found["address"] == address.as_str());
            assert_eq!(server.count() > 0, is_known, "{address} in {pools}");
        }
    });
}

#[test]
fn source_addresses() {
    everywhere(|place| {
        if !place.ip.is_ipv4() {
            return;
        }
        let server = Server::start(place.ip, |peer| {
            let from = peer.stream.peer_addr().map_or_else(|_| String::new(), |address| address.ip().to_string());
            while peer.request().is_some() {
                peer.send(ok(&from));
            }
        });
        let config = "source: [127.0.0.8, 127.0.0.9], keepalive: 0,";
        let gateway = start(place, std::slice::from_ref(&server), config);
        let mut seen: Vec<String> = (0..4).map(|_| gateway.get("/").expect(200).text()).collect();
        seen.sort();
        assert_eq!(seen, ["127.0.0.8", "127.0.0.8", "127.0.0.9", "127.0.0.9"], "used in turn");
    });
}

/// What the command line says and changes, until the next start.
#[test]
fn servers_come_and_go_by_command() {
    everywhere(|place| {
        let servers = three(place);
        let [a, b, c] = servers.each_ref().map(|server| server.address().to_string());
        let [first, second, third] = servers.each_ref().map(Server::address);
        let config = proxy_config(&[first, second], "balance: round-robin,", "");
        let gateway = Instance::start(place, &with_spare(&config, third));
        assert_eq!(answers(&gateway, 20, "").matches('a').count(), 10);
        gateway.command_ok(&["server", "drain", "app", &a]);
        assert_eq!(answers(&gateway, 4, ""), "bbbb");
        assert!(gateway.command_ok(&["pool"]).contains("draining"));
        gateway.command_ok(&["server", "enable", "app", &a]);
        eventually("it is used again", || answers(&gateway, 4, "").contains('a'));
        gateway.command_ok(&["server", "add", "app", &c, "--weight", "2"]);
        assert!(answers(&gateway, 20, "").contains('c'));
        gateway.command_ok(&["server", "remove", "app", &b]);
        assert!(!answers(&gateway, 20, "").contains('b'));
        gateway.command_ok(&["server", "disable", "app", &c]);
        assert_eq!(answers(&gateway, 4, ""), "aaaa");
        // What cannot be is said, with an exit status.
        for wrong in [["drain", "app", "127.0.0.1:1"], ["drain", "nopool", &a], ["add", "app", "no address"]] {
            let output = gateway.command(&[&["server"], &wrong[..]].concat());
            assert_eq!(output.status.code(), Some(1), "{wrong:?}");
            assert!(!output.stderr.is_empty(), "{wrong:?}");
        }
        let status = gateway.json(&["status"]);
        assert!(status["uptime_seconds"].as_f64().is_some() || status.as_object().is_some_and(|map| !map.is_empty()));
    });
}
