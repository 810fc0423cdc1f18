//! Text of one file into the tree of what was written.
//!
//! YAML 1.2 without anchors, aliases, tags and further documents: a config needs none of them,
//! and each of them hides from the reader what a line means.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use crate::limits;
use crate::node::{Entry, Node, Place, Scalar, Value};
use crate::problems::Problems;
use crate::report::{Rule, Severity, quoted};

/// `None` when the text could not be read as a tree; the problems say why.
pub(crate) fn parse(text: &str, file: usize, problems: &mut Problems) -> Option<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder { text, file, problems, open: Vec::new(), root: None, nodes: 0, documents: 0 };
    for event in Parser::new_from_str(text) {
        match event {
            Err(error) => {
                builder.refuse_scan(&error);
                return None;
            }
            Ok((event, span)) => builder.take(event, span).ok()?,
        }
    }
    let root = builder.root.take();
    if root.as_ref().is_none_or(Node::is_null) {
        let place = Place { file, line: 1, column: 1, length: 1 };
        problems.error_with_help(
            place,
            Rule::Yaml,
            "the file is empty",
            "a config needs at least `listeners:` with one listener",
        );
        return None;
    }
    root
}

/// The tree stopped making sense; the reason has been reported.
struct Refused;

struct Builder<'a> {
    text: &'a str,
    file: usize,
    problems: &'a mut Problems,
    /// Lists and maps that have not ended yet, outermost first.
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
    documents: usize,
}

enum Open {
    List { place: Place, items: Vec<Node> },
    Map { place: Place, entries: Vec<Entry>, seen: HashMap<String, Place>, key: Option<(String, Place)> },
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Refused> {
        let place = self.place(span.start, span.end);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return self.refuse(
                        place,
                        "a second document starts here".to_owned(),
                        "a config file holds one document: remove the `---`, or use `include`",
                    );
                }
                Ok(())
            }
            Event::Alias(_) => self.refuse_alias(place),
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_anchor(place, anchor, tag.is_some())?;
                let scalar = Scalar {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain,
                    filled: false,
                    broken: false,
                };
                self.scalar(place, scalar)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_anchor(place, anchor, tag.is_some())?;
                self.open(Open::List { place: Place { length: 1, ..place }, items: Vec::new() })
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_anchor(place, anchor, tag.is_some())?;
                let place = Place { length: 1, ..place };
                self.open(Open::Map { place, entries: Vec::new(), seen: HashMap::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { place, items }) => self.add(Node { place, value: Value::List(items) }),
                Some(Open::Map { place, entries, .. }) => self.add(Node { place, value: Value::Map(entries) }),
                None => Ok(()),
            },
        }
    }

    fn open(&mut self, open: Open) -> Result<(), Refused> {
        if let Some(Open::Map { key: None, .. }) = self.open.last() {
            let (Open::List { place, .. } | Open::Map { place, .. }) = open;
            return self.refuse(
                place,
                "a key has to be plain text, found a list or a map".to_owned(),
                "text that starts with [ or { is written in quotes, such as \"[::1]:8080\"; an environment \
                 variable inside braces too: \"${NAME}\"",
            );
        }
        if self.open.len() >= limits::DEPTH {
            let (Open::List { place, .. } | Open::Map { place, .. }) = open;
            let message = format!("nested deeper than {} levels", limits::DEPTH);
            return self.refuse(place, message, "no key of the config needs that many");
        }
        self.open.push(open);
        Ok(())
    }

    fn scalar(&mut self, place: Place, scalar: Scalar) -> Result<(), Refused> {
        if let Some(Open::Map { key: key @ None, seen, .. }) = self.open.last_mut() {
            if let Some(first) = seen.get(&scalar.text) {
                let message = format!(
                    "the key {} stands here a second time; the first is on line {}",
                    quoted(&scalar.text),
                    first.line
                );
                self.problems.error_with_help(place, Rule::Yaml, message, "keep one of the two");
            } else {
                seen.insert(scalar.text.clone(), place);
            }
            *key = Some((scalar.text, place));
            return Ok(());
        }
        self.add(Node { place, value: Value::Scalar(scalar) })
    }

    fn add(&mut self, node: Node) -> Result<(), Refused> {
        self.nodes += 1;
        if self.nodes > limits::NODES {
            let message = format!("more than {} values in one file", limits::NODES);
            return self.refuse(node.place, message, "spread the config over several files with `include`");
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, seen, key, .. }) => {
                if let Some((key, place)) = key.take() {
                    // Of two equal keys the first counts; the second has been reported.
                    if seen.get(&key) == Some(&place) {
                        entries.push(Entry { key, place, value: node });
                    }
                }
            }
        }
        Ok(())
    }

    fn place(&self, start: Marker, end: Marker) -> Place {
        let length =
            if start.line() == end.line() { end.col().saturating_sub(start.col()) } else { usize::from(u16::MAX) };
        Place {
            file: self.file,
            line: number(start.line()).max(1),
            column: number(start.col() + 1),
            length: number(length).max(1),
        }
    }

    fn refuse(&mut self, place: Place, message: String, help: &str) -> Result<(), Refused> {
        self.problems.error_with_help(place, Rule::Yaml, message, help);
        Err(Refused)
    }

    fn refuse_alias(&mut self, place: Place) -> Result<(), Refused> {
        self.refuse(
            place,
            "a leading * makes this an alias, which a config does not use".to_owned(),
            "text that starts with * is written in quotes, such as \"*.example.com\"",
        )
    }

    fn refuse_anchor(&mut self, place: Place, anchor: usize, tagged: bool) -> Result<(), Refused> {
        if anchor != 0 {
            return self.refuse(
                place,
                "a leading & makes this an anchor, which a config does not use".to_owned(),
                "write the value out where it is needed; text that starts with & is written in quotes",
            );
        }
        if tagged {
            return self.refuse(
                place,
                "a leading ! makes this a tag, which a config does not use".to_owned(),
                "leave the tag out; text that starts with ! is written in quotes",
            );
        }
        Ok(())
    }

    /// What the scanner says, in words of somebody who writes a config.
    fn refuse_scan(&mut self, error: &ScanError) {
        let marker = error.marker();
        let place =
            Place { file: self.file, line: number(marker.line()).max(1), column: number(marker.col() + 1), length: 1 };
        let (message, help) = explain(error.info(), self.character_at(marker));
        if let Some(bracket) = open_bracket(error.info())
            && let Some(Open::List { place: opened, .. } | Open::Map { place: opened, .. }) = self.open.last()
        {
            // At the end of the file there is nothing to point at but the bracket.
            let at_end = self.text.chars().skip(marker.index()).all(char::is_whitespace);
            let place = if at_end { *opened } else { place };
            let message = format!("{message}: the `{bracket}` of line {} is still open", opened.line);
            return self.problems.push(place, Rule::Yaml, Severity::Error, message, help);
        }
        self.problems.push(place, Rule::Yaml, Severity::Error, message, help);
    }

    fn character_at(&self, marker: &Marker) -> Option<char> {
        self.text.chars().nth(marker.index())
    }
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn open_bracket(info: &str) -> Option<char> {
    if info.contains("flow mapping, did not find") {
        Some('{')
    } else if info.contains("flow sequence, expected") {
        Some('[')
    } else {
        None
    }
}

