//! What the switch promises of every connection that it passes on: each byte, each end, each reset.

mod support;

use std::env;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use support::client::End;
use support::instance::{Instance, PATIENCE, eventually, everywhere, memory_kib};
use support::l4::{Backend, Numbers, Switch, config, connect, converse, end, receive, reset, rest, send};

#[test]
fn bytes_pass_unchanged_in_both_directions() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let switch = Switch::tcp(place, &[backend.address], "", "");
        let client = switch.connect();
        let server = backend.accept();
        // Every value of a byte, and nothing that is added or taken away at the ends.
        let all: Vec<u8> = (0..=255).collect();
        for size in [1, 2, 255, 256] {
            send(&client, &all[..size]);
            assert_eq!(receive(&server, size), all[..size]);
            send(&server, &all[256 - size..]);
            assert_eq!(receive(&client, size), all[256 - size..]);
        }
        client.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(end(&server), End::Closed);
        server.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(end(&client), End::Closed);
        switch.await_nothing_open();
    });
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let switch = Switch::tcp(place, &[backend.address], "", "");
        let client = switch.connect();
        let server = backend.accept();
        send(&server, "220 ready\r\n");
        assert_eq!(receive(&client, 11), b"220 ready\r\n");
        converse(&client, &server);
    });
}

/// RFC 9293 section 3.6: one direction ends, the other goes on as long as it likes.
#[test]
fn each_direction_ends_on_its_own() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let switch = Switch::tcp(place, &[backend.address], "", "");
        for client_ends_first in [true, false] {
            let client = switch.connect();
            let server = backend.accept();
            converse(&client, &server);
            let (first, second) = if client_ends_first { (&client, &server) } else { (&server, &client) };
            send(first, "last words");
            first.shutdown(Shutdown::Write).expect("it is open");
            assert_eq!(rest(second), (b"last words".to_vec(), End::Closed));
            // Far more than any buffer on the way holds.
            let much = vec![b'x'; 8_000_000];
            thread::scope(|scope| {
                scope.spawn(|| {
                    send(second, &much);
                    second.shutdown(Shutdown::Write).expect("it is open");
                });
                let (bytes, end) = rest(first);
                assert_eq!((bytes.len(), end), (much.len(), End::Closed));
            });
        }
        switch.await_nothing_open();
        let mut reasons: Vec<_> = switch.await_lines(2).iter().map(|line| line["reason"].clone()).collect();
        reasons.sort_by_key(ToString::to_string);
        assert_eq!(reasons, ["client_ended", "server_ended"]);
    });
}

/// A client that ends its direction before the connection to the server is there.
#[test]
fn a_request_with_its_end_in_one_segment() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let switch = Switch::tcp(place, &[backend.address], "", "");
        let clients: Vec<TcpStream> = (0..20)
            .map(|_| {
                let client = switch.connect();
                send(&client, "all of it");
                client.shutdown(Shutdown::Write).expect("it is open");
                client
            })
            .collect();
        for _ in &clients {
            let server = backend.accept();
            assert_eq!(rest(&server), (b"all of it".to_vec(), End::Closed));
            send(&server, "answer");
        }
        for client in clients {
            assert_eq!(rest(&client), (b"answer".to_vec(), End::Closed));
        }
        switch.await_nothing_open();
    });
}

#[test]
fn a_reset_of_the_client_becomes_one_for_the_server() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let switch = Switch::tcp(place, &[backend.address], "", "");
        // In the middle; behind bytes that the server did not read yet; behind the server's own end.
        let client = switch.connect();
        let server = backend.accept();
        converse(&client, &server);
        reset(client);
        assert_eq!(end(&server), End::Reset);

        let client = switch.connect();
        let server = backend.accept();
        converse(&client, &server);
        server.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(end(&client), End::Closed);
        reset(client);
        assert_eq!(end(&server), End::Reset);

        let client = switch.connect();
        let server = backend.accept();
        converse(&client, &server);
        send(&client, "half a transf");
        assert!(support::sockets::wait_until_read(switch.address, PATIENCE));
        reset(client);
        let (bytes, end) = rest(&server);
        assert_eq!((bytes.as_slice(), end), (&b"half a transf"[..], End::Reset));
        switch.await_nothing_open();
        switch.await_reason("client_reset", 3);
        assert_eq!(switch.metric("sumun_stream_ended_total", &["listener=\"l4\"", "reason=\"client_reset\""]), 3);
    });
}

