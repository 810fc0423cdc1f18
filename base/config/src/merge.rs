//! One tree of the main file and what it includes.

use std::collections::HashMap;

use crate::fill::fill_tree;
use crate::node::{Entry, Node, Place, Value};
use crate::problems::Problems;
use crate::report::{Rule, quoted};
use crate::sources::{SourceFile, Sources};
use crate::yaml;

/// Keys of the top level whose names may be spread over files.
const SPREAD: &[&str] = &["pools", "limits", "listeners"];

pub(crate) struct Merged {
    pub(crate) tree: Node,
    /// An included file that was no tree is missing in it.
    pub(crate) complete: bool,
}

/// `None` when the main file is no tree; the problems say why.
pub(crate) fn merged(sources: &Sources, problems: &mut Problems) -> Option<Merged> {
    let main = sources.files.first()?;
    let mut tree = yaml::parse(&main.text, 0, problems)?;
    fill_tree(&mut tree, &sources.environment, problems);
    let mut complete = true;
    for (index, place) in included(&tree, main, sources, problems) {
        let Some(file) = sources.files.get(index) else {
            continue;
        };
        let Some(mut other) = yaml::parse(&file.text, index, problems) else {
            complete = false;
            continue;
        };
        fill_tree(&mut other, &sources.environment, problems);
        merge(&mut tree, other, place, sources, problems);
    }
    Some(Merged { tree, complete })
}

/// The included files, each with the place that asked for it.
fn included(tree: &Node, main: &SourceFile, sources: &Sources, problems: &mut Problems) -> Vec<(usize, Place)> {
    let mut found: Vec<(usize, Place)> = Vec::new();
    let nodes = tree.find("include").map(Node::one_or_list).unwrap_or_default();
    for node in nodes {
        let Some(scalar) = node.scalar().filter(|scalar| !scalar.broken) else {
            continue;
        };
        match sources.includes.get(&main.directory.join(&scalar.text)) {
            Some(Ok(files)) if files.is_empty() => problems.warn(
                node.place,
                format!("{} fits no file", quoted(&scalar.text)),
                format!("it starts from {}", main.directory.display()),
            ),
            Some(Ok(files)) => found.extend(files.iter().map(|file| (*file, node.place))),
            Some(Err(message)) => problems.error(
                node.place,
                Rule::Meaning,
                format!("{} cannot be included: {message}", quoted(&scalar.text)),
            ),
            // A text alone, without files beside it.
            None => problems.error(node.place, Rule::Meaning, "nothing can be included here"),
        }
    }
    found.sort_by_key(|(file, _)| *file);
    found.dedup_by_key(|(file, _)| *file);
    found
}

fn merge(tree: &mut Node, other: Node, included_at: Place, sources: &Sources, problems: &mut Problems) {
    let Value::Map(new) = other.value else {
        let message = format!("an included file has to be a map; found {}", other.describe());
        problems.error_with_help(other.place, Rule::Shape, message, "write the same keys as in the main file");
        return;
    };
    let Value::Map(entries) = &mut tree.value else {
        return;
    };
    for entry in new {
        if entry.key == "include" {
            problems.error_with_help(
                entry.place,
                Rule::Meaning,
                "an included file cannot include others",
                format!("include them in the main file, as on line {} of it", included_at.line),
            );
            continue;
        }
        let Some(index) = entries.iter().position(|known| known.key == entry.key) else {
            entries.push(entry);
            continue;
        };
        let Some(known) = entries.get_mut(index) else {
            continue;
        };
        if !SPREAD.contains(&entry.key.as_str()) {
            twice(&entry.key, entry.place, known.place, sources, problems);
            continue;
        }
        match (&mut known.value.value, entry.value) {
            (Value::Map(names), Node { value: Value::Map(more), .. }) => spread(names, more, sources, problems),
            // The walker says what is wrong with the one that is no map.
            (Value::Map(_), value) => entries.push(Entry { value, ..entry_head(&entry.key, entry.place) }),
            (_, _) => {}
        }
    }
}

fn entry_head(key: &str, place: Place) -> Entry {
    Entry { key: key.to_owned(), place, value: Node { place, value: Value::Map(Vec::new()) } }
}

fn spread(names: &mut Vec<Entry>, more: Vec<Entry>, sources: &Sources, problems: &mut Problems) {
    let known: HashMap<String, Place> = names.iter().map(|entry| (entry.key.clone(), entry.place)).collect();
    for entry in more {
        match known.get(&entry.key) {
            Some(first) => twice(&entry.key, entry.place, *first, sources, problems),
            None => names.push(entry),
        }
    }
}

fn twice(key: &str, place: Place, first: Place, sources: &Sources, problems: &mut Problems) {
    let first = Problems::place_text(&sources.files, first);
    problems.error_with_help(
        place,
        Rule::Meaning,
        format!("{} is defined twice; the first is at {first}", quoted(key)),
        "keep one of the two",
    );
}
