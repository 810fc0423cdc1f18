//! A listener's routes as one worker sees them: checked config joined with what the worker owns.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use sumun_config::checked as config;
use sumun_config::checked::{HostMatch, PathMatch, ValueMatch};
use sumun_engine::accept::Admittance;
use sumun_engine::access_log::LogSender;
use sumun_engine::acme::Challenges;
use sumun_engine::pace::{Both, ListenerPace};
use sumun_http::forward::Edits;
use sumun_http::{Method, RequestHead};
use sumun_pools::Admission;
use sumun_traffic::Priority;
use sumun_traffic::pacer::Pacer;

use crate::blocks::Guard;
use crate::cache::{Cache, Caching};
use crate::challenge::Challenge;
use crate::files::{FileCache, FileRoot};
use crate::limiting::Limit;
use crate::metrics::{ListenerCell, RouteCell};
use crate::rooms::RoomDoor;
use crate::traffic::Watcher;
use crate::upstream::LocalPool;

/// Where authorities look for the proof that a name is ours (RFC 8555 section 8.3).
const CHALLENGE_PATH: &[u8] = b"/.well-known/acme-challenge/";

/// One listener.
pub(crate) struct Site {
    pub(crate) config: Arc<config::Listener>,
    pub(crate) routes: Vec<Rc<Route>>,
    pub(crate) trusted_proxies: Rc<[ipnet::IpNet]>,
    pub(crate) log: Rc<LogSender>,
    pub(crate) admittance: Arc<Admittance>,
    /// The best that its routes have: what a new connection may be for.
    pub(crate) priority: Priority,
    pub(crate) cell: Arc<ListenerCell>,
    /// Any route asks for the host: it is worth putting it into lower case.
    pub(crate) matches_hosts: bool,
    /// This gateway's element of CDN-Loop.
    pub(crate) loop_id: Rc<[u8]>,
    pub(crate) error_pages: BTreeMap<u16, Arc<[u8]>>,
    /// What authorities look for while a certificate is obtained.
    pub(crate) challenges: Arc<Challenges>,
    /// Counts requests that no route took.
    pub(crate) unrouted: Arc<RouteCell>,
    /// Value of `Strict-Transport-Security`.
    pub(crate) hsts: Option<Box<[u8]>>,
    /// Request header fields that tell of clients' certificates, on any listener: a client's own are
    /// taken out, since servers would believe them.
    pub(crate) subject_headers: Rc<[Arc<str>]>,
    /// What all its connections share of bandwidth.
    pub(crate) pace: Option<Arc<ListenerPace>>,
    /// Counts who asks for what.
    pub(crate) traffic: Rc<Watcher>,
    /// Where routes keep answers; `None`: nowhere.
    pub(crate) cache: Option<Arc<Cache>>,
    /// `None`: there are no rules by which clients are blocked.
    pub(crate) blocks: Option<Rc<Guard>>,
}

/// One route.
pub(crate) struct Route {
    pub(crate) config: Arc<config::Route>,
    pub(crate) action: Action,
    request_edits: Edits,
    /// The same for clients that are not trusted, where that is not the same.
    untrusted_edits: Option<Edits>,
    pub(crate) response_edits: Edits,
    pub(crate) cell: Arc<RouteCell>,
    /// The route's own `concurrency`, shared by all workers.
    pub(crate) admission: Option<Arc<Admission>>,
    /// Serves where no server does.
    pub(crate) degrade: Option<(Arc<FileRoot>, Rc<FileCache>)>,
    /// Where the crowd waits.
    pub(crate) room: Option<RoomDoor>,
    /// What it keeps, and where.
    pub(crate) caching: Option<Rc<Caching>>,
    /// What clients compute first.
    pub(crate) challenge: Option<Challenge>,
    /// The pool that `forward_auth` asks.
    pub(crate) forward_auth: Option<Rc<LocalPool>>,
    pub(crate) limits: Vec<Limit>,
    /// What all its requests share of bandwidth.
    pub(crate) pace: Option<Arc<Both<Pacer>>>,
    /// No condition but the path, the common case.
    path_only: bool,
    methods: Vec<Method>,
}

