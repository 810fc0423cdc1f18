//! Who is let in and as whom: PROXY protocol, passwords, another service's word, and requests
//! that a pool makes to itself.

mod support;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, mpsc};

use support::instance::{Instance, PATIENCE, Place, eventually, everywhere, proxy_config};
use support::server::{Request, Server, ok};
use support::talk::Client;

/// A version 2 header of the PROXY protocol for a stream between these two.
fn version_2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    let (family, length) = if source.is_ipv4() { (0x11, 12_u16) } else { (0x21, 36) };
    header.push(family);
    header.extend_from_slice(&length.to_be_bytes());
    for address in [source.ip(), destination.ip()] {
        match address {
            IpAddr::V4(address) => header.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => header.extend_from_slice(&address.octets()),
        }
    }
    for port in [source.port(), destination.port()] {
        header.extend_from_slice(&port.to_be_bytes());
    }
    header
}

fn client_of(server: &Server) -> Option<String> {
    server.last_request().header("x-forwarded-for")
}

#[test]
fn the_proxy_protocol_names_the_client() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let config = proxy_config(&[server.address()], "", "proxy_protocol: accept,");
        let gateway = Instance::start(place, &format!("trusted_proxies: [127.0.0.1, \"::1\"]\n{config}"));
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let four: (SocketAddr, SocketAddr) = ("192.0.2.1:1000".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
        let six: (SocketAddr, SocketAddr) =
            ("[2001:db8::1]:1000".parse().unwrap(), "[2001:db8::2]:80".parse().unwrap());
        for (header, wanted) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n".to_vec(), "192.0.2.1".to_owned()),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 1000 80\r\n".to_vec(), "2001:db8::1".to_owned()),
            (b"PROXY UNKNOWN\r\n".to_vec(), place.ip.to_string()),
            (version_2(four.0, four.1), "192.0.2.1".to_owned()),
            (version_2(six.0, six.1), "2001:db8::1".to_owned()),
            // LOCAL: the proxy's own check.
            (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(), place.ip.to_string()),
        ] {
            let mut client = gateway.connect();
            client.send([&header[..], request].concat()).answer().expect(200);
            assert_eq!(client_of(&server), Some(wanted.clone()), "{}", support::show(&header));
            // In pieces, and for every request of the connection.
            let mut client = gateway.connect();
            for byte in &header {
                client.send([*byte]);
            }
            for _ in 0..2 {
                client.send(request).answer().expect(200);
                assert_eq!(client_of(&server), Some(wanted.clone()));
            }
        }
        let count = server.count();
        for wrong in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "PROXY TCP4 x y 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
            gateway.connect().send(wrong).try_answer(false).expect_err("it is closed without an answer");
        }
        assert_eq!(server.count(), count);
    });
}

/// Who is not trusted cannot call itself somebody else.
#[test]
fn the_proxy_protocol_of_strangers_is_refused() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let config = proxy_config(&[server.address()], "", "proxy_protocol: accept,");
        let gateway = Instance::start(place, &format!("trusted_proxies: [192.0.2.0/24]\n{config}"));
        let mut client = gateway.connect();
        client.send("PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.try_answer(false).expect_err("it is closed without an answer");
        assert_eq!(server.count(), 0);
        // What they send without it is served as theirs.
        gateway.get("/").expect(200);
        assert_eq!(client_of(&server), Some(place.ip.to_string()));
    });
}

/// Of "open sesame", by `openssl passwd -6 -salt sumunexample`.
const SHA_HASH: &str =
    "$6$sumunexample$Mcfy1MwkIDRL.bo2hzvNIOIozqntdfhZIjngWKbz3i.Tz5MIIMRZw8V1s14hyyTfH6Pr/K4kUsV3DTGxXe/Tf0";

fn guarded(place: Place, server: &Server, guard: &str, more_pools: &str) -> Instance {
    let config = format!(
        "pools:\n  app: {{ servers: [\"{}\"] }}\n{more_pools}\
         listeners:\n  web:\n    bind: \"$BIND\"\n    routes:\n      - path: /\n        proxy: app\n        {guard}\n",
        server.address()
    );
    Instance::start(place, &config)
}

#[test]
fn passwords() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "secret page");
        let guard = format!("basic_auth: {{ realm: Staff, users: {{ ann: \"{SHA_HASH}\" }} }}");
        let gateway = guarded(place, &server, &guard, "");
        let mut client = gateway.connect();
        for fields in [
            "",
            // ann:wrong, bob:open sesame, no colon, no base64, another scheme
            "Authorization: Basic YW5uOndyb25n\r\n",
            "Authorization: Basic Ym9iOm9wZW4gc2VzYW1l\r\n",
            "Authorization: Basic YW5u\r\n",
            "Authorization: Basic !!!!\r\n",
            "Authorization: Bearer YW5uOm9wZW4gc2VzYW1l\r\n",
        ] {
            let answer = client.get_with("/", fields).expect(401);
            let challenge = answer.header("www-authenticate").expect("RFC 9110 section 11.6.1");
            assert!(challenge.starts_with("Basic realm=\"Staff\""), "{challenge}");
        }
        assert_eq!(server.count(), 0);
        // ann:open sesame; the scheme in any case.
        for scheme in ["Basic", "basic"] {
            let fields = format!("Authorization: {scheme} YW5uOm9wZW4gc2VzYW1l\r\n");
            assert_eq!(client.get_with("/", &fields).expect(200).text(), "secret page");
        }
    });
}