#[test]
fn a_reset_of_the_server_becomes_one_for_the_client() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let switch = Switch::tcp(place, &[backend.address], "", "");
        let client = switch.connect();
        let server = backend.accept();
        converse(&client, &server);
        reset(server);
        assert_eq!(end(&client), End::Reset);

        let client = switch.connect();
        let server = backend.accept();
        converse(&client, &server);
        client.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(end(&server), End::Closed);
        // What was written lies in the gateway's kernel when the reset comes.
        send(&server, vec![b'y'; 10_000]);
        reset(server);
        let (bytes, end) = rest(&client);
        assert_eq!((bytes.len(), end), (10_000, End::Reset));
        switch.await_nothing_open();
        switch.await_reason("server_reset", 2);
        assert_eq!(switch.metric("sumun_stream_ended_total", &["listener=\"l4\"", "reason=\"server_reset\""]), 2);
    });
}

/// A client that does not read must neither hide the server's reset from the gateway for ever nor be
/// told of an orderly end.
#[test]
fn a_reset_behind_a_full_pipe_is_no_end() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let switch = Switch::tcp(place, &[backend.address], "", "");
        let client = switch.connect();
        let server = backend.accept();
        converse(&client, &server);
        server.set_write_timeout(Some(Duration::from_millis(200))).expect("a socket");
        // Until nobody takes any more.
        while (&server).write(&[b'z'; 64 * 1024]).is_ok() {}
        reset(server);
        let (bytes, end) = rest(&client);
        assert_eq!(end, End::Reset, "behind {} bytes", bytes.len());
        switch.await_nothing_open();
    });
}

#[test]
fn a_client_that_does_not_read_stops_the_server() {
    everywhere(|place| {
        const SIZE: usize = 64 * 1024 * 1024;
        let backend = Backend::new(place.ip);
        let switch = Switch::tcp(place, &[backend.address], "", "");
        let process = switch.gateway.worker_process();
        let before_kib = memory_kib(process, "VmHWM");
        let client = switch.connect();
        let server = backend.accept();
        let (told, progress) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                send(&server, vec![b'q'; SIZE]);
                server.shutdown(Shutdown::Write).expect("it is open");
                told.send(()).ok();
            });
            assert!(progress.recv_timeout(Duration::from_millis(500)).is_err(), "64 MiB lie on the way");
            assert_eq!(rest(&client).0.len(), SIZE);
        });
        let grown_kib = memory_kib(process, "VmHWM").saturating_sub(before_kib);
        assert!(grown_kib < 16 * 1024, "the worker grew by {grown_kib} KiB");
    });
}

#[test]
fn unix_sockets_on_both_sides() {
    everywhere(|place| {
        let pools = "app: { servers: [\"unix:$DIR/server.sock\"] }";
        let mut listening = None;
        let config = config(pools, "bind: [\"$L4\", \"unix:$DIR/front.sock\"], tcp: app");
        let switch = Switch::start_with(place, &config, |config| {
            Instance::start_in(place, config, |directory| {
                let path = directory.join("server.sock");
                listening = Some(UnixListener::bind(&path).expect("a socket"));
                // The worker process is another user.
                use std::os::unix::fs::PermissionsExt as _;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("its mode");
            })
        });
        let listening = listening.expect("it was made");
        let over_tcp = switch.connect();
        let (mut server, _) = listening.accept().expect("a connection");
        server.set_read_timeout(Some(PATIENCE)).expect("a socket");
        send(&over_tcp, "one");
        assert_eq!(receive(&mut server, 3), b"one");
        over_tcp.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(end(&mut server), End::Closed);
        send(&mut server, "two");
        drop(server);
        assert_eq!(rest(&over_tcp), (b"two".to_vec(), End::Closed));

        let mut local = UnixStream::connect(switch.gateway.directory().join("front.sock")).expect("a connection");
        local.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let (mut server, _) = listening.accept().expect("a connection");
        let much: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut local = &local;
                local.write_all(&much).expect("it is taken");
                local.shutdown(Shutdown::Write).expect("it is open");
            });
            assert!(rest(&mut server) == (much.clone(), End::Closed));
        });
        send(&mut server, "done");
        drop(server);
        assert_eq!(rest(&mut local), (b"done".to_vec(), End::Closed));
        switch.await_nothing_open();
    });
}

/// `127.0.0.1:5000-5002` is three addresses, for clients and for servers.
#[test]
fn every_port_of_a_range_is_bound() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        // Three in a row that nobody else is given.
        let first = loop {
            let [first, second, third] = [(); 3].map(|()| place.free_address());
            if (second.port(), third.port()) == (first.port() + 1, first.port() + 2) {
                break first;
            }
        };
        let config = config(
            &format!("app: {{ servers: [\"{}\"] }}", backend.address),
            &format!("bind: \"{first}-{}\", tcp: app", first.port() + 2),
        );
        let switch = Switch::start(place, &config);
        for port in first.port()..=first.port() + 2 {
            let client = connect(SocketAddr::new(first.ip(), port));
            converse(&client, &backend.accept());
        }
        switch.await_nothing_open();
    });
}

