//! The table of everything that a config file can say. Top level here; pools and listeners in
//! their own files.

mod blocks;
mod cache;
mod challenge;
mod health;
mod limits;
mod listener;
mod pool;
mod route;
mod shared;
mod tls;
mod waiting_room;

pub(crate) use blocks::{BLOCK, BLOCK_WHEN};
pub(crate) use cache::{CACHE, CACHE_BYPASS, CACHE_GROUP, CACHE_QUERY, CACHE_VOLUME, PHYSICAL_VOLUME, ROUTE_CACHE};
pub(crate) use challenge::CHALLENGE;
pub(crate) use health::{DNS_CHECK, HEALTH, HTTP_CHECK, POSTGRES_CHECK, REDIS_CHECK, TCP_CHECK, TLS_CHECK};
pub(crate) use limits::{LIMIT, LIMIT_KEY};
pub(crate) use listener::{BANDWIDTH, BIND_ENTRY, BOUNDS, LISTENER, QUIC, QUIC_SERVER_ID, UDP};
pub(crate) use pool::{OUTLIER, POOL, QUEUE, RETRIES, SERVER, STICKY, TIMEOUTS};
pub(crate) use route::{BASIC_AUTH, DEGRADE, FILES, FORWARD_AUTH, REDIRECT, RESPOND, ROUTE};
pub(crate) use shared::SHARED;
pub(crate) use tls::{ACME, CERTIFICATE, CLIENT_AUTH, EXTERNAL_ACCOUNT, HSTS, LISTENER_TLS, POOL_TLS, REDIRECT_HTTPS};
pub(crate) use waiting_room::WAITING_ROOM;

use crate::kind::Kind;
use crate::shape::{Key, Map, Names, Shape, key, later};

/// The capability that brings the keys of a later issue.
const TLS: &str = "further parts of TLS";

const ON_OR_OFF: Shape = Shape::One(Kind::Switch);
const PATH: Shape = Shape::One(Kind::Path);
const NETWORKS: Shape = Shape::OneOrList(&Shape::One(Kind::Network));
const COUNT: Shape = Shape::One(Kind::Integer { least: 1, most: 1_000_000 });
const SPAN: Shape = Shape::One(Kind::Span);
const CREDENTIAL: Shape = Shape::One(Kind::Credential);
const OFF: Shape = Shape::One(Kind::Off);

pub(crate) static FILE: Map = Map {
    title: "the config file",
    about: "The top level of a file.",
    keys: &[
        key("include", Shape::OneOrList(&PATH),
            "Further files, such as `conf.d/*.yaml`; `*` and `?` stand for any text and any character. Their maps are merged with this file's; a name that is defined twice is an error. An included file includes no other.").by_default("none"),
        key("workers", Shape::One(Kind::Integer { least: 1, most: 1024 }),
            "Worker threads, each with an event loop of its own.").by_default("one per CPU"),
        key("admin", Shape::Either(&[OFF, Shape::One(Kind::AdminAddress), Shape::Map(&ADMIN)]),
            "Where the status page, the API and `/metrics` are; `off` turns them off. An address that is not a loopback one needs a token.")
            .default("127.0.0.1:9900"),
        key("control", Shape::One(Kind::Control),
            "Unix socket through which the command line reaches the running instance.")
            .by_default("in the runtime directory, named after the canonical path of the file"),
        key("trusted_proxies", NETWORKS,
            "Networks of the proxies in front, whose X-Forwarded-*, Forwarded and PROXY protocol are believed.")
            .by_default("none"),
        key("access_log", Shape::Either(&[OFF, Shape::One(Kind::LogTarget), Shape::Map(&ACCESS_LOG)]),
            "One line a request; SIGUSR1 opens the file again after a rotation.").default("off"),
        key("drain", Shape::One(Kind::Duration),
            "How long old connections may live after a stop or an upgrade.").default("30s"),
        key("user", Shape::One(Kind::Account),
            "Whom the worker process becomes where Sumun is started as root: a name, or numbers as `1000` or `1000:1000`.")
            .by_default("`sumun` if there is such a user, else `nobody`; with `sandbox: off` it stays root"),
        key("sandbox", Shape::Either(&[ON_OR_OFF, Shape::One(Kind::Words(&["require"], &[]))]),
            "The worker process gives up what this config does not need: other files, TCP ports and users, new processes, privileges. `on` does so as far as the kernel can, `require` does not start where anything is missing.")
            .default("on"),
        key("state", PATH,
            "Directory for what is kept between two starts: the key of this host, certificates that were obtained. It is made if it is not there, readable by the supervisor alone.")
            .by_default("`/var/lib/sumun` for root, else `$XDG_STATE_HOME/sumun` or `~/.local/state/sumun`"),
        key("pools", Shape::Names(&Names { title: "a pool", key: Kind::Name, value: Shape::Map(&POOL) }),
            "Groups of servers that do the same job, by name.").by_default("none"),
        key("limits", Shape::Names(&Names { title: "a rate limit", key: Kind::Name, value: Shape::Map(&LIMIT) }),
            "Rate limits, by name, for routes to choose from.").by_default("none"),
        key("listeners", Shape::Names(&Names { title: "a listener", key: Kind::Name, value: Shape::Map(&LISTENER) }),
            "Where clients connect, by name. At least one is needed, here or in an included file."),
        key("blocks", Shape::List(&Shape::Map(&BLOCK)),
            "Rules by which clients are blocked for a while.").by_default("none"),
        key("shared", Shape::Map(&SHARED),
            "Where gateways share limits and waiting rooms.").by_default("nothing is shared"),
        key("traffic", Shape::Map(&TRAFFIC), "What `sumun traffic` shows beside what it always does.").by_default("nothing"),
        key("cache", Shape::Map(&CACHE), "Where routes with `cache` keep answers.").by_default("in memory, see cache"),
        later("dns", "the DNS server"),
        later("bgp", "the BGP speaker"),
        later("switch", "the switch"),
        later("metrics", "the metrics agent"),
        later("cluster", "the cluster"),
        later("tls", TLS),
    ],
    choices: &[],
};

