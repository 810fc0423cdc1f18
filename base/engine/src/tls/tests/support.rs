//! Configs, materials, peers.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sumun_certificates::provider;
use sumun_config::checked::{CertificateFiles, Config};
use tokio::net::TcpListener;

use super::super::*;
use super::certificates::{Authority, Pair};

pub(super) const DAY: u64 = 1_800_000_000;

/// Runs it on a runtime such as a worker's.
pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A config whose listener `web` has this `tls`.
pub(super) fn config(tls: &str) -> Config {
    let text = format!("listeners: {{ web: {{ bind: '127.0.0.1:443', tls: {tls}, routes: [ respond: 204 ] }} }}");
    sumun_config::check_text("test.yaml", &text).unwrap_or_else(|report| panic!("{report}")).config
}

/// Material in which `/NAME.pem` and `/NAME.key` are this pair.
pub(super) fn material(pairs: &[(&str, &Pair)]) -> Material {
    let identity = |(name, pair): &(&str, &Pair)| {
        let blob = |text: &str| Blob::new(text.as_bytes().to_vec());
        IdentityMaterial::new(&files(name), blob(&pair.certificate), blob(&pair.key), None)
    };
    Material {
        identities: pairs.iter().map(identity).collect(),
        tickets: TicketKeys::default().rotated(DAY, &[1; KEY_RANDOM_BYTES]),
        ..Material::default()
    }
}

pub(super) fn files(name: &str) -> CertificateFiles {
    CertificateFiles { certificate: format!("/{name}.pem").into(), key: format!("/{name}.key").into(), ocsp: None }
}

pub(super) fn authority_file(path: &str, authority: &Authority) -> (Blob, Blob) {
    (of_path(Path::new(path)), Blob::new(authority.pem.clone().into_bytes()))
}

pub(super) fn tls(config: &Config, material: &Material) -> Arc<Tls> {
    let tls = Tls::new(1);
    tls.apply(config, material).unwrap();
    tls
}

/// The listener `web` of [`config`].
pub(super) fn listener(tls: &Tls, config: &Config) -> Arc<TlsListener> {
    let web = &config.listeners["web"];
    tls.listener(&web.name, &web.bind[0]).unwrap()
}

pub(super) async fn bind() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

pub(super) async fn accept(socket: &TcpListener, listener: &TlsListener) -> TlsStream {
    let (stream, _) = socket.accept().await.unwrap();
    listener.accept(Transport::Tcp(stream), 0).unwrap()
}

pub(super) async fn handshake(stream: &mut TlsStream) -> Result<Session, Failure> {
    poll_fn(|context| stream.poll_handshake(context)).await
}

pub(super) async fn read(stream: &mut TlsStream, bytes: &mut [u8]) -> std::io::Result<usize> {
    poll_fn(|context| stream.poll_read(context, bytes)).await
}

pub(super) async fn write_all(stream: &mut TlsStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let count = poll_fn(|context| stream.poll_write(context, bytes)).await?;
        bytes = &bytes[count..];
    }
    Ok(())
}

/// Reads to the end and gives it all back.
pub(super) async fn echo(stream: &mut TlsStream, buffer_bytes: usize) {
    let mut buffer = vec![0; buffer_bytes];
    loop {
        match read(stream, &mut buffer).await.unwrap() {
            0 => break,
            count => write_all(stream, &buffer[..count]).await.unwrap(),
        }
    }
    poll_fn(|context| stream.poll_shutdown(context)).await.unwrap();
}

/// What a client saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) staple: Vec<u8>,
}

/// Trusts everybody and remembers whom.
#[derive(Debug, Default)]
pub(super) struct Watcher(pub(super) Mutex<Seen>);

impl ServerCertVerifier for Watcher {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        staple: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut seen = self.0.lock().unwrap();
        seen.certificates.push(end_entity.clone().into_owned());
        seen.staple = staple.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

pub(super) type Version = &'static rustls::SupportedProtocolVersion;
pub(super) const VERSIONS: [Version; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// A client that trusts one authority.
pub(super) fn client(authority: &Authority, versions: &[Version], identity: Option<&Pair>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider())).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let identity = pair.identity().certified;
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity)))
        }
    }
}

/// A client that looks at whom it gets.
pub(super) fn watching_client() -> (Arc<ClientConfig>, Arc<Watcher>) {
    let watcher = Arc::new(Watcher::default());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(provider())).with_protocol_versions(&VERSIONS).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::clone(&watcher) as _);
    (Arc::new(builder.with_no_client_auth()), watcher)
}

/// A client on a thread of its own: opens a connection and does `what` with it.
pub(super) fn dial<T: Send + 'static>(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
    what: impl FnOnce(&mut ClientConnection, &mut StdStream) -> T + Send + 'static,
) -> JoinHandle<T> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let config = Arc::clone(config);
    std::thread::spawn(move || {
        let mut socket = StdStream::connect(address).unwrap();
        // A test that waits in vain says where.
        socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let mut connection = ClientConnection::new(config, name).unwrap();
        what(&mut connection, &mut socket)
    })
}

/// Sends all and reads as much as comes until the server has said that it was all.
pub(super) fn exchange(connection: &mut ClientConnection, socket: &mut StdStream, bytes: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    connection.complete_io(socket).unwrap();
    let mut tls = rustls::Stream::new(connection, socket);
    // No more than lies in the kernel's buffers on the way there and back.
    for piece in bytes.chunks(60_000) {
        tls.write_all(piece).unwrap();
        let wanted = answer.len() + piece.len();
        while answer.len() < wanted {
            match tls.read(&mut buffer).unwrap() {
                0 => panic!("the server ended early"),
                count => answer.extend_from_slice(&buffer[..count]),
            }
        }
    }
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    assert_eq!(tls.read(&mut buffer).unwrap(), 0);
    answer
}

/// So many bytes that differ.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
