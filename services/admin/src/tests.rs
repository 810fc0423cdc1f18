mod cache;
mod config;
mod status;
mod traffic;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use config::config_with;
use proptest::prelude::*;
use serde_json::{Value, json};
use sumun_engine::telemetry::{Family, names};
use sumun_pools::Pools;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;

use crate::guard::Door;
use crate::limits::{BODY_BYTES, CONNECTIONS, HEAD_BYTES};
use crate::{Admin, Inputs, start};

/// Somebody waits for this.
type Reload = oneshot::Sender<Result<String, String>>;

/// An admin listener over one pool `app` with two servers.
struct Fixture {
    admin: Admin,
    address: SocketAddr,
    pools: Arc<Pools>,
    draining: Arc<AtomicBool>,
    handing_over: Arc<AtomicBool>,
    reloads: Arc<Mutex<Vec<Reload>>>,
    upgrades: Arc<Mutex<Vec<Reload>>>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(there, _)| *there == name).map(|(_, value)| value).next()
    }
}

impl Fixture {
    /// Has to be called on a runtime.
    fn new(token: Option<&str>) -> Self {
        let pools = Arc::new(Pools::new(Instant::now(), b"key"));
        pools.apply(&config_with(&["127.0.0.1:9001", "127.0.0.1:9002"]));
        let draining = Arc::new(AtomicBool::new(false));
        let handing_over = Arc::new(AtomicBool::new(false));
        let reloads: Arc<Mutex<Vec<Reload>>> = Arc::default();
        let upgrades: Arc<Mutex<Vec<Reload>>> = Arc::default();
        let admin = start(Inputs {
            version: "1.2.3",
            started: Instant::now(),
            families: vec![Box::new(families)],
            status: Box::new(status::status),
            pools: Arc::clone(&pools),
            reload: asks(&reloads),
            upgrade: asks(&upgrades),
            traffic: Box::new(traffic::traffic),
            blocks: Box::new(|| vec![traffic::blocked()]),
            lift: Box::new(|client| client == IpAddr::from([203, 0, 113, 7])),
            cache: Box::new(|command| Box::pin(std::future::ready(cache::cache(command)))),
            draining: Arc::clone(&draining),
            handing_over: Arc::clone(&handing_over),
        });
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        admin.listen(vec![socket], token).unwrap();
        Self { admin, address, pools, draining, handing_over, reloads, upgrades }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "").await
    }

    /// With a JSON body, where it is not empty.
    async fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        self.ask(method, path, "Content-Type: application/json\r\n", body).await
    }

    async fn ask(&self, method: &str, path: &str, fields: &str, body: &str) -> Answer {
        self.ask_as(&format!("Host: {}\r\n", self.address), method, path, fields, body).await
    }

    async fn ask_as(&self, host: &str, method: &str, path: &str, fields: &str, body: &str) -> Answer {
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\n{host}{fields}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.raw(text.as_bytes()).await
    }

    async fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        read_answer(stream).await
    }
}

type Ask = Box<dyn Fn() -> oneshot::Receiver<Result<String, String>> + Send + Sync>;

fn asks(who_waits: &Arc<Mutex<Vec<Reload>>>) -> Ask {
    let who_waits = Arc::clone(who_waits);
    Box::new(move || {
        let (sender, receiver) = oneshot::channel();
        who_waits.lock().unwrap().push(sender);
        receiver
    })
}

/// Up to the end of the connection.
async fn read_answer(mut stream: impl AsyncReadExt + Unpin) -> Answer {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    split(&text)
}

