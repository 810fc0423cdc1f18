//! A map as written together with its shape: values by key, defaults from the table.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::node::Node;
use crate::shape::{Default as TableDefault, Map, Shape};
use crate::values::{self, Wrong};

#[derive(Debug, Clone, Copy)]
pub(super) struct Section<'a> {
    node: Option<&'a Node>,
    map: &'static Map,
}

impl<'a> Section<'a> {
    pub(super) fn of(node: &'a Node, map: &'static Map) -> Self {
        Self { node: Some(node), map }
    }

    pub(super) fn of_defaults(map: &'static Map) -> Self {
        Self { node: None, map }
    }

    /// What was written under a key.
    pub(super) fn given(self, key: &str) -> Option<&'a Node> {
        self.node?.find(key)
    }

    /// The default of a key, as it would be written.
    pub(super) fn default(self, key: &str) -> Option<&'static str> {
        match self.map.key(key)?.default {
            TableDefault::Value(text) => Some(text),
            TableDefault::None | TableDefault::Words(_) => None,
        }
    }

    /// The map under a key; its defaults where it was not written as a map.
    pub(super) fn section(self, key: &str) -> Self {
        let shape = self.map.key(key).and_then(|key| key.shape());
        let map = shape.and_then(|shape| {
            shape.alternatives().iter().find_map(|shape| match shape {
                Shape::Map(map) => Some(*map),
                _ => None,
            })
        });
        Self { node: self.given(key), map: map.unwrap_or(self.map) }
    }

    /// The text of a key, where it was written.
    pub(super) fn text(self, key: &str) -> Option<&'a str> {
        let scalar = self.given(key)?.scalar()?;
        (!scalar.broken).then_some(scalar.text.as_str())
    }

    /// What was written if it is right, else the default.
    pub(super) fn value<T>(self, key: &str, parse: impl Fn(&str) -> Result<T, Wrong>) -> Option<T> {
        let written = self.text(key).and_then(|text| parse(text).ok());
        written.or_else(|| self.default(key).and_then(|text| parse(text).ok()))
    }

    pub(super) fn duration(self, key: &str) -> Duration {
        self.value(key, values::duration).unwrap_or_default()
    }

    pub(super) fn size(self, key: &str) -> u64 {
        self.value(key, values::size).unwrap_or_default()
    }

    pub(super) fn speed(self, key: &str) -> u64 {
        self.value(key, values::speed).unwrap_or_default()
    }

    pub(super) fn percent(self, key: &str) -> u8 {
        self.value(key, values::percent).unwrap_or_default()
    }

    pub(super) fn switch(self, key: &str) -> bool {
        self.value(key, values::switch).unwrap_or_default()
    }

    /// A whole number; the walker has checked its range.
    pub(super) fn number<T: TryFrom<u64> + Default>(self, key: &str) -> T {
        self.optional_number(key).unwrap_or_default()
    }

    pub(super) fn optional_number<T: TryFrom<u64>>(self, key: &str) -> Option<T> {
        self.value(key, |text| values::integer(text, 0, u64::MAX)).and_then(|number| T::try_from(number).ok())
    }

    /// The texts of a key that takes one or a list, with their nodes.
    pub(super) fn texts(self, key: &str) -> Vec<(&'a Node, &'a str)> {
        let nodes = self.given(key).map(Node::one_or_list).unwrap_or_default();
        nodes
            .iter()
            .filter_map(|node| Some((node, node.scalar().filter(|scalar| !scalar.broken)?.text.as_str())))
            .collect()
    }

    pub(super) fn networks(self, key: &str) -> Vec<IpNet> {
        self.texts(key).into_iter().filter_map(|(_, text)| values::network(text).ok()).collect()
    }

    pub(super) fn ips(self, key: &str) -> Vec<IpAddr> {
        self.texts(key).into_iter().filter_map(|(_, text)| values::ip(text).ok()).collect()
    }

    /// Names and texts of a map from names to texts.
    pub(super) fn named_texts(self, key: &str) -> Vec<(&'a str, &'a Node, &'a str)> {
        let entries = self.given(key).map(Node::entries).unwrap_or_default();
        entries
            .iter()
            .flat_map(|entry| entry.value.one_or_list().iter().map(|node| (entry.key.as_str(), node)))
            .filter_map(|(name, node)| Some((name, node, node.scalar().filter(|scalar| !scalar.broken)?.text.as_str())))
            .collect()
    }
}
