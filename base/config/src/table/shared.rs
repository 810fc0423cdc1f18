//! What several gateways share.

use super::CREDENTIAL;
use crate::kind::Kind;
use crate::shape::{Map, Shape, key};

pub(crate) static SHARED: Map = Map {
    title: "what gateways share",
    about: "A Redis or Valkey through which gateways share the limits and waiting rooms that say `shared: on`. All of them have the same `secret` and `prefix`.",
    keys: &[
        key("pool", Shape::One(Kind::Name),
            "The pool with its servers. The first one that is up is used, backups last; its health checks, `tls`, `source` and `timeouts.connect` hold.")
            .required(),
        key("user", CREDENTIAL, "Of AUTH.").by_default("the server's default user"),
        key("password", CREDENTIAL, "Of AUTH. Best taken from the environment: `${REDIS_PASSWORD}`.").by_default("no AUTH"),
        key("secret", Shape::One(Kind::Secret),
            "What the keys of limits are hashed with, and the tickets of waiting rooms are signed with. It never leaves the gateways. Best taken from the environment: `${SHARED_SECRET}`.")
            .required(),
        key("prefix", Shape::One(Kind::Name), "What all keys begin with.").default("sumun"),
    ],
    choices: &[],
};
