//! A listener's side.

use std::future::poll_fn;
use std::io::{IoSlice, Read, Write};
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::Poll;

use proptest::prelude::*;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use sumun_certificates::Leaf;

use super::super::*;
use super::certificates::{self, Kind};
use super::support::*;
use crate::limits::SMALL_BUFFER_BYTES;

const ONE: &str = "{ certs: { cert: /a.pem, key: /a.key } }";

#[test]
fn every_size_comes_back_in_both_versions() {
    let authority = certificates::authority("Authority");
    for kind in [Kind::Ecdsa, Kind::Ed25519, Kind::Rsa] {
        let pair = authority.pair(&["a.example"], kind);
        let config = config(ONE);
        let listener = listener(&tls(&config, &material(&[("a", &pair)])), &config);
        for version in VERSIONS {
            let client = Arc::new(client(&authority, &[version], None));
            for length in [0, 1, 100, 16_384, 16_385, 70_000, 1_000_000] {
                run(async {
                    let (socket, address) = bind().await;
                    let sent = pattern(length);
                    let what = move |tls: &mut ClientConnection, socket: &mut StdStream| exchange(tls, socket, &sent);
                    let client = dial(address, &client, "a.example", what);
                    let mut stream = accept(&socket, &listener).await;
                    let session = handshake(&mut stream).await.unwrap();
                    // The first length is that of a new client.
                    assert_eq!(session.resumed, length > 0);
                    assert_eq!(session.version == "TLSv1.3", version.version == rustls::ProtocolVersion::TLSv1_3);
                    echo(&mut stream, if length % 2 == 0 { 64 * 1024 } else { 1000 }).await;
                    assert_eq!(client.join().unwrap(), pattern(length));
                });
            }
        }
    }
}

#[test]
fn parts_of_all_sizes_arrive_in_order() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = config(ONE);
    let listener = listener(&tls(&config, &material(&[("a", &pair)])), &config);
    let client = Arc::new(client(&authority, &VERSIONS, None));
    for lengths in [&[300, 200][..], &[300, 40_000, 5], &[16_384, 1], &[100_000], &[0, 0, 7], &[10, 16_384, 49_152, 3]]
    {
        run(async {
            let (socket, address) = bind().await;
            let client = dial(address, &client, "a.example", |tls, socket| {
                let mut answer = Vec::new();
                rustls::Stream::new(tls, socket).read_to_end(&mut answer).unwrap();
                answer
            });
            let mut stream = accept(&socket, &listener).await;
            handshake(&mut stream).await.unwrap();
            let whole = pattern(lengths.iter().sum());
            let mut parts: Vec<&[u8]> = Vec::new();
            let mut rest = whole.as_slice();
            for length in lengths {
                let (part, later) = rest.split_at(*length);
                parts.push(part);
                rest = later;
            }
            let mut left = whole.len();
            while left > 0 {
                let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
                let mut count = poll_fn(|context| stream.poll_write_vectored(context, &slices)).await.unwrap();
                left -= count;
                for part in &mut parts {
                    let taken = count.min(part.len());
                    *part = &part[taken..];
                    count -= taken;
                }
            }
            poll_fn(|context| stream.poll_shutdown(context)).await.unwrap();
            assert_eq!(client.join().unwrap(), whole);
        });
    }
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = config(ONE);
    let listener = listener(&tls(&config, &material(&[("a", &pair)])), &config);
    for version in VERSIONS {
        let client = Arc::new(client(&authority, &[version], None));
        run(async {
            let (socket, address) = bind().await;
            let (go_on, wait) = mpsc::channel::<()>();
            let client = dial(address, &client, "a.example", move |tls, socket| {
                let mut stream = rustls::Stream::new(tls, socket);
                stream.write_all(&pattern(50_000)).unwrap();
                stream.flush().unwrap();
                wait.recv().unwrap();
            });
            let mut stream = accept(&socket, &listener).await;
            handshake(&mut stream).await.unwrap();
            let mut buffer = vec![0; 64 * 1024];
            let mut count = 0;
            while count < 50_000 {
                count += read(&mut stream, &mut buffer).await.unwrap();
            }
            write_all(&mut stream, &pattern(50_000)).await.unwrap();
            // The wait begins: what is left of the handshake has gone, too.
            let waits = poll_fn(|context| Poll::Ready(stream.poll_readable(context).is_pending())).await;
            assert!(waits);
            assert_eq!(stream.held_bytes(), 0);
            assert_eq!(crate::buffers::leased_bytes(), 0);
            go_on.send(()).unwrap();
            client.join().unwrap();
        });
    }
}

