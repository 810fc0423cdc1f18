//! The waiting room of a route.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::process::Use;
use super::{Lower, Section};
use crate::checked::{Rate, Route, WaitingRoom};
use crate::node::Node;
use crate::report::quoted;
use crate::values;

impl Lower<'_> {
    pub(super) fn waiting_room(&mut self, route: Section<'_>) -> Option<WaitingRoom> {
        let node = route.given("waiting_room")?;
        let room = route.section("waiting_room");
        if let Some(other) = ["files", "redirect", "respond"].into_iter().find(|key| route.given(key).is_some()) {
            let message = format!("a waiting room in front of `{other}`");
            self.error(node.place, message, "it keeps the crowd from servers: only a route with `proxy` has one");
        }
        let page = room.given("page").and_then(|node| Some((node, self.path(node, room.text("page")?))));
        if let Some((node, path)) = &page {
            self.probe_file(node.place, path);
            self.probe_as_user(node.place, path, Use::Read);
        }
        let shared = self.is_shared(room);
        Some(WaitingRoom {
            admit: rate(room, "admit"),
            active: room.optional_number("active").unwrap_or(1),
            session: room.duration("session"),
            claim: room.duration("claim"),
            waiting: room.number("waiting"),
            tickets: rate(room, "tickets"),
            shared,
            page: page.map(|(_, path)| path),
        })
    }

    /// A room lives on under the name of its route.
    pub(super) fn tell_rooms_apart(&mut self, nodes: &[Node], routes: &[Arc<Route>]) {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for route in routes.iter().filter(|route| route.waiting_room.is_some()) {
            *seen.entry(&route.name).or_default() += 1;
        }
        for node in nodes {
            let Some(room) = node.find("waiting_room") else { continue };
            let name = node.find("name").or_else(|| node.find("path")).and_then(Node::scalar);
            let name = name.map_or("/", |scalar| scalar.text.as_str());
            if seen.get(name).is_some_and(|count| *count > 1) {
                let message =
                    format!("two routes of this listener that are called {} have a waiting room", quoted(name));
                self.error(room.place, message, "give one of them another `name`, or match both with one route");
            }
        }
    }
}

/// What the walker refused already is replaced by the least.
fn rate(room: Section<'_>, key: &str) -> Rate {
    let least = Rate { count: 1, period: std::time::Duration::from_secs(1) };
    room.value(key, values::rate).unwrap_or(least)
}
