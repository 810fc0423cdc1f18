//! The challenge of a route.

use super::SPAN;
use crate::kind::Kind;
use crate::shape::{Map, Shape, key};

pub(crate) static CHALLENGE: Map = Map {
    title: "a challenge",
    about: "Clients have to spend computing time before their requests pass: a browser does it by itself on a page of ours, and keeps a cookie for it. Everybody else gets 403. See [overload.md](overload.md#a-challenge).",
    keys: &[
        key(
            "bits",
            Shape::One(Kind::Integer { least: 4, most: 24 }),
            "How hard it is: about 2 to the power of `bits` hashes; each one more doubles the time.",
        )
        .default("17"),
        key("pass", SPAN, "For so long the client passes then, from the same address (of IPv6: /64).").default("1h"),
    ],
    choices: &[],
};
