//! A pool's side.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use sumun_certificates::{Leaf, provider};
use sumun_config::checked::{Config, ServerAddress};
use tokio::net::TcpStream;

use super::super::*;
use super::certificates::{self, Authority, Kind, Pair};
use super::support::*;

fn pool_config(tls: &str) -> Config {
    let text = format!(
        "pools: {{ app: {{ servers: 'a.example:443', tls: {tls} }} }}\nlisteners: {{ web: {{ bind: ':0', routes: [ proxy: app ] }} }}"
    );
    sumun_config::check_text("test.yaml", &text).unwrap_or_else(|report| panic!("{report}")).config
}

fn server(pair: &Pair, versions: &[Version], clients_of: Option<&Authority>) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider())).with_protocol_versions(versions).unwrap();
    let builder = match clients_of {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let certified = pair.identity().certified;
    let mut config = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    Arc::new(config)
}

/// What the server heard: the name that was asked for, and the client's subject.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    name: Option<String>,
    subject: Option<String>,
}

/// Answers one connection with what it sends, on a thread of its own.
fn serve(config: &Arc<ServerConfig>) -> (SocketAddr, JoinHandle<Option<Heard>>) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let config = Arc::clone(config);
    let server = std::thread::spawn(move || {
        let (mut socket, _) = socket.accept().unwrap();
        let mut tls = ServerConnection::new(config).unwrap();
        tls.complete_io(&mut socket).ok()?;
        let mut buffer = [0; 5];
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        stream.read_exact(&mut buffer).ok()?;
        stream.write_all(&buffer).ok()?;
        tls.send_close_notify();
        tls.complete_io(&mut socket).ok()?;
        let certificate = tls.peer_certificates().and_then(|chain| chain.first());
        Some(Heard {
            name: tls.server_name().map(str::to_owned),
            subject: certificate.map(|der| Leaf::parse(der).unwrap().title()),
        })
    });
    (address, server)
}

/// An exchange with a server at `a.example`: whether it was resumed, and what the server heard.
fn ask(connector: &TlsConnector, config: &Arc<ServerConfig>) -> Result<(bool, Heard), Failure> {
    let (address, server) = serve(config);
    let name = server_name(&ServerAddress::Name { host: "A.example.".to_owned(), port: 443 });
    run(async {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut stream = connector.connect(Transport::Tcp(socket), &name, Offer::Http1, 1).unwrap();
        let session = handshake(&mut stream).await;
        let session = match session {
            Ok(session) => session,
            Err(failure) => {
                drop(stream);
                assert!(server.join().unwrap().is_none());
                return Err(failure);
            }
        };
        write_all(&mut stream, b"hello").await.unwrap();
        let mut buffer = [0; 100];
        assert_eq!(read(&mut stream, &mut buffer).await.unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
        assert_eq!(read(&mut stream, &mut buffer).await.unwrap(), 0);
        assert_eq!(stream.held_bytes(), 0);
        Ok((session.resumed, server.join().unwrap().unwrap()))
    })
}

fn connector(tls: &Tls) -> TlsConnector {
    TlsConnector::new(tls.pool(&"app".into()).unwrap(), 0)
}

#[test]
fn servers_are_verified_and_sessions_resumed() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = pool_config("{ ca: /ca.pem }");
    let material = Material { authorities: vec![authority_file("/ca.pem", &authority)], ..Material::default() };
    let tls = tls(&config, &material);
    for version in VERSIONS {
        let server = server(&pair, &[version], None);
        let heard = || Heard { name: Some("a.example".to_owned()), subject: None };
        let (one, other) = (connector(&tls), connector(&tls));
        assert_eq!(ask(&one, &server).unwrap(), (false, heard()));
        assert_eq!(ask(&one, &server).unwrap(), (true, heard()));
        // Another worker's sessions are its own.
        assert_eq!(ask(&other, &server).unwrap(), (false, heard()));
        // A reload that changes nothing for the pool keeps them; a change does not.
        tls.apply(&config, &material).unwrap();
        assert!(ask(&one, &server).unwrap().0);
        tls.apply(&pool_config("{ ca: /ca.pem, sni: A.example }"), &material).unwrap();
        assert!(!ask(&one, &server).unwrap().0);
        tls.apply(&config, &material).unwrap();
    }
    let families = crate::telemetry::render(&tls.families());
    assert!(families.contains("sumun_tls_server_handshakes_total{pool=\"app\",resumed=\"yes\"} 4\n"), "{families}");
}