pub(crate) enum Action {
    Proxy(Rc<LocalPool>),
    Files(Arc<FileRoot>, Rc<FileCache>),
    Redirect,
    Respond,
}

/// What the conditions of a route look at.
pub(crate) struct Question<'a> {
    pub(crate) head: &'a RequestHead,
    pub(crate) bytes: &'a [u8],
    /// Normalised.
    pub(crate) path: &'a [u8],
    /// Lower case, without a TCP port; empty unless `matches_hosts`.
    pub(crate) host: &'a [u8],
}

impl Site {
    /// The first route that matches.
    pub(crate) fn route(&self, question: &Question<'_>) -> Option<&Rc<Route>> {
        self.routes.iter().find(|route| route.matches(question))
    }

    /// The proof for an authority that asks for it (RFC 8555 section 8.3): on every listener, since it
    /// comes to a name and a TCP port, and follows redirections. Nobody else knows the token.
    #[inline]
    pub(crate) fn proof(&self, method: Method, path: &[u8]) -> Option<Arc<[u8]>> {
        if !self.challenges.are_awaited() || !matches!(method, Method::Get | Method::Head) {
            return None;
        }
        self.challenges.key_authorization(path.strip_prefix(CHALLENGE_PATH)?)
    }

    pub(crate) fn trusts(&self, address: std::net::IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

impl Route {
    pub(crate) fn new(
        config: &Arc<config::Route>,
        action: Action,
        cell: Arc<RouteCell>,
        admission: Option<Arc<Admission>>,
        forward_auth: Option<Rc<LocalPool>>,
    ) -> Self {
        let edits =
            |edits: &config::HeaderEdits| Edits::new(edits.set.clone(), edits.add.clone(), edits.remove.clone());
        Self {
            action,
            untrusted_edits: config.cache.as_ref().map(|_| without_reflected(edits(&config.request_headers))),
            request_edits: edits(&config.request_headers),
            response_edits: edits(&config.response_headers),
            cell,
            admission,
            forward_auth,
            degrade: None,
            room: None,
            caching: None,
            challenge: None,
            limits: Vec::new(),
            pace: None,
            path_only: config.hosts.is_empty()
                && config.methods.is_empty()
                && config.headers.is_empty()
                && config.query.is_empty(),
            methods: config.methods.iter().filter_map(|name| Method::from_bytes(name.as_bytes())).collect(),
            config: Arc::clone(config),
        }
    }

    /// What is changed in requests to servers. A client that is not trusted cannot say there what applications
    /// are known to put into their answers, where those may be stored: it would be in everybody's.
    pub(crate) fn request_edits(&self, trusted: bool) -> &Edits {
        self.untrusted_edits.as_ref().filter(|_| !trusted).unwrap_or(&self.request_edits)
    }

    fn matches(&self, question: &Question<'_>) -> bool {
        matches_path(&self.config.path, question.path) && (self.path_only || self.matches_rest(question))
    }

    fn matches_rest(&self, question: &Question<'_>) -> bool {
        let config = &self.config;
        (config.hosts.is_empty() || config.hosts.iter().any(|host| matches_host(host, question.host)))
            && (config.methods.is_empty() || self.methods.contains(&question.head.method))
            && config.headers.iter().all(|field| {
                let values = question.head.values(question.bytes, field.name.as_bytes());
                matches_value(&field.value, values)
            })
            && config.query.iter().all(|field| {
                let query = question.head.query.map_or(&b""[..], |span| span.of_bytes(question.bytes));
                matches_value(&field.value, query_values(query, field.name.as_bytes()))
            })
    }
}

/// Fields by which applications take a request for another one than it is, or name themselves. None of them
/// is part of a key. Those that the gateway writes itself are not among them.
const REFLECTED: [&str; 21] = [
    "X-Original-URL",
    "X-Original-URI",
    "X-Original-Host",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-Host",
    "X-Forwarded-Server",
    "X-Forwarded-Scheme",
    "X-Forwarded-Protocol",
    "X-Forwarded-Prefix",
    "X-Forwarded-Path",
    "X-Forwarded-SSL",
    "X-URL-Scheme",
    "Front-End-Https",
    "X-HTTP-Host-Override",
    "X-Forwarded-Uri",
    "X-Forwarded-Method",
    "X-Envoy-Original-Path",
    "X-Script-Name",
];

fn without_reflected(mut edits: Edits) -> Edits {
    for name in REFLECTED {
        edits.remove(name.to_owned());
    }
    edits
}

fn matches_path(pattern: &PathMatch, path: &[u8]) -> bool {
    match pattern {
        // "/x/" matches everything below it and "/x" itself.
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.as_bytes();
            path.starts_with(prefix) || (prefix.len() == path.len() + 1 && prefix.starts_with(path))
        }
        PathMatch::Exact(exact) => exact.as_bytes() == path,
        PathMatch::Regex(pattern) => std::str::from_utf8(path).is_ok_and(|path| pattern.0.is_match(path)),
    }
}

fn matches_host(pattern: &HostMatch, host: &[u8]) -> bool {
    match pattern {
        HostMatch::Exact(exact) => exact.as_bytes() == host,
        HostMatch::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_bytes()),
    }
}

