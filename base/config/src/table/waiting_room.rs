//! The waiting room of a route.

use super::{COUNT, ON_OR_OFF, PATH, SPAN};
use crate::kind::Kind;
use crate::shape::{Map, Shape, key};

pub(crate) static WAITING_ROOM: Map = Map {
    title: "a waiting room",
    about: "Lets in so many visitors a second and so many at once; the others wait on a page that shows their place, and come in strictly in order. See [waiting-room.md](waiting-room.md).",
    keys: &[
        key("admit", Shape::One(Kind::Rate), "Visitors that are let in, such as `200/s`.").required(),
        key("active", COUNT, "Visitors that are inside at once.").required(),
        key("session", SPAN, "So long after the last request a visitor is no longer inside.").default("10m"),
        key("claim", SPAN, "Who has been called and has not come within this loses the place.").default("2m"),
        key("waiting", Shape::One(Kind::Integer { least: 1, most: 10_000_000 }),
            "Visitors that may wait; more get 503 without a place.").default("1000000"),
        key("tickets", Shape::One(Kind::Rate),
            "New places, in the queue or inside, for one client address, of an IPv6 client's /64. As many may be had at once as in one period.")
            .default("300/m"),
        key("page", PATH, "A page of your own, HTML with `{{place}}`, `{{wait}}`, `{{seconds}}` and `{{script}}` in it.")
            .by_default("a page in Korean or English, as the browser prefers"),
        key("shared", ON_OR_OFF,
            "One room with other gateways, through the top-level `shared`: the routes have the same listener, name and settings there.")
            .default("off"),
    ],
    choices: &[],
};