#[test]
fn a_record_in_pieces_is_waited_for() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = config(ONE);
    let listener = listener(&tls(&config, &material(&[("a", &pair)])), &config);
    let client = Arc::new(client(&authority, &VERSIONS, None));
    run(async {
        let (socket, address) = bind().await;
        let client = dial(address, &client, "a.example", |tls, socket| {
            tls.complete_io(socket).unwrap();
            tls.writer().write_all(&pattern(20_000)).unwrap();
            let mut bytes = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut bytes).unwrap();
            }
            socket.set_nodelay(true).unwrap();
            for piece in bytes.chunks(777) {
                socket.write_all(piece).unwrap();
                std::thread::yield_now();
            }
            // Gone without a word.
        });
        let mut stream = accept(&socket, &listener).await;
        handshake(&mut stream).await.unwrap();
        let mut buffer = vec![0; 4000];
        let mut received = Vec::new();
        while received.len() < 20_000 {
            poll_fn(|context| stream.poll_readable(context)).await.unwrap();
            let count = read(&mut stream, &mut buffer).await.unwrap();
            received.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(received, pattern(20_000));
        client.join().unwrap();
        let error = read(&mut stream, &mut buffer).await.unwrap_err();
        assert!(matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset));
    });
}

#[test]
fn a_write_that_has_to_wait_goes_on_where_it_was() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = config(ONE);
    let listener = listener(&tls(&config, &material(&[("a", &pair)])), &config);
    let client = Arc::new(client(&authority, &VERSIONS, None));
    run(async {
        let (socket, address) = bind().await;
        let (go_on, wait) = mpsc::channel::<()>();
        let client = dial(address, &client, "a.example", move |tls, socket| {
            tls.complete_io(socket).unwrap();
            wait.recv().unwrap();
            let mut answer = Vec::new();
            rustls::Stream::new(tls, socket).read_to_end(&mut answer).unwrap();
            answer
        });
        let mut stream = accept(&socket, &listener).await;
        handshake(&mut stream).await.unwrap();
        let whole = pattern(30_000_000);
        let mut written = 0;
        // Until the kernel takes no more.
        let blocked = poll_fn(|context| {
            loop {
                match stream.poll_write(context, &whole[written..]) {
                    Poll::Ready(count) => written += count.unwrap(),
                    Poll::Pending => return Poll::Ready(true),
                }
            }
        });
        assert!(blocked.await);
        assert!(written < whole.len() && stream.held_bytes() > 0);
        go_on.send(()).unwrap();
        write_all(&mut stream, &whole[written..]).await.unwrap();
        poll_fn(|context| stream.poll_shutdown(context)).await.unwrap();
        assert!(client.join().unwrap() == whole);
    });
}

