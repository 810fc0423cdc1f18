//! Attack or crowd: who is at the top, and who is blocked for what, until when.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::{Value, json};
use support::client::End;
use support::http2;
use support::instance::{Instance, Place, eventually, everywhere};
use support::l4::connect_from;
use support::server::Server;
use support::talk::Client;

const TWO_WORKERS: Place = Place { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), workers: 2 };

const ROUTES: &str = "routes: [{ path: /missing, respond: 404 }, { path: /, respond: 200 }]";

fn with_rule(more: &str, rule: &str) -> String {
    format!(
        "{more}\nblocks: [{{ when: {{ status: [403, 404], count: 5, within: 60s }}, {rule} }}]\n\
         listeners: {{ web: {{ bind: \"$BIND\", {ROUTES} }} }}\n"
    )
}

fn from(source: [u8; 4], gateway: &Instance) -> Client {
    Client::of(connect_from(source.into(), gateway.address))
}

/// Answers of 404 for who is not blocked yet, each on a connection of its own.
fn scan(gateway: &Instance, count: usize, fields: &str) {
    for _ in 0..count {
        gateway.connect().get_with("/missing", fields).expect(404);
    }
}

/// An answer comes a moment before it is counted.
fn await_block(gateway: &Instance, client: &str) -> Value {
    let mut blocks = Value::Null;
    eventually("a block", || {
        blocks = gateway.json(&["blocks"]);
        blocks[0]["client"] == client
    });
    blocks
}

fn nobody_is_blocked(gateway: &Instance) -> bool {
    gateway.json(&["blocks"]) == json!([])
}

/// As `sumun blocks` shows clients of the tests.
fn shown(place: Place) -> &'static str {
    if place.ip.is_ipv4() { "127.0.0.1" } else { "::/64" }
}

#[test]
fn the_heavy_one_is_at_the_top() {
    let gateway = Instance::start(TWO_WORKERS, &format!("listeners: {{ web: {{ bind: \"$BIND\", {ROUTES} }} }}\n"));
    // Over both workers: connections are spread by their TCP ports.
    for _ in 0..20 {
        let mut heavy = from([127, 0, 9, 9], &gateway);
        for _ in 0..6 {
            heavy.get_with("/missing?x=1", "User-Agent: scanner/1.0\r\n").expect(404);
        }
    }
    for light in 1..=60 {
        from([127, 0, 1, light], &gateway).get_with("/shop", "User-Agent: a\u{202e}b\r\n").expect(200);
        from([127, 0, 2, light], &gateway).get("/shop").expect(200);
    }
    let mut traffic = Value::Null;
    eventually("all requests are counted", || {
        traffic = gateway.json(&["traffic"]);
        traffic["requests"] == 240
    });
    let top = |kind: &str, number: usize| {
        let row = &traffic[kind][number];
        (row["name"].as_str().unwrap_or_default().to_owned(), row["count"].as_u64().unwrap_or_default())
    };
    assert_eq!(top("clients", 0), ("127.0.9.9".to_owned(), 120), "{traffic}");
    assert_eq!(top("clients", 1).1, 1);
    assert_eq!(traffic["clients"].as_array().map(Vec::len), Some(20));
    let heavy = &traffic["clients"][0];
    assert_eq!((&heavy["count_error"], &heavy["share"], &heavy["error_share"]), (&json!(0), &json!(0.5), &json!(1.0)));
    assert_eq!(top("networks", 0), ("127.0.9.0/24".to_owned(), 120));
    assert_eq!(top("networks", 1).1, 60);
    assert_eq!([top("paths", 0).1, top("paths", 1).1], [120, 120]);
    assert_eq!(top("agents", 0), ("scanner/1.0".to_owned(), 120));
    assert!(traffic["agents"].to_string().contains(r"a\\u{202e}b"), "{traffic}");
    let table = gateway.command_ok(&["traffic"]);
    assert!(table.contains("127.0.9.9") && table.contains("50.0%") && !table.contains('\u{202e}'), "{table}");
}

