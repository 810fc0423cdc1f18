//! What is allowed, and yet can hardly be meant.

use super::{Lower, Section};
use crate::node::Node;
use crate::report::quoted;
use crate::table;
use crate::values;

pub(super) fn of_tree(lower: &mut Lower<'_>, tree: &Node) {
    unused_pools(lower);
    unused_limits(lower);
    for entry in tree.find("pools").map(Node::entries).unwrap_or_default() {
        pool(lower, Section::of(&entry.value, &table::POOL));
    }
    quic_ids_without_effect(lower, tree);
    for entry in tree.find("listeners").map(Node::entries).unwrap_or_default() {
        tls_without_effect(lower, Section::of(&entry.value, &table::LISTENER));
        let routes = entry.value.find("routes").and_then(Node::list).unwrap_or_default();
        unreachable_routes(lower, routes);
        for route in routes {
            queue_without_bound(lower, Section::of(route, &table::ROUTE), false);
        }
    }
}

fn unused_pools(lower: &mut Lower<'_>) {
    for entry in lower.pools {
        if !lower.used.contains(&entry.key) {
            let message = format!("nothing uses the pool {}", quoted(&entry.key));
            lower.problems.warn(
                entry.place,
                message,
                "it is health-checked all the same; remove it if it is not needed",
            );
        }
    }
}

fn unused_limits(lower: &mut Lower<'_>) {
    for entry in lower.limits {
        if !lower.used_limits.contains(&entry.key) {
            let message = format!("no route has the limit {}", quoted(&entry.key));
            lower.problems.warn(entry.place, message, "a route names it: `limits: [NAME]`");
        }
    }
}

fn pool(lower: &mut Lower<'_>, pool: Section<'_>) {
    if let Some(tls) = pool.given("tls")
        && let Some(node) = tls.find("verify")
        && !pool.section("tls").switch("verify")
    {
        let message = "the certificates of these servers are not verified";
        let help = "whoever is in between can read and change everything; `ca: FILE` names an authority of your own";
        lower.problems.warn(node.place, message, help);
    }
    if let Some(node) = pool.given("protocol")
        && pool.text("protocol") == Some("auto")
        && pool.given("tls").is_none_or(|tls| tls.scalar().is_some_and(|text| values::switch(&text.text) == Ok(false)))
    {
        let message = "without `tls`, `auto` is always HTTP/1.1";
        lower.problems.warn(
            node.place,
            message,
            "write `protocol: http2` where the servers speak HTTP/2 in plain text",
        );
    }
    if let Some(node) = pool.given("hash")
        && !matches!(pool.text("balance"), Some("hash" | "maglev"))
    {
        let message = "`hash` has no effect with this `balance`";
        lower.problems.warn(node.place, message, "write `balance: hash` or `balance: maglev`");
    }
    let servers = pool.given("servers").map(Node::one_or_list).unwrap_or_default();
    let bounded = servers.iter().any(|server| server.find("max_connections").is_some());
    queue_without_bound(lower, pool, bounded);
    if !servers.is_empty() && servers.iter().all(|server| Section::of(server, &table::SERVER).switch("backup")) {
        let place = servers.first().map(|server| server.place).unwrap_or_default();
        lower.problems.warn(
            place,
            "every server of this pool is a backup",
            "take `backup` off those that work every day",
        );
    }
}

fn tls_without_effect(lower: &mut Lower<'_>, listener: Section<'_>) {
    let entries = listener.given("bind").map(Node::one_or_list).unwrap_or_default();
    let of_listener = listener.given("tls").is_some();
    let speaks = |entry: &Node| entry.find("tls").map_or(of_listener, |tls| tls.scalar().is_none());
    if let Some(node) = listener.given("redirect_https")
        && !listener.text("redirect_https").is_some_and(|text| values::switch(text) == Ok(false))
        && entries.iter().all(speaks)
    {
        let message = "`redirect_https` has no effect: every address of this listener speaks TLS";
        lower.problems.warn(node.place, message, "add a plain one to `bind`, such as \":80\"");
    }
    if let Some(node) = listener.given("hsts")
        && listener.text("hsts").is_none_or(|text| values::off(text).is_err())
        && !entries.iter().any(speaks)
    {
        let message = "`hsts` has no effect: no address of this listener speaks TLS";
        lower.problems.warn(node.place, message, "clients believe it only over TLS (RFC 6797 section 8.1)");
    }
}

fn quic_ids_without_effect(lower: &mut Lower<'_>, tree: &Node) {
    let entries = |key| tree.find(key).map(Node::entries).unwrap_or_default();
    let udp = entries("listeners").iter().map(|entry| Section::of(&entry.value, &table::LISTENER).section("udp"));
    let goes_by_ids = udp.filter(|udp| udp.section("quic").given("server_id").is_some());
    let pools: Vec<&str> = goes_by_ids.filter_map(|udp| udp.text("pool")).collect();
    for entry in entries("pools").iter().filter(|entry| !pools.contains(&entry.key.as_str())) {
        let servers = Section::of(&entry.value, &table::POOL).given("servers");
        let servers = servers.map(Node::one_or_list).unwrap_or_default();
        if let Some(node) = servers.iter().find_map(|server| server.find("quic_id")) {
            let message = "`quic_id` has no effect: no `udp` listener goes by the ids of this pool";
            let help = "write `quic: { server_id: { bytes: …, nonce: … } }` in its `udp`";
            lower.problems.warn(node.place, message, help);
        }
    }
}

fn queue_without_bound(lower: &mut Lower<'_>, section: Section<'_>, bounded: bool) {
    if let Some(node) = section.given("queue")
        && section.given("concurrency").is_none()
        && !bounded
    {
        let message = "`queue` has no effect: nothing bounds the requests in flight";
        lower.problems.warn(node.place, message, "set `concurrency` beside it");
    }
}

/// A route behind another one that takes everything it would match.
fn unreachable_routes(lower: &mut Lower<'_>, routes: &[Node]) {
    // Only routes without conditions hide others, and few of them hide all the same paths.
    let mut hiding: Vec<(&str, Vec<String>, u32)> = Vec::new();
    for node in routes {
        let route = Section::of(node, &table::ROUTE);
        let path = route.text("path").unwrap_or("/");
        let hosts: Vec<String> = route.texts("host").iter().map(|(_, text)| text.to_ascii_lowercase()).collect();
        let hidden_by = hiding.iter().find(|(prefix, theirs, _)| {
            let path_hidden = path == *prefix
                || (prefix.ends_with('/') && (path.starts_with(prefix) || format!("{path}/") == **prefix));
            let hosts_hidden =
                theirs.is_empty() || (!hosts.is_empty() && hosts.iter().all(|host| theirs.contains(host)));
            path_hidden && hosts_hidden
        });
        if let Some((prefix, _, line)) = hidden_by
            && !path.starts_with('~')
        {
            let message =
                format!("this route is never reached: the one on line {line} takes all of {}", quoted(prefix));
            lower.problems.warn(
                node.place,
                message,
                "the first route that matches is taken: put the narrower one first",
            );
        }
        let has_conditions = ["method", "header", "query"].iter().any(|key| route.given(key).is_some());
        if !has_conditions && !path.starts_with('~') && hiding.len() < HIDING_ROUTES {
            hiding.push((path, hosts, node.place.line));
        }
    }
}

/// Routes that are compared with every later one: enough for a useful hint, and no more work.
const HIDING_ROUTES: usize = 200;
