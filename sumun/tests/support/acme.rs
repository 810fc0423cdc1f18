//! An authority that speaks ACME, as far as a client can see: it gives out certificates, looks for
//! proofs, and misbehaves on demand. It verifies no signatures; the interop with pebble has that.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use x509_cert::der::{Decode as _, Encode as _};

use super::certificates::{Authority, VERSIONS, provider};
use super::server::{Request, Server};
use super::talk::Client;

/// How it behaves; may be changed at any time.
pub(crate) struct Behaviour {
    /// Where all names lead, for HTTP-01 and TLS-ALPN-01.
    pub(crate) http: Option<SocketAddr>,
    pub(crate) tls: Option<SocketAddr>,
    pub(crate) lifetime: Duration,
    /// So many of the next signed requests have a nonce that is not liked.
    pub(crate) bad_nonces: u32,
    /// New orders are refused: status, kind, and seconds to wait.
    pub(crate) refusal: Option<(u16, &'static str, Option<u64>)>,
    /// Orders stay as they are for so many looks.
    pub(crate) looks: u32,
    /// When certificates are to be renewed, in RFC 3339; there is such information at all.
    pub(crate) window: Option<(String, String)>,
    /// Every answer, whatever is asked.
    pub(crate) answer: Option<Vec<u8>>,
    /// Certificates are for this name instead.
    pub(crate) certified_name: Option<&'static str>,
    /// Accounts need one of an operator's.
    pub(crate) wants_external_account: bool,
}

#[derive(Default)]
struct Books {
    /// Thumbprint by number; `None` once it was deactivated.
    accounts: Vec<Option<String>>,
    orders: Vec<Order>,
    contacts: Vec<Value>,
    nonces: u64,
}

struct Order {
    account: usize,
    names: Vec<String>,
    /// Of each name, once it was looked at.
    proven: Vec<Option<bool>>,
    looks: u32,
    chain: Option<String>,
    replaces: Option<String>,
}

struct Inner {
    authority: Authority,
    behaviour: Mutex<Behaviour>,
    books: Mutex<Books>,
}

pub(crate) struct AcmeServer {
    inner: Arc<Inner>,
    pub(crate) server: Server,
}

type Answer = Result<(u16, Value, Option<String>), (u16, &'static str, String)>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AcmeServer {
    /// Over TLS; also gives the PEM of who signed the certificate of the directory itself.
    pub(crate) fn start(ip: IpAddr) -> (Self, String) {
        let signer = Authority::new("of the directory");
        let shown = signer.pair(&[&ip.to_string()]);
        Self::start_with(&signer.pem, ip, Some(&shown.server(&VERSIONS)), SocketAddr::new(ip, 0))
    }

    /// Without TLS, which is allowed on one's own host; at this address.
    pub(crate) fn start_plainly(address: SocketAddr) -> Self {
        Self::start_with("", address.ip(), None, address).0
    }

    fn start_with(
        pem: &str,
        ip: IpAddr,
        config: Option<&Arc<rustls::ServerConfig>>,
        address: SocketAddr,
    ) -> (Self, String) {
        let inner = Arc::new(Inner {
            authority: Authority::new("of the sites"),
            behaviour: Mutex::new(Behaviour {
                http: None,
                tls: None,
                lifetime: Duration::from_secs(90 * 86_400),
                bad_nonces: 0,
                refusal: None,
                looks: 0,
                window: None,
                answer: None,
                certified_name: None,
                wants_external_account: false,
            }),
            books: Mutex::default(),
        });
        let own = Arc::clone(&inner);
        let scheme = if config.is_some() { "https" } else { "http" };
        let serve = move |peer: &mut super::server::Peer| {
            peer.answer_all(&|request: &Request| own.respond(scheme, request));
        };
        let server = match config {
            Some(config) => Server::secure(ip, config, serve),
            None => Server::start_at(address, serve),
        };
        (Self { inner, server }, pem.to_owned())
    }

    pub(crate) fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.inner.behaviour));
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// A client that trusts what it gives out.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.inner.authority.client(&VERSIONS, &["http/1.1"], None)
    }

    pub(crate) fn accounts(&self) -> usize {
        lock(&self.inner.books).accounts.len()
    }

    pub(crate) fn contacts(&self) -> Vec<Value> {
        lock(&self.inner.books).contacts.clone()
    }

    /// Orders that were begun, each with its names.
    pub(crate) fn orders(&self) -> Vec<Vec<String>> {
        lock(&self.inner.books).orders.iter().map(|order| order.names.clone()).collect()
    }

    /// Which certificate each order takes the place of.
    pub(crate) fn replaced(&self) -> Vec<Option<String>> {
        lock(&self.inner.books).orders.iter().map(|order| order.replaces.clone()).collect()
    }

    /// There is an order, and all of its names were found to be ours.
    pub(crate) fn is_proven(&self) -> bool {
        let books = lock(&self.inner.books);
        books.orders.last().is_some_and(|order| order.proven.iter().all(|proven| *proven == Some(true)))
    }

    pub(crate) fn issued(&self) -> usize {
        lock(&self.inner.books).orders.iter().filter(|order| order.chain.is_some()).count()
    }

    pub(crate) fn deactivate_accounts(&self) {
        lock(&self.inner.books).accounts.iter_mut().for_each(|account| *account = None);
    }

    /// Orders that were made to wait do not wait any more.
    pub(crate) fn settle(&self) {
        lock(&self.inner.books).orders.iter_mut().for_each(|order| order.looks = 0);
    }
}

