//! TLS towards clients and towards servers.

use super::{ON_OR_OFF, PATH};
use crate::kind::Kind;
use crate::shape::{Choice, Map, Shape, key};

const VERSION: Shape = Shape::One(Kind::TlsVersion);

pub(crate) static LISTENER_TLS: Map = Map {
    title: "TLS of a listener",
    about: "Files are watched: a pair that was replaced by a good one is used for new connections within seconds, a bad one changes nothing and is logged.",
    keys: &[
        key(
            "certs",
            Shape::OneOrList(&Shape::Map(&CERTIFICATE)),
            "Certificates, chosen by the name that the client asks for; the first is for all others.",
        ),
        key(
            "acme",
            Shape::OneOrList(&Shape::Map(&ACME)),
            "Certificates that Sumun obtains and renews by itself, each map one; beside `certs` or instead.",
        ),
        key("min_version", VERSION, "The oldest version that is spoken.").default("1.2"),
        key("client_auth", Shape::Map(&CLIENT_AUTH), "Clients have to show a certificate, or may.").by_default("none"),
        key(
            "tickets",
            ON_OR_OFF,
            "Clients that were here before open connections faster; not used together with `client_auth`.",
        )
        .default("on"),
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

pub(crate) static ACME: Map = Map {
    title: "a certificate by ACME",
    about: "Obtained from an authority that speaks ACME (RFC 8555), whose terms are agreed to by naming it here, and renewed after two thirds of its lifetime. Until the first is there, a certificate that Sumun signed itself stands in. See [ACME](acme.md).",
    keys: &[
        key("directory", Shape::One(Kind::DirectoryUrl), "Where the authority is asked; https, or http on this host.")
            .required(),
        key(
            "domains",
            Shape::OneOrList(&Shape::One(Kind::CertifiedName)),
            "The names that the certificate is for, 100 at most. Wildcards cannot be obtained.",
        )
        .required(),
        key("email", Shape::One(Kind::Email), "Whom the authority writes to.").by_default("nobody"),
        key(
            "challenge",
            Shape::One(Kind::Words(&["http-01", "tls-alpn-01"], &[])),
            "How the authority sees that the names are ours: by a request to TCP port 80, or by a handshake on TCP port 443.",
        )
        .by_default("`http-01` where an address without TLS has TCP port 80, else `tls-alpn-01` where this one has 443, else `http-01`"),
        key(
            "key_type",
            Shape::One(Kind::Words(&["ecdsa-p256", "ecdsa-p384", "rsa-2048"], &[])),
            "The certificate's key; a new one is made for each certificate.",
        )
        .default("ecdsa-p256"),
        key("ca", PATH, "The authorities that the directory's own certificate may come from, in PEM form.")
            .by_default("those of the host"),
        key("external_account", Shape::Map(&EXTERNAL_ACCOUNT), "An account with the authority that ours belongs to.")
            .by_default("none"),
    ],
    choices: &[],
};

pub(crate) static EXTERNAL_ACCOUNT: Map = Map {
    title: "an external account",
    about: "What the authority gave out for it (RFC 8555 section 7.3.4).",
    keys: &[
        key("key_id", Shape::One(Kind::KeyId), "The key's id.").required(),
        key(
            "hmac_key",
            Shape::One(Kind::HmacKey),
            "The key, in base64url. Best taken from the environment: `${ACME_HMAC_KEY}`.",
        ),
        key("hmac_key_file", PATH, "A file with the key, read by the supervisor; it may be readable by root alone."),
    ],
    choices: &[Choice(&["hmac_key", "hmac_key_file"])],
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
