//! Pools and their servers.

use super::{COUNT, HEALTH, OFF, ON_OR_OFF, POOL_TLS, SPAN, TLS};
use crate::kind::Kind;
use crate::shape::{Choice, Map, Shape, key, later};

pub(crate) static POOL: Map = Map {
    title: "a pool",
    about: "A named group of servers that do the same job.",
    keys: &[
        key("servers",
            Shape::OneOrList(&Shape::Either(&[Shape::One(Kind::ServerAddress), Shape::Map(&SERVER)])),
            "A server is an address and a TCP port; a range of TCP ports stands for one server each; a name is looked up again by the TTL of its records.")
            .required(),
        key("balance",
            Shape::One(Kind::Words(&["p2c", "round-robin", "least-request", "random", "hash", "maglev", "first"], &[])),
            "Who gets the next request: `p2c` takes the less busy one of two random servers; `hash` and `maglev` send equal keys (see `hash`) to the same server; `first` fills one server before it takes the next.")
            .default("p2c"),
        key("hash", Shape::Either(&[Shape::One(Kind::Words(&["source", "path"], &[])), Shape::Map(&HASH)]),
            "What `balance: hash` and `balance: maglev` look at; `source` is the client's address.").default("source"),
        key("sticky", Shape::Map(&STICKY), "Keeps a session on its server by a signed cookie.").by_default("none"),
        key("health", Shape::Map(&HEALTH), "Active checks of every server.").by_default("none"),
        key("outlier", Shape::Either(&[OFF, Shape::Map(&OUTLIER)]),
            "Takes servers out that fail live requests.").by_default("on, with the defaults below"),
        key("timeouts", Shape::Map(&TIMEOUTS), "How long to wait for a server.").by_default("see below"),
        key("retries",
            Shape::Either(&[OFF, Shape::One(Kind::Integer { least: 0, most: 10 }), Shape::Map(&RETRIES)]),
            "Further tries on other servers; a number is short for `{ tries: NUMBER }`.").by_default("see below"),
        key("slow_start", Shape::One(Kind::Duration),
            "A server that came back reaches its full share after this long.").default("0"),
        key("source",
            Shape::Either(&[
                Shape::One(Kind::Words(&["client"], &[])),
                Shape::One(Kind::Ip),
                Shape::List(&Shape::One(Kind::Ip)),
            ]),
            "Addresses to connect from, used in turn; `client`: the client's own, of `tcp`, `sni` and `udp` listeners.").by_default("the kernel chooses"),
        key("concurrency",
            Shape::Either(&[
                Shape::One(Kind::Integer { least: 1, most: 1_000_000 }),
                Shape::One(Kind::Words(&["adaptive"], &[])),
                Shape::Map(&CONCURRENCY),
            ]),
            "Requests in flight to the whole pool; more wait in `queue`. `adaptive` finds out how many the servers work on best, from how long their answers take, and counts those that wait for an answer's head.").by_default("no bound"),
        key("queue", Shape::Map(&QUEUE),
            "Where requests wait while `concurrency` or every server's `max_connections` is used up.").by_default("see below"),
        key("throttle", ON_OR_OFF,
            "Servers that refuse most requests (429, 503, no connection, no answer in time) are sent no more than two times what they accept; the others get 503, the least important first.")
            .default("off"),
        key("host", Shape::One(Kind::HostHeader),
            "The Host header that servers see: `keep` passes on what the client sent, `server` names the server, anything else is sent as it stands.")
            .default("keep"),
        key("zone", Shape::One(Kind::Name), "Servers of this zone are taken first.").by_default("no preference"),
        key("keepalive", Shape::One(Kind::Integer { least: 0, most: 10_000 }),
            "Idle connections kept to each server by each worker.").default("1024"),
        key("tls", Shape::Either(&[ON_OR_OFF, Shape::Map(&POOL_TLS)]),
            "TLS towards the servers, with their certificates verified.").default("off"),
        key("protocol", Shape::One(Kind::Words(&["http1", "http2", "auto"], &[])),
            "What is spoken to the servers: `http2` carries many requests over each connection (in plain text the servers have to know it beforehand); `auto` agrees on one of the two over TLS, and is HTTP/1.1 without.")
            .default("http1"),
        key("bandwidth", Shape::One(Kind::Speed),
            "Bytes a second that `tcp`, `sni` and `udp` listeners pass on to its servers together, and as many back.")
            .by_default("no bound"),
        key("proxy_protocol", Shape::Either(&[OFF, Shape::One(Kind::Words(&["v1", "v2"], &[]))]),
            "Connections of `tcp` and `sni` listeners to the servers begin with a PROXY protocol header of this version, which says who the client is; health checks with one that says nothing.")
            .default("off"),
    ],
    choices: &[],
};