#[test]
fn what_was_not_read_is_kept_while_something_is_written() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = config(ONE);
    let listener = listener(&tls(&config, &material(&[("a", &pair)])), &config);
    let client = Arc::new(client(&authority, &VERSIONS, None));
    run(async {
        let (socket, address) = bind().await;
        let client = dial(address, &client, "a.example", |tls, socket| {
            let mut stream = rustls::Stream::new(tls, socket);
            stream.write_all(&pattern(100_000)).unwrap();
            let mut answer = vec![0; 50_000];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, pattern(50_000));
        });
        let mut stream = accept(&socket, &listener).await;
        handshake(&mut stream).await.unwrap();
        // One byte is read: the rest of what came with it lies with the connection.
        let mut buffer = vec![0; 64 * 1024];
        assert_eq!(read(&mut stream, &mut buffer[..1]).await.unwrap(), 1);
        write_all(&mut stream, &pattern(50_000)).await.unwrap();
        let mut received = vec![pattern(1)[0]];
        while received.len() < 100_000 {
            let count = read(&mut stream, &mut buffer).await.unwrap();
            received.extend_from_slice(&buffer[..count]);
        }
        assert!(received == pattern(100_000));
        client.join().unwrap();
    });
}

/// Opens connections one after the other; says of each whether it was resumed, and which
/// certificate was seen last.
fn connect(listeners: &[&Arc<TlsListener>], client: &Arc<rustls::ClientConfig>, name: &'static str) -> Vec<bool> {
    let mut resumed = Vec::new();
    for listener in listeners {
        run(async {
            let (socket, address) = bind().await;
            let what = |tls: &mut ClientConnection, socket: &mut StdStream| exchange(tls, socket, b"hello");
            let client = dial(address, client, name, what);
            let mut stream = accept(&socket, listener).await;
            resumed.push(handshake(&mut stream).await.unwrap().resumed);
            echo(&mut stream, 4096).await;
            assert_eq!(client.join().unwrap(), b"hello");
        });
    }
    resumed
}

#[test]
fn sessions_are_resumed_by_every_process_with_the_keys_and_by_no_other() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = config(ONE);
    let mut material = material(&[("a", &pair)]);
    for version in VERSIONS {
        let (first, second) = (tls(&config, &material), tls(&config, &material));
        let (one, other) = (listener(&first, &config), listener(&second, &config));
        let client = Arc::new(client(&authority, &[version], None));
        assert_eq!(connect(&[&one, &other, &one], &client, "a.example"), [false, true, true]);

        // New keys, then the same certificate in another process: tickets of before still open.
        let old = material.tickets.clone();
        material.tickets = old.rotated(DAY + 1, &[2; KEY_RANDOM_BYTES]);
        second.apply(&config, &material).unwrap();
        assert_eq!(connect(&[&other], &client, "a.example"), [true]);
        material.tickets = TicketKeys::default().rotated(DAY + 2, &[3; KEY_RANDOM_BYTES]);
        second.apply(&config, &material).unwrap();
        assert_eq!(connect(&[&other, &other], &client, "a.example"), [false, true]);
        material.tickets = old;
    }
}

#[test]
fn without_tickets_every_handshake_is_a_full_one() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = config("{ certs: { cert: /a.pem, key: /a.key }, tickets: off }");
    let listener = listener(&tls(&config, &material(&[("a", &pair)])), &config);
    for version in VERSIONS {
        let client = Arc::new(client(&authority, &[version], None));
        assert_eq!(connect(&[&listener, &listener], &client, "a.example"), [false, false]);
    }
}

fn names(seen: &Watcher) -> Vec<String> {
    seen.0.lock().unwrap().certificates.iter().map(|der| Leaf::parse(der).unwrap().title()).collect()
}

