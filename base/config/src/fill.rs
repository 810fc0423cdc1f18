//! `${NAME}` and `${NAME:-default}` inside values.
//!
//! Filled in after the text was parsed, so a variable can never change the structure of a file.
//! `$${` stands for `${` itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits;
use crate::node::{Node, Value};
use crate::problems::Problems;
use crate::report::Rule;

/// What a schema lets pass in the place of any value.
pub(crate) const PATTERN: &str = r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}";

/// Fills in the whole tree; unset variables are reported at their place.
pub(crate) fn fill_tree(node: &mut Node, environment: &BTreeMap<String, Option<String>>, problems: &mut Problems) {
    match &mut node.value {
        Value::Scalar(scalar) => {
            if !scalar.text.contains("${") {
                return;
            }
            match fill(&scalar.text, environment) {
                Ok(text) => {
                    // `$${` alone fills in nothing, and the text stays what it was.
                    scalar.filled = pieces(&scalar.text).iter().any(|piece| matches!(piece, Piece::Variable { .. }));
                    scalar.text = text;
                }
                Err(unfilled) => {
                    scalar.broken = true;
                    let (message, help) = unfilled.explain();
                    problems.error_with_help(node.place, Rule::Meaning, message, help);
                }
            }
        }
        Value::List(items) => items.iter_mut().for_each(|item| fill_tree(item, environment, problems)),
        Value::Map(entries) => {
            entries.iter_mut().for_each(|entry| fill_tree(&mut entry.value, environment, problems));
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfilled {
    Unset(String),
    Malformed,
    TooLong,
}

impl Unfilled {
    fn explain(&self) -> (String, String) {
        match self {
            Self::Unset(name) => (
                format!("the environment variable `{name}` is not set"),
                format!("set it, or give a default: ${{{name}:-…}}"),
            ),
            Self::Malformed => (
                "`${` starts an environment variable, but no `NAME}` or `NAME:-default}` follows".to_owned(),
                "write $${ where the two characters themselves are meant".to_owned(),
            ),
            Self::TooLong => (
                format!("longer than {} bytes with its variables filled in", limits::SCALAR_BYTES),
                "keep large texts in files".to_owned(),
            ),
        }
    }
}

pub(crate) fn fill(text: &str, environment: &BTreeMap<String, Option<String>>) -> Result<String, Unfilled> {
    let mut out = String::new();
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Malformed => return Err(Unfilled::Malformed),
            Piece::Variable { name, default } => match (environment.get(name), default) {
                // As in a shell, `:-` also stands in for an empty variable.
                (Some(Some(value)), Some(default)) if value.is_empty() => out.push_str(default),
                (Some(Some(value)), _) => out.push_str(value),
                (_, Some(default)) => out.push_str(default),
                (_, None) => return Err(Unfilled::Unset(name.to_owned())),
            },
        }
        if out.len() > limits::SCALAR_BYTES {
            return Err(Unfilled::TooLong);
        }
    }
    Ok(out)
}

/// The variables that a tree names.
pub(crate) fn names(node: &Node) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(node, &mut found);
    found
}

fn collect(node: &Node, found: &mut BTreeSet<String>) {
    match &node.value {
        Value::Scalar(scalar) => {
            for piece in pieces(&scalar.text) {
                if let Piece::Variable { name, .. } = piece {
                    found.insert(name.to_owned());
                }
            }
        }
        Value::List(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Map(entries) => entries.iter().for_each(|entry| collect(&entry.value, found)),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Variable { name: &'a str, default: Option<&'a str> },
    Malformed,
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            found.push(Piece::Text(before));
            found.push(Piece::Text("${"));
            rest = after;
            continue;
        }
        found.push(Piece::Text(before));
        let Some((inside, next)) = after.split_once('}') else {
            found.push(Piece::Malformed);
            return found;
        };
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        found.push(if is_name(name) { Piece::Variable { name, default } } else { Piece::Malformed });
        rest = next;
    }
    found.push(Piece::Text(rest));
    found
}

fn is_name(name: &str) -> bool {
    name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> BTreeMap<String, Option<String>> {
        [("A", Some("one")), ("EMPTY", Some("")), ("UNSET", None)]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.map(str::to_owned)))
            .collect()
    }

    #[test]
    fn variables_are_filled_in() {
        for (text, expected) in [
            ("x${A}y", "xoney"),
            ("${A}${A}", "oneone"),
            ("${UNSET:-two}", "two"),
            ("${EMPTY:-three}", "three"),
            ("${EMPTY}", ""),
            ("${OTHER:-}", ""),
            ("$1 $ {A}", "$1 $ {A}"),
            ("$${A}", "${A}"),
            ("$$1", "$$1"),
            ("${A:-x:-y}", "one"),
            ("${UNSET:-x:-y}", "x:-y"),
        ] {
            assert_eq!(fill(text, &environment()).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(fill("${UNSET}", &environment()), Err(Unfilled::Unset("UNSET".to_owned())));
        for text in ["${", "${}", "${A", "${1}", "${A-b}"] {
            assert_eq!(fill(text, &environment()), Err(Unfilled::Malformed), "{text}");
        }
    }
}
