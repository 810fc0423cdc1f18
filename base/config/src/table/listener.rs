//! Listeners and the bounds of what clients may ask for.

use sumun_hello::limits;

use super::{HSTS, LISTENER_TLS, NETWORKS, OFF, ON_OR_OFF, PATH, REDIRECT_HTTPS};
use crate::kind::Kind;
use crate::shape::{Choice, Map, Names, Shape, key};
use crate::table::ROUTE;

const SPAN: Shape = Shape::One(Kind::Span);
const SPEED: Shape = Shape::One(Kind::Speed);
const POOL_NAME: Shape = Shape::One(Kind::Name);
const BY_PROTOCOL: Shape =
    Shape::Names(&Names { title: "a pool", key: Kind::AlpnProtocol, value: Shape::One(Kind::Name) });

pub(crate) static LISTENER: Map = Map {
    title: "a listener",
    about: "An address where clients connect, and what is spoken there.",
    keys: &[
        key("bind",
            Shape::OneOrList(&Shape::Either(&[Shape::One(Kind::BindAddress), Shape::Map(&BIND_ENTRY)])),
            "Addresses to listen on. `\":8080\"` is all addresses of both families; TCP port 0 lets the kernel choose; `127.0.0.1:5000-5009` is ten addresses; `/udp` behind it is for `udp`.")
            .required(),
        key("routes", Shape::List(&Shape::Map(&ROUTE)), "Rules; the first that matches is taken. A request that matches none gets 404."),
        key("bandwidth", Shape::Either(&[SPEED, Shape::Map(&BANDWIDTH)]),
            "Bytes a second that are passed on, in each direction by itself: with `routes` those of bodies, with `tcp`, `sni` or `udp` all. A speed is short for `{ total: SPEED }`. Connections wait for their share, datagrams beyond it are dropped.")
            .by_default("no bound"),
        key("proxy_protocol", Shape::Either(&[OFF, Shape::One(Kind::Words(&["accept"], &[]))]),
            "`accept`: connections from `trusted_proxies` start with a PROXY protocol header, version 1 or 2.").default("off"),
        key("bounds", Shape::Map(&BOUNDS), "What a client may ask for.").by_default("see below"),
        key("allow", NETWORKS,
            "Clients that may connect; once there is such a list, connections of others are closed unanswered. The most specific network decides, `deny` in a tie.")
            .by_default("everybody"),
        key("deny", NETWORKS, "Clients whose connections are closed unanswered.").by_default("nobody"),
        key("trace", ON_OR_OFF, "Answers TRACE (RFC 9110 section 9.3.8) instead of refusing it.").default("off"),
        key("request_id", Shape::One(Kind::RequestIdHeader), "Header field that carries the request id.").default("X-Request-Id"),
        key("error_pages", Shape::Names(&Names { title: "an error page", key: Kind::ErrorStatus, value: PATH }),
            "Own pages by status: `{ 404: errors/404.html }`.").by_default("short pages of the gateway's own"),
        key("tls", Shape::Map(&LISTENER_TLS), "TLS on every address of the listener that has no `tls` of its own.")
            .by_default("plain"),
        key("redirect_https", Shape::Either(&[ON_OR_OFF, Shape::Map(&REDIRECT_HTTPS)]),
            "Requests that come without TLS are sent to the same URL with https.").default("off"),
        key("hsts", Shape::Either(&[OFF, SPAN, Shape::Map(&HSTS)]),
            "Strict-Transport-Security in every answer over TLS (RFC 6797); a duration is short for `{ max_age: DURATION }`.").default("off"),
        key("tcp", POOL_NAME,
            "The pool to which connections are passed on, whatever is spoken on them."),
        key("sni", Shape::Names(&Names { title: "a pool", key: Kind::Host, value: Shape::Either(&[POOL_NAME, BY_PROTOCOL]) }),
            "Pools by the name that a client's TLS asks for; the TLS is passed on as it is, unless the listener has `tls`. `\"*.example.com\"` is all names below it, `default` all others and clients without a name. A map in the place of a pool chooses by what the client would speak (ALPN): `{ h2: POOL, default: POOL }`."),
        key("udp", Shape::Either(&[POOL_NAME, Shape::Map(&UDP)]),
            "The pool to which datagrams are passed on; every address of `bind` is then one with `/udp`."),
    ],
    choices: &[Choice(&["routes", "tcp", "udp", "sni"])],
};

pub(crate) static BIND_ENTRY: Map = Map {
    title: "an address to listen on",
    about: "The long form of an address.",
    keys: &[
        key("address", Shape::One(Kind::BindAddress), "The address.").required(),
        key(
            "tls",
            Shape::Either(&[OFF, Shape::Map(&LISTENER_TLS)]),
            "TLS on this address; `off` keeps it plain where the listener has `tls`.",
        )
        .by_default("the listener's"),
    ],
    choices: &[],
};