#[test]
fn certificates_are_chosen_by_name_and_replaced_while_connections_live() {
    let authority = certificates::authority("Authority");
    let a = authority.pair(&["a.example"], Kind::Ecdsa);
    let b = authority.pair(&["*.b.example"], Kind::Ecdsa);
    let config = config("{ certs: [{ cert: /a.pem, key: /a.key }, { cert: /b.pem, key: /b.key }] }");
    let material_before = material(&[("a", &a), ("b", &b)]);
    let tls = tls(&config, &material_before);
    let listener = listener(&tls, &config);
    let (client, seen) = watching_client();
    connect(&[&listener], &client, "x.b.example");
    connect(&[&listener], &client, "a.example");
    connect(&[&listener], &client, "other.example");
    assert_eq!(names(&seen), ["*.b.example", "a.example", "a.example"]);

    run(async {
        let (socket, address) = bind().await;
        let (go_on, wait) = mpsc::channel::<()>();
        let old = dial(address, &client, "a.example", move |tls, socket| {
            tls.complete_io(socket).unwrap();
            wait.recv().unwrap();
            exchange(tls, socket, b"still here")
        });
        let mut stream = accept(&socket, &listener).await;
        handshake(&mut stream).await.unwrap();

        // A pair that does not fit changes nothing.
        let mixed = certificates::Pair { certificate: b.certificate.clone(), key: a.key.clone() };
        let why = tls.apply(&config, &material(&[("a", &mixed), ("b", &b)])).unwrap_err();
        assert!(why.contains("/a.pem") && why.contains("does not fit"), "{why}");

        let renewed = authority.pair(&["renewed.example", "a.example"], Kind::Ecdsa);
        tls.apply(&config, &material(&[("a", &renewed), ("b", &b)])).unwrap();
        go_on.send(()).unwrap();
        echo(&mut stream, 4096).await;
        assert_eq!(old.join().unwrap(), b"still here");
    });
    let (client, seen) = watching_client();
    connect(&[&listener], &client, "a.example");
    assert_eq!(names(&seen), ["renewed.example"]);
    let families = crate::telemetry::render(&tls.families());
    assert!(families.contains("sumun_tls_certificate_expires_seconds{listener=\"web\",name=\"renewed.example\"} 1"));
    assert!(families.contains("sumun_tls_handshakes_total{listener=\"web\",resumed=\"no\"} 4\n"), "{families}");
    assert!(families.contains("sumun_tls_handshakes_total{listener=\"web\",resumed=\"yes\"} 1\n"), "{families}");
}

#[test]
fn a_staple_goes_with_its_certificate() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = config("{ certs: { cert: /a.pem, key: /a.key, ocsp: /a.ocsp } }");
    let files = &config.listeners["web"].tls.first_key_value().unwrap().1.certificates[0];
    let blob = |text: &str| Blob::new(text.as_bytes().to_vec());
    let staple = Some(blob("what the responder said"));
    let identity = IdentityMaterial::new(files, blob(&pair.certificate), blob(&pair.key), staple);
    let material = Material { identities: vec![identity], ..Material::default() };
    let listener = listener(&tls(&config, &material), &config);
    let (client, seen) = watching_client();
    connect(&[&listener], &client, "a.example");
    assert_eq!(seen.0.lock().unwrap().staple, b"what the responder said");
}

/// How the server's side of a handshake ended, and the sum of what was counted.
fn outcome(
    config: &sumun_config::checked::Config,
    material: &Material,
    client: &Arc<rustls::ClientConfig>,
) -> (Result<Option<String>, Reason>, HandshakeCounts) {
    let tls = tls(config, material);
    let listener = listener(&tls, config);
    let result = run(async {
        let (socket, address) = bind().await;
        let client = dial(address, client, "a.example", |tls, socket| {
            let opened = tls.complete_io(socket).is_ok();
            // A refusal in TLS 1.3 comes after the client believes that all is well.
            let end = rustls::Stream::new(tls, socket).read(&mut [0; 16]);
            opened && end.is_ok()
        });
        let mut stream = accept(&socket, &listener).await;
        let result = handshake(&mut stream).await;
        if result.is_ok() {
            poll_fn(|context| stream.poll_shutdown(context)).await.unwrap();
        }
        let subject = stream.peer_subject();
        drop(stream);
        let client_is_content = client.join().unwrap();
        assert_eq!(client_is_content, result.is_ok());
        result.map(|_| subject).map_err(|failure| failure.reason)
    });
    (result, listener.counts().sum())
}