impl Inner {
    fn respond(&self, scheme: &str, request: &Request) -> Vec<u8> {
        if let Some(answer) = &lock(&self.behaviour).answer {
            return answer.clone();
        }
        let base = format!("{scheme}://{}", request.header("host").unwrap_or_default());
        let nonce = {
            let mut books = lock(&self.books);
            books.nonces += 1;
            books.nonces
        };
        let mut more = format!("Replay-Nonce: nonce-{nonce}\r\n");
        let (status, body, kind) = match self.answer(&base, request) {
            Ok((status, Value::String(chain), _)) => (status, chain, "application/pem-certificate-chain"),
            Ok((status, body, location)) => {
                if let Some(location) = location {
                    more.push_str(&format!("Location: {location}\r\n"));
                }
                if request.target.starts_with("/renewal/") {
                    more.push_str("Retry-After: 21600\r\n");
                }
                (status, body.to_string(), "application/json")
            }
            Err((status, kind, detail)) => {
                if let Some((_, _, Some(seconds))) = lock(&self.behaviour).refusal {
                    more.push_str(&format!("Retry-After: {seconds}\r\n"));
                }
                let body = json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail });
                (status, body.to_string(), "application/problem+json")
            }
        };
        format!("HTTP/1.1 {status} X\r\n{more}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    }

    fn answer(&self, base: &str, request: &Request) -> Answer {
        let mut path = request.target.trim_start_matches('/').split('/');
        let what = path.next().unwrap_or_default();
        let numbers: Vec<usize> = path.filter_map(|part| part.parse().ok()).collect();
        match what {
            "dir" => {
                let mut directory = json!({
                    "newNonce": format!("{base}/nonce"),
                    "newAccount": format!("{base}/account"),
                    "newOrder": format!("{base}/order"),
                });
                if lock(&self.behaviour).window.is_some() {
                    directory["renewalInfo"] = format!("{base}/renewal").into();
                }
                return Ok((200, directory, None));
            }
            "nonce" => return Ok((200, json!({}), None)),
            "renewal" => {
                let (start, end) = lock(&self.behaviour).window.clone().unwrap_or_default();
                return Ok((200, json!({ "suggestedWindow": { "start": start, "end": end } }), None));
            }
            _ => {}
        }
        let signed: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let part = |name: &str| -> Value {
            let text = signed[name].as_str().unwrap_or_default();
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap_or_default()).unwrap_or_default()
        };
        let (protected, payload) = (part("protected"), part("payload"));
        let malformed = |detail: &str| Err((400, "malformed", detail.to_owned()));
        if protected["url"] != format!("{base}{}", request.target) {
            return malformed("signed for another URL");
        }
        if !protected["nonce"].as_str().is_some_and(|nonce| nonce.starts_with("nonce-")) {
            return malformed("no nonce");
        }
        {
            let mut behaviour = lock(&self.behaviour);
            if behaviour.bad_nonces > 0 {
                behaviour.bad_nonces -= 1;
                return Err((400, "badNonce", "not this one".to_owned()));
            }
        }
        if what == "account" && numbers.is_empty() {
            return self.new_account(base, &protected, &payload);
        }
        let account = protected["kid"].as_str().and_then(|kid| kid.rsplit('/').next()?.parse::<usize>().ok());
        let Some(account) = account else { return malformed("no account") };
        match lock(&self.books).accounts.get(account) {
            None => return Err((400, "accountDoesNotExist", "who are you?".to_owned())),
            Some(None) => return Err((403, "unauthorized", "the account was deactivated".to_owned())),
            Some(Some(_)) => {}
        }
        match (what, numbers.as_slice()) {
            ("order", []) => self.new_order(base, account, &payload),
            ("order", [number]) => self.look(base, *number),
            ("authorization", [number, index]) => self.authorization(base, *number, *index),
            ("challenge", [number, index, kind]) => self.challenge(base, *number, *index, *kind),
            ("finalize", [number]) => self.finalize(base, *number, &payload),
            ("certificate", [number]) => {
                match lock(&self.books).orders.get(*number).and_then(|one| one.chain.clone()) {
                    Some(chain) => Ok((200, Value::String(chain), None)),
                    None => malformed("no certificate"),
                }
            }
            _ => malformed("no such place"),
        }
    }

    fn new_account(&self, base: &str, protected: &Value, payload: &Value) -> Answer {
        let jwk = &protected["jwk"];
        let thumb = format!(
            r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
            jwk["x"].as_str().unwrap_or_default(),
            jwk["y"].as_str().unwrap_or_default()
        );
        if lock(&self.behaviour).wants_external_account && payload["externalAccountBinding"].is_null() {
            return Err((403, "externalAccountRequired", "an account of yours is needed".to_owned()));
        }
        if payload["termsOfServiceAgreed"] != true {
            return Err((403, "userActionRequired", "read the terms".to_owned()));
        }
        let mut books = lock(&self.books);
        books.accounts.push(Some(URL_SAFE_NO_PAD.encode(Sha256::digest(thumb))));
        books.contacts.push(payload["contact"].clone());
        let location = format!("{base}/account/{}", books.accounts.len() - 1);
        Ok((201, json!({ "status": "valid" }), Some(location)))
    }

    fn new_order(&self, base: &str, account: usize, payload: &Value) -> Answer {
        if let Some((status, kind, _)) = lock(&self.behaviour).refusal {
            return Err((status, kind, "not today".to_owned()));
        }
        let identifiers = payload["identifiers"].as_array().cloned().unwrap_or_default();
        let names: Vec<String> =
            identifiers.iter().filter_map(|one| one["value"].as_str()).map(str::to_owned).collect();
        let looks = lock(&self.behaviour).looks;
        let number = {
            let mut books = lock(&self.books);
            let replaces = payload["replaces"].as_str().map(str::to_owned);
            let proven = vec![None; names.len()];
            books.orders.push(Order { account, names, proven, looks, chain: None, replaces });
            books.orders.len() - 1
        };
        let (_, state, _) = self.look(base, number)?;
        Ok((201, state, Some(format!("{base}/order/{number}"))))
    }

    fn look(&self, base: &str, number: usize) -> Answer {
        let mut books = lock(&self.books);
        let Some(order) = books.orders.get_mut(number) else {
            return Err(no_order());
        };
        let all_proven = order.proven.iter().all(|proven| *proven == Some(true));
        let status = if order.chain.is_some() {
            "valid"
        } else if order.proven.contains(&Some(false)) {
            "invalid"
        } else if all_proven && order.looks > 0 {
            order.looks -= 1;
            "pending"
        } else if all_proven {
            "ready"
        } else {
            "pending"
        };
        let authorizations: Vec<String> =
            (0..order.names.len()).map(|index| format!("{base}/authorization/{number}/{index}")).collect();
        let mut state = json!({
            "status": status,
            "authorizations": authorizations,
            "finalize": format!("{base}/finalize/{number}"),
        });
        if order.chain.is_some() {
            state["certificate"] = format!("{base}/certificate/{number}").into();
        }
        if let Some(replaces) = &order.replaces {
            state["replaces"] = replaces.as_str().into();
        }
        Ok((200, state, None))
    }

    fn authorization(&self, base: &str, number: usize, index: usize) -> Answer {
        let books = lock(&self.books);
        let order = books.orders.get(number).ok_or_else(no_order)?;
        let (name, proven) = (&order.names[index], order.proven[index]);
        let status = match proven {
            None => "pending",
            Some(true) => "valid",
            Some(false) => "invalid",
        };
        let challenge = |kind: usize, word: &str| {
            let mut challenge = json!({
                "type": word,
                "url": format!("{base}/challenge/{number}/{index}/{kind}"),
                "token": format!("token-{number}-{index}"),
                "status": status,
            });
            if proven == Some(false) {
                let error = "urn:ietf:params:acme:error:unauthorized";
                challenge["error"] = json!({ "type": error, "detail": format!("nothing at {name}") });
            }
            challenge
        };
        let kind = if name.parse::<IpAddr>().is_ok() { "ip" } else { "dns" };
        let state = json!({
            "status": status,
            "identifier": { "type": kind, "value": name },
            "challenges": [challenge(0, "http-01"), challenge(1, "tls-alpn-01")],
        });
        Ok((200, state, None))
    }

    fn challenge(&self, base: &str, number: usize, index: usize, kind: usize) -> Answer {
        let (name, thumb) = {
            let books = lock(&self.books);
            let order = books.orders.get(number).ok_or_else(no_order)?;
            if order.proven[index].is_some() {
                return Err((400, "malformed", "this was said already".to_owned()));
            }
            (order.names[index].clone(), books.accounts[order.account].clone().unwrap_or_default())
        };
        let token = format!("token-{number}-{index}");
        let answer = format!("{token}.{thumb}");
        let (http, tls) = {
            let behaviour = lock(&self.behaviour);
            (behaviour.http, behaviour.tls)
        };
        let found = match kind {
            0 => http.is_some_and(|address| has_http_proof(address, &name, &token, &answer)),
            _ => tls.is_some_and(|address| has_tls_proof(address, &name, &answer)),
        };
        if let Some(order) = lock(&self.books).orders.get_mut(number) {
            order.proven[index] = Some(found);
        }
        let url = format!("{base}/challenge/{number}/{index}/{kind}");
        let word = if kind == 0 { "http-01" } else { "tls-alpn-01" };
        Ok((200, json!({ "type": word, "url": url, "token": token, "status": "processing" }), None))
    }

    fn finalize(&self, base: &str, number: usize, payload: &Value) -> Answer {
        let der = URL_SAFE_NO_PAD.decode(payload["csr"].as_str().unwrap_or_default()).unwrap_or_default();
        let request = x509_cert::request::CertReq::from_der(&der);
        let request = request.map_err(|error| (400, "badCSR", error.to_string()))?;
        let key = request.info.public_key.to_der().map_err(|error| (400, "badCSR", error.to_string()))?;
        let (lifetime, instead) = {
            let behaviour = lock(&self.behaviour);
            (behaviour.lifetime, behaviour.certified_name)
        };
        if let Some(order) = lock(&self.books).orders.get_mut(number) {
            let names: Vec<&str> = match instead {
                Some(name) => vec![name],
                None => order.names.iter().map(String::as_str).collect(),
            };
            order.chain = Some(self.authority.certify(&key, &names, lifetime));
        }
        self.look(base, number)
    }
}