pub(crate) static BOUNDS: Map = Map {
    title: "bounds",
    about: "Whatever a client sends beyond these is refused.",
    keys: &[
        key("header", Shape::One(Kind::Size), "Request line and header together, 1KiB to 1MiB; more gets 431.")
            .default("64KiB"),
        key("headers", Shape::One(Kind::Integer { least: 1, most: 256 }), "Header fields of a request; more get 431.")
            .default("100"),
        key("request_line", Shape::One(Kind::Size), "The request line, 256B up to `header`; a longer one gets 414.")
            .default("16KiB"),
        key("body", Shape::One(Kind::Size), "The body of a request; more gets 413. A route can override it.")
            .default("10MiB"),
        key("header_timeout", SPAN, "From the first byte of a request to the end of its header; 408 after that. A new connection that sends nothing for so long is closed. With `tcp` or `sni`, until a PROXY header, a ClientHello or a handshake is complete.")
            .default("10s"),
        key("idle", SPAN,
            "A connection that waits for its next request is closed after this (for its first one: `header_timeout`); with `tcp` or `sni` one on which nothing comes from either side, with `udp` a flow is forgotten.")
            .by_default("60s; 1h with `tcp` or `sni`; 30s with `udp`"),
        key("body_rate", Shape::One(Kind::Speed), "A request body has to come at least at this speed; 0 turns it off.")
            .default("1KiB/s"),
        key("answer_rate", Shape::One(Kind::Speed), "A client has to take its answer at least at this speed, looked at once in each idle time in which we wait for it; 0 turns it off.")
            .default("256B/s"),
        key(
            "connections",
            Shape::One(Kind::Integer { least: 1, most: 10_000_000 }),
            "Connections of the listener at once; with `udp`, flows.",
        )
        .default("10000"),
        key(
            "per_client",
            Shape::One(Kind::Integer { least: 0, most: 10_000_000 }),
            "Connections of one client address at once, with `udp` its flows; 0 turns it off.",
        )
        .default("1000"),
        key(
            "connection_rate",
            Shape::One(Kind::Rate),
            "New connections of one client address, of an IPv6 client's /64; those beyond are closed. As many may come at once as in one period. With `udp`, new flows.",
        )
        .by_default("no bound"),
        key(
            "requests",
            Shape::One(Kind::Integer { least: 1, most: 1_000_000_000 }),
            "Requests on one connection; the last answer closes it.",
        )
        .default("10000"),
    ],
    choices: &[],
};

pub(crate) static UDP: Map = Map {
    title: "a UDP service",
    about: "The long form of `udp`. Datagrams between one client address and UDP port and the listener are a flow: all of them go to the server that the first one went to.",
    keys: &[
        key("pool", POOL_NAME, "Where they go.").required(),
        key("responses", Shape::One(Kind::Integer { least: 0, most: 1_000_000 }),
            "A flow ends when the server has answered so many times for each datagram of the client; the next datagram chooses a server anew. 1 suits DNS. With 0, which suits syslog, every datagram chooses its server.")
            .by_default("flows end by `bounds.idle` alone"),
        key("quic", Shape::Either(&[ON_OR_OFF, Shape::Map(&QUIC)]),
            "The datagrams are those of QUIC: a connection whose client comes from another address or UDP port stays at its server, which is told by the connection id. `on` goes by the ids that servers were seen to use.")
            .default("off"),
    ],
    choices: &[],
};

pub(crate) static QUIC: Map = Map {
    title: "QUIC",
    about: "The long form of `quic`.",
    keys: &[key(
        "server_id",
        Shape::Map(&QUIC_SERVER_ID),
        "Servers say in each connection id who they are, so that it is known without having been seen: behind several gateways, after an upgrade, and where a client changes its ids. Every server of the pool then has a `quic_id`.",
    )
    .by_default("ids are learnt alone")],
    choices: &[],
};

const SERVER_ID_BYTES: Kind =
    Kind::Integer { least: *limits::SERVER_ID_BYTES.start() as u64, most: *limits::SERVER_ID_BYTES.end() as u64 };
const NONCE_BYTES: Kind =
    Kind::Integer { least: *limits::NONCE_BYTES.start() as u64, most: *limits::NONCE_BYTES.end() as u64 };

pub(crate) static QUIC_SERVER_ID: Map = Map {
    title: "a server id of QUIC",
    about: "How the servers make connection ids (draft-ietf-quic-load-balancers-21 section 5.3), as they have been told themselves.",
    keys: &[
        key("bytes", Shape::One(SERVER_ID_BYTES), "Length of every `quic_id`.").required(),
        key("nonce", Shape::One(NONCE_BYTES), "Length of the nonce; it and `bytes` are at most 19 together.")
            .required(),
        key(
            "config",
            Shape::One(Kind::Integer { least: 0, most: 6 }),
            "Which configuration it is: the first three bits of such ids.",
        )
        .default("0"),
        key(
            "key",
            Shape::One(Kind::BlockKey),
            "Encrypts ids by AES-128. Best taken from the environment: `${QUIC_KEY}`.",
        )
        .by_default("ids are in the clear"),
    ],
    choices: &[],
};

pub(crate) static BANDWIDTH: Map = Map {
    title: "a bandwidth",
    about: "Each of these holds for both directions, for each by itself; 0 is no bound.",
    keys: &[
        key("total", SPEED, "Of all connections or flows of the listener together.").default("0"),
        key("client", SPEED, "Of one client address, of an IPv6 client's /64.").default("0"),
        key("connection", SPEED, "Of one connection or flow.").default("0"),
    ],
    choices: &[],
};
