//! Clients that take their answers or send their bodies at a trickle, and honest ones on slow lines.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use support::frames::{DATA, END_STREAM, HEADERS, RST_STREAM, Raw, WINDOW_UPDATE, block, frame, get, headers};
use support::instance::{Instance, Place, everywhere};
use support::server::{Server, ok};

/// So much a slow client takes, and then pauses.
const SIP_BYTES: usize = 2000;
const SIP_PAUSE: Duration = Duration::from_millis(25);
/// Some idle times.
const LONG: Duration = Duration::from_millis(3500);
/// A fraction of what slow clients take here, and many times as much.
const LENIENT: &str = "4KiB/s";
const STRICT: &str = "4MiB/s";

const LARGE_BYTES: usize = 20_000_000;

fn start(place: Place, server: &Server, rate: &str) -> Instance {
    let config = format!(
        "pools: {{ app: {{ servers: \"{}\", timeouts: {{ idle: 1s }} }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", bounds: {{ idle: 1s, answer_rate: {rate} }}, routes: [\n\
           {{ path: /files/, files: $DIR/files }}, {{ path: /, proxy: app }} ] }} }}\n",
        server.address()
    );
    Instance::start_in(place, &config, |directory| {
        std::fs::create_dir(directory.join("files")).expect("it is new");
        std::fs::write(directory.join("files/large"), vec![b'x'; LARGE_BYTES]).expect("there is room");
    })
}

/// A line with a small window, as to a phone far from everything.
fn connect_slowly(gateway: &Instance) -> TcpStream {
    let domain = socket2::Domain::for_address(gateway.address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("it is a size");
    socket.connect(&gateway.address.into()).expect("the gateway listens");
    socket.set_read_timeout(Some(LONG)).expect("it is a time");
    socket.into()
}

/// Whether it is still served after a while.
fn sips(gateway: &Instance, target: &str) -> bool {
    let mut stream = connect_slowly(gateway);
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("it is taken");
    let until = Instant::now() + LONG;
    let mut sip = [0; SIP_BYTES];
    while Instant::now() < until {
        if !matches!(stream.read(&mut sip), Ok(1..)) {
            return false;
        }
        thread::sleep(SIP_PAUSE);
    }
    true
}

/// The same of a stream whose window is opened bit by bit.
fn sips_of_stream(gateway: &Instance, target: &str) -> bool {
    let mut raw = Raw::open(gateway.address, &[(4, SIP_BYTES as u32)]);
    raw.send(&headers(1, END_STREAM, &get(target)));
    let until = Instant::now() + LONG;
    while Instant::now() < until {
        if raw.next().expect("the connection goes on").kind == RST_STREAM {
            return false;
        }
        let sip = (SIP_BYTES as u32).to_be_bytes();
        raw.send(&[frame(WINDOW_UPDATE, 0, 0, &sip), frame(WINDOW_UPDATE, 0, 1, &sip)].concat());
        thread::sleep(SIP_PAUSE);
    }
    true
}

fn large() -> Vec<u8> {
    vec![b'x'; LARGE_BYTES]
}

#[test]
fn an_honest_client_on_a_slow_line_is_served() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |_| ok(large()));
        let gateway = &start(place, &server, LENIENT);
        thread::scope(|scope| {
            let targets = ["/", "/files/large"];
            let plain = targets.map(|target| scope.spawn(move || sips(gateway, target)));
            let streams = targets.map(|target| scope.spawn(move || sips_of_stream(gateway, target)));
            for (client, target) in plain.into_iter().chain(streams).zip(targets.iter().cycle()) {
                assert!(client.join().expect("no panic"), "{target}");
            }
        });
    });
}

#[test]
fn who_takes_an_answer_at_a_trickle_is_given_up() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |_| ok(large()));
        let gateway = start(place, &server, STRICT);
        for target in ["/", "/files/large"] {
            assert!(!sips(&gateway, target), "{target}");
            assert!(!sips_of_stream(&gateway, target), "a stream, {target}");
        }
    });
}

#[test]
fn a_stream_whose_body_trickles_is_given_up() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| ok(&request.body));
        let bounds = "bounds: { header_timeout: 300ms, body_rate: 10KiB/s },";
        let gateway = Instance::proxy(place, &[server.address()], "", bounds);
        let mut raw = Raw::open(gateway.address, &[]);
        let fields: [(&str, &[u8]); 5] = [
            (":method", b"POST"),
            (":scheme", b"http"),
            (":authority", b"a"),
            (":path", b"/"),
            ("content-length", b"100000"),
        ];
        raw.send(&headers(1, 0, &block(&fields)));
        let mut sink = raw.stream.try_clone().expect("a second handle");
        let trickle = thread::spawn(move || {
            while sink.write_all(&frame(DATA, 0, 1, b"x")).is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        // It is answered, though its body will not be here for a long time.
        raw.until(|frame| frame.kind == HEADERS && frame.stream == 1);
        raw.stream.shutdown(std::net::Shutdown::Both).expect("it is open");
        trickle.join().expect("no panic");
        assert_eq!(server.count(), 0);
    });
}
