//! Listeners: addresses, bounds, access.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::process::Use;
use super::tls::{TlsByAddress, redirect_https};
use super::{Lower, Section};
use crate::checked::{Access, Bandwidth, BindAddress, Bounds, Listener, Name, Stream};
use crate::node::{Entry, Node, Place};
use crate::report::quoted;
use crate::table;
use crate::values::address::{self, Bind};
use crate::values::{self, http};

/// What `bounds.header` may be, in bytes.
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 1024..=1024 * 1024;
/// The shortest bound of a request line, in bytes.
const REQUEST_LINE_BYTES: u64 = 256;

/// `bounds.idle` where it is not written.
const IDLE: Duration = Duration::from_secs(60);
/// A database's connection may rest for long between two questions; whether its ends still live is
/// seen by TCP's own probes.
const IDLE_STREAM: Duration = Duration::from_secs(3600);
/// RFC 4787 section 4.3 has NATs keep flows for minutes; for a switch that holds a socket each, what
/// the others of its kind have suits better.
const IDLE_FLOW: Duration = Duration::from_secs(30);

impl Lower<'_> {
    pub(super) fn all_listeners(&mut self, tree: &Node, trusted: &[IpNet]) -> BTreeMap<Name, Arc<Listener>> {
        let Some(node) = tree.find("listeners") else {
            let place = Place { line: 1, column: 1, length: 1, ..tree.place };
            // A misspelt `listeners` has been reported already.
            if !self.problems.has_errors() {
                let example = "listeners: { web: { bind: \"127.0.0.1:8080\", routes: [{ files: ./public }] } }";
                self.error(
                    place,
                    "there are no listeners, so nothing would be served",
                    format!("a short one: `{example}`"),
                );
            }
            return BTreeMap::new();
        };
        if node.entries().is_empty() && node.scalar().is_none() && node.list().is_none() {
            self.error(node.place, "there are no listeners, so nothing would be served", "name one");
        }
        node.entries()
            .iter()
            .map(|entry| (Name::from(entry.key.as_str()), Arc::new(self.listener(entry, trusted))))
            .collect()
    }

    fn listener(&mut self, entry: &Entry, trusted: &[IpNet]) -> Listener {
        let listener = Section::of(&entry.value, &table::LISTENER);
        let proxy_protocol = listener.text("proxy_protocol") == Some("accept");
        if let Some(node) = listener.given("proxy_protocol")
            && proxy_protocol
            && trusted.is_empty()
        {
            self.error(
                node.place,
                "`proxy_protocol: accept` without `trusted_proxies`: anybody could claim any address",
                "name the networks of the proxies in front at the top level: `trusted_proxies: [10.0.0.0/8]`",
            );
        }
        let stream = self.stream(listener);
        let (bind, tls) = self.binds(listener, &entry.key, stream.as_ref());
        Listener {
            name: Name::from(entry.key.as_str()),
            redirect_https: redirect_https(self, listener, &bind, &tls),
            hsts: self.hsts(listener),
            bind,
            tls,
            proxy_protocol,
            bounds: self.bounds(listener.section("bounds"), stream.as_ref()),
            access: access(listener),
            bandwidth: bandwidth(listener),
            stream,
            routes: self.routes(listener),
            trace: listener.switch("trace"),
            request_id: listener.value("request_id", |text| Ok(text.to_owned())).unwrap_or_default(),
            error_pages: self.error_pages(listener),
        }
    }

    fn binds(
        &mut self,
        listener: Section<'_>,
        name: &str,
        stream: Option<&Stream>,
    ) -> (Vec<BindAddress>, TlsByAddress) {
        let owner = format!("listener {}", quoted(name));
        let (is_http, is_udp) = (stream.is_none(), stream.is_some_and(Stream::is_udp));
        let of_listener = listener.given("tls").and_then(|node| self.listener_tls(node, is_http));
        let mut addresses: Vec<BindAddress> = Vec::new();
        let mut tls = TlsByAddress::new();
        for node in listener.given("bind").map(Node::one_or_list).unwrap_or_default() {
            let written = match node.scalar() {
                Some(_) => Some(node),
                None => Section::of(node, &table::BIND_ENTRY).given("address"),
            };
            let own = Section::of(node, &table::BIND_ENTRY);
            let own_tls = match own.given("tls") {
                None => of_listener.clone(),
                // The only text that it takes is `off`.
                Some(given) if given.scalar().is_some() => None,
                Some(given) => self.listener_tls(given, is_http),
            };
            let Some(written) = written else { continue };
            let Some(scalar) = written.scalar().filter(|scalar| !scalar.broken) else {
                continue;
            };
            let first = addresses.len();
            match address::bind(&scalar.text) {
                Ok(Bind::Tcp(sockets)) => {
                    if is_udp {
                        let message =
                            format!("{} is a TCP address, and the listener passes datagrams on", quoted(&scalar.text));
                        self.error(written.place, message, "write it with `/udp` behind it");
                    }
                    for socket in sockets {
                        // TCP port 0 is another one each time.
                        if socket.port() != 0 {
                            self.take_address(socket.to_string(), &owner, written.place);
                        }
                        addresses.push(BindAddress::Tcp(socket));
                    }
                }
                Ok(Bind::Udp(sockets)) => {
                    if !is_udp {
                        let message = format!("{} is a UDP address", quoted(&scalar.text));
                        self.error(
                            written.place,
                            message,
                            "datagrams are passed on by `udp: POOL`; for all else leave `/udp` out",
                        );
                    }
                    for socket in sockets {
                        if socket.port() != 0 {
                            self.take_address(format!("{socket}/udp"), &owner, written.place);
                        }
                        addresses.push(BindAddress::Udp(socket));
                    }
                }
                Ok(Bind::Unix(_)) if is_udp => {
                    self.error(
                        written.place,
                        "datagrams of a Unix socket are not passed on",
                        "write an address with `/udp`",
                    );
                }
                Ok(Bind::Unix(text)) => {
                    let path = self.path(written, &text);
                    self.socket_length(written, &path);
                    self.take_address(format!("unix:{}", path.display()), &owner, written.place);
                    addresses.push(BindAddress::Unix(path));
                }
                Err(_) => {}
            }
            for (index, address) in addresses.iter().enumerate().skip(first) {
                // Sockets are told apart by what was written, so TCP port 0 is the same one each time.
                if addresses[..index].contains(address) && tls.get(address) != own_tls.as_ref() {
                    let message = format!("{} is named twice, and not with the same `tls`", quoted(&scalar.text));
                    self.error(written.place, message, "give one of the two a TCP port of its own");
                }
                if let Some(own_tls) = &own_tls {
                    tls.insert(address.clone(), Arc::clone(own_tls));
                }
            }
        }
        (addresses, tls)
    }

    fn bounds(&mut self, bounds: Section<'_>, stream: Option<&Stream>) -> Bounds {
        let idle = bounds.text("idle").and_then(|text| values::duration(text).ok());
        let header = bounds.size("header");
        if let Some(node) = bounds.given("header")
            && !HEADER_BYTES.contains(&header)
        {
            self.error(node.place, format!("`header` is {header} bytes"), "it has to be from 1KiB to 1MiB");
        }
        let mut request_line = bounds.size("request_line");
        match bounds.given("request_line") {
            None => request_line = request_line.min(header),
            Some(node) if request_line > header => {
                let message = format!("`request_line` is {request_line} bytes, more than `header` with {header} bytes");
                self.error(node.place, message, "the request line is a part of the header: make `header` larger");
            }
            Some(node) if request_line < REQUEST_LINE_BYTES => {
                self.error(node.place, format!("`request_line` is {request_line} bytes"), "it has to be at least 256B");
            }
            Some(_) => {}
        }
        Bounds {
            header,
            headers: bounds.number("headers"),
            request_line,
            body: bounds.size("body"),
            header_timeout: bounds.duration("header_timeout"),
            idle: idle.unwrap_or(match stream {
                None => IDLE,
                Some(Stream::Tcp(_) | Stream::Sni(_)) => IDLE_STREAM,
                Some(Stream::Udp(_)) => IDLE_FLOW,
            }),
            body_rate: bounds.speed("body_rate"),
            answer_rate: bounds.speed("answer_rate"),
            connections: bounds.number("connections"),
            per_client: bounds.number("per_client"),
            connection_rate: bounds.value("connection_rate", values::rate),
            requests: bounds.number("requests"),
        }
    }

    fn error_pages(&mut self, listener: Section<'_>) -> BTreeMap<u16, PathBuf> {
        let mut pages = BTreeMap::new();
        for (status, node, text) in listener.named_texts("error_pages") {
            let path = self.path(node, text);
            if let Ok(status) = http::error_status(status) {
                self.probe_file(node.place, &path);
                self.probe_as_user(node.place, &path, Use::Read);
                pages.insert(status, path);
            }
        }
        pages
    }
}

fn bandwidth(listener: Section<'_>) -> Bandwidth {
    if let Some(total) = listener.text("bandwidth").and_then(|text| values::speed(text).ok()) {
        return Bandwidth { total, ..Bandwidth::default() };
    }
    let long = listener.section("bandwidth");
    Bandwidth { total: long.speed("total"), client: long.speed("client"), connection: long.speed("connection") }
}

/// `allow` and `deny` of a listener or a route.
pub(super) fn access(section: Section<'_>) -> Access {
    Access { allow: section.networks("allow"), deny: section.networks("deny") }
}
