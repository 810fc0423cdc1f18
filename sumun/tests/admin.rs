//! The admin listener of the real program: who may ask, and what it says of what happened.

mod support;

use std::net::SocketAddr;
use std::sync::{Mutex, mpsc};

use support::instance::{Instance, PATIENCE, Place, eventually, everywhere, proxy_config, with_spare};
use support::server::{Server, ok};
use support::talk::{Answer, Client};

/// An instance with an admin listener, and where that is.
fn start(place: Place, servers: &[SocketAddr], admin_keys: &str) -> (Instance, SocketAddr) {
    let admin = place.free_address();
    let config = proxy_config(servers, "balance: round-robin,", "");
    let gateway = Instance::start(place, &format!("admin: {{ {admin_keys} address: \"{admin}\" }}\n{config}"));
    eventually("the admin listener answers", || ask(admin, "GET", "/healthz", "").status == 200);
    (gateway, admin)
}

/// One request with the right Host.
fn ask(admin: SocketAddr, method: &str, target: &str, fields: &str) -> Answer {
    ask_with(admin, method, target, &format!("Host: {admin}\r\n{fields}"), "")
}

fn ask_with(admin: SocketAddr, method: &str, target: &str, fields: &str, body: &str) -> Answer {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n{fields}{length}\r\n{body}");
    Client::connect(admin).send(request).answer()
}

/// The value of one line of the metrics.
fn metric(admin: SocketAddr, line: &str) -> f64 {
    let text = ask(admin, "GET", "/metrics", "").expect(200).text();
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("{line} is not in\n{text}"))
}

#[test]
fn pages_and_probes() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let (_gateway, admin) = start(place, &[server.address()], "");
        let page = ask(admin, "GET", "/", "").expect(200);
        assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
        for target in ["/healthz", "/readyz", "/metrics", "/api/v1/status", "/api/v1/pools", "/api/v1/pools/app"] {
            ask(admin, "GET", target, "").expect(200);
        }
        ask(admin, "GET", "/nothing", "").expect(404);
        assert_eq!(ask(admin, "POST", "/metrics", "").expect(405).header("allow"), Some("GET, HEAD"));
    });
}

/// A page of another site can make a browser here send requests; it cannot choose these two.
#[test]
fn pages_of_other_sites_get_nothing() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let (gateway, admin) = start(place, &[server.address()], "");
        for host in ["evil.example", "localhost.evil.example", "192.0.2.1", "127.0.0.1.evil.example:80"] {
            for target in ["/api/v1/status", "/metrics", "/"] {
                let answer = ask_with(admin, "GET", target, &format!("Host: {host}\r\n"), "");
                assert_eq!(answer.status, 403, "{host} {target}");
                assert!(!answer.text().contains("app"), "{}", answer.text());
            }
        }
        let path = format!("/api/v1/pools/app/servers/{}", server.address().to_string().replace(':', "%3A"));
        let path = path.replace('[', "%5B").replace(']', "%5D");
        let json = "Content-Type: application/json\r\n";
        for origin in ["http://evil.example", "null", "https://localhost:1"] {
            let fields = format!("Host: {admin}\r\n{json}Origin: {origin}\r\n");
            ask_with(admin, "PATCH", &path, &fields, "{\"state\":\"disabled\"}").expect(403);
        }
        // What a form can send is no JSON.
        let fields = format!("Host: {admin}\r\nContent-Type: text/plain\r\n");
        ask_with(admin, "PATCH", &path, &fields, "{\"state\":\"disabled\"}").expect(415);
        assert_eq!(gateway.server("app", server.address())["state"], "up", "nothing was done");
        let fields = format!("Host: {admin}\r\n{json}Origin: http://{admin}\r\n");
        ask_with(admin, "PATCH", &path, &fields, "{\"state\":\"disabled\"}").expect(200);
        assert_eq!(gateway.server("app", server.address())["state"], "disabled");
    });
}

