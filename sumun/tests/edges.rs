//! Servers that do not connect, stall or speak nonsense, and sockets that are files.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Mutex, mpsc};
use std::thread;

use support::client::End;
use support::instance::{Instance, PATIENCE, Place, eventually, everywhere};
use support::server::{Server, ok};

/// A listening socket whose queue is full: the kernel answers no further connection.
struct Deaf {
    address: SocketAddr,
    _listener: socket2::Socket,
    _waiting: Vec<TcpStream>,
}

fn deaf(place: Place) -> Deaf {
    let listener =
        socket2::Socket::new(socket2::Domain::for_address(SocketAddr::new(place.ip, 0)), socket2::Type::STREAM, None);
    let listener = listener.expect("a socket");
    listener.bind(&SocketAddr::new(place.ip, 0).into()).expect("a free TCP port");
    listener.listen(1).expect("it listens");
    let address = listener.local_addr().ok().and_then(|address| address.as_socket()).expect("it is bound");
    let wait = std::time::Duration::from_millis(100);
    let waiting = std::iter::from_fn(|| TcpStream::connect_timeout(&address, wait).ok()).take(16).collect();
    Deaf { address, _listener: listener, _waiting: waiting }
}

#[test]
fn a_server_that_does_not_take_connections() {
    everywhere(|place| {
        let deaf = deaf(place);
        let good = Server::answering(place.ip, |request| ok(&request.body));
        let config = "balance: first, outlier: off, timeouts: { connect: 150ms },";
        let gateway = Instance::proxy(place, &[deaf.address, good.address()], config, "");
        assert_eq!(gateway.connect().request("POST", "/", "", b"body").expect(200).text(), "body");
        let gateway = Instance::proxy(place, &[deaf.address], config, "");
        gateway.get("/").expect(504);
    });
}

/// A server that stalls inside a body: what came goes on, and it is not taken for complete.
#[test]
fn a_server_that_stalls_inside_a_body() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            let Some(request) = peer.request() else { return };
            let head = if request.target == "/length" { "Content-Length: 100" } else { "Transfer-Encoding: chunked" };
            let start = if request.target == "/length" { "start" } else { "5\r\nstart\r\n" };
            peer.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{start}"));
            peer.drain();
        });
        let gateway = Instance::proxy(place, &[server.address()], "timeouts: { idle: 300ms },", "");
        for target in ["/length", "/chunks"] {
            let mut client = gateway.connect();
            client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let cut = *client.try_answer(false).expect_err("a whole answer");
            assert_ne!(cut.end, End::TimedOut, "{target}");
        }
        eventually("no connection is left at the server", || server.open() == 0);
    });
}

/// A client that does not take its answer holds a server for a while only.
#[test]
fn a_client_that_does_not_read_is_given_up() {
    everywhere(|place| {
        for framing in ["length", "chunks"] {
            let server = Server::start(place.ip, move |peer| {
                if peer.request().is_none() {
                    return;
                }
                let (head, piece) = if framing == "length" {
                    ("Content-Length: 100000000", vec![b'x'; 100_000])
                } else {
                    ("Transfer-Encoding: chunked", [b"186a0\r\n", &vec![b'x'; 100_000][..], b"\r\n"].concat())
                };
                peer.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n"));
                while peer.send(&piece) {}
            });
            let gateway = Instance::proxy(place, &[server.address()], "timeouts: { idle: 300ms },", "");
            let mut client = gateway.connect();
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.head().0, 200);
            eventually("the server is let go", || server.open() == 0);
        }
    });
}