#[test]
fn a_scanner_is_blocked_for_a_while() {
    everywhere(|place| {
        let gateway = Instance::start(place, &with_rule("", "for: 8s"));
        scan(&gateway, 5, "");
        let blocks = await_block(&gateway, shown(place));
        assert_eq!(
            (&blocks[0]["reason"], &blocks[0]["do"]),
            (&json!("5 answers of 403 or 404 within 60s"), &json!("refuse"))
        );
        // On every worker, and whatever is asked for.
        for _ in 0..8 {
            let answer = gateway.connect().get_with("/", "Accept: application/json\r\n").expect(403);
            assert!(answer.text().contains("\"blocked\""), "{}", answer.text());
        }
        if place.ip.is_ipv4() {
            from([127, 0, 0, 2], &gateway).get("/").expect(200);
        }
        gateway.await_log(&format!("blocked {} for 8s, until 20", shown(place)));
        let table = gateway.command_ok(&["blocks"]);
        assert!(table.contains(shown(place)) && table.contains("403 or 404"), "{table}");
        // What a blocked client is answered is not held against it.
        eventually("the end of the block", || gateway.get("/").status == 200);
        assert!(nobody_is_blocked(&gateway));
        assert_eq!(gateway.log().matches("blocked ").count(), 1, "{}", gateway.log());
    });
}

/// Refusals of one limit count, and those of another do not.
#[test]
fn who_goes_on_against_a_limit_is_blocked() {
    everywhere(|place| {
        let config = "limits: { few: { key: client, rate: 1/h }, none: { key: client, rate: 1/h } }\n\
             blocks: [{ when: { limit: few, count: 3, within: 60s }, for: 1h }]\n\
             listeners: { web: { bind: \"$BIND\", routes: [\
               { path: /few, limits: few, respond: 200 }, { path: /none, limits: none, respond: 200 },\
               { path: /, respond: 200 } ] } }\n";
        let gateway = Instance::start(place, config);
        for path in ["/few", "/none"] {
            gateway.get(path).expect(200);
        }
        for _ in 0..5 {
            gateway.get("/none").expect(429);
        }
        for _ in 0..2 {
            gateway.get("/few").expect(429);
        }
        gateway.get("/").expect(200);
        gateway.get("/few").expect(429);
        gateway.get("/").expect(403);
        let blocks = await_block(&gateway, shown(place));
        assert_eq!(blocks[0]["reason"], "3 refusals of few within 60s");
    });
}

/// Who gives up has got no answer that could be held against it.
#[test]
fn nobody_is_blocked_for_giving_up() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            while let Some(request) = peer.request() {
                if request.target == "/half" {
                    peer.send("HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\nhalf ");
                }
                peer.drain();
            }
        });
        let config = format!(
            "pools: {{ app: {{ servers: \"{}\" }} }}\n\
             blocks: [{{ when: {{ status: 4xx, count: 5, within: 60s }}, for: 1h }}]\n\
             listeners: {{ web: {{ bind: \"$BIND\", routes: [\n\
             {{ path: /free, respond: 200 }}, {{ path: /, proxy: app }}] }} }}\n",
            server.address()
        );
        let gateway = Instance::start(place, &config);
        for count in 1..=6 {
            let mut client = gateway.connect();
            client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
            server.await_count(count);
            client.reset();
        }
        http2::speak(
            async |sender| {
                for count in 7..=12 {
                    let mut sender = sender.clone().ready().await.expect("it takes streams");
                    let (response, mut stream) = sender.send_request(http2::get("/slow"), true).expect("it is open");
                    while server.count() < count {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    stream.send_reset(h2::Reason::CANCEL);
                    drop(response);
                }
            },
            &gateway,
        );
        eventually("all requests are counted", || gateway.json(&["traffic"])["requests"] == 12);
        assert!(nobody_is_blocked(&gateway));
        gateway.get("/free").expect(200);
        // That nobody waits for the end of an answer does not make it another one.
        for _ in 0..5 {
            let mut client = gateway.connect();
            client.send("GET /half HTTP/1.1\r\nHost: test\r\n\r\n");
            assert_eq!(client.bytes(12), b"HTTP/1.1 404");
            client.reset();
        }
        await_block(&gateway, shown(place));
    });
}