#[test]
fn a_token_where_one_is_set() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let (_gateway, admin) = start(place, &[server.address()], "token: a-token-of-sixteen-or-more,");
        for target in ["/metrics", "/api/v1/status"] {
            let refused = ask(admin, "GET", target, "").expect(401);
            assert!(refused.header("www-authenticate").is_some_and(|scheme| scheme.starts_with("Bearer")));
            ask(admin, "GET", target, "Authorization: Bearer wrong-token-of-sixteen\r\n").expect(401);
            ask(admin, "GET", target, "Authorization: Bearer a-token-of-sixteen-or-more\r\n").expect(200);
        }
        ask(admin, "GET", "/healthz", "").expect(200);
    });
}

#[test]
fn metrics_tell_what_happened() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| {
            if request.target == "/bad" {
                return b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec();
            }
            ok("12345")
        });
        let (gateway, admin) = start(place, &[server.address()], "");
        let mut client = gateway.connect();
        for _ in 0..7 {
            client.get("/").expect(200);
        }
        client.get("/bad").expect(500);
        client.request("POST", "/", "", b"123").expect(200);
        gateway.connect().send("BROKEN\r\n\r\n").answer().expect(400);
        let of_route = "listener=\"web\",route=\"/\"";
        eventually("all requests are counted", || {
            metric(admin, &format!("sumun_http_request_seconds_count{{{of_route}}}")) >= 9.0
        });
        let server_name = server.address();
        for (line, wanted) in [
            (format!("sumun_http_requests_total{{{of_route},status=\"2xx\"}}"), 8.0),
            (format!("sumun_http_requests_total{{{of_route},status=\"5xx\"}}"), 1.0),
            (format!("sumun_http_request_seconds_bucket{{{of_route},le=\"+Inf\"}}"), 9.0),
            ("sumun_http_bytes_total{direction=\"in\"}".to_owned(), 3.0),
            ("sumun_listener_rejected_total{listener=\"web\"}".to_owned(), 1.0),
            ("sumun_pool_requests_total{pool=\"app\"}".to_owned(), 9.0),
            (format!("sumun_server_requests_total{{pool=\"app\",server=\"{server_name}\"}}"), 9.0),
            (format!("sumun_server_up{{pool=\"app\",server=\"{server_name}\"}}"), 1.0),
            ("sumun_listener_connections{listener=\"web\"}".to_owned(), 1.0),
            ("sumun_pool_request_seconds_count{pool=\"app\"}".to_owned(), 9.0),
        ] {
            assert_eq!(metric(admin, &line), wanted, "{line}");
        }
        assert!(metric(admin, "sumun_http_bytes_total{direction=\"out\"}") >= 40.0);
    });
}

/// What did not change goes on counting.
#[test]
fn counters_survive_a_reload() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let (gateway, admin) = start(place, &[server.address()], "");
        let mut kept = gateway.connect();
        kept.get("/").expect(200);
        let config = proxy_config(&[server.address()], "balance: round-robin,", "bounds: { body: 1MiB },");
        gateway.reload(&format!("admin: \"{admin}\"\n{config}"));
        kept.get("/").expect(200);
        let count = "sumun_http_requests_total{listener=\"web\",route=\"/\",status=\"2xx\"}";
        eventually("both are counted", || metric(admin, count) == 2.0);
        assert_eq!(metric(admin, "sumun_pool_requests_total{pool=\"app\"}"), 2.0);
        assert_eq!(metric(admin, "sumun_listener_connections{listener=\"web\"}"), 1.0);
    });
}

