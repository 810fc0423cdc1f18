//! The cache, and what a route caches.

use super::{ON_OR_OFF, PATH, SPAN};
use crate::kind::Kind;
use crate::shape::{Map, Names, Shape, key};

pub(crate) static CACHE: Map = Map {
    title: "a cache",
    about: "Where answers are kept for all routes with `cache`. See [cache.md](cache.md).",
    keys: &[
        key(
            "memory",
            Shape::One(Kind::Size),
            "Bytes of memory for answers, their bookkeeping included. One answer takes at most a sixteenth of it.",
        )
        .default("256MiB"),
        key("group", Shape::Map(&CACHE_GROUP), "The disks, or files on them, that the volumes lie on.")
            .by_default("memory alone"),
        key(
            "volumes",
            Shape::Names(&Names { title: "a volume", key: Kind::Name, value: Shape::Map(&CACHE_VOLUME) }),
            "The parts of the group that routes keep answers in, by name.",
        )
        .by_default("none"),
    ],
    choices: &[],
};

pub(crate) static CACHE_GROUP: Map = Map {
    title: "a volume group",
    about: "Physical volumes joined to one, out of which the volumes come. What is on them stays over restarts and upgrades.",
    keys: &[
        key("physical_volumes", Shape::List(&Shape::Map(&PHYSICAL_VOLUME)),
            "What there is; a volume has a part of each, by their sizes. One that is added or removed moves no more than its share.")
            .required(),
        key("extent", Shape::One(Kind::Size),
            "Bytes of the pieces that a new physical volume is cut into: a power of two from 1MiB to 64MiB. Those that are there keep theirs.")
            .default("4MiB"),
    ],
    choices: &[],
};

pub(crate) static PHYSICAL_VOLUME: Map = Map {
    title: "a physical volume",
    about: "A file or a block device. What is neither empty nor a physical volume is left as it is, and not used.",
    keys: &[
        key("path", PATH, "Where it is. A file is made; the directory that it lies in has to be there.").required(),
        key("size", Shape::One(Kind::Size), "Bytes of the file.").by_default("a block device, all of it"),
    ],
    choices: &[],
};

pub(crate) static CACHE_VOLUME: Map = Map {
    title: "a volume",
    about: "A named part of the group. It grows and shrinks while it is used.",
    keys: &[
        key(
            "size",
            Shape::One(Kind::Size),
            "Bytes, over all physical volumes. At least two extents of each are taken.",
        )
        .required(),
        key("formerly", Shape::One(Kind::Name), "The name that it had before: what is in it stays.").by_default("none"),
    ],
    choices: &[],
};

pub(crate) static ROUTE_CACHE: Map = Map {
    title: "caching",
    about: "Answers of servers to GET are kept and given out again as RFC 9111 says; `{}` does nothing else. See [cache.md](cache.md).",
    keys: &[
        key("ttl", SPAN, "Answers below status 400 are fresh for so long, whatever the server says; what is private or not to be stored still is.")
            .by_default("what the server says"),
        key("default_ttl", SPAN, "The same where the server says nothing.").by_default("not stored"),
        key("heuristic", ON_OR_OFF,
            "Where nobody says anything, an answer is fresh for a tenth of the time for which it has not changed, a day at most (RFC 9111 section 4.2.2).")
            .default("off"),
        key("negative_ttl", SPAN, "Answers of status 404, 405, 410, 414, 451 and from 500 on are fresh for so long where the server says nothing.")
            .by_default("not stored"),
        key("negative_most", SPAN, "Answers of status 400 and above are never fresh for longer than this, whatever the server says.").by_default("no bound"),
        key("stale_while_revalidate", SPAN, "Given out for so long after it went stale while it is fetched anew, where the server does not say so itself (RFC 5861).")
            .by_default("what the server says"),
        key("stale_if_error", SPAN, "Given out for so long after it went stale where the server fails or cannot be reached, where the server does not say so itself (RFC 5861).")
            .by_default("what the server says"),
        key("key", Shape::OneOrList(&Shape::One(Kind::Words(&["host", "path", "query"], &[]))),
            "What tells answers apart, besides the scheme. Without `host` all names share their answers: the server must not say the name that the client asked for.")
            .by_default("`[host, path, query]`"),
        key("query", Shape::Map(&CACHE_QUERY), "Which parameters count; the server gets no others.").by_default("all, as they were sent"),
        key("bypass", Shape::Map(&CACHE_BYPASS), "Requests that go past the cache.").by_default("none"),
        key("drop_cookies", ON_OR_OFF, "Servers get no `Cookie` in requests whose answer may be stored.").default("off"),
        key("drop_set_cookie", ON_OR_OFF,
            "Answers with `Set-Cookie` are stored without it; only the client whose request it was gets the cookie. Else they are not stored.")
            .default("off"),
        key("tags", Shape::One(Kind::HeaderName),
            "The field in which servers say what an answer is about, such as `Cache-Tag`, for `sumun cache purge --tag`. It is not passed on.")
            .by_default("none"),
        key("volume", Shape::One(Kind::Name), "The volume that answers are kept in; `cache: NAME` is short for `cache: { volume: NAME }`.")
            .by_default("the only one; in memory where there is none"),
        key("slice", Shape::One(Kind::Size),
            "Large answers are fetched and stored in slices of so many bytes, from 64KiB to 64MiB, each when it is asked for; without a volume a sixty-fourth of `memory` at most. See [cache.md](cache.md#slices).")
            .by_default("whole"),
    ],
    choices: &[],
};

pub(crate) static CACHE_QUERY: Map = Map {
    title: "parameters that count",
    about: "Which parameters of a query tell answers apart. The others are left out of the request to the server, too: else its answer could hang on them.",
    keys: &[
        key("only", Shape::OneOrList(&Shape::One(Kind::Text)), "Only these; an empty list is none.").by_default("all"),
        key("except", Shape::OneOrList(&Shape::One(Kind::Text)), "All but these, such as `utm_source`.")
            .by_default("none"),
        key("sort", ON_OR_OFF, "Their order does not count.").default("off"),
    ],
    choices: &[],
};

pub(crate) static CACHE_BYPASS: Map = Map {
    title: "requests past the cache",
    about: "Requests that are neither answered from the cache nor stored.",
    keys: &[
        key(
            "cookie",
            Shape::OneOrList(&Shape::One(Kind::FieldMatch)),
            "Names of cookies, such as `session`; `\"~^wordpress_logged_in\"` is a regular expression.",
        )
        .by_default("none"),
        key("header", Shape::OneOrList(&Shape::One(Kind::HeaderName)), "Names of header fields.").by_default("none"),
    ],
    choices: &[],
};
