//! Rules by which clients are blocked for a while.

use super::{COUNT, NETWORKS, SPAN};
use crate::kind::Kind;
use crate::shape::{Choice, Map, Shape, key};

pub(crate) static BLOCK: Map = Map {
    title: "a rule of blocks",
    about: "A client that breaks it is blocked on every listener with routes. Clients are addresses, of IPv6 the /64; those of `trusted_proxies` are never blocked, but the clients that they name.",
    keys: &[
        key("when", Shape::Map(&BLOCK_WHEN), "What is too much.").required(),
        key("for", SPAN, "How long the block lasts.").required(),
        key(
            "do",
            Shape::One(Kind::Words(&["refuse", "close"], &[])),
            "`refuse` answers with 403, `close` closes connections unanswered.",
        )
        .default("refuse"),
        key("allow", NETWORKS, "Clients that the rule does not look at.").by_default("nobody"),
    ],
    choices: &[],
};

pub(crate) static BLOCK_WHEN: Map = Map {
    title: "what blocks a client",
    about: "So many answers of these statuses, or refusals of this limit, within this time: exactly one of `status` and `limit`.",
    keys: &[
        key(
            "status",
            Shape::OneOrList(&Shape::Either(&[
                Shape::One(Kind::Integer { least: 400, most: 599 }),
                Shape::One(Kind::Words(&["4xx", "5xx"], &[])),
            ])),
            "Statuses of answers, those of servers too.",
        ),
        key(
            "limit",
            Shape::One(Kind::Name),
            "A rate limit whose refusals count. It has to tell clients apart: its key is `client`, a header, a cookie or a claim, or has one of them in it.",
        ),
        key("count", COUNT, "The answer or refusal that is too many.").required(),
        key("within", SPAN, "From the first of them on.").required(),
    ],
    choices: &[Choice(&["status", "limit"])],
};