/// What one connection of the long test does.
#[derive(Debug, Clone, Copy)]
struct Plan {
    seed: u64,
    /// Of the client, of the server.
    sizes: [usize; 2],
    /// Which of the two breaks off, and after how many of its bytes.
    reset: Option<(usize, usize)>,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        // As many small ones as large ones, up to 4 MiB.
        let mut size = || {
            let bits = numbers.below(23);
            8 + numbers.below(1 << bits) as usize
        };
        let sizes = [size(), size()];
        let reset = numbers.once_in(4).then(|| {
            let side = numbers.below(2) as usize;
            (side, 8 + numbers.below(sizes[side] as u64 - 7) as usize)
        });
        Self { seed, sizes, reset }
    }
}

/// What one end of it saw.
#[derive(Debug)]
struct Seen {
    received: usize,
    /// The connection did not end in order: the reader or the writer was told.
    broken: bool,
}

/// Bytes of one direction of a connection, the same at both ends.
fn pattern(seed: u64, side: usize) -> impl FnMut(&mut [u8]) {
    let mut numbers = Numbers(seed ^ (0xa5a5_0000 + side as u64));
    let (mut word, mut left) = ([0; 8], 0);
    move |piece| {
        for byte in piece {
            if left == 0 {
                (word, left) = (numbers.next().to_le_bytes(), 8);
            }
            *byte = word[8 - left];
            left -= 1;
        }
    }
}

/// Plays one side of the plan to its end. The first eight bytes of the client say which plan it is; the
/// server has read them already.
fn play(plan: Plan, side: usize, stream: TcpStream) -> Seen {
    let over = AtomicBool::new(false);
    // The reader looks up now and then whether the writer broke the connection off.
    stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a socket");
    let (written, read) = thread::scope(|scope| {
        let writer = scope.spawn(|| write_side(plan, side, &stream, &over));
        (read_side(plan, 1 - side, &stream, &over), writer.join().expect("no panic"))
    });
    let ((received, read_broken), write_broken) = (written, read);
    if plan.reset.is_some_and(|(who, _)| who == side) {
        reset(stream);
    }
    Seen { received, broken: read_broken || write_broken }
}

fn write_side(plan: Plan, side: usize, mut stream: &TcpStream, over: &AtomicBool) -> bool {
    let mut numbers = Numbers(plan.seed.wrapping_add(77 + side as u64));
    let mut fill = pattern(plan.seed, side);
    let own_reset = plan.reset.filter(|(who, _)| *who == side);
    let size = own_reset.map_or(plan.sizes[side], |(_, at)| at);
    let mut piece = vec![0; 256 * 1024];
    let mut sent = 0;
    if side == 0 {
        // As a whole: without it the server knows nothing.
        if stream.write_all(&plan.seed.to_le_bytes()).is_err() {
            return true;
        }
        fill(&mut piece[..8]);
        sent = 8;
    }
    while sent < size {
        let largest = 1 << numbers.below(19);
        let count = (1 + numbers.below(largest) as usize).min(size - sent);
        fill(&mut piece[..count]);
        if stream.write_all(&piece[..count]).is_err() {
            return true;
        }
        sent += count;
        if numbers.once_in(40) {
            thread::sleep(Duration::from_micros(numbers.below(3_000)));
        }
    }
    if own_reset.is_some() {
        over.store(true, Ordering::SeqCst);
    } else {
        stream.shutdown(Shutdown::Write).ok();
    }
    false
}