pub(crate) static TRAFFIC: Map = Map {
    title: "traffic statistics",
    about: "Who asks for what.",
    keys: &[key(
        "asn_table",
        Shape::OneOrList(&PATH),
        "Files that say which autonomous system an address belongs to, as iptoasn.com (TSV) and GeoLite2 ASN (CSV) have them; read at start and at reload.",
    )
    .required()],
    choices: &[],
};

pub(crate) static ADMIN: Map = Map {
    title: "an admin listener",
    about: "The long form of `admin`.",
    keys: &[
        key("address", Shape::One(Kind::AdminAddress), "Where it listens.").required(),
        key(
            "token",
            Shape::One(Kind::Secret),
            "Sent by clients as `Authorization: Bearer TOKEN`; needed where the address is not a loopback one. Best taken from the environment: `${ADMIN_TOKEN}`.",
        ),
        later("tls", TLS),
    ],
    choices: &[],
};

pub(crate) static ACCESS_LOG: Map = Map {
    title: "an access log",
    about: "The long form of `access_log`.",
    keys: &[
        key("to", Shape::One(Kind::LogTarget), "Where the lines go.").required(),
        key("format", Shape::One(Kind::LogFormat),
            "`combined` is Apache's format, `json` one object a line. A template is a text such as `'{client} {method} {target} {status} {total_ms}'`; `{{` and `}}` are braces themselves.")
            .default("combined"),
    ],
    choices: &[],
};

/// Every map with known keys, in the order of the reference.
pub(crate) static MAPS: &[(&str, &Map)] = &[
    ("file", &FILE),
    ("admin", &ADMIN),
    ("access_log", &ACCESS_LOG),
    ("shared", &SHARED),
    ("cache", &CACHE),
    ("cache_group", &CACHE_GROUP),
    ("physical_volume", &PHYSICAL_VOLUME),
    ("cache_volume", &CACHE_VOLUME),
    ("traffic", &TRAFFIC),
    ("block", &BLOCK),
    ("block_when", &BLOCK_WHEN),
    ("pool", &POOL),
    ("server", &SERVER),
    ("pool_concurrency", &pool::CONCURRENCY),
    ("pool_hash", &pool::HASH),
    ("sticky", &STICKY),
    ("health", &HEALTH),
    ("http_check", &HTTP_CHECK),
    ("tcp_check", &TCP_CHECK),
    ("tls_check", &TLS_CHECK),
    ("redis_check", &REDIS_CHECK),
    ("postgres_check", &POSTGRES_CHECK),
    ("dns_check", &DNS_CHECK),
    ("outlier", &OUTLIER),
    ("timeouts", &TIMEOUTS),
    ("retries", &RETRIES),
    ("pool_tls", &POOL_TLS),
    ("queue", &QUEUE),
    ("limit", &LIMIT),
    ("limit_key", &LIMIT_KEY),
    ("listener", &LISTENER),
    ("bind_entry", &BIND_ENTRY),
    ("bounds", &BOUNDS),
    ("udp", &UDP),
    ("quic", &QUIC),
    ("quic_server_id", &QUIC_SERVER_ID),
    ("bandwidth", &BANDWIDTH),
    ("listener_tls", &LISTENER_TLS),
    ("certificate", &CERTIFICATE),
    ("acme", &ACME),
    ("external_account", &EXTERNAL_ACCOUNT),
    ("client_auth", &CLIENT_AUTH),
    ("redirect_https", &REDIRECT_HTTPS),
    ("hsts", &HSTS),
    ("route", &ROUTE),
    ("files", &FILES),
    ("degrade", &DEGRADE),
    ("redirect", &REDIRECT),
    ("respond", &RESPOND),
    ("rewrite", &route::REWRITE),
    ("request_headers", &route::REQUEST_HEADERS),
    ("response_headers", &route::RESPONSE_HEADERS),
    ("basic_auth", &BASIC_AUTH),
    ("forward_auth", &FORWARD_AUTH),
    ("waiting_room", &WAITING_ROOM),
    ("route_cache", &ROUTE_CACHE),
    ("cache_query", &CACHE_QUERY),
    ("cache_bypass", &CACHE_BYPASS),
    ("challenge", &CHALLENGE),
];

