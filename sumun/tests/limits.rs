//! Rate limits: whose requests are counted together, how many pass, and what the others are told.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use support::http2::{ask, get, speak};
use support::instance::{Instance, Place, everywhere};
use support::server::Server;
use support::talk::{Answer, Client};

/// An instance with these limits, and one route that has `names` of them.
fn with_limits(place: Place, limits: &str, names: &str) -> Instance {
    Instance::start(place, &config(limits, names, ""))
}

fn config(limits: &str, names: &str, listener: &str) -> String {
    format!(
        "limits: {{ {limits} }}\n{listener}listeners:\n  web:\n    bind: \"$BIND\"\n    routes:\n      \
         - {{ path: /free, respond: {{ body: free }} }}\n      - {{ path: /, limits: [{names}], respond: {{ body: ok }} }}\n"
    )
}

/// How many of `count` requests pass.
fn passed(client: &mut Client, count: usize, target: &str, fields: &str) -> usize {
    (0..count).filter(|_| client.get_with(target, fields).status == 200).count()
}

/// The same, each on a connection of its own: they are spread over the workers.
fn passed_apart(gateway: &Instance, count: usize, target: &str, fields: &str) -> usize {
    (0..count).map(|_| passed(&mut gateway.connect(), 1, target, fields)).sum()
}

fn metric(admin: SocketAddr, line: &str) -> Option<u64> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    let text = Client::connect(admin).send(request).answer().expect(200).text();
    text.lines().find_map(|there| there.strip_prefix(line)?.trim().parse().ok())
}

#[test]
fn a_burst_passes_and_then_the_rate() {
    everywhere(|place| {
        let gateway = with_limits(place, "per-client: { key: client, rate: 10/s, burst: 20 }", "per-client");
        let mut client = gateway.connect();
        let began = Instant::now();
        let count = passed(&mut client, 100, "/", "");
        let earned = began.elapsed().as_millis() as usize / 100;
        assert!((20..=21 + earned).contains(&count), "{count}");
        assert_eq!(client.get("/free").status, 200, "the connection is kept, and other routes are free");
        let until = began + Duration::from_secs(2);
        let mut later = 0;
        while Instant::now() < until {
            later += passed(&mut client, 1, "/", "");
            thread::sleep(Duration::from_millis(5));
        }
        assert!((15..=21).contains(&(count + later - 20)), "{count} and {later} within two seconds");
    });
}

#[test]
fn who_is_refused_is_told_when_to_come_again() {
    everywhere(|place| {
        let limits = "per-client: { key: client, rate: 30/m, burst: 2 }, per-path: { key: path, rate: 1000/m }";
        let gateway = with_limits(place, limits, "per-client, per-path");
        let mut client = gateway.connect();
        assert_eq!(passed(&mut client, 2, "/", ""), 2);
        let refused = client.get("/").expect(429);
        assert_eq!(refused.header("retry-after"), Some("2"));
        assert_eq!(refused.header("ratelimit-policy"), Some("\"per-client\";q=2;w=4"));
        assert_eq!(refused.header("ratelimit"), Some("\"per-client\";r=0;t=2"));
        assert!(refused.text().contains("Reason: rate_limited."), "{}", refused.text());
        let json: serde_json::Value =
            serde_json::from_str(&client.get_with("/", "Accept: application/json\r\n").expect(429).text())
                .expect("JSON");
        assert_eq!((&json["status"], &json["reason"]), (&json!(429), &json!("rate_limited")));
        let given = client.get_with("/", "X-Request-Id: mine\r\n").expect(429);
        assert_eq!(given.header("x-request-id"), Some("mine"));
        assert!(given.text().contains("Request: mine<"), "{}", given.text());
        let head = client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").answer_to_head();
        assert_eq!((head.status, head.body.len()), (429, 0));
        assert_eq!(client.get("/free").status, 200);
    });
}