/// What is no HTTP never reaches a client.
#[test]
fn servers_that_speak_nonsense() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            let Some(request) = peer.request() else { return };
            peer.send(match request.target.as_str() {
                "/text" => "hello\r\n\r\n".to_owned(),
                "/version" => "HTTP/2.0 200 OK\r\n\r\n".to_owned(),
                "/status" => "HTTP/1.1 20 OK\r\n\r\n".to_owned(),
                "/space" => "HTTP/1.1 200 OK\r\nName : value\r\n\r\n".to_owned(),
                "/lengths" => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned(),
                "/length" => "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".to_owned(),
                "/half" => "HTTP/1.1 200 OK\r\nName: val".to_owned(),
                "/large" => format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(300_000)),
                "/switch" => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n".to_owned(),
                "/forever" => "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000),
                _ => String::new(),
            });
        });
        let gateway = Instance::proxy(place, &[server.address()], "retries: off, outlier: off,", "");
        let targets =
            ["/text", "/version", "/status", "/space", "/lengths", "/length", "/half", "/large", "/switch", "/forever"];
        for target in targets {
            let answer = gateway.get(target);
            assert_eq!(answer.status, 502, "{target}: {:?}", answer.headers);
        }
    });
}

/// More than its own length says belongs to nobody: it is not given to the next client.
#[test]
fn a_server_that_sends_too_much() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            while peer.request().is_some() {
                peer.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi{}",
                    "HTTP/1.1 200 OK\r\nX: evil\r\n\r\n"
                ));
            }
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        for _ in 0..5 {
            let answer = client.get("/").expect(200);
            assert_eq!((answer.text().as_str(), answer.header("x")), ("hi", None));
        }
    });
}

/// An answer that nobody asked for, on a connection that waits, is thrown away with it.
#[test]
fn a_server_that_speaks_unasked() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            if peer.request().is_some() {
                peer.send(ok("asked"));
                peer.send("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                peer.drain();
            }
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        for _ in 0..2 {
            assert_eq!(gateway.get("/").expect(200).text(), "asked");
            eventually("the gateway has closed the connection", || server.open() == 0);
        }
    });
}

/// RFC 9112 section 9.6: who has ended its direction may still wait for its answers.
#[test]
fn a_client_that_ends_its_direction_gets_its_answers() {
    everywhere(|place| {
        let (go, waits) = mpsc::channel::<()>();
        let waits = Mutex::new(waits);
        let server = Server::answering(place.ip, move |request| {
            waits.lock().expect("no test thread panicked with it").recv_timeout(PATIENCE).ok();
            ok(&request.body)
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        let post = |body| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", str::len(body));
        client.send([post("first"), post("last")].concat());
        client.finish();
        server.await_count(1);
        // Another one passes: the gateway has seen the end of the first by then.
        for _ in 0..3 {
            go.send(()).expect("the server waits");
        }
        gateway.get("/").expect(200);
        assert_eq!(client.answer().expect(200).text(), "first");
        assert_eq!(client.answer().expect(200).text(), "last");
        assert_eq!(client.end(), End::Closed);
    });
}

#[test]
fn sockets_that_are_files() {
    everywhere(|place| {
        let config = "pools: { app: { servers: [\"unix:$DIR/app.sock\"] } }\n\
                      listeners:\n  web: { bind: [\"$BIND\", \"unix:$DIR/web.sock\"], routes: [{ path: /, proxy: app }] }\n";
        let gateway = Instance::start_in(place, config, |directory| {
            let listener = UnixListener::bind(directory.join("app.sock")).expect("the socket can be made");
            // For the user that the worker process becomes.
            let mode = fs::Permissions::from_mode(0o777);
            fs::set_permissions(directory.join("app.sock"), mode).expect("its mode");
            thread::spawn(move || {
                // Ends with the test's process.
                for mut stream in listener.incoming().flatten() {
                    let mut head = [0; 4096];
                    let count = stream.read(&mut head).unwrap_or(0);
                    let head = String::from_utf8_lossy(head.get(..count).unwrap_or_default()).to_ascii_lowercase();
                    let line = head.lines().find(|line| line.starts_with("x-forwarded-for")).unwrap_or("none");
                    let answer =
                        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{line}", line.len());
                    stream.write_all(answer.as_bytes()).ok();
                }
            });
        });
        assert_eq!(gateway.get("/").expect(200).text(), format!("x-forwarded-for: {}", place.ip));
        let mut stream = UnixStream::connect(gateway.directory().join("web.sock")).expect("the gateway listens");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it takes it");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("x-forwarded-for: unknown"), "{text}");
    });
}
