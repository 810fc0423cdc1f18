//! Routes: what they match, and what is done.

use super::{CHALLENGE, COUNT, NETWORKS, ON_OR_OFF, PATH, QUEUE, ROUTE_CACHE, WAITING_ROOM};
use crate::kind::Kind;
use crate::shape::{Choice, Map, Names, Shape, key};

static CONDITIONS_ON_HEADER: Names =
    Names { title: "a condition", key: Kind::HeaderName, value: Shape::One(Kind::FieldMatch) };
static CONDITIONS_ON_QUERY: Names =
    Names { title: "a condition", key: Kind::Text, value: Shape::One(Kind::FieldMatch) };

pub(crate) static ROUTE: Map = Map {
    title: "a route",
    about: "What a request has to look like (`host`, `path`, `method`, `header`, `query`: all that are given), and exactly one of `proxy`, `files`, `redirect` and `respond`.",
    keys: &[
        key("name", Shape::One(Kind::Name), "For metrics, the log and the API.").by_default("the path as it is written"),
        key("host", Shape::OneOrList(&Shape::One(Kind::Host)),
            "`example.com`, or `\"*.example.com\"` for every name below it.").by_default("every host"),
        key("path", Shape::One(Kind::RoutePath),
            "`/x/` matches everything below it and `/x` itself; `/x` that path alone; `\"~^/shop/[0-9]+$\"` is a regular expression.")
            .default("/"),
        key("method", Shape::OneOrList(&Shape::One(Kind::Method)), "`GET` does not include HEAD.").by_default("every method"),
        key("header", Shape::Names(&CONDITIONS_ON_HEADER),
            "Conditions on header fields: `present`, `absent`, the whole value, or `\"~pattern\"`.").by_default("none"),
        key("query", Shape::Names(&CONDITIONS_ON_QUERY),
            "Conditions on query parameters, written in the same way.").by_default("none"),
        key("proxy", Shape::One(Kind::Name), "Passes the request to a server of this pool."),
        key("files", Shape::Either(&[PATH, Shape::Map(&FILES)]),
            "Serves files from a directory; the matched prefix of the path is stripped. The directory alone, or more in a map."),
        key("redirect", Shape::Either(&[Shape::One(Kind::RedirectTarget), Shape::Map(&REDIRECT)]),
            "Sends the client elsewhere. `{host}`, `{path}`, `{query}` are those of the request, `{?query}` is the query with its question mark, or nothing."),
        key("respond", Shape::Either(&[Shape::One(Kind::Integer { least: 200, most: 599 }), Shape::Map(&RESPOND)]),
            "Answers by itself: a status, or more in a map."),
        key("strip_prefix", ON_OR_OFF, "Takes the matched prefix off the path before it goes to the server.").default("off"),
        key("rewrite", Shape::Map(&REWRITE), "Changes the path before it goes to the server.").by_default("as it came"),
        key("request_headers", Shape::Map(&REQUEST_HEADERS), "Edits the header of the request to the server.").by_default("none"),
        key("response_headers", Shape::Map(&RESPONSE_HEADERS), "Edits the header of the answer.").by_default("none"),
        key("allow", NETWORKS, "Clients that may use this route; see the listener's `allow`.").by_default("everybody"),
        key("deny", NETWORKS, "Clients that get 403.").by_default("nobody"),
        key("basic_auth", Shape::Map(&BASIC_AUTH), "Asks for user and password (RFC 7617).").by_default("none"),
        key("forward_auth", Shape::Map(&FORWARD_AUTH), "Asks another service by a subrequest: 2xx lets the request pass, anything else is the answer.")
            .by_default("none"),
        key("concurrency", Shape::Either(&[COUNT, Shape::One(Kind::Words(&["adaptive"], &[]))]),
            "Requests in flight on this route; more wait in `queue`. `adaptive` as in a pool.").by_default("no bound"),
        key("queue", Shape::Map(&QUEUE), "Where requests wait while `concurrency` is used up.").by_default("see queue"),
        key("deadline", Shape::One(Kind::Span), "The whole request has to be answered within this; 504 after that.").by_default("no bound"),
        key("body", Shape::One(Kind::Size), "The body of a request, instead of `bounds.body` of the listener."),
        key("degrade", Shape::Map(&DEGRADE), "What is served where no server gives an answer.").by_default("an error page"),
        key("limits", Shape::OneOrList(&Shape::One(Kind::Name)),
            "Names of rate limits; a request that one of them does not let pass gets 429, and is counted by none.").by_default("none"),
        key("bandwidth", Shape::One(Kind::Speed),
            "Bytes of bodies a second that requests of this route have together, in each direction by itself; 0 is no bound.").default("0"),
        key("cache", Shape::Either(&[Shape::One(Kind::Name), Shape::Map(&ROUTE_CACHE)]),
            "Keeps answers and gives them out again. The name of a volume alone, or more in a map.").by_default("nothing is kept"),
        key("priority", Shape::One(Kind::Words(&["critical", "high", "normal", "low"], &[])),
            "Who goes first where requests wait for a place, and who is refused last.").default("normal"),
        key("waiting_room", Shape::Map(&WAITING_ROOM), "Lets visitors in at a rate and up to a number; the others wait in order.").by_default("none"),
        key("challenge", Shape::Map(&CHALLENGE), "Clients have to spend computing time before their requests pass; `{}` takes the defaults.").by_default("none"),
    ],
    choices: &[Choice(&["proxy", "files", "redirect", "respond"])],
};