#[test]
fn servers_that_prove_nothing_are_refused() {
    let authority = certificates::authority("Authority");
    let strange = certificates::authority("Somebody");
    let material = Material { authorities: vec![authority_file("/ca.pem", &authority)], ..Material::default() };
    let tls = tls(&pool_config("{ ca: /ca.pem }"), &material);
    let connector = connector(&tls);
    let wrong_name = authority.pair(&["b.example"], Kind::Ecdsa);
    let wrong_authority = strange.pair(&["a.example"], Kind::Ecdsa);
    for pair in [&wrong_name, &wrong_authority] {
        let failure = ask(&connector, &server(pair, &VERSIONS, None)).unwrap_err();
        assert_eq!(failure.reason, Reason::Certificate, "{failure}");
    }
    // Another name may be asked for, and none be looked at.
    tls.apply(&pool_config("{ ca: /ca.pem, sni: b.example }"), &material).unwrap();
    let heard = ask(&connector, &server(&wrong_name, &VERSIONS, None)).unwrap().1;
    assert_eq!(heard.name.as_deref(), Some("b.example"));
    tls.apply(&pool_config("{ verify: off }"), &material).unwrap();
    assert!(ask(&connector, &server(&wrong_authority, &VERSIONS, None)).is_ok());

    let why = tls.apply(&pool_config("on"), &material).unwrap_err();
    assert!(why.contains("pool app") && why.contains("no certificates of authorities"), "{why}");
    let system = vec![Blob::new(strange.der.to_vec())];
    tls.apply(&pool_config("on"), &Material { system, ..Material::default() }).unwrap();
    assert!(ask(&connector, &server(&wrong_authority, &VERSIONS, None)).is_ok());
}

#[test]
fn a_certificate_of_its_own_making_is_trusted_where_the_file_has_it() {
    let own = certificates::self_signed(&["a.example"]);
    let config = pool_config("{ ca: /own.pem }");
    let file = (of_path(std::path::Path::new("/own.pem")), Blob::new(own.certificate.clone().into_bytes()));
    let tls = tls(&config, &Material { authorities: vec![file], ..Material::default() });
    assert!(ask(&connector(&tls), &server(&own, &VERSIONS, None)).is_ok());
    let another = certificates::self_signed(&["a.example"]);
    assert!(ask(&connector(&tls), &server(&another, &VERSIONS, None)).is_err());
    let other_name = pool_config("{ ca: /own.pem, sni: b.example }");
    let file = (of_path(std::path::Path::new("/own.pem")), Blob::new(own.certificate.clone().into_bytes()));
    tls.apply(&other_name, &Material { authorities: vec![file], ..Material::default() }).unwrap();
    assert!(ask(&connector(&tls), &server(&own, &VERSIONS, None)).is_err());
}

#[test]
fn our_own_certificate_is_shown_to_servers_that_ask() {
    let authority = certificates::authority("Authority");
    let (pair, ours) = (authority.pair(&["a.example"], Kind::Ecdsa), authority.pair(&["gateway"], Kind::Ecdsa));
    let mut material = material(&[("us", &ours)]);
    material.authorities = vec![authority_file("/ca.pem", &authority)];
    let tls = tls(&pool_config("{ ca: /ca.pem, cert: /us.pem, key: /us.key }"), &material);
    for version in VERSIONS {
        let server = server(&pair, &[version], Some(&authority));
        let heard = ask(&connector(&tls), &server).unwrap().1;
        assert_eq!(heard.subject.as_deref(), Some("gateway"));
    }
    let families = crate::telemetry::render(&tls.families());
    assert!(families.contains("sumun_tls_certificate_expires_seconds{pool=\"app\",name=\"gateway\"} 1"), "{families}");
}