/// The name of a map in [`MAPS`].
pub(crate) fn name_of(map: &'static Map) -> &'static str {
    MAPS.iter().find(|(_, known)| std::ptr::eq(*known, map)).map_or("", |(name, _)| name)
}

/// The maps, other than this one, that know a key: for "belongs into".
pub(crate) fn homes_of(name: &str, not: &'static Map) -> Vec<(&'static Map, &'static Key)> {
    MAPS.iter()
        .filter(|(_, map)| !std::ptr::eq(*map, not))
        .filter_map(|(_, map)| map.key(name).map(|key| (*map, key)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::node::Scalar;
    use crate::shape::State;

    fn maps_below(shape: Shape, found: &mut Vec<&'static Map>) {
        match shape {
            Shape::One(_) => {}
            Shape::List(item) | Shape::OneOrList(item) => maps_below(*item, found),
            Shape::Names(names) => maps_below(names.value, found),
            Shape::Either(shapes) => shapes.iter().for_each(|shape| maps_below(*shape, found)),
            Shape::Map(map) => {
                found.push(map);
                for key in map.keys {
                    if let State::Built(shape) = key.state {
                        maps_below(shape, found);
                    }
                }
            }
        }
    }

    /// Every shape with a single value, and every key with a default.
    fn kinds(shape: Shape, found: &mut Vec<Kind>) {
        match shape {
            Shape::One(kind) => found.push(kind),
            Shape::List(item) | Shape::OneOrList(item) => kinds(*item, found),
            Shape::Names(names) => {
                found.push(names.key);
                kinds(names.value, found);
            }
            Shape::Either(shapes) => shapes.iter().for_each(|shape| kinds(*shape, found)),
            Shape::Map(map) => {
                for shape in map.keys.iter().filter_map(Key::shape) {
                    kinds(shape, found);
                }
            }
        }
    }

    #[test]
    fn every_default_is_a_value_of_its_key() {
        for key in MAPS.iter().flat_map(|(_, map)| map.keys) {
            let (Some(shape), crate::shape::Default::Value(text)) = (key.shape(), key.default) else {
                continue;
            };
            let scalar = Scalar { text: text.to_owned(), plain: true, filled: false, broken: false };
            let fits = shape.alternatives().iter().any(|shape| match shape {
                Shape::One(kind) | Shape::OneOrList(Shape::One(kind)) => kind.check(&scalar).is_ok(),
                Shape::OneOrList(Shape::Either(shapes)) => {
                    shapes.iter().any(|shape| matches!(shape, Shape::One(kind) if kind.check(&scalar).is_ok()))
                }
                _ => false,
            });
            assert!(fits, "{}: {text}", key.name);
        }
    }

    static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
        let mut all = Vec::new();
        kinds(Shape::Map(&FILE), &mut all);
        let mut different: Vec<Kind> = Vec::new();
        all.into_iter().for_each(|kind| {
            if !different.contains(&kind) {
                different.push(kind)
            }
        });
        different
    });

    /// Pieces of which values of all kinds are made.
    const PIECES: &[&str] = &[
        "0",
        "1",
        "99",
        "100",
        "255",
        "65535",
        ".",
        ":",
        "-",
        "/",
        "%",
        "ms",
        "s",
        "h",
        "KiB",
        "B",
        "TiB",
        "/s",
        "[",
        "]",
        "::1",
        "a",
        "GET",
        "example",
        "com",
        "*.",
        "*",
        "~",
        "^",
        "{",
        "}",
        "{client}",
        "{host}",
        "{{",
        "unix:",
        "/tcp",
        "/udp",
        " ",
        "\t",
        ";",
        "charset=",
        "text",
        "https",
        "://",
        "$2b$10$",
        "abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234",
        "é",
        "_",
        ",",
        "\"",
        "stdout",
        "combined",
        "keep",
        "on",
        "source",
        "?",
        "#",
        "(",
        "$",
        "=",
        "+",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_pattern_rejects_what_its_kind_accepts(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..6)) {
            let text = pieces.concat();
            for kind in KINDS.iter() {
                prop_assert!(kind.check_text(&text).is_err() || kind.pattern_accepts(&text), "{kind:?} {text:?}");
            }
        }
    }

    #[test]
    fn every_map_is_listed() {
        let mut found = Vec::new();
        maps_below(Shape::Map(&FILE), &mut found);
        for map in found {
            assert_ne!(name_of(map), "", "{}", map.title);
        }
    }
}
