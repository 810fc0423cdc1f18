//! What the tests of this crate share: files, and YAML as a JSON Schema validator sees it.

use std::path::{Path, PathBuf};

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value, json};

/// The YAML files of a directory below this crate, in the order of their names.
pub(crate) fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{directory}: {error}"))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The JSON that an editor makes of YAML by the core schema (YAML 1.2.2 section 10.3); `None`
/// for what is no YAML, or has no counterpart in JSON.
pub(crate) fn to_json(text: &str) -> Option<Value> {
    enum Open {
        List(Vec<Value>),
        Map(Map<String, Value>, Option<String>),
    }
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let done = match event.ok()?.0 {
            Event::Scalar(text, style, anchor, tag) => {
                if anchor != 0 || tag.is_some() {
                    return None;
                }
                if let Some(Open::Map(_, key @ None)) = open.last_mut() {
                    *key = Some(text.into_owned());
                    continue;
                }
                if style == ScalarStyle::Plain { plain(&text)? } else { json!(text) }
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop()? {
                Open::List(items) => Value::Array(items),
                Open::Map(map, _) => Value::Object(map),
            },
            Event::Alias(_) => return None,
            Event::DocumentStart(_) => {
                documents += 1;
                continue;
            }
            _ => continue,
        };
        match open.last_mut() {
            None => root = Some(done),
            Some(Open::List(items)) => items.push(done),
            Some(Open::Map(map, key)) => {
                // A list or map as a key has no counterpart; the same key twice neither.
                if map.insert(key.take()?, done).is_some() {
                    return None;
                }
            }
        }
    }
    (documents == 1).then_some(root?)
}

fn plain(text: &str) -> Option<Value> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => json!(true),
        "false" | "False" | "FALSE" => json!(false),
        _ => {
            let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
            let digits = |text: &str, radix: u32| !text.is_empty() && text.chars().all(|digit| digit.is_digit(radix));
            if digits(unsigned, 10) {
                match text.strip_prefix('+').unwrap_or(text).parse::<i64>() {
                    Ok(number) => json!(number),
                    Err(_) => json!(text.parse::<f64>().ok()?),
                }
            } else if let Some(hex) = text.strip_prefix("0x").filter(|hex| digits(hex, 16)) {
                json!(u64::from_str_radix(hex, 16).ok()?)
            } else if let Some(octal) = text.strip_prefix("0o").filter(|octal| digits(octal, 8)) {
                json!(u64::from_str_radix(octal, 8).ok()?)
            } else if unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.')
                && unsigned.chars().any(|character| character.is_ascii_digit())
                && let Ok(number) = unsigned.parse::<f64>()
            {
                json!(if text.starts_with('-') { -number } else { number })
            } else if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
                // JSON has neither; no key takes them.
                return None;
            } else {
                json!(text)
            }
        }
    })
}