/// In TLS 1.3 a server looks at our certificate when the handshake is over for us.
#[test]
fn a_refusal_behind_the_handshake_is_one_of_the_handshake() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let mut material = material(&[]);
    material.authorities = vec![authority_file("/ca.pem", &authority)];
    let tls = tls(&pool_config("{ ca: /ca.pem }"), &material);
    let connector = connector(&tls);
    let name = server_name(&ServerAddress::Name { host: "a.example".to_owned(), port: 443 });
    let line = |what: &str| {
        let families = crate::telemetry::render(&tls.families());
        let found = families.lines().find(|line| line.contains(what)).map(str::to_owned);
        found.unwrap_or_else(|| panic!("no {what} in {families}"))
    };
    for (writes, count) in [(false, 1), (true, 2)] {
        let (address, server) = serve(&server(&pair, &[&rustls::version::TLS13], Some(&authority)));
        run(async {
            let socket = TcpStream::connect(address).await.unwrap();
            let mut stream = connector.connect(Transport::Tcp(socket), &name, Offer::Http1, 1).unwrap();
            handshake(&mut stream).await.unwrap();
            assert!(!stream.is_confirmed());
            if writes {
                // What is written meets a socket that is closed, sooner or later.
                while write_all(&mut stream, b"hello").await.is_ok() {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            } else {
                let error = read(&mut stream, &mut [0; 10]).await.unwrap_err();
                assert_eq!(error.to_string(), "received fatal alert: CertificateRequired");
            }
            let refusal = std::future::poll_fn(|context| stream.poll_refusal(context)).await.unwrap();
            assert_eq!((refusal.reason, refusal.alert), (Reason::Refused, Some(Alert::Identity)));
        });
        assert!(server.join().unwrap().is_none());
        assert!(line("failures_total{pool=\"app\",reason=\"refused\"}").ends_with(&format!(" {count}")));
        assert!(line("server_handshakes_total{pool=\"app\",resumed=\"no\"}").ends_with(" 0"));
    }

    // A server that says anything else has accepted us, and so has one that nobody waits for.
    let open = server(&pair, &[&rustls::version::TLS13], None);
    assert!(ask(&connector, &open).is_ok());
    let (address, server) = serve(&open);
    run(async {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut stream = connector.connect(Transport::Tcp(socket), &name, Offer::Http1, 1).unwrap();
        handshake(&mut stream).await.unwrap();
        write_all(&mut stream, b"he").await.unwrap();
    });
    assert!(server.join().unwrap().is_none());
    assert!(line("reason=\"refused\"").ends_with(" 2"));
    let done =
        ["no", "yes"].map(|resumed| line(&format!("server_handshakes_total{{pool=\"app\",resumed=\"{resumed}\"")));
    let sum: u32 = done.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum();
    assert_eq!(sum, 2);
}

#[test]
fn the_protocol_is_agreed_on() {
    let authority = certificates::authority("Authority");
    let pair = authority.pair(&["a.example"], Kind::Ecdsa);
    let config = pool_config("{ ca: /ca.pem }");
    let mut material = material(&[]);
    material.authorities = vec![authority_file("/ca.pem", &authority)];
    let tls = tls(&config, &material);
    let connector = TlsConnector::new(tls.pool(&config.pools["app"].name).unwrap(), 0);
    let outcome = |offer: Offer, known: &[&str]| {
        let mut server_config = (*server(&pair, &VERSIONS, None)).clone();
        server_config.alpn_protocols = known.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (address, server) = serve(&Arc::new(server_config));
        let result = run(async {
            let socket = TcpStream::connect(address).await.unwrap();
            let name = server_name(&ServerAddress::Name { host: "a.example".to_owned(), port: 443 });
            let mut stream = connector.connect(Transport::Tcp(socket), &name, offer, 1).unwrap();
            handshake(&mut stream).await.map(|_| stream.is_http2()).map_err(|failure| failure.reason)
        });
        server.join().unwrap();
        result
    };
    assert_eq!(outcome(Offer::Http1, &["h2", "http/1.1"]), Ok(false));
    assert_eq!(outcome(Offer::Either, &["h2", "http/1.1"]), Ok(true));
    assert_eq!(outcome(Offer::Either, &["http/1.1"]), Ok(false));
    // One that agrees on nothing speaks what it always did.
    assert_eq!(outcome(Offer::Either, &[]), Ok(false));
    assert_eq!(outcome(Offer::Http2, &["h2"]), Ok(true));
    assert_eq!(outcome(Offer::Http2, &["http/1.1"]), Err(Reason::Protocol));
}

#[test]
fn whoever_answers_a_knock_is_taken() {
    let nobody_knows = certificates::self_signed(&["b.example"]);
    for version in VERSIONS {
        let (address, server) = serve(&server(&nobody_knows, &[version], None));
        let name = ServerName::try_from("a.example").unwrap();
        run(async {
            let socket = TcpStream::connect(address).await.unwrap();
            let mut stream = knock(Transport::Tcp(socket), name).unwrap();
            assert!(!handshake(&mut stream).await.unwrap().resumed);
            write_all(&mut stream, b"hello").await.unwrap();
            assert_eq!(read(&mut stream, &mut [0; 5]).await.unwrap(), 5);
        });
        assert_eq!(server.join().unwrap().unwrap().name.as_deref(), Some("a.example"));
    }
    // Who does not even speak it is not.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = socket.accept().unwrap();
        stream.write_all(b"220 mail.example ESMTP\r\n").unwrap();
        stream
    });
    run(async {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut stream = knock(Transport::Tcp(socket), ServerName::try_from("a.example").unwrap()).unwrap();
        assert_eq!(handshake(&mut stream).await.unwrap_err().reason, Reason::Malformed);
    });
    drop(server.join().unwrap());
}
