//! Routes: conditions, action, edits, authentication.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::listeners::access;
use super::pools::{concurrency, queue};
use super::{Lower, Section};
use crate::checked::{
    Action, BasicAuth, Challenge, FieldMatch, ForwardAuth, HeaderEdits, Name, PathMatch, Pattern, Priority, Redirect,
    Respond, Rewrite, Route, ValueMatch,
};
use crate::node::{Node, Place};
use crate::report::{Rule, quoted};
use crate::table;
use crate::values::{self, http, password};

impl Lower<'_> {
    pub(super) fn routes(&mut self, listener: Section<'_>) -> Vec<Arc<Route>> {
        let nodes = listener.given("routes").and_then(Node::list).unwrap_or_default();
        let routes: Vec<Arc<Route>> = nodes.iter().filter_map(|node| self.route(node).map(Arc::new)).collect();
        self.tell_rooms_apart(nodes, &routes);
        routes
    }

    /// `None` when it has no action that could be read; the rest of it is judged all the same.
    fn route(&mut self, node: &Node) -> Option<Route> {
        let route = Section::of(node, &table::ROUTE);
        let path_text = route.text("path").or_else(|| route.default("path")).unwrap_or_default();
        let path = route.value("path", http::route_path).unwrap_or(PathMatch::Prefix("/".to_owned()));
        let action = self.action(route);
        let basic_auth = self.basic_auth(route);
        let forward_auth = self.forward_auth(route);
        let rewrite = self.rewrite(route);
        let request_headers = self.request_headers(route);
        let degrade = self.degrade(route);
        self.only_for_proxy(route, &path);
        let waiting_room = self.waiting_room(route);
        let cache = self.route_cache(route);
        Some(Route {
            name: Name::from(route.text("name").unwrap_or(path_text)),
            hosts: route.texts("host").into_iter().filter_map(|(_, text)| http::host(text).ok()).collect(),
            path,
            methods: route.texts("method").into_iter().map(|(_, text)| text.to_owned()).collect(),
            headers: conditions(route, "header", str::to_ascii_lowercase),
            query: conditions(route, "query", str::to_owned),
            action: action?,
            strip_prefix: route.switch("strip_prefix"),
            rewrite,
            request_headers,
            response_headers: header_edits(route.section("response_headers"), route.given("response_headers")),
            access: access(route),
            basic_auth,
            forward_auth,
            limits: self.route_limits(route),
            bandwidth: route.speed("bandwidth"),
            concurrency: concurrency(route),
            priority: route.text("priority").and_then(Priority::from_name).unwrap_or_default(),
            queue: queue(route),
            deadline: route.text("deadline").and_then(|text| values::duration(text).ok()),
            body: route.text("body").and_then(|text| values::size(text).ok()),
            degrade,
            waiting_room,
            cache,
            challenge: route.given("challenge").map(|_| challenge(route.section("challenge"))),
        })
    }

    fn action(&mut self, route: Section<'_>) -> Option<Action> {
        if let Some(node) = route.given("proxy") {
            return self.http_pool(node).map(Action::Proxy);
        }
        if let Some(node) = route.given("files") {
            return self.files(route, node).map(Action::Files);
        }
        if let Some(node) = route.given("redirect") {
            return self.redirect(route, node).map(Action::Redirect);
        }
        let node = route.given("respond")?;
        Some(Action::Respond(self.respond(route, node)))
    }

    /// The name of a pool that requests can go to.
    fn http_pool(&mut self, node: &Node) -> Option<Name> {
        let name = self.pool_name(Some(node))?;
        let pool = self.pools.iter().find(|pool| pool.key == *name)?;
        if let Some(written) = pool.value.find("proxy_protocol").and_then(Node::scalar)
            && values::off(&written.text).is_err()
        {
            let message = format!("the pool {} begins connections with a PROXY protocol header", quoted(&name));
            let help = "requests of many clients share them: the servers are told in X-Forwarded-For and Forwarded";
            self.error(node.place, message, help);
        }
        if pool.value.find("source").and_then(Node::scalar).is_some_and(|written| written.text == "client") {
            let message = format!("the pool {} connects from the addresses of clients", quoted(&name));
            let help =
                "requests of many clients share connections: the servers are told in X-Forwarded-For and Forwarded";
            self.error(node.place, message, help);
        }
        Some(name)
    }

    fn redirect(&mut self, route: Section<'_>, node: &Node) -> Option<Redirect> {
        let redirect = route.section("redirect");
        let written = if node.scalar().is_some() { node } else { redirect.given("to")? };
        let scalar = written.scalar().filter(|scalar| !scalar.broken)?;
        let status: u16 = redirect.number("status");
        if let Some(node) = redirect.given("status")
            && (304..=306).contains(&status)
        {
            self.error(node.place, format!("{status} is no status of a redirect"), "it is 301, 302, 303, 307 or 308");
        }
        Some(Redirect { to: scalar.text.clone(), status })
    }

    fn respond(&mut self, route: Section<'_>, node: &Node) -> Respond {
        let respond = route.section("respond");
        let status = match node.scalar() {
            Some(scalar) => scalar.text.parse().unwrap_or_default(),
            None => respond.number("status"),
        };
        let body = respond.text("body").unwrap_or_default().to_owned();
        // RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5: these never carry content.
        if let Some(node) = respond.given("body")
            && matches!(status, 204 | 205 | 304)
            && !body.is_empty()
        {
            self.error(
                node.place,
                format!("an answer with status {status} has no body"),
                "leave the body out, or take another status",
            );
        }
        let content_type = respond.value("content_type", |text| Ok(text.to_owned())).unwrap_or_default();
        Respond { status, body, content_type }
    }

    fn rewrite(&mut self, route: Section<'_>) -> Option<Rewrite> {
        route.given("rewrite")?;
        let rewrite = route.section("rewrite");
        let pattern = values::pattern(rewrite.text("match")?).ok()?;
        let to = rewrite.text("to")?;
        let place = rewrite.given("to").map(|node| node.place).unwrap_or_default();
        for group in groups(to) {
            let known = match group.parse::<usize>() {
                Ok(number) => number < pattern.captures_len(),
                Err(_) => pattern.capture_names().flatten().any(|name| name == group),
            };
            if !known {
                let message = format!("`match` has no group {}", quoted(group));
                let letters_follow =
                    group.starts_with(|first: char| first.is_ascii_digit()) && group.parse::<usize>().is_err();
                let digits = group.trim_end_matches(|last: char| !last.is_ascii_digit());
                self.error(
                    place,
                    message,
                    if letters_follow {
                        format!("where letters follow the group, write $${{{digits}}}")
                    } else {
                        match pattern.captures_len() {
                            1 => "it has no groups, which stand in ( ); `$$` is a dollar sign".to_owned(),
                            2 => "it has one group; `$$` is a dollar sign".to_owned(),
                            more => format!("it has {} groups; `$$` is a dollar sign", more - 1),
                        }
                    },
                );
            }
        }
        Some(Rewrite { pattern: Pattern(pattern), to: to.to_owned() })
    }

    fn request_headers(&mut self, route: Section<'_>) -> HeaderEdits {
        let edits = route.section("request_headers");
        let named = |key: &str| edits.given(key).map(Node::entries).unwrap_or_default();
        let keys = named("set").iter().chain(named("add")).map(|entry| (entry.key.as_str(), entry.place));
        let removed = edits.texts("remove").into_iter().map(|(node, name)| (name, node.place));
        for (name, place) in keys.chain(removed) {
            match http::plain_name(name).as_str() {
                "host" => self.error(
                    place,
                    "the Host header is not edited here",
                    "it belongs to the pool: `host: keep`, `host: server` or `host: app.example.com`",
                ),
                "cdn-loop" => self.error(
                    place,
                    "the CDN-Loop header is not edited",
                    "every gateway on the way adds to it, so that a request that goes round is found (RFC 8586)",
                ),
                _ => {}
            }
        }
        header_edits(edits, route.given("request_headers"))
    }

    /// Keys that only make sense where a request goes to a server.
    fn only_for_proxy(&mut self, route: Section<'_>, path: &PathMatch) {
        let Some(action) = ["proxy", "files", "redirect", "respond"].into_iter().find(|key| route.given(key).is_some())
        else {
            return;
        };
        let strips = route.switch("strip_prefix");
        if action != "proxy" {
            for key in ["strip_prefix", "rewrite", "request_headers", "degrade"] {
                if let Some(node) = route.given(key).filter(|_| key != "strip_prefix" || strips) {
                    let help = if action == "files" && key == "strip_prefix" {
                        "`files` strips the matched prefix by itself: leave it out"
                    } else {
                        "leave it out"
                    };
                    self.error(
                        node.place,
                        format!("`{key}` changes what a server gets, but this route is `{action}`"),
                        help,
                    );
                }
            }
        } else if strips
            && !matches!(path, PathMatch::Prefix(_))
            && let Some(node) = route.given("strip_prefix")
        {
            let help = "a prefix ends with a slash, such as /api/; for other paths there is `rewrite`";
            self.error(node.place, "`strip_prefix` without a prefix: the path is matched as a whole", help);
        }
    }

    fn basic_auth(&mut self, route: Section<'_>) -> Option<BasicAuth> {
        route.given("basic_auth")?;
        let auth = route.section("basic_auth");
        let realm = auth.value("realm", |text| Ok(text.to_owned())).unwrap_or_default();
        // RFC 9110 section 5.6.4: it is sent as a quoted string.
        if let Some(node) = auth.given("realm")
            && realm.chars().any(|character| character.is_control() || matches!(character, '"' | '\\'))
        {
            self.error(node.place, "`realm` holds a quote, a backslash or a control character", "write plain words");
        }
        let mut users: BTreeMap<String, String> =
            auth.named_texts("users").into_iter().map(|(user, _, hash)| (user.to_owned(), hash.to_owned())).collect();
        if let Some(node) = auth.given("users")
            && node.entries().is_empty()
            && node.scalar().is_none()
        {
            self.error(node.place, "`users` names nobody, so nobody could pass", "name a user and a hash");
        }
        if let Some(node) = auth.given("file")
            && let Some(scalar) = node.scalar().filter(|scalar| !scalar.broken)
        {
            let path = self.path(node, &scalar.text);
            users.extend(self.users_of_file(node, &path, &scalar.text));
        }
        Some(BasicAuth { realm, users })
    }

    fn users_of_file(&mut self, node: &Node, path: &std::path::Path, written: &str) -> BTreeMap<String, String> {
        let mut users = BTreeMap::new();
        let directory = self.sources.files.get(node.place.file).map(|file| file.directory.join(written));
        let found = directory.and_then(|path| self.sources.attached.get(&path));
        let index = match found {
            Some(Ok(index)) => *index,
            Some(Err(reason)) => {
                self.error(
                    node.place,
                    format!("the file {} cannot be read: {reason}", path.display()),
                    "`htpasswd -B -c FILE USER` makes one",
                );
                return users;
            }
            None => {
                self.error(
                    node.place,
                    format!("the file {} was not read", path.display()),
                    "no file is read here: write `users` instead",
                );
                return users;
            }
        };
        let text = self.sources.files.get(index).map(|file| file.text.as_str()).unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            let place =
                Place { file: index, line: u32::try_from(number + 1).unwrap_or(u32::MAX), column: 1, length: 1 };
            match password::line(line) {
                Ok(None) => {}
                Ok(Some((user, hash))) => {
                    if users.insert(user.to_owned(), hash.to_owned()).is_some() {
                        self.error(
                            place,
                            format!("the user {} stands here a second time", quoted(user)),
                            "keep one of the two",
                        );
                    }
                }
                Err(wrong) => {
                    let severity = crate::report::Severity::Error;
                    self.problems.push(place, Rule::Meaning, severity, wrong.message, wrong.help);
                }
            }
        }
        if users.is_empty() && !self.problems.has_errors() {
            self.error(
                node.place,
                format!("the file {} names nobody, so nobody could pass", path.display()),
                "`htpasswd -B FILE USER` adds a user",
            );
        }
        users
    }

    fn forward_auth(&mut self, route: Section<'_>) -> Option<ForwardAuth> {
        route.given("forward_auth")?;
        let auth = route.section("forward_auth");
        let pool = auth.given("pool").and_then(|node| self.http_pool(node));
        let path = auth.text("path")?.to_owned();
        let copy = auth.texts("copy").into_iter().map(|(_, text)| text.to_owned()).collect();
        Some(ForwardAuth { pool: pool?, path, copy })
    }
}