fn no_order() -> (u16, &'static str, String) {
    (404, "malformed", "no such order".to_owned())
}

fn has_http_proof(address: SocketAddr, name: &str, token: &str, answer: &str) -> bool {
    let mut client = Client::connect(address);
    let head = format!("GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    client.send(head);
    let found = client.answer();
    found.status == 200 && found.text() == answer
}

/// RFC 8737 section 3.
fn has_tls_proof(address: SocketAddr, name: &str, answer: &str) -> bool {
    let seen = Arc::new(Seen::default());
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&VERSIONS);
    let builder = builder.expect("versions").dangerous().with_custom_certificate_verifier(Arc::clone(&seen) as _);
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let asked = match name.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Ok(IpAddr::V6(_)) | Err(_) => name.to_owned(),
    };
    let mut client = Client::secure(address, &Arc::new(config), &asked);
    let is_open = client.handshake().is_ok();
    let agreed = client.tls.as_ref().and_then(|tls| tls.alpn_protocol()) == Some(b"acme-tls/1");
    let shown = lock(&seen.0).clone();
    let digest = Sha256::digest(answer);
    // The extension's value is an octet string with the digest in it.
    let extension = [&[0x04, 0x20], digest.as_slice()].concat();
    is_open && agreed && shown.windows(extension.len()).any(|window| window == extension)
}

/// Trusts everybody and remembers the certificate.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<u8>>);

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *lock(&self.0) = end_entity.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    // That it has the key is not what is looked for.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
