//! Active health checks of a pool's servers.

use super::SPAN;
use crate::kind::Kind;
use crate::shape::{Choice, Map, Shape, key};

pub(crate) static HEALTH: Map = Map {
    title: "a health check",
    about: "Exactly one of `http`, `tcp`, `tls`, `redis`, `postgres`, `dns` and `exec`.",
    keys: &[
        key(
            "http",
            Shape::Either(&[Shape::One(Kind::RequestPath), Shape::Map(&HTTP_CHECK)]),
            "A GET; the path alone, or more in a map.",
        ),
        key(
            "tcp",
            Shape::Map(&TCP_CHECK),
            "A connection that opens is enough: `tcp: {}`; or something is sent and expected.",
        ),
        key(
            "tls",
            Shape::Map(&TLS_CHECK),
            "A handshake of TLS, where it is passed through to the servers: `tls: {}`. Certificates are not verified. A pool that speaks TLS itself needs no more than `tcp: {}`.",
        ),
        key("redis", Shape::Map(&REDIS_CHECK), "PING to a server of Redis, which has to answer PONG: `redis: {}`."),
        key(
            "postgres",
            Shape::Map(&POSTGRES_CHECK),
            "Begins a session with a server of PostgreSQL, up to its question for a password: `postgres: {}`.",
        ),
        key("dns", Shape::Map(&DNS_CHECK), "A question to a DNS server: `dns: {}`."),
        key(
            "exec",
            Shape::OneOrList(&Shape::One(Kind::Argument)),
            "A command of this host; with arguments a list, `[./check.sh, --deep]`. Exit status 0 is good. It is told of the server by `SUMUN_POOL`, `SUMUN_SERVER`, `SUMUN_ADDRESS` and `SUMUN_PORT`.",
        ),
        key("every", SPAN, "Time between two checks of a server.").default("2s"),
        key("timeout", SPAN, "How long a check may take; not longer than `every`.")
            .by_default("1s, or `every` where that is shorter"),
        key("rise", Shape::One(Kind::Integer { least: 1, most: 100 }), "Good answers in a row until a server is up.")
            .default("2"),
        key("fall", Shape::One(Kind::Integer { least: 1, most: 100 }), "Bad answers in a row until a server is down.")
            .default("3"),
        key(
            "port",
            Shape::One(Kind::Integer { least: 1, most: 65_535 }),
            "Another TCP port to check; with `dns` over UDP another UDP port.",
        )
        .by_default("the server's own"),
    ],
    choices: &[Choice(&["http", "tcp", "tls", "redis", "postgres", "dns", "exec"])],
};

pub(crate) static HTTP_CHECK: Map = Map {
    title: "an HTTP check",
    about: "The long form of `http` in `health`.",
    keys: &[
        key("path", Shape::One(Kind::RequestPath), "What is asked for.").required(),
        key("host", Shape::One(Kind::HostAndPort), "The Host header.").by_default("the server's address"),
        key(
            "status",
            Shape::OneOrList(&Shape::Either(&[
                Shape::One(Kind::Integer { least: 100, most: 599 }),
                Shape::One(Kind::StatusRange),
            ])),
            "Statuses that are good.",
        )
        .default("200-299"),
    ],
    choices: &[],
};

pub(crate) static TCP_CHECK: Map = Map {
    title: "a TCP check",
    about: "Without keys a connection is enough. A text that begins with `hex:` is bytes, two hexadecimal digits each.",
    keys: &[
        key("send", Shape::One(Kind::Bytes), "Written once the connection is open.").by_default("nothing"),
        key("expect", Shape::One(Kind::Bytes), "Has to be found somewhere in the first 4 KiB of what the server says.")
            .by_default("nothing"),
    ],
    choices: &[],
};

pub(crate) static TLS_CHECK: Map = Map {
    title: "a TLS check",
    about: "A handshake is enough, whatever certificate is shown.",
    keys: &[key("name", Shape::One(Kind::ServerName), "The name that is asked for (SNI).")
        .by_default("the name in the server's address, none for an IP address")],
    choices: &[],
};

pub(crate) static REDIS_CHECK: Map = Map {
    title: "a Redis check",
    about: "AUTH comes before PING where there is a password.",
    keys: &[
        key("password", Shape::One(Kind::Credential), "Best taken from the environment: `${REDIS_PASSWORD}`.")
            .by_default("none"),
        key("user", Shape::One(Kind::Credential), "A user of the server's ACL; PING is all it has to be allowed.")
            .by_default("the server's default user"),
    ],
    choices: &[],
};

pub(crate) static POSTGRES_CHECK: Map = Map {
    title: "a PostgreSQL check",
    about: "A server that refuses this user or database lives; one that starts, ends or has no place for another connection does not.",
    keys: &[
        key("user", Shape::One(Kind::Credential), "The role of the session. It needs no rights, and need not be there: then the server's log tells of each check.")
            .default("sumun"),
        key("database", Shape::One(Kind::Credential), "The database of the session.").by_default("named as the user"),
    ],
    choices: &[],
};

pub(crate) static DNS_CHECK: Map = Map {
    title: "a DNS check",
    about: "Without `name` every answer is good but SERVFAIL; with it only NOERROR.",
    keys: &[
        key("name", Shape::One(Kind::DomainName), "What is asked for.").by_default("the root"),
        key("type", Shape::One(Kind::Words(&["A", "AAAA", "NS", "SOA", "TXT"], &[])), "The type of its records.")
            .default("NS"),
        key(
            "transport",
            Shape::One(Kind::Words(&["udp", "tcp"], &[])),
            "Over UDP the question is sent once more at half of `timeout`.",
        )
        .default("udp"),
    ],
    choices: &[],
};