fn explain(info: &str, found: Option<char>) -> (String, Option<String>) {
    let quotes = "text with : { } [ ] , # & * ! | > ' \" % @ ` at its start, or with `: ` inside, is written in quotes";
    let (message, help) = if info.contains("tab") {
        ("a tab stands where only spaces may indent".to_owned(), Some("indent with spaces".to_owned()))
    } else if info.contains("anchor or alias") || info.contains("unknown anchor") {
        (
            "a leading * makes this an alias, a leading & an anchor; a config uses neither".to_owned(),
            Some("text that starts with * is written in quotes, such as \"*.example.com\"".to_owned()),
        )
    } else if info.contains("quoted scalar, found unexpected end") || info.contains("indentation in quoted scalar") {
        (
            "the closing quote is missing".to_owned(),
            Some("lines of a longer quoted text are indented like its first one".to_owned()),
        )
    } else if info.contains("unknown escape") {
        (
            "unknown escape after \\ in double quotes".to_owned(),
            Some("in single quotes \\ stands for itself: '~^/x\\.html$'".to_owned()),
        )
    } else if info.contains("flow mapping, did not find") {
        (
            "a `,` or `}` is missing".to_owned(),
            Some(
                "text with { } [ ] or , inside { } is written in quotes, such as \"${NAME}\" or \"[::1]:8080\""
                    .to_owned(),
            ),
        )
    } else if info.contains("flow sequence, expected") {
        (
            "a `,` or `]` is missing".to_owned(),
            Some("text with { } [ ] or , inside [ ] is written in quotes, such as \"[::1]:8080\"".to_owned()),
        )
    } else if info.contains("block mapping, did not find expected key") {
        (
            "a `key: value` is expected here".to_owned(),
            Some(
                "is the line indented like its neighbours? An address such as \"[::1]:8080\" is written in quotes"
                    .to_owned(),
            ),
        )
    } else if info.contains("mapping values are not allowed") || info.contains("illegal placement") {
        (
            "a `:` stands where no key is expected".to_owned(),
            Some("does the line before lack its `:`, or is this one indented further? Text with `: ` inside is written in quotes".to_owned()),
        )
    } else if info.contains("simple key expect") {
        ("this line has no `:` after its key".to_owned(), Some("a key is written `key: value`".to_owned()))
    } else if info.contains("unexpected character") {
        let shown = found.map(|found| quoted(&found.to_string())).unwrap_or_default();
        (format!("{shown} cannot start a text"), Some("write the text in quotes".to_owned()))
    } else if info.contains("unprintable") {
        ("a control character stands here".to_owned(), Some("the file has to be plain UTF-8 text".to_owned()))
    } else if info.contains("unexpected eof") || info.contains("unexpected end") {
        ("the file ends in the middle of a value".to_owned(), Some("is a closing quote, ] or } missing?".to_owned()))
    } else if info.contains("'-'") || info.contains("block sequence entries") {
        (
            "a `- ` item does not fit here".to_owned(),
            Some("items of a list stand one below the other, `- ` in the same column".to_owned()),
        )
    } else if info.contains("misplaced bracket") {
        ("a ] or } without its opening bracket".to_owned(), Some(quotes.to_owned()))
    } else if info.contains("invalid indentation") || info.contains("wrongly indented") {
        ("the indentation fits no line above".to_owned(), None)
    } else if info.contains("recursion limit") {
        (format!("nested deeper than {} levels", limits::DEPTH), None)
    } else {
        (format!("this is no YAML: {info}"), None)
    };
    (message, help)
}