fn split(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.strip_prefix("HTTP/1.1 ").unwrap().split(' ').next().unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

fn families() -> Vec<Family> {
    let (web, other, route): (Arc<str>, Arc<str>, Arc<str>) = ("web".into(), "other".into(), "/shop/".into());
    let histogram = sumun_engine::Histogram::default();
    (0..10).for_each(|_| histogram.record(1_000));
    let mut total = sumun_engine::counters::HistogramTotal::default();
    histogram.add_to(&mut total);
    let mut requests = Family::counter(names::HTTP_REQUESTS, "Requests.");
    requests.push(&[("listener", &web), ("route", &route), ("status", &"2xx".into())], 8);
    requests.push(&[("listener", &web), ("route", &route), ("status", &"5xx".into())], 2);
    requests.push(&[("listener", &other), ("route", &route), ("status", &"2xx".into())], 5);
    let mut ended = Family::counter(names::HTTP_ENDED, "Ends.");
    ended.push(&[("listener", &web), ("route", &route), ("side", &"none".into())], 8);
    ended.push(&[("listener", &web), ("route", &route), ("side", &"server".into())], 2);
    let mut seconds = Family::histogram(names::HTTP_SECONDS, "Times.");
    seconds.push(&[("listener", &web), ("route", &route)], total);
    let mut connections = Family::gauge(names::LISTENER_CONNECTIONS, "Connections.");
    connections.push(&[("listener", &web)], 3);
    vec![requests, ended, seconds, connections]
}

#[tokio::test]
async fn the_status_sums_up() {
    let fixture = Fixture::new(None);
    let answer = fixture.get("/api/v1/status").await;
    assert_eq!((answer.status, answer.field("Content-Type")), (200, Some("application/json")));
    assert_eq!(answer.json(), status::expected());
    assert_eq!(
        fixture.get("/api/v1/routes").await.json(),
        json!([{
            "listener": "web", "route": "/shop/", "requests": 10, "statuses": {"2xx": 8, "5xx": 2},
            "errors": {"client": 0, "server": 2, "config": 0, "host": 0},
            "latency_ms": {"p50": 1.024, "p95": 1.024, "p99": 1.024},
        }])
    );
}

#[tokio::test]
async fn pools_are_shown_and_changed() {
    let fixture = Fixture::new(None);
    let server = |name: &str, state: &str, weight: u32| {
        json!({
            "name": name, "address": name, "state": state, "reason": "", "last_check": "", "weight": weight,
            "in_flight": 0, "concurrency": null, "answer_us": null, "requests": 0, "failures": 0,
        })
    };
    let pool = |servers: Vec<Value>| {
        json!({"name": "app", "balance": "round-robin", "in_flight": 0, "queued": 0,
        "concurrency": null, "answer_us": null, "shed": 0, "throttled": 0, "let_in_permille": 1000, "servers": servers})
    };
    let (first, second) = ("127.0.0.1:9001", "127.0.0.1:9002");
    assert_eq!(
        fixture.get("/api/v1/pools").await.json(),
        json!([pool(vec![server(first, "up", 1), server(second, "up", 1)])])
    );

    let one = "/api/v1/pools/app/servers/127.0.0.1%3A9001";
    for (body, expected) in [
        (json!({"state": "draining"}), server(first, "draining", 1)),
        (json!({"state": "disabled"}), server(first, "disabled", 1)),
        (json!({"weight": 7}), server(first, "disabled", 7)),
        (json!({"state": "enabled"}), server(first, "up", 7)),
    ] {
        let answer = fixture.send("PATCH", one, &body.to_string()).await;
        assert_eq!((answer.status, answer.json()), (200, pool(vec![expected, server(second, "up", 1)])), "{body}");
    }

    let answer = fixture.send("POST", "/api/v1/pools/app/servers", r#"{"address":"[::1]:9003","weight":3}"#).await;
    assert_eq!(answer.status, 201);
    let all = pool(vec![server(first, "up", 7), server(second, "up", 1), server("[::1]:9003", "up", 3)]);
    assert_eq!(answer.json(), all);
    assert_eq!(fixture.get("/api/v1/pools/%61pp").await.json(), all);

    let answer = fixture.send("DELETE", "/api/v1/pools/app/servers/%5B%3A%3A1%5D:9003", "").await;
    assert_eq!((answer.status, answer.json()), (200, pool(vec![server(first, "up", 7), server(second, "up", 1)])));
    assert_eq!(fixture.pools.status()[0].servers.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_done_is_said_so() {
    let fixture = Fixture::new(None);
    let servers = "/api/v1/pools/app/servers";
    let one = "/api/v1/pools/app/servers/127.0.0.1:9001";
    for (method, path, body, status) in [
        ("GET", "/api/v1/pools/nobody", "", 404),
        ("GET", "/nowhere", "", 404),
        ("GET", "/api/v1/pools/%zz", "", 400),
        ("POST", "/api/v1/pools/nobody/servers", r#"{"address":"127.0.0.1:1"}"#, 404),
        ("POST", servers, r#"{"address":"127.0.0.1:9001"}"#, 409),
        ("POST", servers, r#"{"address":"nonsense"}"#, 400),
        ("POST", servers, r#"{"address":7}"#, 400),
        ("POST", servers, r#"{"address":"127.0.0.1:9","weight":0}"#, 400),
        ("POST", servers, r#"{"address":"127.0.0.1:9","weight":1001}"#, 400),
        ("POST", servers, r#"{"address":"127.0.0.1:9","weight":1.5}"#, 400),
        ("POST", servers, r#"{"address":"app.internal:9","weight":2}"#, 409),
        ("POST", servers, r#"{"address":"127.0.0.1:9","colour":"red"}"#, 400),
        ("POST", servers, "", 400),
        ("PATCH", one, "[]", 400),
        ("PATCH", one, "{}", 400),
        ("PATCH", one, r#"{"state":"down"}"#, 400),
        ("PATCH", one, r#"{"weight":99999999999}"#, 400),
        ("PATCH", one, r#"{"state":"enabled","weight":1}"#, 400),
        ("PATCH", "/api/v1/pools/app/servers/nobody", r#"{"state":"enabled"}"#, 404),
        ("DELETE", "/api/v1/pools/app/servers/nobody", "", 404),
        ("DELETE", "/api/v1/pools/nobody/servers/a", "", 404),
    ] {
        let answer = fixture.send(method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
        assert!(answer.json()["error"].as_str().is_some_and(|why| !why.is_empty()), "{method} {path} {body}");
    }
    for (method, path, allow) in [
        ("POST", "/", "GET, HEAD"),
        ("POST", "/api/v1/status", "GET, HEAD"),
        ("GET", servers, "POST"),
        ("GET", "/api/v1/reload", "POST"),
        ("GET", "/api/v1/upgrade", "POST"),
        ("POST", one, "PATCH, DELETE"),
        ("OPTIONS", "/metrics", "GET, HEAD"),
    ] {
        let answer = fixture.send(method, path, "").await;
        assert_eq!((answer.status, answer.field("Allow")), (405, Some(allow)), "{method} {path}");
    }
    for fields in ["", "Content-Type: text/plain\r\n", "Content-Type: application/jsonx\r\n"] {
        let answer = fixture.ask("PATCH", one, fields, r#"{"state":"disabled"}"#).await;
        assert_eq!(answer.status, 415, "{fields}");
    }
    let answer =
        fixture.ask("PATCH", one, "Content-Type: Application/JSON; charset=utf-8\r\n", r#"{"weight":1}"#).await;
    assert_eq!(answer.status, 200);
    assert_eq!(fixture.pools.status()[0].servers.len(), 2, "nothing was half done");
}

#[tokio::test]
async fn a_reload_gives_what_changed_or_the_report() {
    let fixture = Fixture::new(None);
    for (path, who_waits, word) in
        [("/api/v1/reload", &fixture.reloads, "changed"), ("/api/v1/upgrade", &fixture.upgrades, "upgraded")]
    {
        for (result, status, body) in [
            (Some(Ok("listener web added".to_owned())), 200, json!({word: "listener web added"})),
            (Some(Err("sumun.yaml:1:1: error".to_owned())), 422, json!({"report": "sumun.yaml:1:1: error"})),
            (None, 503, json!({"error": "this process is ending"})),
        ] {
            let waiting = async {
                loop {
                    if let Some(sender) = who_waits.lock().unwrap().pop() {
                        return sender;
                    }
                    tokio::task::yield_now().await;
                }
            };
            let (answer, ()) = tokio::join!(fixture.send("POST", path, ""), async {
                let sender = waiting.await;
                if let Some(result) = result {
                    sender.send(result).unwrap();
                }
            });
            assert_eq!((answer.status, answer.json()), (status, body));
        }
    }
}

/// What an operator changes after the next process was told would be lost with this one.
#[tokio::test]
async fn servers_do_not_change_while_another_process_takes_over() {
    let fixture = Fixture::new(None);
    fixture.handing_over.store(true, Ordering::Relaxed);
    let one = "/api/v1/pools/app/servers/127.0.0.1:9001";
    for (method, path, body) in [
        ("PATCH", one, r#"{"state":"disabled"}"#),
        ("DELETE", one, ""),
        ("POST", "/api/v1/pools/app/servers", r#"{"address":"127.0.0.1:9003"}"#),
    ] {
        let answer = fixture.send(method, path, body).await;
        assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")), "{method}");
    }
    assert_eq!(fixture.get("/api/v1/pools").await.json()[0]["servers"][0]["state"], "up");
    fixture.handing_over.store(false, Ordering::Relaxed);
    assert_eq!(fixture.send("PATCH", one, r#"{"state":"disabled"}"#).await.status, 200);
}

/// What was begun is answered; a new connection is nobody's business here.
#[tokio::test]
async fn who_leaves_takes_no_further_connection() {
    let fixture = Fixture::new(None);
    let mut open = TcpStream::connect(fixture.address).await.unwrap();
    assert_eq!(ask_on(&mut open, fixture.address, "/healthz", "").await, 200);
    fixture.admin.leave();
    assert_eq!(ask_on(&mut open, fixture.address, "/healthz", "").await, 200);
    while TcpStream::connect(fixture.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn health_and_readiness() {
    let fixture = Fixture::new(None);
    for (path, status) in [("/healthz", 200), ("/readyz", 200)] {
        assert_eq!(fixture.get(path).await.status, status, "{path}");
    }
    fixture.draining.store(true, Ordering::Relaxed);
    for (path, status) in [("/healthz", 200), ("/readyz", 503)] {
        assert_eq!(fixture.get(path).await.status, status, "{path}");
    }
    assert_eq!(fixture.get("/api/v1/status").await.json()["draining"], true);
}

#[tokio::test]
async fn metrics_are_those_of_all() {
    let fixture = Fixture::new(None);
    let answer = fixture.get("/metrics").await;
    assert_eq!(answer.field("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "sumun_build_info{version=\"1.2.3\"} 1",
        "sumun_http_requests_total{listener=\"web\",route=\"/shop/\",status=\"5xx\"} 2",
        "sumun_server_up{pool=\"app\",server=\"127.0.0.1:9001\"} 1",
        "sumun_server_failures_total{pool=\"app\",server=\"127.0.0.1:9001\",reason=\"timeout\"} 0",
        "# TYPE sumun_process_resident_memory_bytes gauge",
    ] {
        assert!(answer.body.lines().any(|there| there == line), "{line} is not in\n{}", answer.body);
    }
}

#[tokio::test]
async fn the_page_comes_in_two_languages_and_from_the_binary_alone() {
    let fixture = Fixture::new(None);
    let english = fixture.get("/").await;
    let korean = fixture.ask("GET", "/", "Accept-Language: ko-KR,ko;q=0.9,en;q=0.8\r\n", "").await;
    assert!(english.body.contains("<html lang=\"en\">") && korean.body.contains("<html lang=\"ko\">"));
    assert_eq!(korean.field("Vary"), Some("Accept-Language"));
    assert!(english.field("Content-Security-Policy").unwrap().starts_with("default-src 'self';"));
    for (path, media_type) in [("/app.js", "text/javascript; charset=utf-8"), ("/app.css", "text/css; charset=utf-8")] {
        let answer = fixture.get(path).await;
        assert_eq!((answer.status, answer.field("Content-Type")), (200, Some(media_type)));
        assert_eq!(answer.field("Content-Length"), Some(answer.body.len().to_string().as_str()));
        let head = fixture.ask("HEAD", path, "", "").await;
        assert_eq!((head.body.as_str(), head.field("Content-Length")), ("", answer.field("Content-Length")));
    }
}

/// What is asked with which Host, Origin and Authorization, and the status without and with a token
/// configured.
#[tokio::test]
async fn who_may_ask() {
    let open = Fixture::new(None);
    let locked = Fixture::new(Some("s3cret"));
    let right = "Authorization: bearer s3cret\r\n";
    for (host, fields, without_token, with_token) in [
        ("127.0.0.1:PORT", "", 200, 401),
        ("127.0.0.1:PORT", right, 200, 200),
        ("localhost:PORT", right, 200, 200),
        ("[::1]", right, 200, 200),
        ("127.0.0.1:PORT", "Authorization: Bearer s3creT\r\n", 200, 401),
        ("127.0.0.1:PORT", "Authorization: Bearer\r\n", 200, 401),
        ("127.0.0.1:PORT", "Authorization: Basic s3cret\r\n", 200, 401),
        ("evil.example:PORT", "", 403, 403),
        ("evil.example:PORT", right, 403, 403),
        ("192.0.2.1", right, 403, 403),
        ("127.0.0.1:PORT", "Origin: http://127.0.0.1:PORT\r\n", 200, 401),
        ("127.0.0.1:PORT", "Origin: http://127.0.0.1:PORT\r\nAuthorization: Bearer s3cret\r\n", 200, 200),
        ("127.0.0.1:PORT", "Origin: http://localhost:PORT\r\n", 403, 403),
        ("127.0.0.1:PORT", "Origin: http://evil.example\r\nAuthorization: Bearer s3cret\r\n", 403, 403),
        ("127.0.0.1:PORT", "Origin: null\r\n", 403, 403),
        ("127.0.0.1:PORT", "Origin: http://127.0.0.1:PORT\r\nOrigin: http://evil.example\r\n", 403, 403),
    ] {
        for (fixture, expected) in [(&open, without_token), (&locked, with_token)] {
            let port = fixture.address.port().to_string();
            let host = format!("Host: {}\r\n", host.replace("PORT", &port));
            let fields = fields.replace("PORT", &port);
            for path in ["/api/v1/status", "/metrics"] {
                let answer = fixture.ask_as(&host, "GET", path, &fields, "").await;
                assert_eq!(answer.status, expected, "{path} {host} {fields}");
            }
            // The page itself tells nothing; who may not see it at all is told apart by 403.
            let page = fixture.ask_as(&host, "GET", "/", &fields, "").await;
            assert_eq!(page.status, if expected == 403 { 403 } else { 200 }, "/ {host} {fields}");
        }
    }
    let answer = locked.send("PATCH", "/api/v1/pools/app/servers/127.0.0.1:9001", r#"{"state":"disabled"}"#).await;
    assert_eq!((answer.status, answer.field("WWW-Authenticate")), (401, Some("Bearer realm=\"sumun\"")));
    assert_eq!(locked.get("/nowhere").await.status, 401, "what is there is not told either");
    assert_eq!(locked.get("/healthz").await.status, 200);
    let without_host = open.raw(b"GET /api/v1/status HTTP/1.0\r\n\r\n").await;
    assert_eq!(without_host.status, 403);
}

#[tokio::test]
async fn the_control_socket_asks_for_nothing() {
    let fixture = Fixture::new(Some("s3cret"));
    let path = std::env::temp_dir().join(format!("sumun-admin-{}-{}.sock", std::process::id(), unique()));
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    fixture.admin.listen_control(socket).unwrap();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    stream.write_all(b"GET /api/v1/pools HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(read_answer(stream).await.status, 200);
}

fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let fixture = Fixture::new(None);
    let mut stream = TcpStream::connect(fixture.address).await.unwrap();
    let one = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", fixture.address);
    let chunked = format!(
        "PATCH /api/v1/pools/app/servers/127.0.0.1:9001 HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\n{{\"wei\r\n8\r\nght\": 9}}\r\n0\r\n\r\n",
        fixture.address
    );
    let last = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", fixture.address);
    stream.write_all([one.as_str(), &chunked, &one, &last].concat().as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 4, "{text}");
    assert_eq!(text.matches("Connection: keep-alive").count(), 3);
    assert_eq!(fixture.pools.status()[0].servers[0].weight, 9);
}

#[tokio::test]
async fn what_is_too_large_or_broken_is_refused() {
    let fixture = Fixture::new(None);
    let address = fixture.address;
    let long = |length: usize| "a".repeat(length);
    for (text, status) in [
        (format!("GET /{} HTTP/1.1\r\nHost: {address}\r\n\r\n", long(9000)), 414),
        (format!("GET / HTTP/1.1\r\nHost: {address}\r\nX: {}\r\n\r\n", long(HEAD_BYTES)), 431),
        (format!("GET / HTTP/1.1\r\nHost: {address}\r\n{}\r\n", "X: y\r\n".repeat(200)), 431),
        (format!("POST /api/v1/reload HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", BODY_BYTES + 1), 413),
        (
            format!(
                "POST /api/v1/reload HTTP/1.1\r\nHost: {address}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n",
                BODY_BYTES + 1,
                long(BODY_BYTES + 1)
            ),
            413,
        ),
        ("GET / HTTP/1.1\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nHost: {address}\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
        (format!("BREW / HTTP/1.1\r\nHost: {address}\r\n\r\n"), 501),
    ] {
        let answer = fixture.raw(text.as_bytes()).await;
        assert_eq!((answer.status, answer.field("Connection")), (status, Some("close")));
        assert!(answer.json()["error"].is_string());
    }
}

#[tokio::test]
async fn more_connections_than_places_wait_for_one() {
    let fixture = Fixture::new(None);
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(fixture.address).await.unwrap();
        stream
            .write_all(format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", fixture.address).as_bytes())
            .await
            .unwrap();
        // It has its place once it is answered.
        stream.readable().await.unwrap();
        held.push(stream);
    }
    let mut waiting = std::pin::pin!(fixture.get("/healthz"));
    for _ in 0..1000 {
        let polled = tokio::select! { biased; _ = &mut waiting => true, () = tokio::task::yield_now() => false };
        assert!(!polled, "there was no place");
    }
    held.pop();
    assert_eq!(waiting.await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn who_sends_nothing_is_not_waited_for() {
    let fixture = Fixture::new(None);
    for (sent, expected) in [
        ("", None),
        ("GET / HT", Some(408)),
        ("POST /api/v1/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", Some(408)),
    ] {
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(sent.as_bytes()).await.unwrap();
        let serving = async { crate::serve::serve(server, &fixture.admin.shared, &Door::Control).await };
        let mut text = String::new();
        let (_, read) = tokio::join!(serving, client.read_to_string(&mut text));
        read.unwrap();
        assert_eq!((!text.is_empty()).then(|| split(&text).status), expected, "{sent}");
    }
}

/// A kept connection's next answer; the status alone.
async fn ask_on(stream: &mut TcpStream, host: SocketAddr, path: &str, fields: &str) -> u16 {
    let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    loop {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "closed");
        let text = String::from_utf8_lossy(&seen);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
        if length.is_some_and(|length: usize| body.len() >= length) {
            return split(&text).status;
        }
    }
}

/// Each reload serves the sockets anew: connections from before still have their places.
#[tokio::test]
async fn reloads_make_no_new_places() {
    let fixture = Fixture::new(None);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut held = Vec::new();
    for number in 0..CONNECTIONS {
        if number % 16 == 0 {
            fixture.admin.listen(vec![socket.try_clone().unwrap()], None).unwrap();
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask_on(&mut stream, address, "/healthz", "").await, 200);
        held.push(stream);
    }
    fixture.admin.listen(vec![socket], None).unwrap();
    let moved = Fixture { address, ..fixture };
    let mut waiting = std::pin::pin!(moved.get("/healthz"));
    for _ in 0..1000 {
        let polled = tokio::select! { biased; _ = &mut waiting => true, () = tokio::task::yield_now() => false };
        assert!(!polled, "there was no place");
    }
    held.pop();
    assert_eq!(waiting.await.status, 200);
}

/// A token that was changed, or an address that was given up, is of no use to who connected before.
#[tokio::test]
async fn open_connections_follow_a_reload() {
    let fixture = Fixture::new(None);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let same = || vec![socket.try_clone().unwrap()];
    fixture.admin.listen(same(), Some("old")).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let old = "Authorization: Bearer old\r\n";
    assert_eq!(ask_on(&mut stream, address, "/metrics", old).await, 200);
    fixture.admin.listen(same(), Some("new")).unwrap();
    assert_eq!(ask_on(&mut stream, address, "/metrics", old).await, 401);
    assert_eq!(ask_on(&mut stream, address, "/metrics", "Authorization: Bearer new\r\n").await, 200);
    // Another address needs no token: this one was not opened by that.
    fixture.admin.listen(vec![TcpListener::bind("127.0.0.1:0").unwrap()], None).unwrap();
    assert_eq!(ask_on(&mut stream, address, "/metrics", "").await, 403);
    let mut stream = TcpStream::connect(address).await.unwrap();
    fixture.admin.listen(same(), None).unwrap();
    assert_eq!(ask_on(&mut stream, address, "/metrics", "").await, 200);
    fixture.admin.listen(Vec::new(), None).unwrap();
    assert_eq!(ask_on(&mut stream, address, "/metrics", "").await, 403, "the admin listener is off");
}

#[tokio::test]
async fn a_new_token_and_new_sockets_take_the_place_of_the_old() {
    let fixture = Fixture::new(None);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    fixture.admin.listen(vec![socket], Some("new")).unwrap();
    let moved = Fixture { address, ..fixture };
    assert_eq!(moved.get("/metrics").await.status, 401);
    assert_eq!(moved.ask("GET", "/metrics", "Authorization: Bearer new\r\n", "").await.status, 200);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_hurt(bytes in proptest::collection::vec(any::<u8>(), 1..400)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new(None);
            let mut stream = TcpStream::connect(fixture.address).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut text = Vec::new();
            stream.read_to_end(&mut text).await.unwrap();
            assert!(text.is_empty() || text.starts_with(b"HTTP/1.1 4") || text.starts_with(b"HTTP/1.1 5"));
            assert_eq!(fixture.get("/healthz").await.status, 200);
        });
    }
}
