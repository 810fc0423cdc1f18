//! Rules by which clients are blocked for a while, and what is looked up of who asks.

use std::path::PathBuf;

use super::process::Use;
use super::{Lower, Section};
use crate::checked::BlockRule;
use crate::limits::BLOCK_RULES;
use crate::node::Node;
use crate::table;

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

    pub(super) fn blocks(&mut self, top: Section<'_>) -> Vec<BlockRule> {
        let Some(node) = top.given("blocks") else { return Vec::new() };
        let rules = node.list().unwrap_or_default();
        if rules.len() > BLOCK_RULES {
            let message = format!("there are {} rules", rules.len());
            self.error(node.place, message, format!("at most {BLOCK_RULES}: each remembers its clients by itself"));
        }
        rules.iter().map(rule).collect()
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
        count: when.number("count"),
        within: when.duration("within"),
        lasts: rule.duration("for"),
        closes: rule.text("do") == Some("close"),
        allow: rule.networks("allow"),
    }
}