pub(crate) static SERVER: Map = Map {
    title: "a server",
    about: "The long form of a server.",
    keys: &[
        key("address", Shape::One(Kind::ServerAddress), "Address and TCP port.").required(),
        key("weight", Shape::One(Kind::Integer { least: 1, most: 1000 }), "Its share against that of its neighbours.")
            .default("1"),
        key("max_connections", COUNT, "Connections to it at once, of all workers together.").by_default("no bound"),
        key("backup", ON_OR_OFF, "Taken only when no other server can be.").default("off"),
        key("zone", Shape::One(Kind::Name), "Where it stands; see the pool's `zone`.").by_default("none"),
        key(
            "quic_id",
            Shape::One(Kind::QuicServerId),
            "What it calls itself in connection ids of QUIC; for `udp` listeners with `quic: { server_id: … }`.",
        )
        .by_default("none"),
        later("tls", TLS),
    ],
    choices: &[],
};

pub(crate) static CONCURRENCY: Map = Map {
    title: "a concurrency of servers",
    about: "Each server has a bound of its own.",
    keys: &[key("per_server", Shape::One(Kind::Words(&["adaptive"], &[])),
        "Requests that may wait for an answer of one server: as many as it works on best, found out for each from how long its answers take. Those that find no server with a place wait in `queue`.").required()],
    choices: &[],
};

pub(crate) static HASH: Map = Map {
    title: "a hash key",
    about: "What is hashed: one of the two.",
    keys: &[
        key("header", Shape::One(Kind::HeaderName), "A field of the request's header."),
        key("cookie", Shape::One(Kind::CookieName), "A cookie."),
    ],
    choices: &[Choice(&["header", "cookie"])],
};

pub(crate) static STICKY: Map = Map {
    title: "a sticky session",
    about: "The first answer sets a cookie that names the server; requests with it go there while the server is up.",
    keys: &[
        key("cookie", Shape::One(Kind::CookieName), "Its name.").default("SUMUN"),
        key("secret", Shape::One(Kind::Secret), "Signs the cookie. Several gateways share sessions by sharing it.")
            .by_default("a key that this host makes and keeps"),
    ],
    choices: &[],
};

pub(crate) static OUTLIER: Map = Map {
    title: "outlier detection",
    about: "A server whose live requests fail is left out for a while, longer each time.",
    keys: &[
        key("failures", Shape::One(Kind::Integer { least: 0, most: 1_000_000 }),
            "Failures in a row (no connection, cut off, timeout, 502, 503, 504) until it is left out; 0 turns this off.").default("5"),
        key("eject", SPAN, "How long, the first time; the n-th time lasts n times as long.").default("10s"),
        key("eject_max", SPAN, "At most this long.").default("300s"),
        key("max_ejected", Shape::One(Kind::Percent), "At most this share of a pool is left out.").default("50%"),
    ],
    choices: &[],
};

pub(crate) static TIMEOUTS: Map = Map {
    title: "timeouts",
    about: "How long the gateway waits for a server.",
    keys: &[
        key("connect", SPAN, "For the connection.").default("2s"),
        key("first_byte", SPAN, "From the end of the request to the first byte of the answer.").default("30s"),
        key("idle", SPAN, "Between two bytes of a body or a tunnel.").default("60s"),
        key("keepalive", SPAN, "An unused connection is closed after this.").default("30s"),
    ],
    choices: &[],
};

pub(crate) static RETRIES: Map = Map {
    title: "retries",
    about: "A request of which nothing was written is tried again at no cost; one that was written and not answered only where its method is idempotent, within the budget.",
    keys: &[
        key(
            "tries",
            Shape::One(Kind::Integer { least: 0, most: 10 }),
            "Further tries after the first; 0 turns retries off.",
        )
        .default("2"),
        key("budget", Shape::One(Kind::Percent), "Retries may be this share of the requests.").default("20%"),
        key(
            "floor",
            Shape::One(Kind::Integer { least: 0, most: 1_000_000 }),
            "This many retries a second are always allowed.",
        )
        .default("10"),
        key("body", Shape::One(Kind::Size), "A request body is kept for another try up to this size.").default("64KiB"),
    ],
    choices: &[],
};

pub(crate) static QUEUE: Map = Map {
    title: "a queue",
    about: "Requests that wait for a place.",
    keys: &[
        key(
            "size",
            Shape::One(Kind::Integer { least: 0, most: 1_000_000 }),
            "How many may wait; the next one gets 503.",
        )
        .default("1000"),
        key("timeout", SPAN, "How long one may wait before it gets 503.").default("1s"),
    ],
    choices: &[],
};