pub(crate) static FILES: Map = Map {
    title: "a directory of files",
    about: "The long form of `files`. Dot files, `..` and links that leave the root are never served.",
    keys: &[
        key("root", PATH, "The directory.").required(),
        key("index", Shape::OneOrList(&Shape::One(Kind::FileName)), "Served for a directory; the first that is there.")
            .default("index.html"),
        key("fallback", Shape::One(Kind::BelowRoot), "Served where nothing is found, for single-page applications.")
            .by_default("404"),
        key("precompressed", ON_OR_OFF, "Takes `.br`, `.zst` and `.gz` beside a file where the client accepts them.")
            .default("on"),
        key("compress", ON_OR_OFF, "Compresses text on the fly.").default("on"),
        key("list", ON_OR_OFF, "Lists a directory that has no index file.").default("off"),
        key("write", ON_OR_OFF, "Allows PUT and DELETE.").default("off"),
        key(
            "cache_control",
            Shape::Names(&Names {
                title: "a Cache-Control value",
                key: Kind::FileName,
                value: Shape::One(Kind::HeaderValue),
            }),
            "By file name, the first match wins: `{ \"*.css\": max-age=3600, \"*\": no-cache }`.",
        )
        .by_default("none"),
        key(
            "types",
            Shape::Names(&Names { title: "a media type", key: Kind::Extension, value: Shape::One(Kind::MediaType) }),
            "By file extension, over the built-in table: `{ wasm: application/wasm }`.",
        )
        .by_default("the built-in table"),
    ],
    choices: &[],
};

pub(crate) static DEGRADE: Map = Map {
    title: "a stand-in",
    about: "Serves GET and HEAD with status 200 where the servers are down, too slow or overloaded, and nothing of an answer has gone out.",
    keys: &[key("files", Shape::Either(&[PATH, Shape::Map(&FILES)]),
        "From a directory, as a route with `files` does; what is not there is an error as ever. Caches are told `no-store` unless `cache_control` says otherwise.")
        .required()],
    choices: &[],
};

pub(crate) static REDIRECT: Map = Map {
    title: "a redirect",
    about: "The long form of `redirect`.",
    keys: &[
        key("to", Shape::One(Kind::RedirectTarget), "Path or URL.").required(),
        key("status", Shape::One(Kind::Integer { least: 301, most: 308 }), "301, 302, 303, 307 or 308.").default("302"),
    ],
    choices: &[],
};

pub(crate) static RESPOND: Map = Map {
    title: "an answer",
    about: "The long form of `respond`.",
    keys: &[
        key("status", Shape::One(Kind::Integer { least: 200, most: 599 }), "The status.").default("200"),
        key("body", Shape::One(Kind::Text), "The text.").by_default("empty"),
        key("content_type", Shape::One(Kind::MediaType), "Its type.").default("text/plain; charset=utf-8"),
    ],
    choices: &[],
};

pub(crate) static REWRITE: Map = Map {
    title: "a rewrite",
    about: "The first match of a regular expression in the path is replaced.",
    keys: &[
        key("match", Shape::One(Kind::Regex), "Looked for in the path.").required(),
        key("to", Shape::One(Kind::RewriteTarget),
            "Put in its place, with characters of a path; `$1` and `$name` are groups of the match, `$${name}` one with letters behind it, `$$` is a dollar sign.")
            .required(),
    ],
    choices: &[],
};

macro_rules! header_edits {
    ($title:literal) => {
        Map {
            title: $title,
            about: "First `remove`, then `set`, then `add`. Names are compared in any case, and `_` counts as `-`. What is removed or set is not written by the gateway itself either.",
            keys: &[
                key(
                    "set",
                    Shape::Names(&Names {
                        title: "a value",
                        key: Kind::EditedHeader,
                        value: Shape::One(Kind::HeaderValue),
                    }),
                    "Replaces what is there.",
                )
                .by_default("none"),
                key(
                    "add",
                    Shape::Names(&Names {
                        title: "a value",
                        key: Kind::EditedHeader,
                        value: Shape::OneOrList(&Shape::One(Kind::HeaderValue)),
                    }),
                    "Adds to what is there.",
                )
                .by_default("none"),
                key("remove", Shape::OneOrList(&Shape::One(Kind::EditedHeader)), "Names of fields.").by_default("none"),
            ],
            choices: &[],
        }
    };
}

pub(crate) static REQUEST_HEADERS: Map = header_edits!("edits of the request's header");
pub(crate) static RESPONSE_HEADERS: Map = header_edits!("edits of the answer's header");

pub(crate) static BASIC_AUTH: Map = Map {
    title: "basic authentication",
    about: "Users either here or in a file. Hashes are bcrypt (`$2b$`) or SHA-crypt (`$5$`, `$6$`), made by `htpasswd -nB USER` or `openssl passwd -6`.",
    keys: &[
        key(
            "users",
            Shape::Names(&Names { title: "a password hash", key: Kind::User, value: Shape::One(Kind::PasswordHash) }),
            "Hashes by user.",
        ),
        key("file", PATH, "A file of lines `USER:HASH`, as htpasswd writes it; read at start and at reload."),
        key("realm", Shape::One(Kind::Text), "What the browser shows.").default("Restricted"),
    ],
    choices: &[Choice(&["users", "file"])],
};

pub(crate) static FORWARD_AUTH: Map = Map {
    title: "forward authentication",
    about: "A subrequest with the header of the request, without its body.",
    keys: &[
        key("pool", Shape::One(Kind::Name), "The pool that is asked.").required(),
        key("path", Shape::One(Kind::RequestPath), "The path that is asked for.").required(),
        key("copy", Shape::OneOrList(&Shape::One(Kind::EditedHeader)),
            "Header fields of the answer that go into the request, such as `X-User`; what the client sent in them is removed.").by_default("none"),
    ],
    choices: &[],
};
