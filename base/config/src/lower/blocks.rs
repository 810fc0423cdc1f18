//! Rules by which clients are blocked for a while, and what is looked up of who asks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::process::Use;
use super::{Lower, Section};
use crate::checked::{BlockRule, KeyPart, Limit, Name};
use crate::limits::BLOCK_RULES;
use crate::node::Node;
use crate::report::quoted;
use crate::table;
use crate::values;

/// Statuses of a class.
const CLIENT_ERRORS: (u16, u16) = (400, 499);
const SERVER_ERRORS: (u16, u16) = (500, 599);

impl Lower<'_> {
    pub(super) fn asn_table(&mut self, top: Section<'_>) -> Vec<PathBuf> {
        let traffic = top.section("traffic");
        let file = |(node, text): (&Node, &str)| {
            let path = self.path(node, text);
            self.probe_file(node.place, &path);
            self.probe_as_user(node.place, &path, Use::Read);
            path
        };
        traffic.texts("asn_table").into_iter().map(file).collect()
    }

    pub(super) fn blocks(&mut self, top: Section<'_>, limits: &BTreeMap<Name, Arc<Limit>>) -> Vec<BlockRule> {
        let Some(node) = top.given("blocks") else { return Vec::new() };
        let rules = node.list().unwrap_or_default();
        if rules.len() > BLOCK_RULES {
            let message = format!("there are {} rules", rules.len());
            self.error(node.place, message, format!("at most {BLOCK_RULES}: each remembers its clients by itself"));
        }
        for node in rules {
            if let Some(node) = Section::of(node, &table::BLOCK).section("when").given("limit") {
                self.limit_of_clients(node, limits);
            }
        }
        rules.iter().map(rule).collect()
    }

    /// Who goes over a limit that all clients share is blocked for what the others did.
    fn limit_of_clients(&mut self, node: &Node, limits: &BTreeMap<Name, Arc<Limit>>) {
        let Some(text) = node.scalar().map(|scalar| &*scalar.text).filter(|text| values::name(text).is_ok()) else {
            return;
        };
        let is_of_clients = |part: &KeyPart| {
            matches!(part, KeyPart::Client | KeyPart::Header(_) | KeyPart::Cookie(_) | KeyPart::Claim(_))
        };
        match limits.get(text) {
            Some(limit) if !limit.key.iter().any(is_of_clients) => {
                let message = format!("the limit {} counts all clients together", quoted(text));
                self.error(
                    node.place,
                    message,
                    "one would be blocked for what others did; a key with `client` in it tells them apart",
                );
            }
            Some(_) => {}
            // One that has errors of its own is known, too.
            None if self.limits.iter().any(|limit| limit.key == text) => {}
            None => self.unknown_limit(node, text),
        }
    }
}

fn rule(node: &Node) -> BlockRule {
    let rule = Section::of(node, &table::BLOCK);
    let when = rule.section("when");
    let statuses = when.texts("status").into_iter().filter_map(|(_, text)| match text {
        "4xx" => Some(CLIENT_ERRORS),
        "5xx" => Some(SERVER_ERRORS),
        code => code.parse().ok().map(|code| (code, code)),
    });
    BlockRule {
        statuses: statuses.collect(),
        limit: when.text("limit").map(Name::from),
        count: when.number("count"),
        within: when.duration("within"),
        lasts: rule.duration("for"),
        closes: rule.text("do") == Some("close"),
        allow: rule.networks("allow"),
    }
}