fn read_side(plan: Plan, of: usize, mut stream: &TcpStream, over: &AtomicBool) -> (usize, bool) {
    let mut numbers = Numbers(plan.seed.wrapping_add(99 + of as u64));
    let mut fill = pattern(plan.seed, of);
    let (mut got, mut wanted) = (vec![0; 128 * 1024], vec![0; 128 * 1024]);
    let mut received = 0;
    if of == 0 {
        fill(&mut wanted[..8]);
        received = 8;
    }
    while !over.load(Ordering::SeqCst) {
        let room = 1 + numbers.below(got.len() as u64) as usize;
        match stream.read(&mut got[..room]) {
            Ok(0) => return (received, false),
            Ok(count) => {
                fill(&mut wanted[..count]);
                assert!(got[..count] == wanted[..count], "other bytes within {count} behind {received}: {plan:?}");
                received += count;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return (received, true),
        }
        if numbers.once_in(60) {
            thread::sleep(Duration::from_micros(numbers.below(3_000)));
        }
    }
    (received, false)
}

fn check(plan: Plan, side: usize, seen: &Seen) {
    let other = 1 - side;
    match plan.reset {
        None => {
            assert_eq!((seen.received, seen.broken), (plan.sizes[other], false), "side {side} of {plan:?}");
        }
        Some((who, at)) if who == other => {
            assert!(seen.broken, "side {side} took {} bytes for all there are: {plan:?}", seen.received);
            assert!(seen.received <= at, "side {side} has {} bytes: {plan:?}", seen.received);
        }
        Some(_) => assert!(seen.received <= plan.sizes[other], "side {side}: {seen:?} {plan:?}"),
    }
}

/// Connections of random sizes with random pauses, half-closes and resets. 200 MB by default; a long
/// run is `SUMUN_STREAM_BYTES=10000000000 cargo test -p sumun --test tcp random`. A failure names the
/// plan, which follows from its seed alone.
#[test]
fn random_connections_lose_no_byte() {
    const AT_ONCE: u64 = 8;
    let bytes = env::var("SUMUN_STREAM_BYTES").map_or(200_000_000, |text| text.parse().expect("a number of bytes"));
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let switch = Switch::tcp(place, &[backend.address], "", "");
        let (address, done) = (switch.address, AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let Some(stream) = backend.waiting() else {
                        thread::sleep(Duration::from_millis(1));
                        continue;
                    };
                    scope.spawn(move || {
                        let mut seed = [0; 8];
                        // A client that broke off may have left nothing.
                        if (&stream).read_exact(&mut seed).is_ok() {
                            let plan = Plan::new(u64::from_le_bytes(seed));
                            check(plan, 1, &play(plan, 1, stream));
                        }
                    });
                }
            });
            let clients: Vec<_> = (0..AT_ONCE)
                .map(|lane| {
                    scope.spawn(move || {
                        let mut numbers = Numbers(lane + 1000 * place.workers as u64);
                        let mut left = bytes / 2 / AT_ONCE as usize;
                        while left > 0 {
                            let plan = Plan::new(numbers.next());
                            check(plan, 0, &play(plan, 0, connect(address)));
                            left = left.saturating_sub(plan.sizes[0] + plan.sizes[1]);
                        }
                    })
                })
                .collect();
            let results: Vec<_> = clients.into_iter().map(thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::SeqCst);
            results.into_iter().for_each(|result| result.expect("every client's connection was as planned"));
        });
        switch.await_nothing_open();
    });
}

/// Connections that are reset as soon as they are there leave nothing behind.
#[test]
fn a_flood_of_resets_leaves_nothing() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let switch = Switch::tcp(place, &[backend.address], "", "");
        let process = switch.gateway.worker_process();
        let flood = |count: usize, bytes: &[u8]| {
            for number in 0..count {
                let client = switch.connect();
                if number % 2 == 0 {
                    send(&client, bytes);
                }
                reset(client);
                while backend.waiting().is_some() {}
            }
        };
        // The allocator has what it keeps after the first ones.
        flood(300, b"some");
        switch.await_nothing_open();
        let before_kib = memory_kib(process, "VmRSS");
        flood(2000, b"some");
        // Some may not even have been accepted yet.
        eventually("all have come to an end", || {
            while backend.waiting().is_some() {}
            switch.metric("sumun_stream_ended_total", &["listener=\"l4\""]) == 2300
        });
        switch.await_nothing_open();
        while backend.waiting().is_some() {}
        let grown_kib = memory_kib(process, "VmRSS").saturating_sub(before_kib);
        assert!(grown_kib < 8 * 1024, "the worker grew by {grown_kib} KiB");
        let client = switch.connect();
        converse(&client, &backend.accept());
    });
}

/// Each connection has one line, with what passed.
#[test]
fn the_log_and_the_metrics_tell_of_each_connection() {
    everywhere(|place| {
        let backend = Backend::new(place.ip);
        let switch = Switch::tcp(place, &[backend.address], "", "");
        let client = switch.connect();
        let server = backend.accept();
        eventually("it is counted", || switch.open() == 1);
        send(&client, "12345");
        assert_eq!(receive(&server, 5), b"12345");
        send(&server, "1234567");
        assert_eq!(receive(&client, 7), b"1234567");
        drop(client);
        assert_eq!(end(&server), End::Closed);
        drop(server);
        let line = switch.await_lines(1).remove(0);
        assert_eq!(line["client"], place.ip.to_string(), "{line}");
        assert_eq!((&line["pool"], &line["server"]), (&"app".into(), &backend.address.to_string().into()), "{line}");
        assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&5.into(), &7.into()), "{line}");
        assert_eq!((&line["tries"], &line["reason"]), (&1.into(), &"client_ended".into()), "{line}");
        switch.await_nothing_open();
        let bytes = |direction: &str| switch.metric("sumun_stream_bytes_total", &["listener=\"l4\"", direction]);
        assert_eq!((bytes("direction=\"in\""), bytes("direction=\"out\"")), (5, 7));
        let ended = |labels: &[&str]| switch.metric("sumun_stream_ended_total", labels);
        assert_eq!(ended(&["listener=\"l4\"", "reason=\"client_ended\"", "side=\""]), 1);
        assert_eq!(ended(&["listener=\"l4\""]), 1);
    });
}
