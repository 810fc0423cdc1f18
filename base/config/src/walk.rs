//! Holds what was written against the table, and reports every difference.

use crate::kind::{Kind, Refusal};
use crate::node::{Entry, Node, Place, Value};
use crate::problems::Problems;
use crate::report::{Rule, and_list, nearest, or_list, quoted};
use crate::shape::{Key, Map, Names, Shape, State};
use crate::table;

pub(crate) fn walk(root: &Node, shape: Shape, problems: &mut Problems) {
    Walk { problems }.shape(root, shape, Around { name: "", key: None });
}

/// What a value belongs to.
#[derive(Clone, Copy)]
struct Around<'a> {
    /// The nearest key, for messages.
    name: &'a str,
    /// Where that key stands, when the value is its whole value.
    key: Option<Place>,
}

struct Walk<'a> {
    problems: &'a mut Problems,
}

impl Walk<'_> {
    fn shape(&mut self, node: &Node, shape: Shape, around: Around<'_>) {
        match shape {
            Shape::Either(shapes) => self.either(node, shapes, around),
            Shape::OneOrList(item) => match node.list() {
                Some(items) => self.items(node, items, *item, around),
                None => self.shape(node, *item, around),
            },
            Shape::List(item) => match node.list() {
                Some(items) => self.items(node, items, *item, around),
                None => self.unexpected(node, shape, around),
            },
            Shape::Map(map) => match &node.value {
                Value::Map(entries) => self.map(node, entries, map, around),
                Value::Scalar(_) | Value::List(_) => self.unexpected(node, shape, around),
            },
            Shape::Names(names) => match &node.value {
                Value::Map(entries) => self.names(entries, names),
                Value::Scalar(_) | Value::List(_) => self.unexpected(node, shape, around),
            },
            Shape::One(kind) => match node.scalar() {
                Some(_) if node.is_null() => self.unexpected(node, shape, around),
                Some(scalar) => {
                    if let Err(refusal) = kind.check(scalar) {
                        self.refuse(node.place, refusal, around);
                    }
                }
                None => self.unexpected(node, shape, around),
            },
        }
    }

    fn either(&mut self, node: &Node, shapes: &'static [Shape], around: Around<'_>) {
        let Some(scalar) = node.scalar() else {
            let fits = |shape: &&Shape| {
                matches!(
                    (shape, &node.value),
                    (Shape::Map(_) | Shape::Names(_), Value::Map(_))
                        | (Shape::List(_) | Shape::OneOrList(_), Value::List(_))
                )
            };
            return match shapes.iter().find(fits) {
                Some(shape) => self.shape(node, *shape, around),
                None => self.unexpected(node, Shape::Either(shapes), around),
            };
        };
        let kinds: Vec<Kind> = shapes
            .iter()
            .filter_map(|shape| match shape {
                Shape::One(kind) => Some(*kind),
                _ => None,
            })
            .collect();
        let mut refusals = Vec::new();
        for kind in &kinds {
            match kind.check(scalar) {
                Ok(()) => return,
                Err(refusal) => refusals.push(refusal),
            }
        }
        if kinds.is_empty() || node.is_null() {
            return self.unexpected(node, Shape::Either(shapes), around);
        }
        let shape_accepts = refusals.iter().any(|refusal| refusal.rule == Rule::Meaning);
        // The alternative that came nearest says it best; the last one is the most general.
        let spoken = match refusals.iter().position(|refusal| refusal.rule == Rule::Meaning) {
            Some(index) => refusals.into_iter().nth(index),
            None => {
                let helpful = refusals.iter().position(|refusal| {
                    refusal.wrong.message.contains("not built yet")
                        || refusal.wrong.help.as_ref().is_some_and(|help| help.contains("did you mean"))
                });
                let index = helpful.or_else(|| (kinds.len() == 1).then_some(0));
                index.and_then(|index| refusals.into_iter().nth(index))
            }
        };
        match spoken {
            Some(refusal) => {
                let rule = if shape_accepts { Rule::Meaning } else { Rule::Shape };
                self.refuse(node.place, Refusal { rule, ..refusal }, around);
            }
            None => self.unexpected(node, Shape::Either(shapes), around),
        }
    }

    fn items(&mut self, node: &Node, items: &[Node], item: Shape, around: Around<'_>) {
        if items.is_empty() {
            let message = format!("{} is an empty list", named(around.name));
            self.problems.error_with_help(
                node.place,
                Rule::Shape,
                message,
                format!("expected {}; leave the key out where there is nothing to say", item.describe()),
            );
        }
        for node in items {
            self.shape(node, item, Around { key: None, ..around });
        }
    }

    fn map(&mut self, node: &Node, entries: &[Entry], map: &'static Map, around: Around<'_>) {
        let mut unbuilt = false;
        for (index, entry) in entries.iter().enumerate() {
            match map.key(&entry.key) {
                Some(Key { state: State::Built(shape), .. }) => {
                    self.shape(&entry.value, *shape, Around { name: &entry.key, key: Some(entry.place) });
                }
                Some(Key { state: State::Later(capability), .. }) => {
                    unbuilt = true;
                    let message = format!("{} is not built yet: it comes with {capability}", quoted(&entry.key));
                    self.problems.error_with_help(entry.place, Rule::Shape, message, "take it out for now");
                }
                None => self.unknown_key(entry, map, index.checked_sub(1).and_then(|before| entries.get(before))),
            }
        }
        // Without the part that is not built yet nobody can tell what is missing.
        if unbuilt {
            return;
        }
        let place = around.key.unwrap_or(node.place);
        // A misspelt key stands where a missing one was meant; one message is enough.
        let misspelt: Vec<&str> = entries
            .iter()
            .filter(|entry| map.key(&entry.key).is_none())
            .filter_map(|entry| nearest(&entry.key, map.keys.iter().map(|key| key.name)))
            .collect();
        let is_there = |name: &str| entries.iter().any(|entry| entry.key == name) || misspelt.contains(&name);
        for key in map.keys.iter().filter(|key| key.required && !is_there(key.name)) {
            self.missing(&format!("{}{}", in_key(around.name, map), map.title), key, place);
        }
        for choice in map.choices {
            self.choice(entries, choice.0, map, place, &is_there, around);
        }
    }

    fn choice(
        &mut self,
        entries: &[Entry],
        names: &'static [&'static str],
        map: &'static Map,
        place: Place,
        is_there: &dyn Fn(&str) -> bool,
        around: Around<'_>,
    ) {
        let given: Vec<&Entry> = entries.iter().filter(|entry| names.contains(&entry.key.as_str())).collect();
        let built = || names.iter().copied().filter(|name| map.key(name).is_some_and(|key| key.shape().is_some()));
        match given.as_slice() {
            [] if names.iter().any(|name| is_there(name)) => {}
            [] => {
                let subject = format!("{}{}", in_key(around.name, map), map.title);
                let only = built().next().filter(|_| built().count() == 1);
                match only.and_then(|name| map.key(name)) {
                    Some(key) => self.missing(&subject, key, place),
                    None => {
                        let message = format!("{subject} has none of {}", and_list(built()));
                        self.problems.error_with_help(place, Rule::Shape, message, "it needs exactly one of them");
                    }
                }
            }
            [_] => {}
            [first, others @ ..] => {
                for other in others {
                    let message = format!("{} and {} exclude each other", quoted(&first.key), quoted(&other.key));
                    let help = format!("{} takes exactly one of {}", map.title, or_list(built()));
                    self.problems.error_with_help(other.place, Rule::Shape, message, help);
                }
            }
        }
    }

    fn missing(&mut self, subject: &str, key: &Key, place: Place) {
        let expected = key.shape().map(Shape::describe).unwrap_or_default();
        let help = format!("it needs `{}:` with {expected}", key.name);
        self.problems.error_with_help(place, Rule::Shape, format!("{subject} has no {}", quoted(key.name)), help);
    }

    fn names(&mut self, entries: &[Entry], names: &'static Names) {
        for entry in entries {
            if let Err(refusal) = names.key.check_key(&entry.key) {
                self.refuse(entry.place, refusal, Around { name: "", key: None });
            }
            self.shape(&entry.value, names.value, Around { name: &entry.key, key: Some(entry.place) });
        }
    }

    fn unknown_key(&mut self, entry: &Entry, map: &'static Map, before: Option<&Entry>) {
        let message = format!("unknown key {}", quoted(&entry.key));
        let empty_above = before.filter(|before| before.value.is_null() && map.key(&before.key).is_some());
        let help = if let Some(above) = empty_above {
            format!("is it meant to be indented below `{}:`, which is empty?", above.key)
        } else if let Some(meant) = nearest(&entry.key, map.keys.iter().map(|key| key.name)) {
            format!("did you mean `{meant}`?")
        } else if let Some((home, key)) = table::homes_of(&entry.key, map).first() {
            format!("`{}` is a key of {}; is the line indented as it should be?", key.name, home.title)
        } else if map.keys.is_empty() {
            format!("{} has no keys: write {{}}", map.title)
        } else {
            format!("{} knows {}", map.title, and_list(map.built()))
        };
        self.problems.error_with_help(entry.place, Rule::Shape, message, help);
    }

    fn refuse(&mut self, place: Place, refusal: Refusal, around: Around<'_>) {
        let message = match around.name {
            "" => refusal.wrong.message,
            name => format!("{}: {}", quoted(name), refusal.wrong.message),
        };
        let severity = crate::report::Severity::Error;
        self.problems.push(place, refusal.rule, severity, message, refusal.wrong.help);
    }

    fn unexpected(&mut self, node: &Node, shape: Shape, around: Around<'_>) {
        if node.scalar().is_some_and(|scalar| scalar.broken) {
            return;
        }
        let expected = shape.describe();
        // Only the key stands on the same line as the word that is wrong.
        let is_container = node.scalar().is_none();
        let place = around.key.filter(|_| is_container || node.is_null()).unwrap_or(node.place);
        let rule = match node.scalar() {
            Some(scalar) if scalar.filled => Rule::Meaning,
            _ => Rule::Shape,
        };
        if node.is_null() {
            let holds_text = shape.alternatives().iter().any(|shape| matches!(shape, Shape::One(_)));
            let empty = if holds_text { "nothing is written here" } else { "nothing is indented below it" };
            let mut help = format!("expected {expected}");
            if matches!(shape, Shape::One(Kind::Text | Kind::HeaderValue)) {
                help.push_str("; an empty one is written as \"\"");
            }
            return self.problems.error_with_help(
                place,
                rule,
                format!("{} is empty: {empty}", named(around.name)),
                help,
            );
        }
        let message = format!("{} has to be {expected}; found {}", named(around.name), node.describe());
        match shape {
            Shape::Map(map) if map.keys.is_empty() => {
                self.problems.error_with_help(place, rule, message, "it has no keys: write {}");
            }
            Shape::Map(map) => {
                let help = format!("{} knows {}", map.title, and_list(map.built()));
                self.problems.error_with_help(place, rule, message, help);
            }
            Shape::List(_) => {
                self.problems.error_with_help(
                    place,
                    rule,
                    message,
                    "items of a list stand on lines that start with `- `",
                );
            }
            Shape::Names(names) => {
                let help = format!("each line below it starts with the name of {}, without a dash", names.title);
                self.problems.error_with_help(place, rule, message, help);
            }
            _ => self.problems.error(place, rule, message),
        }
    }
}

/// The key as the subject of a sentence.
fn named(name: &str) -> String {
    if name.is_empty() { "the file".to_owned() } else { quoted(name) }
}

/// "`health`: " before what a map of that key lacks.
fn in_key(name: &str, map: &'static Map) -> String {
    if name.is_empty() || std::ptr::eq(map, &table::FILE) { String::new() } else { format!("{}: ", quoted(name)) }
}