#[test]
fn clients_show_certificates_where_they_have_to() {
    let authority = certificates::authority("Authority");
    let strange = certificates::authority("Somebody");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let (friend, stranger) = (authority.pair(&["ann"], Kind::Ecdsa), strange.pair(&["eve"], Kind::Ecdsa));
    let mut material = material(&[("a", &pair)]);
    material.authorities = vec![authority_file("/ca.pem", &authority)];
    let required = config("{ certs: { cert: /a.pem, key: /a.key }, client_auth: { ca: /ca.pem } }");
    let optional = config("{ certs: { cert: /a.pem, key: /a.key }, client_auth: { ca: /ca.pem, mode: optional } }");
    for version in VERSIONS {
        let anonymous = Arc::new(client(&authority, &[version], None));
        let known = Arc::new(client(&authority, &[version], Some(&friend)));
        let unknown = Arc::new(client(&authority, &[version], Some(&stranger)));
        let subject = "O=Gr\\C3\\B6\\C3\\9Fe\\, Ltd,CN=ann".to_owned();
        for config in [&required, &optional] {
            let (result, counts) = outcome(config, &material, &known);
            assert_eq!(result, Ok(Some(subject.clone())));
            assert_eq!((counts.full, counts.failed), (1, [0; 11]));
            // Nothing was sealed, so nothing can be resumed: every connection shows its certificate.
            let (result, counts) = outcome(config, &material, &known);
            assert_eq!((result, counts.resumed), (Ok(Some(subject.clone())), 0));
        }
        assert_eq!(outcome(&optional, &material, &anonymous).0, Ok(None));
        let (result, counts) = outcome(&required, &material, &anonymous);
        assert_eq!((result, counts.failed[6]), (Err(Reason::Certificate), 1));
        if version.version == rustls::ProtocolVersion::TLSv1_3 {
            // An older client does not even try with a certificate that nobody asked for.
            assert_eq!(outcome(&optional, &material, &unknown).0.unwrap_or_default(), None);
        }
    }
}

#[test]
fn failures_say_why() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let material = material(&[("a", &pair)]);
    let newest = config("{ certs: { cert: /a.pem, key: /a.key }, min_version: 1.3 }");
    let old = Arc::new(client(&authority, &[&rustls::version::TLS12], None));
    assert_eq!(outcome(&newest, &material, &old).0, Err(Reason::Version));

    let config = config(ONE);
    let distrusting = Arc::new(client(&certificates::authority("Another"), &VERSIONS, None));
    assert_eq!(outcome(&config, &material, &distrusting).0, Err(Reason::Refused));
    let mut other_protocol = client(&authority, &VERSIONS, None);
    other_protocol.alpn_protocols = vec![b"spdy/3".to_vec()];
    assert_eq!(outcome(&config, &material, &Arc::new(other_protocol)).0, Err(Reason::Protocol));

    let listener = listener(&tls(&config, &material), &config);
    let raw = |bytes: &'static [u8]| {
        run(async {
            let (socket, address) = bind().await;
            let client = std::thread::spawn(move || {
                let mut socket = StdStream::connect(address).unwrap();
                // It may be refused before it is all there.
                socket.write_all(bytes).and_then(|()| socket.shutdown(std::net::Shutdown::Write)).ok();
                let mut answer = Vec::new();
                // A reset is an answer, too.
                socket.read_to_end(&mut answer).ok();
                answer
            });
            let mut stream = accept(&socket, &listener).await;
            let failure = handshake(&mut stream).await.unwrap_err();
            let plain = stream.into_plain().1.map(|lease| lease.filled().to_vec());
            (failure.reason, plain.unwrap_or_default(), client.join().unwrap())
        })
    };
    let (reason, plain, answer) = raw(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!((reason, plain.as_slice(), answer.len()), (Reason::NotTls, b"GET / HTTP/1.1\r\n\r\n".as_slice(), 0));
    assert_eq!(raw(b"").0, Reason::Gone);
    assert_eq!(raw(&[22, 3, 1, 0, 100, 1, 0, 0]).0, Reason::Gone);
    // Longer than a record may be: refused at once, with an alert.
    let (reason, _, answer) = raw(&[22, 3, 1, 0xff, 0xff]);
    assert_eq!((reason, answer.first()), (Reason::Malformed, Some(&21)));
    assert_eq!(raw(&[22, 3, 1, 0, 4, 9, 0, 0, 0]).0, Reason::Malformed);
    // A message that says it will be too long, and one whose fragments are more than is kept.
    assert_eq!(raw(&[22, 3, 1, 0, 4, 1, 1, 0, 0]).0, Reason::TooLarge);
    let mut fragments = vec![22, 3, 1, 0, 4, 1, 0, 0xff, 0xff];
    while fragments.len() <= limits::HANDSHAKE_BYTES {
        fragments.extend_from_slice(&[22, 3, 1, 0, 100]);
        fragments.extend_from_slice(&[0; 100]);
    }
    assert_eq!(raw(fragments.leak()).0, Reason::TooLarge);
}