#[test]
fn a_block_can_be_lifted() {
    everywhere(|place| {
        let gateway = Instance::start(place, &with_rule("", "for: 1h"));
        scan(&gateway, 5, "");
        await_block(&gateway, shown(place));
        gateway.get("/").expect(403);
        gateway.command_ok(&["blocks", "--lift", shown(place)]);
        gateway.get("/").expect(200);
        let again = gateway.command(&["blocks", "--lift", shown(place)]);
        assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("is not blocked"));
        // It begins anew; and a block lives on through a reload of other things, not without its rule.
        scan(&gateway, 5, "");
        await_block(&gateway, shown(place));
        gateway.reload(&with_rule("trusted_proxies: 192.0.2.1/32", "for: 1h"));
        gateway.get("/").expect(403);
        gateway.reload(&format!("listeners: {{ web: {{ bind: \"$BIND\", {ROUTES} }} }}\n"));
        gateway.get("/").expect(200);
        assert!(nobody_is_blocked(&gateway));
    });
}

#[test]
fn connections_can_be_closed_instead() {
    everywhere(|place| {
        let gateway = Instance::start(place, &with_rule("", "for: 1h, do: close"));
        let mut open = gateway.connect();
        open.get("/").expect(200);
        scan(&gateway, 5, "");
        await_block(&gateway, shown(place));
        open.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(open.try_answer(false).is_err());
        let mut new = gateway.connect();
        // It may be closed already.
        std::io::Write::write_all(&mut new.stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").ok();
        assert!(matches!(new.try_answer(false).map_err(|cut| cut.end), Err(End::Closed | End::Reset)));
    });
}

#[test]
fn a_proxy_in_front_is_never_blocked_but_whom_it_names() {
    everywhere(|place| {
        let trusted = format!("trusted_proxies: [\"{}\"]", place.ip);
        let gateway = Instance::start(place, &with_rule(&trusted, "for: 1h, do: close, allow: 198.51.100.0/24"));
        let [scanner, other, allowed] = ["203.0.113.7", "203.0.113.8", "198.51.100.7"]
            .map(|client| format!("X-Forwarded-For: 192.0.2.1, {client}\r\n"));
        scan(&gateway, 20, "");
        scan(&gateway, 20, &allowed);
        scan(&gateway, 5, &scanner);
        let blocks = await_block(&gateway, "203.0.113.7");
        assert_eq!(blocks.as_array().map(Vec::len), Some(1), "{blocks}");
        // The connection of a proxy is not closed for one of its clients.
        let mut client = gateway.connect();
        client.get_with("/", &scanner).expect(403);
        client.get_with("/", &other).expect(200);
        client.get_with("/", &allowed).expect(200);
        client.get("/").expect(200);
        let traffic = gateway.json(&["traffic"]);
        let names: Vec<&str> =
            traffic["clients"].as_array().expect("rows").iter().filter_map(|row| row["name"].as_str()).collect();
        assert!(names.contains(&"203.0.113.7") && !names.contains(&"192.0.2.1"), "{names:?}");
    });
}

#[test]
fn whoever_is_not_trusted_speaks_for_nobody() {
    everywhere(|place| {
        let gateway = Instance::start(place, &with_rule("", "for: 1h"));
        for number in 0..5 {
            scan(&gateway, 1, &format!("X-Forwarded-For: 203.0.113.{number}\r\n"));
        }
        await_block(&gateway, shown(place));
        gateway.connect().get_with("/", "X-Forwarded-For: 203.0.113.99\r\n").expect(403);
    });
}

#[test]
fn the_proxy_protocol_names_clients_too() {
    everywhere(|place| {
        let config = format!("trusted_proxies: [\"{}\"]", place.ip);
        let config = with_rule(&config, "for: 1h, do: close").replace("bind:", "proxy_protocol: accept, bind:");
        let gateway = Instance::start(place, &config);
        let named = |client: &str| {
            let mut connection = gateway.connect();
            connection.send(format!("PROXY TCP4 {client} 192.0.2.1 4711 80\r\n"));
            connection
        };
        for _ in 0..5 {
            named("203.0.113.7").get("/missing").expect(404);
        }
        await_block(&gateway, "203.0.113.7");
        let mut shut_out = named("203.0.113.7");
        std::io::Write::write_all(&mut shut_out.stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").ok();
        assert!(shut_out.try_answer(false).is_err());
        named("203.0.113.8").get("/").expect(200);
    });
}

/// Which autonomous systems the clients are of, by a table that a reload reads anew.
#[test]
fn systems_are_told_by_a_table() {
    let config = format!(
        "traffic: {{ asn_table: [asn.tsv, more.csv] }}\nlisteners: {{ web: {{ bind: \"$BIND\", {ROUTES} }} }}\n"
    );
    let gateway = Instance::start_in(TWO_WORKERS, &config, |directory| {
        let ranges = "127.0.1.0\t127.0.1.255\t64500\tKR\tONE-NET\n127.0.2.0\t127.0.2.255\t0\tNone\tNot routed\n";
        std::fs::write(directory.join("asn.tsv"), ranges).expect("there is room");
        let prefixes =
            "network,autonomous_system_number,autonomous_system_organization\n127.0.3.0/24,64501,\"Two, Inc.\"\n";
        std::fs::write(directory.join("more.csv"), prefixes).expect("there is room");
    });
    gateway.await_log("table of autonomous systems: 4 ranges");
    let counts = |gateway: &Instance| -> Vec<(String, u64)> {
        let traffic = gateway.json(&["traffic"]);
        let rows = traffic["systems"].as_array().cloned().unwrap_or_default();
        let row = |row: &Value| Some((row["name"].as_str()?.to_owned(), row["count"].as_u64()?));
        rows.iter().filter_map(row).collect()
    };
    for (network, count) in [(1, 5), (2, 3), (3, 8)] {
        for _ in 0..count {
            from([127, 0, network, 9], &gateway).get("/").expect(200);
        }
    }
    let expected = [("AS64501 Two, Inc.".to_owned(), 8), ("AS64500 ONE-NET".to_owned(), 5), ("unknown".to_owned(), 3)];
    eventually("all are counted", || counts(&gateway) == expected);
    assert!(gateway.command_ok(&["traffic"]).contains("AS64500 ONE-NET"));
    // Another table; one that is broken leaves it as it is.
    std::fs::write(gateway.directory().join("asn.tsv"), "127.0.2.0/24,64502,Three\n").expect("there is room");
    gateway.reload(&config);
    gateway.await_log("table of autonomous systems: 3 ranges");
    from([127, 0, 2, 9], &gateway).get("/").expect(200);
    eventually("it is looked up in the new one", || counts(&gateway).contains(&("AS64502 Three".to_owned(), 1)));
    std::fs::write(gateway.directory().join("asn.tsv"), "127.0.2.0/24,64502,Three\nnonsense\n").expect("there is room");
    gateway.reload(&config);
    gateway.await_log("asn.tsv: line 2: it begins with no address");
    from([127, 0, 2, 9], &gateway).get("/").expect(200);
    eventually("the one before holds", || counts(&gateway).contains(&("AS64502 Three".to_owned(), 2)));
}
