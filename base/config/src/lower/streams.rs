//! Listeners that pass bytes on without understanding them.

use super::{Lower, Section};
use crate::checked::{ByProtocol, HashOn, HostMatch, Name, Sni, Stream, Udp};
use crate::node::Node;
use crate::report::quoted;
use crate::table;
use crate::values::{self, http};

/// Keys of a listener that are about HTTP alone.
const OF_HTTP: [&str; 5] = ["redirect_https", "hsts", "trace", "request_id", "error_pages"];
/// The same of its bounds.
const BOUNDS_OF_HTTP: [&str; 7] = ["header", "headers", "request_line", "body", "body_rate", "answer_rate", "requests"];
/// Keys that mean nothing for datagrams.
const OF_CONNECTIONS: [&str; 2] = ["tls", "proxy_protocol"];
/// The name of everything that no other name is.
const DEFAULT: &str = "default";

impl Lower<'_> {
    /// `None`: the listener speaks HTTP.
    pub(super) fn stream(&mut self, listener: Section<'_>) -> Option<Stream> {
        let (word, stream) = if let Some(node) = listener.given("tcp") {
            ("tcp", self.stream_pool(node).map(Stream::Tcp))
        } else if let Some(node) = listener.given("sni") {
            ("sni", Some(Stream::Sni(self.sni(node))))
        } else {
            let node = listener.given("udp")?;
            ("udp", self.udp(node).map(Stream::Udp))
        };
        let bounds = listener.section("bounds");
        let keys = OF_HTTP.iter().filter_map(|key| Some((*key, listener.given(key)?)));
        let keys = keys.chain(BOUNDS_OF_HTTP.iter().filter_map(|key| Some((*key, bounds.given(key)?))));
        for (key, node) in keys.collect::<Vec<(&str, &Node)>>() {
            let message = format!("`{key}` is about HTTP, which a listener with `{word}` does not understand");
            self.error(node.place, message, "take it out, or serve HTTP with `routes`");
        }
        if word == "udp" {
            for (key, node) in OF_CONNECTIONS.iter().filter_map(|key| Some((*key, listener.given(key)?))) {
                let message = format!("`{key}` is about connections, and the listener passes datagrams on");
                self.error(node.place, message, "take it out");
            }
        }
        // An empty name stands for what was refused.
        Some(stream.unwrap_or_else(|| Stream::Tcp(Name::from(""))))
    }

    fn udp(&mut self, node: &Node) -> Option<Udp> {
        if node.scalar().is_some() {
            return Some(Udp { pool: self.datagram_pool(node)?, responses: None, quic: None });
        }
        let section = Section::of(node, &table::UDP);
        let pool = self.datagram_pool(section.given("pool")?)?;
        Some(Udp { responses: section.optional_number("responses"), quic: self.quic(section, &pool), pool })
    }

    /// The name of a pool whose servers take datagrams.
    fn datagram_pool(&mut self, node: &Node) -> Option<Name> {
        let name = self.stream_pool(node)?;
        let written = self.pools.iter().find(|pool| pool.key == *name)?;
        let pool = Section::of(&written.value, &table::POOL);
        let is_off = |node: &Node| node.scalar().is_some_and(|scalar| values::switch(&scalar.text) == Ok(false));
        if pool.given("tls").is_some_and(|node| !is_off(node)) {
            let message = format!("the pool {} speaks TLS, which datagrams are not passed on over", quoted(&name));
            self.error(node.place, message, "what is in the datagrams is passed on as it is: take its `tls` out");
        }
        if pool.text("proxy_protocol").is_some_and(|text| values::off(text).is_err()) {
            let message = format!("the pool {} begins connections with a PROXY protocol header", quoted(&name));
            self.error(node.place, message, "datagrams have no place for one: use another pool");
        }
        let servers = pool.given("servers").map(Node::one_or_list).unwrap_or_default();
        let address = |server: &Node| {
            let written = if server.scalar().is_some() { Some(server) } else { server.find("address") };
            written.and_then(Node::scalar).map(|scalar| scalar.text.clone()).unwrap_or_default()
        };
        if let Some(server) = servers.iter().map(address).find(|server| server.starts_with("unix:")) {
            let message = format!("the server {} of the pool {} takes no datagrams", quoted(&server), quoted(&name));
            self.error(node.place, message, "a server for `udp` is an IP address or a name, and a UDP port");
        }
        Some(name)
    }

    fn sni(&mut self, node: &Node) -> Sni {
        let mut sni = Sni::default();
        for entry in node.entries() {
            let choice = self.by_protocol(&entry.value);
            if entry.key == DEFAULT {
                sni.default = Some(choice);
                continue;
            }
            let taken = match http::host(&entry.key) {
                Ok(HostMatch::Exact(name)) => sni.exact.insert(name, choice),
                Ok(HostMatch::Suffix(name)) => sni.below.insert(name, choice),
                Err(_) => continue,
            };
            if taken.is_some() {
                let message = format!("{} stands here twice, in other letters", quoted(&entry.key));
                self.error(entry.place, message, "names are the same in capitals and small letters");
            }
            if entry.key.parse::<std::net::IpAddr>().is_ok() || entry.key.starts_with('[') {
                let message = format!("{} is an IP address, which TLS never asks for", quoted(&entry.key));
                self.error(entry.place, message, "`default` takes clients that ask for no name");
            }
        }
        sni
    }

    fn by_protocol(&mut self, node: &Node) -> ByProtocol {
        if node.scalar().is_some() {
            return ByProtocol { default: self.stream_pool(node), ..ByProtocol::default() };
        }
        let mut choice = ByProtocol::default();
        for entry in node.entries() {
            let Some(pool) = self.stream_pool(&entry.value) else { continue };
            if entry.key == DEFAULT {
                choice.default = Some(pool);
            } else {
                choice.protocols.insert(entry.key.clone(), pool);
            }
        }
        choice
    }

    /// The name of a pool that streams can be passed on to.
    fn stream_pool(&mut self, node: &Node) -> Option<Name> {
        let name = self.pool_name(Some(node))?;
        let written = self.pools.iter().find(|pool| pool.key == *name)?;
        let pool = Section::of(&written.value, &table::POOL);
        if matches!(pool.text("balance"), Some("hash" | "maglev")) && super::pools::hash_on(pool) != HashOn::Source {
            let message = format!("the pool {} hashes what only a request has", quoted(&name));
            self.error(node.place, message, "take its `hash` out: a stream is told by the client's address");
        }
        if pool.text("concurrency") == Some("adaptive") || pool.section("concurrency").given("per_server").is_some() {
            let message = format!("the pool {} adapts its `concurrency` to how long answers take", quoted(&name));
            self.error(node.place, message, "streams have no answers that could be told apart: write a number");
        }
        Some(name)
    }
}