#[test]
fn a_page_of_ones_own_stands_in() {
    everywhere(|place| {
        let text = config("a: { key: client, rate: 1/h }", "a", "")
            .replace("    routes:", "    error_pages: { 429: slow.html }\n    routes:");
        let gateway = Instance::start_in(place, &text, |directory| {
            fs::write(directory.join("slow.html"), "<p>slowly").expect("a page");
        });
        let mut client = gateway.connect();
        assert_eq!(passed(&mut client, 1, "/", ""), 1);
        let refused = client.get("/").expect(429);
        assert_eq!(refused.text(), "<p>slowly");
        assert_eq!(refused.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(refused.header("retry-after"), Some("3600"));
    });
}

#[test]
fn a_body_that_is_here_does_not_cost_the_connection() {
    everywhere(|place| {
        let gateway = with_limits(place, "a: { key: client, rate: 1/h }", "a");
        let mut client = gateway.connect();
        assert_eq!(passed(&mut client, 1, "/", ""), 1);
        for _ in 0..3 {
            let refused: Answer = client.request("POST", "/", "", b"a body").expect(429);
            assert_eq!(refused.header("connection"), None);
        }
        assert_eq!(client.get("/free").text(), "free");
        // One that is still to come does: where the next request begins is not known.
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf of it");
        assert_eq!(client.answer().expect(429).header("connection"), Some("close"));
    });
}

#[test]
fn keys_tell_requests_apart() {
    everywhere(|place| {
        for (key, one, another) in [
            ("{ header: X-Key }", ("/", "X-Key: a\r\n"), ("/", "X-Key: b\r\n")),
            ("{ cookie: sid }", ("/", "Cookie: x=1; sid=a\r\n"), ("/", "Cookie: sid=b; x=1\r\n")),
            ("path", ("/a", ""), ("/b", "")),
            ("\"{path} {header.x-key}\"", ("/a", "X-Key: a\r\n"), ("/a", "X-Key: b\r\n")),
            ("\"{client} {method} {host} {path}\"", ("/a", ""), ("/b", "")),
            ("\"{cookie.sid}{route}{listener}\"", ("/", "Cookie: sid=1\r\n"), ("/", "Cookie: sid=2\r\n")),
        ] {
            let gateway = with_limits(place, &format!("a: {{ key: {key}, rate: 3/h }}"), "a");
            let mut client = gateway.connect();
            assert_eq!(passed(&mut client, 9, one.0, one.1), 3, "{key}");
            assert_eq!(passed(&mut client, 9, another.0, another.1), 3, "{key}");
            assert_eq!(passed(&mut gateway.connect(), 9, one.0, one.1), 0, "{key}: on any connection");
        }
    });
}

#[test]
fn without_a_key_the_address_counts() {
    everywhere(|place| {
        let gateway = with_limits(place, "a: { key: { header: X-Key }, rate: 3/h }", "a");
        let mut client = gateway.connect();
        assert_eq!(passed(&mut client, 9, "/", ""), 3);
        assert_eq!(passed(&mut client, 9, "/", &format!("X-Key: {}\r\n", place.ip)), 3, "it is no address that counts");
    });
}

#[test]
fn trusted_proxies_say_whose_request_it_is() {
    everywhere(|place| {
        let trusted = format!("trusted_proxies: [{}, 10.0.0.0/8]\n", place.ip);
        let gateway = Instance::start(place, &config("a: { key: client, rate: 3/h }", "a", &trusted));
        let mut client = gateway.connect();
        let count = |client: &mut Client, chain: &str| passed(client, 9, "/", &format!("X-Forwarded-For: {chain}\r\n"));
        assert_eq!(count(&mut client, "192.0.2.1"), 3);
        assert_eq!(count(&mut client, "198.51.100.9, 192.0.2.1, 10.1.2.3"), 0, "it is the last one that is no proxy");
        assert_eq!(count(&mut client, "192.0.2.1, 198.51.100.9:4711"), 3);
        assert_eq!(count(&mut client, "2001:db8::1"), 3);
        assert_eq!(count(&mut client, "[2001:db8::2]:80"), 0, "the same /64");
        assert_eq!(count(&mut client, "2001:db8:0:1::1"), 3);
        // Nobody else says anything.
        let gateway = with_limits(place, "a: { key: client, rate: 3/h }", "a");
        let mut client = gateway.connect();
        assert_eq!(count(&mut client, "192.0.2.1") + count(&mut client, "192.0.2.2"), 3);
    });
}

#[test]
fn a_refusal_costs_nothing_of_other_limits() {
    everywhere(|place| {
        let limits = "many: { key: client, rate: 5/h }, few: { key: path, rate: 2/h }";
        let gateway = with_limits(place, limits, "many, few");
        let mut client = gateway.connect();
        assert_eq!(passed(&mut client, 9, "/a", ""), 2);
        assert_eq!(passed(&mut client, 9, "/b", ""), 2);
        assert_eq!(passed(&mut client, 9, "/c", ""), 1, "five in all");
        let refused = client.get("/a").expect(429);
        assert_eq!(refused.header("ratelimit"), Some("\"many\";r=0;t=720, \"few\";r=0;t=1800"));
        assert_eq!(refused.header("retry-after"), Some("1800"));
    });
}

#[test]
fn a_window_slides() {
    everywhere(|place| {
        let gateway = with_limits(place, "a: { key: client, rate: 10/s, window: sliding }", "a");
        let mut client = gateway.connect();
        let began = Instant::now();
        let mut count = 0;
        while began.elapsed() < Duration::from_secs(3) {
            count += passed(&mut client, 1, "/", "");
            thread::sleep(Duration::from_millis(4));
        }
        // It began somewhere in a window, so up to one more of them.
        assert!((25..=41).contains(&count), "{count} in three seconds");
        let refused = (0..50).map(|_| client.get("/")).find(|answer| answer.status == 429).expect("a refusal");
        assert_eq!(refused.header("ratelimit-policy"), Some("\"a\";q=10;w=1"));
        assert_eq!(refused.header("retry-after"), Some("1"));
    });
}

#[test]
fn workers_share_a_limit() {
    everywhere(|place| {
        let admin = place.free_address();
        let top = format!("admin: \"{admin}\"\n");
        let gateway = Instance::start(place, &config("a: { key: client, rate: 1/h, burst: 200 }", "a", &top));
        let count: usize = thread::scope(|scope| {
            let run = || passed(&mut gateway.connect(), 50, "/", "");
            let clients: Vec<_> = (0..16).map(|_| scope.spawn(run)).collect();
            clients.into_iter().map(|client| client.join().expect("no panic")).sum()
        });
        assert_eq!(count, 200);
        assert_eq!(metric(admin, "sumun_limit_refused_total{limit=\"a\"}"), Some(600));
    });
}

#[test]
fn who_stays_within_its_limit_does_not_suffer_from_who_does_not() {
    everywhere(|place| {
        let gateway = with_limits(place, "a: { key: { header: X-Key }, rate: 50/s, burst: 5 }", "a");
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let order = std::sync::atomic::Ordering::Relaxed;
        thread::scope(|scope| {
            let heavy = scope.spawn(|| {
                let mut client = gateway.connect();
                let mut refused = 0;
                while !is_over.load(order) {
                    refused += 1 - passed(&mut client, 1, "/", "X-Key: heavy\r\n");
                }
                refused
            });
            let mut client = gateway.connect();
            for _ in 0..5 {
                for light in 0..100 {
                    assert_eq!(passed(&mut client, 1, "/", &format!("X-Key: light-{light}\r\n")), 1);
                }
            }
            is_over.store(true, order);
            assert!(heavy.join().expect("no panic") > 0);
        });
    });
}

#[test]
fn a_reload_keeps_what_was_counted() {
    everywhere(|place| {
        let text = |limit: &str| config(&format!("a: {{ {limit} }}"), "a", "");
        let gateway = Instance::start(place, &text("key: client, rate: 3/h"));
        assert_eq!(passed(&mut gateway.connect(), 9, "/", ""), 3);
        gateway.reload(&text("key: client, rate: 3/h, burst: 5"));
        assert_eq!(passed(&mut gateway.connect(), 9, "/", ""), 2, "a larger burst");
        gateway.reload(&text("key: client, rate: 3/h"));
        assert_eq!(passed(&mut gateway.connect(), 9, "/", ""), 0);
        gateway.reload(&text("key: client, rate: 4/h"));
        assert_eq!(passed(&mut gateway.connect(), 9, "/", ""), 4, "another rate begins anew");
    });
}

#[test]
fn streams_of_http2_are_requests() {
    everywhere(|place| {
        let gateway = with_limits(place, "a: { key: client, rate: 3/h }", "a");
        speak(
            async |sender| {
                for number in 0..6 {
                    let answer = ask(&sender, get("/"), None).await.expect("an answer");
                    assert_eq!(answer.status, if number < 3 { 200 } else { 429 });
                    assert_eq!(answer.headers.contains_key("ratelimit"), number >= 3);
                }
                let post = http::Request::post("http://example.com/").body(()).expect("a request");
                assert_eq!(ask(&sender, post, Some(b"a body")).await.expect("an answer").status, 429);
                assert_eq!(ask(&sender, get("/free"), None).await.expect("an answer").status, 200);
            },
            &gateway,
        );
    });
}

#[test]
fn the_log_says_why() {
    everywhere(|place| {
        let log = "access_log: { to: access.log, format: \"{status} {reason} {target}\" }\n";
        let gateway = Instance::start(place, &config("a: { key: client, rate: 1/h }", "a", log));
        let mut client = gateway.connect();
        assert_eq!(passed(&mut client, 2, "/x", ""), 1);
        support::instance::eventually("the line", || {
            fs::read_to_string(gateway.directory().join("access.log"))
                .is_ok_and(|text| text.lines().any(|line| line == "429 rate_limited /x"))
        });
    });
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

#[test]
fn claims_of_tokens_that_hold() {
    everywhere(|place| {
        let secret = "0123456789abcdef0123456789abcdef";
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let limits = format!(
            "a: {{ key: {{ jwt: sub, algorithm: HS256, secret: {secret} }}, rate: 3/h }}, \
             b: {{ key: {{ jwt: sub, algorithm: ES256, file: jwt.pem, token_cookie: token }}, rate: 3/h }}"
        );
        let text = config(&limits, "a", "").replace(
            "      - { path: /, ",
            "      - { path: /b, limits: [b], respond: { body: ok } }\n      - { path: /, ",
        );
        let gateway = Instance::start_in(place, &text, |directory| {
            fs::write(directory.join("jwt.pem"), pair.public_key_pem()).expect("a file");
        });
        let signed = |algorithm, key: &EncodingKey, claims: serde_json::Value| {
            jsonwebtoken::encode(&Header::new(algorithm), &claims, key).expect("a token")
        };
        let shared = EncodingKey::from_secret(secret.as_bytes());
        let bearer = |token: String| format!("Authorization: Bearer {token}\r\n");
        let of = |sub: &str, more: u64| {
            bearer(signed(Algorithm::HS256, &shared, json!({ "sub": sub, "exp": now_s() + 600, "more": more })))
        };
        assert_eq!(passed_apart(&gateway, 16, "/", &of("ann", 1)), 3);
        assert_eq!(passed_apart(&gateway, 16, "/", &of("ann", 2)), 0, "another token of the same user");
        assert_eq!(passed_apart(&gateway, 16, "/", &of("bob", 1)), 3);
        // All of these are counted by the address.
        let expired = bearer(signed(Algorithm::HS256, &shared, json!({ "sub": "a", "exp": now_s() - 1 })));
        let forged = EncodingKey::from_secret(b"another secret of somebody");
        let forged = bearer(signed(Algorithm::HS256, &forged, json!({ "sub": "b", "exp": now_s() + 600 })));
        let other = bearer(signed(Algorithm::HS512, &shared, json!({ "sub": "c", "exp": now_s() + 600 })));
        let without = bearer(signed(Algorithm::HS256, &shared, json!({ "exp": now_s() + 600 })));
        let unsigned = bearer(format!("{}.{}.", "eyJhbGciOiJub25lIn0", "eyJzdWIiOiJkIn0"));
        let all = [expired, forged, other, without, unsigned, bearer("x".repeat(9000)), bearer("..".into())];
        let count: usize = all.iter().map(|fields| passed_apart(&gateway, 1, "/", fields)).sum();
        assert_eq!(count, 3);

        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        let cookie = |sub: u64| {
            format!("Cookie: token={}\r\n", signed(Algorithm::ES256, &key, json!({ "sub": sub, "exp": now_s() + 600 })))
        };
        assert_eq!(passed_apart(&gateway, 16, "/b", &cookie(1)), 3);
        assert_eq!(passed_apart(&gateway, 16, "/b", &cookie(1)), 0);
        assert_eq!(passed_apart(&gateway, 16, "/b", &cookie(2)), 3);
    });
}

/// Where a limit says so, each answer tells how the client stands, whoever gives it.
#[test]
fn answers_that_pass_tell_what_is_left() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let config = format!(
            "limits: {{ all: {{ key: client, rate: 10/h, fields: always }}, \
               calm: {{ key: client, rate: 100/h, window: sliding, fields: always }}, quiet: {{ key: path, rate: 50/h }} }}\n\
             pools: {{ app: {{ servers: \"{}\" }} }}\n\
             listeners: {{ web: {{ bind: \"$BIND\", routes: [\n\
               {{ path: /own, limits: [quiet, all], respond: {{ body: ok }} }}, {{ path: /both, limits: [all, calm], respond: 204 }},\n\
               {{ path: /files/, limits: all, files: $DIR }}, {{ path: /quiet, limits: quiet, respond: 204 }},\n\
               {{ path: /, limits: all, proxy: app }} ] }} }}\n",
            server.address()
        );
        let gateway = Instance::start_in(place, &config, |directory| {
            fs::write(directory.join("a.txt"), "a").expect("there is room");
        });
        let mut client = gateway.connect();
        let mut told = |target: &str, status: u16| {
            let answer = client.get(target).expect(status);
            let field = |name: &str| answer.header(name).unwrap_or_default().to_owned();
            (field("ratelimit"), field("ratelimit-policy"))
        };
        let policy = "\"all\";q=10;w=3600".to_owned();
        assert_eq!(told("/", 200), ("\"all\";r=9".to_owned(), policy.clone()));
        assert_eq!(told("/own", 200), ("\"all\";r=8".to_owned(), policy.clone()));
        assert_eq!(told("/files/a.txt", 200), ("\"all\";r=7".to_owned(), policy.clone()));
        assert_eq!(told("/files/b.txt", 404), ("\"all\";r=6".to_owned(), policy.clone()));
        let both = ("\"all\";r=5, \"calm\";r=99".to_owned(), format!("{policy}, \"calm\";q=100;w=3600"));
        assert_eq!(told("/both", 204), both);
        assert_eq!(told("/quiet", 204), (String::new(), String::new()));
        for _ in 0..5 {
            told("/", 200);
        }
        let refused = told("/", 429);
        assert!(refused.0.starts_with("\"all\";r=0;t=") && refused.1 == policy, "{refused:?}");
    });
}
