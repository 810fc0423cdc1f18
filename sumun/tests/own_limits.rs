//! A process that comes near its own limits: who is refused, who is served still, and that it passes.

mod support;

use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::instance::{Instance, PATIENCE, Place, eventually, everywhere};
use support::server::Server;
use support::talk::Client;

/// Descriptors that a process of these tests may have.
const DESCRIPTORS: usize = 160;

/// What is asked of a connection before it counts as one that is kept.
const REQUEST: &str = "GET /ping HTTP/1.1\r\nHost: a\r\n\r\n";

/// Starts it with few descriptors, with a listener `bulk` at the second address, whose routes are all of
/// low priority.
fn with_few_descriptors(place: Place, server: &Server) -> (Instance, SocketAddr) {
    let bulk = place.free_address();
    let config = format!(
        "access_log: {{ to: $DIR/access.log, format: json }}\n\
         pools: {{ app: {{ servers: \"{}\", retries: off }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: [\n\
           {{ path: /critical, proxy: app, priority: critical }}, {{ path: /ping, respond: 204, priority: critical }},\n\
           {{ path: /low, proxy: app, priority: low }} ] }}, \
           bulk: {{ bind: \"{bulk}\", bounds: {{ idle: 10m }}, routes: [ {{ respond: 204, priority: low }} ] }} }}\n",
        server.address()
    );
    let instance = Instance::start_as(
        place,
        &config,
        |_| {},
        |_, log| {
            let handle = || log.try_clone().expect("another handle of the log");
            let mut command = Command::new("sh");
            command.args(["-c", &format!("ulimit -n {DESCRIPTORS}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_sumun")]);
            command.stdin(Stdio::null()).stdout(handle()).stderr(handle());
            command
        },
    );
    (instance, bulk)
}

/// Waits until a request has ended so, by the access log.
fn await_reason(instance: &Instance) {
    eventually("the log has it", || {
        let log = fs::read_to_string(instance.directory().join("access.log")).unwrap_or_default();
        log.contains("\"reason\":\"own_limits\"")
    });
}

fn own_limits(instance: &Instance) -> Value {
    instance.json(&["status"])["own_limits"].clone()
}

/// Closed without an answer.
fn is_refused(client: &mut TcpStream) -> bool {
    client.set_read_timeout(Some(PATIENCE)).expect("it is a socket");
    matches!(client.read(&mut [0; 1024]), Ok(0) | Err(_))
}

/// Connects and asks so often that some find no place. Gives those that have one.
fn crowd(address: SocketAddr, count: usize) -> (Vec<TcpStream>, usize) {
    use std::io::Write as _;
    let mut clients: Vec<TcpStream> = (0..count)
        .map(|_| {
            let mut client = TcpStream::connect(address).expect("the kernel takes it");
            // Who is refused may be so before this.
            client.write_all(REQUEST.as_bytes()).ok();
            client
        })
        .collect();
    let before = clients.len();
    clients.retain_mut(|client| !is_refused(client));
    let refused = before - clients.len();
    (clients, refused)
}

#[test]
fn the_least_important_are_refused_before_descriptors_run_out() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "served");
        let (gateway, bulk) = with_few_descriptors(place, &server);
        let standing = own_limits(&gateway);
        assert!(standing["given_up"].is_null(), "{standing}");
        for resource in ["descriptors", "memory", "accept_queue", "cpu"] {
            assert!(standing["used"][resource].is_number(), "{standing}");
        }
        assert!(standing["used"]["descriptors"].as_f64().is_some_and(|used| used > 0.0), "{standing}");

        let (crowd, refused) = crowd(bulk, DESCRIPTORS * 2);
        assert!(!crowd.is_empty() && refused >= DESCRIPTORS, "{} came in, {refused} were refused", crowd.len());
        // Where less important connections are refused, others are served, and their servers reached.
        for _ in 0..5 {
            assert_eq!(gateway.get("/critical").expect(200).text(), "served");
        }
        gateway.await_log("own limits: ");
        // On a listener that has both, the request tells; its connection is closed.
        let mut mixed = gateway.connect();
        let answer = mixed.get_with("/low", "Accept: application/json\r\n").expect(503);
        assert!(answer.text().contains("\"own_limits\""), "{}", answer.text());
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(answer.header("retry-after").is_some());
        let text = gateway.command_ok(&["status"]);
        assert!(text.contains("own limits: ") && text.contains("priority low is refused"), "{text}");
        // None of it was for want of a descriptor.
        assert!(!gateway.log().contains("cannot accept"), "{}", gateway.log());

        // It passes once the crowd has gone.
        drop(crowd);
        eventually("nothing is given up", || own_limits(&gateway)["given_up"].is_null());
        gateway.await_log("own limits: nothing is short any more");
        assert_eq!(gateway.get("/low").expect(200).text(), "served");
        Client::connect(bulk).get("/ping").expect(204);
        await_reason(&gateway);
    });
}