fn challenge(challenge: Section<'_>) -> Challenge {
    Challenge { bits: challenge.number("bits"), pass: challenge.duration("pass") }
}

fn conditions(route: Section<'_>, key: &str, name_of: fn(&str) -> String) -> Vec<FieldMatch> {
    let written = route.named_texts(key).into_iter();
    written
        .map(|(name, _, text)| FieldMatch {
            name: name_of(name),
            value: http::field_match(text).unwrap_or(ValueMatch::Present),
        })
        .collect()
}

fn header_edits(edits: Section<'_>, given: Option<&Node>) -> HeaderEdits {
    if given.is_none() {
        return HeaderEdits::default();
    }
    let pairs = |key: &str| {
        edits.named_texts(key).into_iter().map(|(name, _, value)| (name.to_owned(), value.to_owned())).collect()
    };
    HeaderEdits {
        set: pairs("set"),
        add: pairs("add"),
        remove: edits.texts("remove").into_iter().map(|(_, name)| name.to_owned()).collect(),
    }
}

/// The groups that a replacement names, read as the regex crate reads it.
fn groups(to: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = to;
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(after) = after.strip_prefix('$') {
            rest = after;
        } else if let Some((name, next)) = after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            found.push(name);
            rest = next;
        } else {
            let length = after.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
            let (name, next) = after.split_at_checked(length).unwrap_or((after, ""));
            if !name.is_empty() {
                found.push(name);
            }
            rest = next;
        }
    }
    found
}
