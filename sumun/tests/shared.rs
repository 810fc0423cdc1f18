//! What several gateways share through Redis: limits.

mod support;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use support::Scratch;
use support::certificates::Authority;
use support::instance::{Instance, Place, eventually, memory_kib};
use support::redis::{Redis, metric, stranger};
use support::talk::Client;

const ONE: Place = Place { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), workers: 1 };
const TWO: Place = Place { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), workers: 2 };
const UP: &str = "what is shared: connected";
const AWAY: &str = "what is shared: the server is away";

fn config(server: &str, pool: &str, shared: &str, limit: &str) -> String {
    format!(
        "pools: {{ redis: {{ servers: [\"{server}\"], {pool} }} }}\n\
         shared: {{ pool: redis, secret: 0123456789abcdef, {shared} }}\n\
         limits: {{ a: {{ key: {{ header: X-Key }}, shared: on, {limit} }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /, limits: [a], respond: {{ body: ok }} }}] }} }}\n"
    )
}

fn gateway(place: Place, server: SocketAddr, limit: &str) -> Instance {
    Instance::start(place, &config(&server.to_string(), "", "", limit))
}

fn passed(gateway: &Instance, count: usize) -> usize {
    let mut client = gateway.connect();
    (0..count).filter(|_| client.get_with("/", "X-Key: k\r\n").status == 200).count()
}

/// Asks at this rate for so long; gives how many passed, and how many were asked.
fn offer(gateway: &Instance, per_second: u32, time: Duration) -> (usize, usize) {
    let mut client = gateway.connect();
    let (began, mut passed, mut asked) = (Instant::now(), 0, 0);
    while began.elapsed() < time {
        passed += usize::from(client.get_with("/", "X-Key: k\r\n").status == 200);
        asked += 1;
        let next = Duration::from_secs(1) / per_second * asked;
        thread::sleep(next.saturating_sub(began.elapsed()));
    }
    (passed, asked as usize)
}

/// Two gateways at the same time; gives what passed in all.
fn offer_to_both(gateways: &[Instance], time: Duration) -> usize {
    thread::scope(|scope| {
        let running: Vec<_> = gateways.iter().map(|gateway| scope.spawn(move || offer(gateway, 200, time))).collect();
        let all: Vec<(usize, usize)> = running.into_iter().map(|run| run.join().expect("no panic")).collect();
        eprintln!("passed and asked, each gateway in {time:?}: {all:?}");
        all.iter().map(|(passed, _)| passed).sum()
    })
}

#[test]
fn two_gateways_share_a_limit() {
    let Some(redis) = Redis::start(&[]) else { return };
    let gateways = [ONE, TWO].map(|place| gateway(place, redis.address, "rate: 100/s, burst: 20"));
    gateways.iter().for_each(|gateway| gateway.await_log(UP));
    let began = Instant::now();
    let passed = offer_to_both(&gateways, Duration::from_secs(5));
    let earned = began.elapsed().as_millis() as usize / 10;
    eprintln!("passed {passed}, earned {earned}");
    // A burst of each, and what they take until they hear of each other.
    assert!((earned * 8 / 10..=earned + 80).contains(&passed), "{passed} of {earned}");
    let keys = redis.ask("KEYS *");
    let (_, key) = keys.split_once("sumun:limit:a:").unwrap_or_else(|| panic!("{keys}"));
    assert!(key.len() > 16 && !keys.contains("X-Key"), "a hash: {keys}");
    eventually("nothing is left", || redis.ask("DBSIZE").starts_with(":0"));
}

#[test]
fn another_gateway_knows_what_was_taken() {
    let Some(redis) = Redis::start(&[]) else { return };
    let admin = ONE.free_address();
    let text = format!("admin: \"{admin}\"\n{}", config(&redis.address.to_string(), "", "", "rate: 3/h"));
    let first = Instance::start(ONE, &text);
    first.await_log(UP);
    assert_eq!(passed(&first, 9), 3);
    eventually("it is told", || metric(admin, "sumun_shared_keys_total{result=\"told\"}") >= Some(1));
    assert_eq!(metric(admin, "sumun_shared_up"), Some(1));
    let second = gateway(TWO, redis.address, "rate: 3/h");
    second.await_log(UP);
    assert_eq!(passed(&second, 1), 1, "it has not heard of this one");
    eventually("it has heard", || passed(&second, 1) == 0);
    assert!(passed(&second, 5) == 0 && passed(&first, 5) == 0);
}

#[test]
fn a_redis_that_is_away_leaves_each_its_own_limit() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let gateways = [ONE, TWO].map(|place| gateway(place, redis.address, "rate: 100/s, burst: 20"));
    gateways.iter().for_each(|gateway| gateway.await_log(UP));
    redis.kill();
    gateways.iter().for_each(|gateway| gateway.await_log(AWAY));
    let began = Instant::now();
    let alone = offer_to_both(&gateways, Duration::from_secs(2));
    let earned = began.elapsed().as_millis() as usize / 10;
    assert!((earned..=2 * (earned + 25)).contains(&alone), "{alone} of twice {earned}");
    redis.restart();
    for gateway in &gateways {
        eventually("it is back", || gateway.log().matches(UP).count() == 2);
        assert_eq!(gateway.log().matches(AWAY).count(), 1, "one line each time");
    }
    let began = Instant::now();
    let together = offer_to_both(&gateways, Duration::from_secs(3));
    let earned = began.elapsed().as_millis() as usize / 10;
    assert!((earned * 8 / 10..=earned + 80).contains(&together), "{together} of {earned}");
}

