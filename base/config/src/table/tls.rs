//! TLS towards clients and towards servers.

use super::{ON_OR_OFF, PATH};
use crate::kind::Kind;
use crate::shape::{Map, Shape, key, later};

const VERSION: Shape = Shape::One(Kind::TlsVersion);

pub(crate) static LISTENER_TLS: Map = Map {
    title: "TLS of a listener",
    about: "Files are watched: a pair that was replaced by a good one is used for new connections within seconds, a bad one changes nothing and is logged.",
    keys: &[
        key(
            "certs",
            Shape::OneOrList(&Shape::Map(&CERTIFICATE)),
            "Certificates, chosen by the name that the client asks for; the first is for all others.",
        )
        .required(),
        key("min_version", VERSION, "The oldest version that is spoken.").default("1.2"),
        key("client_auth", Shape::Map(&CLIENT_AUTH), "Clients have to show a certificate, or may.").by_default("none"),
        key(
            "tickets",
            ON_OR_OFF,
            "Clients that were here before open connections faster; not used together with `client_auth`.",
        )
        .default("on"),
        later("acme", "ACME"),
    ],
    choices: &[],
};

pub(crate) static CERTIFICATE: Map = Map {
    title: "a certificate",
    about: "Files in PEM form, read by the supervisor; the key may be readable by root alone.",
    keys: &[
        key("cert", PATH, "The certificate, then the chain up to the authority.").required(),
        key("key", PATH, "Its private key, without a passphrase.").by_default("in the same file"),
        key("ocsp", PATH, "An OCSP response in DER form, which clients get with the certificate.").by_default("none"),
    ],
    choices: &[],
};

pub(crate) static CLIENT_AUTH: Map = Map {
    title: "client authentication",
    about: "Certificates of clients, verified while the connection opens.",
    keys: &[
        key("ca", PATH, "The authorities whose certificates are taken, in PEM form.").required(),
        key(
            "mode",
            Shape::One(Kind::Words(&["required", "optional"], &[])),
            "`required` closes the connection of a client without one; a certificate that is not valid always does.",
        )
        .default("required"),
        key(
            "header",
            Shape::One(Kind::EditedHeader),
            "Carries the subject to the servers (RFC 4514); taken out of every request before.",
        )
        .default("X-Client-Subject"),
    ],
    choices: &[],
};

pub(crate) static REDIRECT_HTTPS: Map = Map {
    title: "a redirection to https",
    about: "The long form of `redirect_https`.",
    keys: &[
        key("port", Shape::One(Kind::Integer { least: 1, most: 65_535 }), "TCP port of the new URL.")
            .by_default("that of the listener's first address with TLS, else 443"),
        key("status", Shape::One(Kind::Integer { least: 301, most: 308 }), "301, 302, 307 or 308.").default("308"),
    ],
    choices: &[],
};

pub(crate) static HSTS: Map = Map {
    title: "strict transport security",
    about: "The long form of `hsts`. Browsers that saw it once refuse plain HTTP for this long.",
    keys: &[
        key("max_age", Shape::One(Kind::Span), "How long.").required(),
        key("subdomains", ON_OR_OFF, "Names below this one, too.").default("off"),
        key("preload", ON_OR_OFF, "The host may be put into browsers' built-in lists; hard to take back.")
            .default("off"),
    ],
    choices: &[],
};

pub(crate) static POOL_TLS: Map = Map {
    title: "TLS of a pool",
    about: "The long form of `tls` in a pool.",
    keys: &[
        key(
            "verify",
            ON_OR_OFF,
            "The server's certificate has to be valid, for its name, and from a trusted authority.",
        )
        .default("on"),
        key("ca", PATH, "The authorities that are trusted, in PEM form.").by_default("those of the host"),
        key("sni", Shape::One(Kind::ServerName), "The name that is asked for and verified.")
            .by_default("the name or IP address of the server"),
        key("cert", PATH, "A certificate for servers that ask for one, then its chain, in PEM form.")
            .by_default("none"),
        key("key", PATH, "Its private key, without a passphrase.").by_default("in the file of `cert`"),
        key("min_version", VERSION, "The oldest version that is spoken.").default("1.2"),
    ],
    choices: &[],
};