#[test]
fn who_gives_up_is_counted() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = config(ONE);
    let listener = listener(&tls(&config, &material(&[("a", &pair)])), &config);
    run(async {
        let (socket, address) = bind().await;
        let client = StdStream::connect(address).unwrap();
        let mut stream = accept(&socket, &listener).await;
        let waits = poll_fn(|context| Poll::Ready(stream.poll_handshake(context).is_pending())).await;
        assert!(waits);
        stream.give_up();
        drop(client);
        assert_eq!(handshake(&mut stream).await.unwrap_err().reason, Reason::Timeout);
    });
    assert_eq!(listener.counts().sum().failed[1], 1);
}

#[test]
fn new_traffic_keys_change_nothing_for_the_caller() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = config(ONE);
    let listener = listener(&tls(&config, &material(&[("a", &pair)])), &config);
    let client = Arc::new(client(&authority, &[&rustls::version::TLS13], None));
    run(async {
        let (socket, address) = bind().await;
        let client = dial(address, &client, "a.example", |tls, socket| {
            let mut answer = [0; 5];
            for _ in 0..3 {
                let mut stream = rustls::Stream::new(tls, socket);
                stream.write_all(b"hello").unwrap();
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"hello");
                tls.refresh_traffic_keys().unwrap();
            }
            exchange(tls, socket, b"bye")
        });
        let mut stream = accept(&socket, &listener).await;
        handshake(&mut stream).await.unwrap();
        echo(&mut stream, 4096).await;
        assert_eq!(client.join().unwrap(), b"bye");
    });
}

