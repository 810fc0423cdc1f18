//! The requests of `sumun cache warm`.

use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use ureq::config::Config;
use ureq::http::{HeaderName, HeaderValue, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body, http};

use super::tally::Became;
use crate::arguments::Warm;
use crate::limits::{WARM_ADDRESSES, WARM_BODY_TIMEOUT, WARM_CONNECT_TIMEOUT, WARM_DOCUMENT_BYTES, WARM_HEAD_TIMEOUT};

const USER_AGENT: &str = concat!("sumun/", env!("CARGO_PKG_VERSION"));

/// What says where a request goes, or how it is framed: the URL and the client say it.
const OWN_FIELDS: [&str; 8] =
    ["host", "connection", "content-length", "transfer-encoding", "expect", "te", "trailer", "upgrade"];

pub(super) struct Client {
    agent: Agent,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Client {
    /// What is wrong with the options, as a sentence.
    pub(super) fn new(options: &Warm) -> Result<Self, String> {
        let fields = options.header.iter().map(|line| field(line)).collect::<Result<_, _>>()?;
        let to = options.to.as_deref().map(addresses).transpose()?;
        let connections = usize::from(options.connections);
        let config = Config::builder()
            .http_status_as_error(false)
            // A redirection is an answer, and stored like others.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // What is to be warm is the gateway, and not what the environment has in front of it.
            .proxy(None)
            .user_agent(USER_AGENT)
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .timeout_resolve(Some(WARM_CONNECT_TIMEOUT))
            .timeout_connect(Some(WARM_CONNECT_TIMEOUT))
            .timeout_send_request(Some(WARM_CONNECT_TIMEOUT))
            .timeout_recv_response(Some(WARM_HEAD_TIMEOUT))
            .timeout_recv_body(Some(WARM_BODY_TIMEOUT))
            .tls_config(tls(options.insecure))
            .build();
        let agent =
            Agent::with_parts(config, DefaultConnector::default(), Addresses { to, names: DefaultResolver::default() });
        Ok(Self { agent, fields })
    }

    /// Asks for a URL and throws away what comes; says what became of it, and how many bytes its body has.
    pub(super) fn ask(&self, url: &str) -> (Became, u64) {
        let mut request = self.agent.get(url);
        for (name, value) in &self.fields {
            request = request.header(name, value);
        }
        let mut response = match request.call() {
            Ok(response) => response,
            Err(error) => return (Became::Failed(error.to_string()), 0),
        };
        match io::copy(&mut response.body_mut().as_reader(), &mut io::sink()) {
            Ok(bytes) => (became(&response), bytes),
            Err(error) => (Became::Failed(format!("the answer broke off: {error}")), 0),
        }
    }

    /// A list or sitemap, without the fields for what it names; of one that is too long, one byte more than may be.
    pub(super) fn fetch(&self, url: &str) -> Result<Vec<u8>, String> {
        let mut response = self.agent.get(url).call().map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        if status != 200 {
            let to = response.headers().get("location").and_then(|value| value.to_str().ok());
            return Err(format!("status {status}{}", to.map(|to| format!(", to {to}")).unwrap_or_default()));
        }
        let mut bytes = Vec::new();
        let reader = response.body_mut().as_reader();
        let read = reader.take(WARM_DOCUMENT_BYTES + 1).read_to_end(&mut bytes);
        read.map(|_| bytes).map_err(|error| format!("the answer broke off: {error}"))
    }
}

fn became(response: &http::Response<Body>) -> Became {
    let mut text = Vec::new();
    for value in response.headers().get_all("cache-status") {
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        text.extend_from_slice(value.as_bytes());
    }
    Became::of(response.status().as_u16(), &text)
}

fn field(line: &str) -> Result<(HeaderName, HeaderValue), String> {
    let parsed = line.split_once(':').and_then(|(name, value)| {
        Some((HeaderName::try_from(name.trim()).ok()?, HeaderValue::try_from(value.trim()).ok()?))
    });
    let (name, value) = parsed.ok_or_else(|| format!("{line} is no header field: NAME: VALUE"))?;
    if OWN_FIELDS.contains(&name.as_str()) {
        return Err(format!("{name} is not given: it follows from the URL"));
    }
    Ok((name, value))
}

fn addresses(to: &str) -> Result<Vec<SocketAddr>, String> {
    let found = to.to_socket_addrs();
    let addresses: Vec<_> =
        found.map_err(|error| format!("{to} is no address: {error}"))?.take(WARM_ADDRESSES).collect();
    if addresses.is_empty() { Err(format!("{to} has no address")) } else { Ok(addresses) }
}

fn tls(insecure: bool) -> TlsConfig {
    let builder = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    if insecure {
        return builder.disable_verification(true).root_certs(RootCerts::Specific(Arc::default())).build();
    }
    // Where there are none, the handshake says what it could not verify.
    let found = rustls_native_certs::load_native_certs().certs;
    let certificates: Vec<_> = found.iter().map(|found| Certificate::from_der(found).to_owned()).collect();
    builder.root_certs(RootCerts::new_with_certs(&certificates)).build()
}

/// Where to connect: what was said, or what the URL's host resolves to.
#[derive(Debug)]
struct Addresses {
    to: Option<Vec<SocketAddr>>,
    names: DefaultResolver,
}

impl Resolver for Addresses {
    fn resolve(&self, url: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let Some(to) = &self.to else {
            return self.names.resolve(url, config, timeout);
        };
        let mut addresses = self.empty();
        to.iter().for_each(|address| addresses.push(*address));
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_names_and_values() {
        let (name, value) = field("Accept-Encoding: gzip, br").unwrap();
        assert_eq!((name.as_str(), value.as_bytes()), ("accept-encoding", b"gzip, br".as_slice()));
        for wrong in ["gzip", ": a", "a b: c", "a: b\nc: d"] {
            assert!(field(wrong).unwrap_err().contains("is no header field"), "{wrong}");
        }
        assert!(field("HOST: other").unwrap_err().contains("follows from the URL"));
    }

    #[test]
    fn addresses_have_a_tcp_port() {
        assert_eq!(addresses("127.0.0.1:8080").unwrap(), ["127.0.0.1:8080".parse().unwrap()]);
        assert_eq!(addresses("[::1]:1").unwrap(), ["[::1]:1".parse().unwrap()]);
        for wrong in ["127.0.0.1", "", ":8080x", "127.0.0.1:70000"] {
            assert!(addresses(wrong).is_err(), "{wrong}");
        }
    }
}
