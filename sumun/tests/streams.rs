//! Bodies on their way: buffered where that frees a server, streamed where they are large.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;

use support::instance::{Instance, PATIENCE, eventually, everywhere, memory_kib};
use support::server::{Server, ok};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What the worker process may grow by while a body passes that is much larger: buffers of both
/// directions and what an allocator keeps.
const GROWTH_KIB_MAX: u64 = 16 * 1024;

/// The server has done its part when it has written, however slowly the client reads.
#[test]
fn a_slow_client_does_not_hold_the_server() {
    everywhere(|place| {
        let body = vec![b'x'; 200 * KIB];
        let server =
            Server::answering(place.ip, move |request| if request.target == "/big" { ok(&body) } else { ok("small") });
        // One request at a time: the second one gets its turn only when the first one's place is free.
        let gateway = Instance::proxy(place, &[server.address()], "concurrency: 1, queue: { timeout: 20s },", "");
        let mut slow = gateway.connect();
        slow.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(slow.head().0, 200);
        // It reads nothing of the body now.
        let pools = || gateway.json(&["pool", "app"])[0]["in_flight"].clone();
        eventually("the server is free", || pools() == 0);
        assert_eq!(slow.bytes(200 * KIB).len(), 200 * KIB);
    });
}

/// A body that trickles in is none of the server's business before it is complete.
#[test]
fn a_trickling_request_body_holds_no_server() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| ok(&request.body));
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        for framing in ["Content-Length: 30", "Transfer-Encoding: chunked"] {
            let before = server.accepted();
            let mut client = gateway.connect();
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
            for piece in ["0123456789", "abcdefghij"] {
                let chunk = if framing.contains("chunked") { format!("a\r\n{piece}\r\n") } else { piece.to_owned() };
                client.send(chunk);
                // Another request passes meanwhile: the first one's bytes have been read by then.
                gateway.get("/other").expect(200);
                assert_eq!(server.requests().iter().filter(|seen| seen.method == "POST").count(), before.min(1));
            }
            let last = if framing.contains("chunked") { "a\r\nABCDEFGHIJ\r\n0\r\n\r\n" } else { "ABCDEFGHIJ" };
            assert_eq!(client.send(last).answer().expect(200).text(), "0123456789abcdefghijABCDEFGHIJ");
            let seen = server.requests().into_iter().rfind(|seen| seen.method == "POST").expect("it came");
            assert_eq!(seen.header("content-length").as_deref(), Some("30"), "its length is known by now");
        }
    });
}

/// Sends this many bytes of a pattern in which a lost or doubled piece is seen.
fn send_pattern(stream: &mut TcpStream, size: usize) -> std::io::Result<()> {
    let mut piece = vec![0; 64 * KIB];
    let mut sent = 0;
    while sent < size {
        let count = piece.len().min(size - sent);
        fill_pattern(&mut piece, sent);
        stream.write_all(piece.get(..count).unwrap_or_default())?;
        sent += count;
    }
    Ok(())
}

fn fill_pattern(piece: &mut [u8], from: usize) {
    for (word, at) in piece.chunks_mut(8).zip((from..).step_by(8)) {
        word.copy_from_slice((at as u64).to_le_bytes().get(..word.len()).unwrap_or_default());
    }
}

/// Reads up to this many bytes; gives how many of the pattern came in order.
fn read_pattern(stream: &mut dyn Read, size: usize) -> usize {
    let (mut got, mut wanted) = (vec![0; 64 * KIB], vec![0; 64 * KIB]);
    let mut count = 0;
    while count < size {
        let next = got.len().min(size - count);
        let Some(piece) = got.get_mut(..next) else { break };
        if stream.read_exact(piece).is_err() {
            break;
        }
        fill_pattern(&mut wanted, count);
        assert!(wanted.get(..next) == Some(&*piece), "other bytes within 64 KiB behind {count}");
        count += next;
    }
    count
}