/// Of routes that are gone nothing is left but the request that one of them has; of that nothing
/// once it has ended.
#[test]
fn what_reloads_took_out_is_counted_to_its_end() {
    everywhere(|place| {
        let (go, waits) = mpsc::channel::<()>();
        let waits = Mutex::new(waits);
        let server = Server::answering(place.ip, move |request| {
            if request.target == "/slow/" {
                waits.lock().expect("no test thread panicked with it").recv_timeout(PATIENCE).ok();
            }
            ok("12345")
        });
        let (gateway, admin) = start(place, &[server.address()], "");
        let reload = |route: &str| {
            gateway.reload(&format!(
                "admin: \"{admin}\"\n\
                 pools:\n  app: {{ servers: [\"{}\"] }}\n  {route}: {{ servers: [\"{}\"] }}\n\
                 listeners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /stays/, proxy: app }}, \
                 {{ path: /{route}/, proxy: {route}, concurrency: 2 }}] }} }}\n",
                server.address(),
                server.address(),
            ));
        };
        let routes = || {
            let text = ask(admin, "GET", "/metrics", "").expect(200).text();
            let counts = text.lines().filter_map(|line| line.strip_prefix("sumun_http_request_seconds_count{"));
            let names = counts.filter_map(|line| line.split_once("route=\"")?.1.split('"').next());
            names.map(str::to_owned).collect::<Vec<String>>()
        };
        reload("slow");
        let mut kept = gateway.connect();
        kept.get("/stays/").expect(200);
        let mut busy = gateway.connect();
        busy.send("GET /slow/ HTTP/1.1\r\nHost: a\r\n\r\n");
        server.await_count(2);
        for number in 0..8 {
            reload(&format!("r{number}"));
            kept.get("/stays/").expect(200);
        }
        eventually("the routes that are there or are used", || routes() == ["(none)", "/r7/", "/slow/", "/stays/"]);
        go.send(()).expect("the server waits");
        assert_eq!(busy.answer().expect(200).text(), "12345");
        eventually("the last config's routes alone", || routes() == ["(none)", "/r7/", "/stays/"]);
        let text = ask(admin, "GET", "/metrics", "").expect(200).text();
        assert!(!text.contains("slow") && !text.contains("r6"), "{text}");
        // What stayed counted on, and what has gone is in the sum.
        let line = "sumun_http_requests_total{listener=\"web\",route=\"/stays/\",status=\"2xx\"}";
        assert_eq!(metric(admin, line), 9.0);
        assert_eq!(metric(admin, "sumun_http_bytes_total{direction=\"out\"}"), 50.0);
    });
}

#[test]
fn errors_are_counted_by_whose_doing_they_are() {
    everywhere(|place| {
        let (gateway, admin) = start(place, &[place.free_address()], "");
        gateway.get("/").expect(502);
        gateway.connect().request("TRACE", "/", "", b"").expect(405);
        let line = |side: &str| format!("sumun_http_ended_total{{listener=\"web\",route=\"/\",side=\"{side}\"}}");
        eventually("both are counted", || metric(admin, &line("client")) >= 1.0);
        assert_eq!((metric(admin, &line("server")), metric(admin, &line("client"))), (1.0, 1.0));
    });
}

#[test]
fn the_api_changes_what_runs() {
    everywhere(|place| {
        let (one, other) = (Server::saying(place.ip, "a"), Server::saying(place.ip, "b"));
        let admin = place.free_address();
        let config = proxy_config(&[one.address()], "balance: round-robin,", "");
        let config = with_spare(&config, other.address());
        let gateway = Instance::start(place, &format!("admin: \"{admin}\"\n{config}"));
        eventually("the admin listener answers", || ask(admin, "GET", "/healthz", "").status == 200);
        let json = format!("Host: {admin}\r\nContent-Type: application/json\r\n");
        let body = format!("{{\"address\":\"{}\",\"weight\":3}}", other.address());
        let answer = ask_with(admin, "POST", "/api/v1/pools/app/servers", &json, &body).expect(201);
        let pool: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(pool["servers"][1]["weight"], 3);
        let letters: String = (0..8).map(|_| gateway.get("/").text()).collect();
        assert!(letters.contains('b'), "{letters}");
        let wrong = ask_with(admin, "POST", "/api/v1/pools/app/servers", &json, "{\"adress\":\"x\"}").expect(400);
        assert!(wrong.text().contains("address"), "{}", wrong.text());
        ask_with(admin, "POST", "/api/v1/pools/none/servers", &json, &body).expect(404);
    });
}

#[test]
fn reload_by_the_api_and_readiness() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let (gateway, admin) = start(place, &[server.address()], "");
        gateway.write_config("listeners: { web: { bnd: \"$BIND\" } }\n");
        let answer = ask_with(admin, "POST", "/api/v1/reload", &format!("Host: {admin}\r\n"), "").expect(422);
        assert!(answer.text().contains("bnd"), "{}", answer.text());
        gateway.get("/").expect(200);
    });
}