#[test]
fn another_service_decides() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| ok(&request.body));
        let login = Server::answering(place.ip, |request: &Request| match request.header("cookie").as_deref() {
            Some("good") => b"HTTP/1.1 200 OK\r\nX-User: ann\r\nContent-Length: 7\r\n\r\nignored".to_vec(),
            Some("break") => b"NONSENSE\r\n\r\n".to_vec(),
            _ => {
                b"HTTP/1.1 302 Found\r\nLocation: /login\r\nSet-Cookie: a=b\r\nContent-Length: 4\r\n\r\ngo!\n".to_vec()
            }
        });
        let more = format!("  login: {{ retries: off, servers: [\"{}\"] }}\n", login.address());
        let guard = "forward_auth: { pool: login, path: \"/check\", copy: [X-User] }";
        let gateway = guarded(place, &server, guard, &more);
        let mut client = gateway.connect();
        // What the client says of itself is not believed.
        let fields = "Cookie: good\r\nX-User: root\r\nX_User: root\r\n";
        let answer = client.request("PUT", "/a/../page?q", fields, b"body").expect(200);
        assert_eq!(answer.text(), "body", "the body went to the application only");
        assert_eq!(server.only_request().header("x-user").as_deref(), Some("ann"));
        assert_eq!(server.only_request().header("x_user"), None);
        let asked = login.last_request();
        assert_eq!((asked.target.as_str(), asked.body.len()), ("/check", 0));
        assert_eq!(asked.header("x-forwarded-uri").as_deref(), Some("/page?q"));
        assert_eq!(asked.header("content-length").as_deref().unwrap_or("0"), "0");
        let answer = client.get("/").expect(302);
        assert_eq!((answer.header("location"), answer.text().as_str()), (Some("/login"), "go!\n"));
        assert_eq!(answer.header("set-cookie"), Some("a=b"));
        // Who cannot decide lets nobody pass.
        let answer = client.get_with("/", "Cookie: break\r\n");
        assert!(matches!(answer.status, 500..=599), "{}", answer.status);
        assert_eq!(server.count(), 1);
    });
}

#[test]
fn own_error_pages() {
    everywhere(|place| {
        let gone = place.free_address();
        let config = format!(
            "pools: {{ app: {{ servers: [\"{gone}\"] }} }}\n\
             listeners:\n  web:\n    bind: \"$BIND\"\n    error_pages: {{ 404: errors/404.html, 502: errors/502.html }}\n\
             \x20   routes: [{{ path: /app/, proxy: app }}, {{ path: /none, respond: 403 }}]\n"
        );
        let gateway = Instance::start_in(place, &config, |directory| {
            fs::create_dir(directory.join("errors")).expect("it can be made");
            for status in [404, 502] {
                let page = format!("<p>our page for {status}");
                fs::write(directory.join(format!("errors/{status}.html")), page).expect("it can be written");
            }
        });
        let mut client = gateway.connect();
        assert_eq!(client.get("/nowhere").expect(404).text(), "<p>our page for 404");
        let answer = client.get("/app/").expect(502);
        assert_eq!(answer.text(), "<p>our page for 502");
        assert!(answer.header("x-request-id").is_some());
        assert_eq!(client.get("/none").expect(403).text(), "", "what a route answers is its own");
    });
}

/// A pool whose pages call the gateway for more of its pages keeps half of its places for clients.
/// What one client asks for at the same time in one trace is no such call.
#[test]
fn self_calls_have_half_of_the_places() {
    everywhere(|place| {
        let (go, waits) = mpsc::channel();
        let waits = Mutex::new(waits);
        let server = Server::answering(place.ip, move |_| {
            waits.lock().expect("no test thread panicked with it").recv_timeout(PATIENCE).ok();
            ok("done")
        });
        let pool = "concurrency: 4, queue: { timeout: 10s },";
        let config = proxy_config(&[server.address()], pool, "proxy_protocol: accept,");
        let gateway = Instance::start(place, &format!("trusted_proxies: [127.0.0.1, \"::1\"]\n{config}"));
        let connect = |source: &str| {
            let (source, destination) = (source.parse().unwrap(), "192.0.2.2:80".parse().unwrap());
            let mut client = gateway.connect();
            client.send(version_2(source, destination));
            client
        };
        let mut span = 0;
        let mut request = || {
            span += 1;
            let trace = format!("traceparent: 00-0af7651916cd43dd8448eb211c80319c-{span:016x}-01");
            format!("GET / HTTP/1.1\r\nHost: a\r\n{trace}\r\nAccept: application/json\r\n\r\n")
        };
        // A browser asks for the parts of a page, each on a connection of its own: they take all places.
        let mut page: Vec<_> = (1..=4).map(|number| connect(&format!("192.0.2.1:100{number}"))).collect();
        for (number, client) in page.iter_mut().enumerate() {
            client.send(request());
            server.await_count(number + 1);
        }
        let answered = |clients: &mut [Client]| {
            for _ in 0..clients.len() {
                go.send(()).expect("the server waits");
            }
            for client in clients {
                client.answer().expect(200);
            }
        };
        answered(&mut page);
        eventually("nothing is in flight", || gateway.json(&["pool", "app"])[0]["in_flight"] == 0);

        page.truncate(1);
        page[0].send(request());
        server.await_count(5);
        // The application makes it out of other pages: those that it asks for at the same time.
        let mut calls: Vec<_> = (1..=2).map(|number| connect(&format!("192.0.2.99:100{number}"))).collect();
        for (number, client) in calls.iter_mut().enumerate() {
            client.send(request());
            server.await_count(6 + number);
        }
        let refused = connect("192.0.2.99:1003").send(request()).answer().expect(503);
        assert!(refused.text().contains("self_call"), "{}", refused.text());
        // The browser still finds a place, in the same trace.
        page.push(connect("192.0.2.1:1005"));
        page[1].send(request());
        server.await_count(8);
        page.append(&mut calls);
        answered(&mut page);
        eventually("nothing is in flight", || gateway.json(&["pool", "app"])[0]["in_flight"] == 0);
    });
}