fn matches_value<'a>(wanted: &ValueMatch, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
    match wanted {
        ValueMatch::Present => values.next().is_some(),
        ValueMatch::Absent => values.next().is_none(),
        ValueMatch::Exact(text) => values.any(|value| value == text.as_bytes()),
        ValueMatch::Regex(pattern) => {
            values.any(|value| std::str::from_utf8(value).is_ok_and(|value| pattern.0.is_match(value)))
        }
    }
}

/// Values of a query parameter, as they were sent.
fn query_values<'a>(query: &'a [u8], name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    query.split(|&byte| byte == b'&').filter_map(move |pair| {
        let equals = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        (pair.get(..equals) == Some(name)).then(|| pair.get(equals + 1..).unwrap_or_default())
    })
}

/// Strict-Transport-Security (RFC 6797 section 6.1).
pub(crate) fn hsts_value(hsts: config::Hsts) -> Box<[u8]> {
    let mut value = format!("max-age={}", hsts.max_age.as_secs());
    if hsts.subdomains {
        value.push_str("; includeSubDomains");
    }
    if hsts.preload {
        value.push_str("; preload");
    }
    value.into_bytes().into()
}

/// Lower case and without a TCP port or a final dot.
pub(crate) fn canonical_host(host: &[u8]) -> Vec<u8> {
    let (name, _) = sumun_http::target::split_port(host);
    let name = name.strip_suffix(b".").unwrap_or(name);
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let prefix = |text: &str| PathMatch::Prefix(text.into());
        assert!(matches_path(&prefix("/"), b"/"));
        assert!(matches_path(&prefix("/"), b"/x"));
        assert!(matches_path(&prefix("/x/"), b"/x"));
        assert!(matches_path(&prefix("/x/"), b"/x/y"));
        assert!(!matches_path(&prefix("/x/"), b"/xy"));
        assert!(!matches_path(&prefix("/x/"), b"/"));
        assert!(!matches_path(&PathMatch::Exact("/x".into()), b"/x/"));
    }

    #[test]
    fn hosts() {
        assert_eq!(canonical_host(b"WWW.Example.com.:80"), b"www.example.com");
        let suffix = HostMatch::Suffix(".example.com".into());
        assert!(matches_host(&suffix, b"a.example.com"));
        assert!(matches_host(&suffix, b"a.b.example.com"));
        assert!(!matches_host(&suffix, b"example.com"));
        assert!(!matches_host(&suffix, b".example.com"));
    }

    #[test]
    fn queries() {
        let values: Vec<_> = query_values(b"a=1&b&a=2&aa=3", b"a").collect();
        assert_eq!(values, [b"1", b"2"]);
        assert_eq!(query_values(b"a=1&b", b"b").count(), 1);
    }
}