#[test]
fn over_tls_and_sockets_with_a_password() {
    let scratch = Scratch::new();
    let authority = Authority::new("ours");
    let pair = authority.pair(&["127.0.0.1"]);
    let file = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (ca, cert, key) =
        (file("ca.pem", &authority.pem), file("cert.pem", &pair.certificate), file("key.pem", &pair.key));
    let socket = scratch.path().join("redis.sock").display().to_string();
    let plain = ["--unixsocket", &socket, "--unixsocketperm", "777", "--requirepass", "open sesame"];
    let secured = ["--tls-port", "$PORT", "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let secured = [&secured[..], &["--tls-auth-clients", "no"]].concat();
    let (Some(over_socket), Some(over_tls)) = (Redis::start(&plain), Redis::start(&secured)) else { return };
    let unix = format!("unix:{socket}");
    let tls = format!("tls: {{ ca: \"{ca}\" }}");
    for (server, pool, shared) in [
        (over_socket.address.to_string(), "", "password: open sesame"),
        (unix, "", "user: default, password: open sesame"),
        (over_tls.address.to_string(), &*tls, ""),
    ] {
        let gateway = Instance::start(ONE, &config(&server, pool, shared, "rate: 3/h"));
        gateway.await_log(UP);
        assert_eq!(passed(&gateway, 5), 3);
    }
    let refused = Instance::start(ONE, &config(&over_socket.address.to_string(), "", "password: no", "rate: 3/h"));
    refused.await_log("WRONGPASS");
    assert_eq!(passed(&refused, 5), 3);
}

#[test]
fn a_reload_moves_to_another_server() {
    let (Some(first), Some(second)) = (Redis::start(&[]), Redis::start(&[])) else { return };
    let text = |server: &Redis| config(&server.address.to_string(), "", "", "rate: 3/h");
    let gateway = Instance::start(ONE, &text(&first));
    gateway.await_log(UP);
    gateway.reload(&text(&second));
    passed(&gateway, 1);
    eventually("it is told there", || !second.ask("KEYS *").starts_with("*0"));
}

/// Whatever it says: no request waits, nothing grows, and the limit holds.
#[test]
fn servers_that_are_no_redis() {
    let says = |bytes: &'static [u8]| {
        stranger(move |stream| {
            // Who has heard enough closes.
            stream.write_all(bytes).is_ok()
        })
    };
    let endless = stranger(|stream| {
        stream.write_all(b"$1000000\r\n").ok();
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
        false
    });
    let strangers = [
        says(b"+OK\r\n"),
        says(b"$5\r\nhello\r\n"),
        says(b"*1\r\n:99999999999999999\r\n"),
        says(b"*1\r\n:-5\r\n"),
        says(b"*2000000000\r\n"),
        says(b"*1\r\n*1\r\n*1\r\n"),
        says(b"$99999999999\r\n"),
        says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        says(b"-ERR unknown command\r\n"),
        says(b":1\r\n:2\r\n:3\r\n"),
        says(b"\0\0\0\0"),
        // Silence.
        stranger(|_| true),
        stranger(|_| false),
        endless,
    ];
    thread::scope(|scope| {
        for (index, stranger) in strangers.iter().enumerate() {
            scope.spawn(move || {
                let gateway = gateway(ONE, stranger.address, "rate: 20/s, burst: 5");
                gateway.await_log(UP);
                let before = memory_kib(gateway.worker_process(), "VmRSS");
                let began = Instant::now();
                let mut slowest = Duration::ZERO;
                let mut passed = 0;
                let mut client: Client = gateway.connect();
                while began.elapsed() < Duration::from_secs(3) {
                    let asked = Instant::now();
                    passed += usize::from(client.get_with("/", "X-Key: k\r\n").status == 200);
                    slowest = slowest.max(asked.elapsed());
                    thread::sleep(Duration::from_millis(5));
                }
                let most = 8 + began.elapsed().as_millis() as usize / 50;
                let connections = stranger.connections.load(Ordering::Relaxed);
                let grown = memory_kib(gateway.worker_process(), "VmRSS").saturating_sub(before);
                eprintln!(
                    "stranger {index}: {passed} passed, slowest {slowest:?}, {connections} connections, {grown} KiB"
                );
                assert!(passed <= most, "stranger {index}: {passed} of {most}");
                assert!(connections < 20, "stranger {index}: {connections} connections");
                assert!(grown < 48 * 1024, "stranger {index}: {grown} KiB more");
            });
        }
    });
}