#[test]
fn a_large_download_streams_with_backpressure() {
    everywhere(|place| {
        for framing in ["length", "chunks"] {
            const SIZE: usize = 64 * MIB;
            let (told, progress) = mpsc::channel();
            let told = std::sync::Mutex::new(told);
            let server = Server::start(place.ip, move |peer| {
                if peer.request().is_none() {
                    return;
                }
                if framing == "length" {
                    peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
                    send_pattern(&mut peer.stream, SIZE).ok();
                } else {
                    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                    let chunk = vec![b'x'; MIB];
                    for _ in 0..SIZE / MIB {
                        peer.send([format!("{MIB:x}\r\n").as_bytes(), &chunk, b"\r\n"].concat());
                    }
                    peer.send("0\r\n\r\n");
                }
                told.lock().expect("no test thread panicked with it").send(()).ok();
            });
            let gateway = Instance::proxy(place, &[server.address()], "", "");
            let process = gateway.worker_process();
            let before_kib = memory_kib(process, "VmHWM");
            let mut client = gateway.connect();
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.head().0, 200);
            // It does not read: the server cannot be done.
            gateway.connect().send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").head();
            assert!(progress.try_recv().is_err(), "64 MiB lie between server and client");
            if framing == "length" {
                let here = client.buffered();
                let mut rest = here.as_slice().chain(&client.stream);
                assert_eq!(read_pattern(&mut rest, SIZE), SIZE);
            } else {
                assert_eq!(client.chunked_size(), SIZE);
            }
            progress.recv_timeout(PATIENCE).expect("the server is done");
            // The kernel counts in batches: where nothing grew, it may seem to have shrunk.
            let grown_kib = memory_kib(process, "VmHWM").saturating_sub(before_kib);
            assert!(grown_kib < GROWTH_KIB_MAX, "{framing}: the worker grew by {grown_kib} KiB");
        }
    });
}

#[test]
fn a_large_upload_streams_with_backpressure() {
    everywhere(|place| {
        const SIZE: usize = 64 * MIB;
        let (go, waits) = mpsc::channel::<()>();
        let waits = std::sync::Mutex::new(waits);
        let server = Server::start(place.ip, move |peer| {
            let Some(request) = peer.head() else { return };
            assert_eq!(request.header("content-length"), Some(SIZE.to_string()));
            // Reads nothing until it is told to.
            waits.lock().expect("no test thread panicked with it").recv_timeout(PATIENCE).ok();
            let count = peer.read_body_with(|stream| read_pattern(stream, SIZE));
            peer.send(ok(count.to_string()));
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "bounds: { body: 100MiB },");
        let process = gateway.worker_process();
        let before_kib = memory_kib(process, "VmHWM");
        let mut client = gateway.connect();
        client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
        let mut sink = client.stream.try_clone().expect("a second handle");
        let sender = thread::spawn(move || send_pattern(&mut sink, SIZE));
        server.await_count(1);
        assert!(!sender.is_finished(), "64 MiB lie between client and server");
        go.send(()).expect("the server waits");
        assert_eq!(client.answer().expect(200).text(), SIZE.to_string());
        sender.join().expect("no panic").expect("the body was taken");
        // The kernel counts in batches: where nothing grew, it may seem to have shrunk.
        let grown_kib = memory_kib(process, "VmHWM").saturating_sub(before_kib);
        assert!(grown_kib < GROWTH_KIB_MAX, "the worker grew by {grown_kib} KiB");
    });
}

/// RFC 9112 section 9.3: a server may answer before it has read the body.
#[test]
fn an_answer_before_the_end_of_the_body() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            let Some(request) = peer.head() else { return };
            if request.method == "GET" {
                peer.send(ok("next"));
                return;
            }
            peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!");
            peer.drain();
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "bounds: { body: 100MiB },");
        let mut client = gateway.connect();
        client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n");
        let mut sink = client.stream.try_clone().expect("a second handle");
        // Ends with an error when the gateway closes.
        let sender = thread::spawn(move || send_pattern(&mut sink, 50_000_000));
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (413, "no!"));
        drop(client);
        sender.join().expect("no panic").ok();
        assert_eq!(gateway.get("/").expect(200).text(), "next");
    });
}

/// Both directions at once, each in chunks that the other side answers.
#[test]
fn a_conversation_in_chunks() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            let Some(request) = peer.head() else { return };
            assert_eq!(request.header("transfer-encoding").as_deref(), Some("chunked"));
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            // What was collected before the server was asked, then piece by piece.
            while let Some(chunk) = peer.chunk() {
                let size = chunk.len();
                peer.send([format!("{size:x}\r\n").as_bytes(), &chunk, b"\r\n"].concat());
                if size == 0 {
                    return;
                }
            }
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        // Beyond 256 KiB a body is not collected any more.
        let piece = vec![b'a'; 100 * KIB];
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            client.send([format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat());
        }
        assert_eq!(client.head().0, 200);
        let mut got = 0;
        while got < 3 * piece.len() {
            got += client.chunk().len();
        }
        for word in ["one", "two", "three"] {
            client.send(format!("{:x}\r\n{word}\r\n", word.len()));
            assert_eq!(client.chunk(), word.as_bytes(), "while the body is not complete");
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.chunk(), b"");
    });
}
