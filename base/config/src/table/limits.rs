//! Rate limits.

use super::{ON_OR_OFF, PATH};
use crate::kind::Kind;
use crate::shape::{Choice, Map, Shape, key};

const TEXT: Shape = Shape::One(Kind::Text);

pub(crate) static LIMIT: Map = Map {
    title: "a rate limit",
    about: "How many requests each key may make. Routes name the limits that hold for them; a request beyond one of them gets 429.",
    keys: &[
        key("key", Shape::Either(&[Shape::One(Kind::LimitKey), Shape::Map(&LIMIT_KEY)]),
            "Whose requests are counted together. `client` is the client's address, of an IPv6 client its /64; behind `trusted_proxies` it is the one that X-Forwarded-For tells. `path` is the path. A template such as `\"{client} {header.x-api-key} {path}\"` knows `{client}`, `{path}`, `{method}`, `{host}`, `{listener}`, `{route}`, `{header.NAME}` and `{cookie.NAME}`.")
            .required(),
        key("rate", Shape::One(Kind::Rate), "So many in a second, minute or hour.").required(),
        key("burst", Shape::One(Kind::Integer { least: 1, most: 1_000_000_000 }), "So many at once after a rest.")
            .by_default("as many as in one period"),
        key("window", Shape::One(Kind::Words(&["bucket", "sliding"], &[])),
            "`bucket` gives tokens at an even pace, up to `burst` of them; `sliding` counts what came within the last period.")
            .default("bucket"),
        key("keys", Shape::One(Kind::Integer { least: 1, most: 16_777_216 }),
            "Keys that are remembered at once, 21 bytes each as they come; beyond them the least active one is forgotten.")
            .default("65536"),
        key("shared", ON_OR_OFF,
            "Counts together with other gateways, through the top-level `shared`. With `window: bucket` alone.")
            .default("off"),
        key("fields", Shape::One(Kind::Words(&["refused", "always"], &[])),
            "Which answers tell the client by `RateLimit` and `RateLimit-Policy` how it stands: those to requests that were refused, or all.")
            .default("refused"),
    ],
    choices: &[],
};

pub(crate) static LIMIT_KEY: Map = Map {
    title: "a key of a rate limit",
    about: "A part of the request that tells clients apart. Requests without it are counted by the client's address.",
    keys: &[
        key("header", Shape::One(Kind::HeaderName), "The value of a header field."),
        key("cookie", Shape::One(Kind::CookieName), "The value of a cookie."),
        key(
            "jwt",
            TEXT,
            "A claim of a JSON Web Token (RFC 7519). A token whose signature does not hold, or that has expired, is none.",
        ),
        key(
            "algorithm",
            Shape::One(Kind::Words(&["HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"], &[])),
            "How the token is signed; others are not looked at. Needed with `jwt`.",
        ),
        key(
            "secret",
            Shape::One(Kind::Secret),
            "What it is signed with, for HS256, HS384 and HS512. Best taken from the environment: `${JWT_SECRET}`.",
        ),
        key(
            "file",
            PATH,
            "Instead of `secret`: a file with the secret in it, or for the other algorithms with the public key in PEM (`-----BEGIN PUBLIC KEY-----`); read at start and at reload.",
        ),
        key("token_header", Shape::One(Kind::HeaderName), "The header field with the token, behind `Bearer` or alone.")
            .default("Authorization"),
        key("token_cookie", Shape::One(Kind::CookieName), "The cookie with the token, instead of a header field."),
    ],
    choices: &[Choice(&["header", "cookie", "jwt"])],
};