/// CPU time of a process so far.
fn cpu_time(process: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let (_, fields) = text.rsplit_once(')').expect("a name in parentheses");
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number"));
    // A tick is 10 ms wherever Linux runs this.
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// More critical connections than there are descriptors: idle ones make room for those who wait, and
/// nobody spins meanwhile.
#[test]
fn more_critical_connections_than_descriptors_are_all_served() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "served");
        let (gateway, _) = with_few_descriptors(place, &server);
        let worker = gateway.worker_process();
        let (began, before) = (Instant::now(), cpu_time(worker));
        let mut clients: Vec<Client> = (0..DESCRIPTORS * 2)
            .map(|_| {
                let mut client = gateway.connect();
                client.send(REQUEST);
                client
            })
            .collect();
        // All of them stay open here: those who were served have to be closed for others to come in.
        for client in &mut clients {
            client.answer().expect(204);
        }
        let (worked, passed) = (cpu_time(worker) - before, began.elapsed());
        assert!(worked < passed / 2, "{worked:?} of CPU time in {passed:?}");
        let complaints = gateway.log().matches("cannot accept").count();
        assert!(complaints <= 2 * place.workers, "{complaints} lines:\n{}", gateway.log());
        drop(clients);
        eventually("nothing is given up", || own_limits(&gateway)["given_up"].is_null());
        // The server was never taken for a bad one.
        assert_eq!(gateway.get("/critical").expect(200).text(), "served");
        assert_eq!(gateway.server("app", server.address())["failures"], 0);
    });
}

/// Where no descriptor is left for a connection to a server, that is said, and not held against the server.
#[test]
fn a_server_is_not_blamed_for_what_we_are_short_of() {
    everywhere(|place| {
        let (server, go) = Server::gated(place.ip);
        let (gateway, _) = with_few_descriptors(place, &server);
        let mut clients: Vec<Client> = (0..DESCRIPTORS)
            .map(|_| {
                let mut client = gateway.connect();
                client.send("GET /critical HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n");
                client
            })
            .collect();
        await_reason(&gateway);
        for _ in 0..DESCRIPTORS {
            go.send(()).expect("the server waits");
        }
        let mut refused = 0;
        for client in &mut clients {
            let answer = client.answer();
            match answer.status {
                200 => {}
                503 if answer.text().contains("\"own_limits\"") => refused += 1,
                other => panic!("{other}: {}", answer.text()),
            }
        }
        assert!((1..DESCRIPTORS).contains(&refused), "{refused}");
        drop(clients);
        eventually("nothing is given up", || own_limits(&gateway)["given_up"].is_null());
        let state = gateway.server("app", server.address());
        assert_eq!((&state["failures"], &state["state"]), (&0.into(), &"up".into()), "{state}");
    });
}

/// A listener that passes connections on knows no requests: the status says how many have ended.
#[test]
fn the_status_of_an_l4_listener_counts_connections() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "passed on");
        let config = format!(
            "pools: {{ app: {{ servers: \"{}\" }} }}\nlisteners: {{ web: {{ bind: \"$BIND\", tcp: app }} }}\n",
            server.address()
        );
        let gateway = Instance::start(place, &config);
        let ended = || gateway.json(&["status"])["listeners"][0]["ended"].as_u64().expect("a number");
        let before = ended();
        gateway.get("/").expect(200);
        eventually("it has ended", || ended() > before);
        assert!(gateway.json(&["status"])["listeners"][0]["requests"].is_null());
        assert!(gateway.command_ok(&["status"]).contains(" ended\n"));
    });
}