#[test]
fn a_message_in_fragments_is_no_reason_to_look_again() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = config(ONE);
    let listener = listener(&tls(&config, &material(&[("a", &pair)])), &config);
    run(async {
        let (socket, address) = bind().await;
        let mut client = StdStream::connect(address).unwrap();
        // The first fragment of a ClientHello that never comes.
        client.write_all(&[22, 3, 1, 0, 4, 1, 0, 1, 0]).unwrap();
        let mut stream = accept(&socket, &listener).await;
        for _ in 0..3 {
            poll_fn(|context| {
                assert!(stream.poll_handshake(context).is_pending());
                Poll::Ready(())
            })
            .await;
            tokio::task::yield_now().await;
        }
        tokio::time::timeout(std::time::Duration::from_secs(5), async {
            while stream.held_bytes() == 0 {
                poll_fn(|context| {
                    assert!(stream.poll_handshake(context).is_pending());
                    Poll::Ready(())
                })
                .await;
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        // A record is here as a whole, and yet there is nothing to be read.
        assert!(poll_fn(|context| Poll::Ready(stream.poll_readable(context).is_pending())).await);
        drop(client);
    });
}

#[test]
fn a_client_that_leaves_or_goes_on_while_it_should_wait_is_noticed() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = config(ONE);
    let listener = listener(&tls(&config, &material(&[("a", &pair)])), &config);
    let client = Arc::new(client(&authority, &VERSIONS, None));
    let gone = |what: fn(&mut ClientConnection, &mut StdStream)| {
        run(async {
            let (socket, address) = bind().await;
            let (go_on, wait) = mpsc::channel::<()>();
            let client = dial(address, &client, "a.example", move |tls, socket| {
                tls.complete_io(socket).unwrap();
                what(tls, socket);
                wait.recv().unwrap();
            });
            let mut stream = accept(&socket, &listener).await;
            handshake(&mut stream).await.unwrap();
            let peer = poll_fn(|context| stream.poll_gone(context)).await;
            let mut buffer = [0; SMALL_BUFFER_BYTES];
            let next = read(&mut stream, &mut buffer).await.map(|count| buffer[..count].to_vec());
            go_on.send(()).unwrap();
            client.join().unwrap();
            (peer, next.unwrap_or_default())
        })
    };
    let more = gone(|tls, socket| rustls::Stream::new(tls, socket).write_all(b"more").unwrap());
    assert_eq!(more, (Peer::SentMore, b"more".to_vec()));
    let closed = gone(|tls, socket| {
        tls.send_close_notify();
        tls.complete_io(socket).unwrap();
    });
    assert_eq!(closed, (Peer::SendsNoMore, Vec::new()));
    let ended = gone(|_, socket| socket.shutdown(std::net::Shutdown::Both).unwrap());
    assert_eq!(ended.0, Peer::SendsNoMore);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a client sends, before the handshake or in its midst, ends in a failure.
    #[test]
    fn no_bytes_of_a_client_hurt(bytes in prop::collection::vec(any::<u8>(), 0..300), after_hello: bool, cut in 0..600_usize) {
        let authority = certificates::authority("Authority");
        let pair = authority.pair(&["a.example"], Kind::Ecdsa);
        let config = config(ONE);
        let listener = listener(&tls(&config, &material(&[("a", &pair)])), &config);
        let client = Arc::new(client(&authority, &VERSIONS, None));
        let mut sent = Vec::new();
        if after_hello {
            let name = ServerName::try_from("a.example").unwrap();
            ClientConnection::new(client, name).unwrap().write_tls(&mut sent).unwrap();
            sent.truncate(sent.len().saturating_sub(cut % 50));
        }
        sent.extend_from_slice(&bytes);
        let failed = run(async {
            let (socket, address) = bind().await;
            let mut client = StdStream::connect(address).unwrap();
            client.write_all(&sent).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut stream = accept(&socket, &listener).await;
            handshake(&mut stream).await.is_err()
        });
        prop_assert!(failed);
    }
}

#[test]
fn what_comes_behind_our_own_end_is_read() {
    let authority = certificates::authority("Authority");
    let material = material(&[("a", &authority.pair(&["a.example"], Kind::Ecdsa))]);
    let config = config(ONE);
    let listener = listener(&tls(&config, &material), &config);
    for version in VERSIONS {
        let late = pattern(100_000);
        let sent = late.clone();
        let known = Arc::new(client(&authority, &[version], None));
        run(async {
            let (socket, address) = bind().await;
            let client = dial(address, &known, "a.example", move |connection, socket| {
                let mut tls = rustls::Stream::new(connection, socket);
                assert_eq!(tls.read(&mut [0]).unwrap(), 0, "the server says nothing more");
                tls.write_all(&sent).unwrap();
                tls.conn.send_close_notify();
                tls.flush().unwrap();
            });
            let mut stream = accept(&socket, &listener).await;
            handshake(&mut stream).await.unwrap();
            poll_fn(|context| stream.poll_shutdown(context)).await.unwrap();
            let (mut received, mut buffer) = (Vec::new(), [0; 9000]);
            loop {
                match read(&mut stream, &mut buffer).await.unwrap() {
                    0 => break,
                    count => received.extend_from_slice(&buffer[..count]),
                }
            }
            assert!(received == late, "{} bytes", received.len());
            client.join().unwrap();
        });
    }
}
